"""Settings: what is missing or wrong is named, with an example."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from milepost import settings
from milepost.errors import ConfigurationError
from milepost.upstream import CALL_CLASSES

REAL = {
    "MILEPOST_DATABASE_URL": "postgresql://user:password@db.example.com/milepost",
    "MILEPOST_UPSTREAM_URL": "https://fra1.qualtrics.com/API/v3/",
    "MILEPOST_UPSTREAM_TOKEN": "a-token",
    "MILEPOST_SECRET": "0123456789abcdef",
}


def test_a_full_set_is_taken_as_it_stands(tmp_path: Path) -> None:
    """Nothing is made on disk where everything was given."""
    given = settings.load(REAL, tmp_path / "home")
    assert "https://fra1.qualtrics.com/API/v3" == given.upstream_url
    assert not given.embedded
    assert not given.simulated
    assert not (tmp_path / "home").exists()


def test_the_simulator_needs_one_setting_and_keeps_a_secret(tmp_path: Path) -> None:
    """The secret is made once, for its owner alone, and is the same at the next start."""
    environment = {"MILEPOST_UPSTREAM_URL": "simulator"}
    first = settings.load(environment, tmp_path)
    again = settings.load(environment, tmp_path)
    assert (True, True) == (first.embedded, first.simulated)
    assert 64 == len(first.secret)
    assert first == again
    assert 0o600 == stat.S_IMODE((tmp_path / "secret").stat().st_mode)
    assert ["secret"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"UPSTREAM_URL": ""}, "MILEPOST_UPSTREAM_URL is missing"),
        ({"UPSTREAM_URL": "qualtrics"}, "MILEPOST_UPSTREAM_URL is not a URL"),
        ({"UPSTREAM_URL": "https://host:99999/API/v3"}, "MILEPOST_UPSTREAM_URL is not a URL"),
        ({"UPSTREAM_TOKEN": ""}, "MILEPOST_UPSTREAM_TOKEN is missing"),
        (
            {"UPSTREAM_CLIENT_ID": "c"},
            "MILEPOST_UPSTREAM_TOKEN and MILEPOST_UPSTREAM_CLIENT_ID are",
        ),
        (
            {"UPSTREAM_CLIENT_SECRET": "s"},
            "MILEPOST_UPSTREAM_TOKEN and MILEPOST_UPSTREAM_CLIENT_SECRET are both given",
        ),
        (
            {"UPSTREAM_TOKEN": "", "UPSTREAM_CLIENT_ID": "c"},
            "MILEPOST_UPSTREAM_CLIENT_SECRET is missing",
        ),
        (
            {"UPSTREAM_TOKEN": "", "UPSTREAM_CLIENT_SECRET": "s"},
            "MILEPOST_UPSTREAM_CLIENT_ID is missing",
        ),
        ({"DATABASE_URL": "mysql://host/db"}, "MILEPOST_DATABASE_URL is not a Postgres URL"),
        ({"DATABASE_URL": "postgresql://h/db?foo=1"}, "MILEPOST_DATABASE_URL is not a Postgres"),
        ({"DATABASE_URL": "postgresql://h:x/db"}, "MILEPOST_DATABASE_URL is not a Postgres"),
        ({"DIRECTORY_ID": "mine"}, "MILEPOST_DIRECTORY_ID is not the id of a directory"),
        ({"PUBLIC_URL": "links.example.com"}, "MILEPOST_PUBLIC_URL is not a URL"),
        ({"PUBLIC_URL": "ftp://links.example.com"}, "MILEPOST_PUBLIC_URL is not a URL"),
        ({"PUBLIC_URL": "https://links example.com"}, "MILEPOST_PUBLIC_URL is not a URL"),
        ({"PUBLIC_URL": "https://a.example/?b"}, "MILEPOST_PUBLIC_URL is more than an address"),
        ({"PUBLIC_URL": "https://me:too@a.example"}, "MILEPOST_PUBLIC_URL is more than an address"),
        ({"RATE_PER_MINUTE": "0"}, "MILEPOST_RATE_PER_MINUTE is not a whole number from 1 to"),
        ({"RATE_PER_MINUTE": "1.5"}, "MILEPOST_RATE_PER_MINUTE is not a whole number from 1 to"),
        ({"RATE_PER_MINUTE": "9" * 5000}, "MILEPOST_RATE_PER_MINUTE is not a whole number"),
        ({"LIMITS": "nothing"}, "MILEPOST_LIMITS is neither published nor none nor a JSON object"),
        ({"LIMITS": "[500]"}, "MILEPOST_LIMITS is neither published nor none nor a JSON object"),
        ({"LIMITS": '{"contacts": 5}'}, "MILEPOST_LIMITS names 'contacts', and call classes are"),
        ({"LIMITS": '{"brand": 5}'}, "MILEPOST_LIMITS names the brand, whose calls a minute are"),
        ({"LIMITS": '{"links": 0}'}, "MILEPOST_LIMITS gives links no whole number from 1 to"),
        ({"LIMITS": '{"links": "5"}'}, "MILEPOST_LIMITS gives links no whole number from 1 to"),
        ({"SECRET": ""}, "MILEPOST_SECRET is missing"),
        ({"SECRET": "short"}, "MILEPOST_SECRET has fewer than 16 bytes"),
        ({"SECRET_FILE": "/nowhere"}, "MILEPOST_SECRET and MILEPOST_SECRET_FILE are both given"),
        ({"SECRET": "", "SECRET_FILE": "/nowhere"}, "MILEPOST_SECRET_FILE cannot be read"),
        ({"SECRET": "", "SECRET_FILE": "/dev/null"}, "MILEPOST_SECRET_FILE names an empty file"),
        ({"EVENTS_KEY": "short"}, "MILEPOST_EVENTS_KEY has fewer than 16 bytes"),
        ({"SECRET_BEFORE": "short"}, "MILEPOST_SECRET_BEFORE has fewer than 16 bytes"),
        ({"SECRET_BEFORE": "0123456789abcdef"}, "MILEPOST_SECRET_BEFORE is MILEPOST_SECRET itself"),
    ],
)
def test_what_is_wrong_is_named_with_an_example(
    changes: dict[str, str], named: str, tmp_path: Path
) -> None:
    """One line, the variable first, an example last, and never the value of a secret."""
    environment = REAL | {f"MILEPOST_{name}": value for name, value in changes.items()}
    with pytest.raises(ConfigurationError) as caught:
        settings.load(environment, tmp_path)
    said = str(caught.value)
    assert said.startswith(named), said
    assert "; for example: " in said
    assert "password@db" not in said


def test_limits_are_the_published_ones_unless_others_are_given(tmp_path: Path) -> None:
    """The brand's rate stands beside them; a class that is not named has no limit of its own."""
    usual = settings.load(REAL, tmp_path)
    none = settings.load(REAL | {"MILEPOST_LIMITS": "none"}, tmp_path)
    own = {"MILEPOST_LIMITS": '{"list_contacts": 900}', "MILEPOST_RATE_PER_MINUTE": "1200"}
    given = settings.load(REAL | own, tmp_path)
    assert (3000, 500) == (usual.rate_per_minute, usual.limits["list_contacts"])
    assert (3000, {}) == (none.rate_per_minute, none.limits)
    assert (1200, {"list_contacts": 900}) == (given.rate_per_minute, given.limits)


def test_the_public_address_may_have_a_path_and_no_slash_at_its_end(tmp_path: Path) -> None:
    """Short links are built by appending to it."""
    url = "https://example.com/milepost/"
    given = settings.load(REAL | {"MILEPOST_PUBLIC_URL": url}, tmp_path)
    assert "https://example.com/milepost" == given.public_url
    assert settings.load(REAL, tmp_path).public_url is None


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    """White space around it, such as an editor's line break, does not count."""
    path = tmp_path / "token"
    path.write_text("from-a-file\n")
    environment = REAL | {"MILEPOST_UPSTREAM_TOKEN_FILE": str(path)}
    del environment["MILEPOST_UPSTREAM_TOKEN"]
    assert "from-a-file" == settings.load(environment, tmp_path).upstream_token


def test_a_former_secret_is_taken_beside_the_one_that_signs(tmp_path: Path) -> None:
    """It may stand in a file as well; where there is none, one secret is live."""
    path = tmp_path / "before"
    path.write_text("what it was before\n")
    given = settings.load(REAL | {"MILEPOST_SECRET_BEFORE_FILE": str(path)}, tmp_path)
    assert (b"0123456789abcdef", b"what it was before") == given.secrets
    assert b"0123456789abcdef" == given.secret
    assert (given.secret,) == settings.load(REAL, tmp_path).secrets


def test_an_oauth_client_stands_in_for_the_token(tmp_path: Path) -> None:
    """Either may stand in a file."""
    path = tmp_path / "client-secret"
    path.write_text("s3cret\n")
    environment = REAL | {
        "MILEPOST_UPSTREAM_CLIENT_ID": "client-1",
        "MILEPOST_UPSTREAM_CLIENT_SECRET_FILE": str(path),
    }
    del environment["MILEPOST_UPSTREAM_TOKEN"]
    given = settings.load(environment, tmp_path)
    assert given.upstream_token is None
    assert ("client-1", "s3cret") == given.upstream_client


def test_call_classes_are_those_of_the_client() -> None:
    """A limit can be set for each class that there is, and for no other."""
    assert set(CALL_CLASSES) == settings.CALL_CLASSES


def test_a_kept_secret_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    """Signing with nothing would be worse than not starting."""
    (tmp_path / "secret").write_text("")
    with pytest.raises(ConfigurationError, match="MILEPOST_SECRET is too short in"):
        settings.load({"MILEPOST_UPSTREAM_URL": "simulator"}, tmp_path)
