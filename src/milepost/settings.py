"""Settings, from the environment; each secret may also stand in a file (`…_FILE`).

A missing or wrong one is named, with an example, and the program does not start.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from milepost.errors import ConfigurationError

PREFIX: Final = "MILEPOST_"
HOME: Final = Path(".milepost")
"""Where an installation without settings keeps what it makes: database, secret, simulator state."""

SIMULATOR: Final = "simulator"
SIMULATOR_PORT: Final = 8790
SIMULATOR_URL: Final = f"http://127.0.0.1:{SIMULATOR_PORT}/API/v3"
SIMULATOR_TOKEN: Final = "simulator"  # noqa: S105  (it opens a stand-in on this machine)

MIN_SECRET_BYTES: Final = 16
_DIRECTORY_ID: Final = re.compile(r"POOL_[0-9A-Za-z]{15}")
_SECRET_EXAMPLE: Final = "the output of: openssl rand -hex 32"  # noqa: S105  (no secret, a hint)


class Settings(Struct, frozen=True, kw_only=True):
    """What an installation is told."""

    home: Path
    database_url: str | None
    """None: the embedded Postgres, under `home`."""
    upstream_url: str
    upstream_token: str
    simulated: bool
    """The upstream is our simulator on this machine."""
    directory_id: str | None
    secret: bytes

    @property
    def embedded(self) -> bool:
        """Whether Milepost runs its own Postgres."""
        return self.database_url is None


def load(environment: Mapping[str, str] = os.environ, home: Path = HOME) -> Settings:
    """Read the settings.

    Args:
        environment: the variables.
        home: the folder of an installation that was given no database.

    Raises:
        ConfigurationError: names the variable that is missing or wrong, with an example.
    """
    home = home.absolute()
    database_url = _secret(environment, "DATABASE_URL")
    if database_url is not None and not _is_database_url(database_url):
        raise _wrong("DATABASE_URL", "is not a Postgres URL", "postgresql://user:password@host/db")
    directory_id = environment.get(f"{PREFIX}DIRECTORY_ID") or None
    if directory_id is not None and not _DIRECTORY_ID.fullmatch(directory_id):
        raise _wrong("DIRECTORY_ID", "is not the id of a directory", "POOL_0123456789abcde")
    upstream_url, upstream_token, simulated = _upstream(environment)
    return Settings(
        home=home,
        database_url=database_url,
        upstream_url=upstream_url,
        upstream_token=upstream_token,
        simulated=simulated,
        directory_id=directory_id,
        secret=_signing_secret(environment, home, embedded=database_url is None),
    )


def _upstream(environment: Mapping[str, str]) -> tuple[str, str, bool]:
    url = environment.get(f"{PREFIX}UPSTREAM_URL", "").rstrip("/")
    if not url:
        raise _wrong(
            "UPSTREAM_URL", "is missing", "https://fra1.qualtrics.com/API/v3, or: simulator"
        )
    if url == SIMULATOR:
        return SIMULATOR_URL, SIMULATOR_TOKEN, True
    if not _is_url(url, {"http", "https"}) or not urlsplit(url).hostname:
        raise _wrong(
            "UPSTREAM_URL", "is not a URL", "https://fra1.qualtrics.com/API/v3, or: simulator"
        )
    if not urlsplit(url).path.strip("/"):
        raise _wrong("UPSTREAM_URL", "has no path", "https://fra1.qualtrics.com/API/v3")
    token = _secret(environment, "UPSTREAM_TOKEN")
    if token is None:
        raise _wrong(
            "UPSTREAM_TOKEN",
            "is missing",
            "the API token of the account, or its file in MILEPOST_UPSTREAM_TOKEN_FILE",
        )
    return url, token, False


def _signing_secret(environment: Mapping[str, str], home: Path, *, embedded: bool) -> bytes:
    given = _secret(environment, "SECRET")
    if given is not None:
        if len(given.encode()) < MIN_SECRET_BYTES:
            raise _wrong("SECRET", f"has fewer than {MIN_SECRET_BYTES} bytes", _SECRET_EXAMPLE)
        return given.encode()
    if not embedded:
        raise _wrong("SECRET", "is missing", _SECRET_EXAMPLE)
    return _kept_secret(home / "secret")


def _kept_secret(path: Path) -> bytes:
    """The secret in this file; made by whoever is first, and whole for everybody else."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            with os.fdopen(os.open(draft, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())  # links carry its seal: it must outlive a power cut
            with suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        kept = path.read_bytes().strip()
    except OSError as error:
        raise _wrong(
            "SECRET", f"cannot be kept in {path} ({error.strerror})", _SECRET_EXAMPLE
        ) from error
    if len(kept) < MIN_SECRET_BYTES:
        raise _wrong("SECRET", f"is too short in {path}", _SECRET_EXAMPLE)
    return kept


def _is_url(text: str, schemes: Collection[str]) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in schemes and port != 0


def _is_database_url(text: str) -> bool:
    import psycopg  # noqa: PLC0415  (the simulator reads settings too, and starts without it)

    try:
        psycopg.conninfo.conninfo_to_dict(text)
    except psycopg.ProgrammingError:
        return False
    return _is_url(text, {"postgresql", "postgres"})


def _secret(environment: Mapping[str, str], name: str) -> str | None:
    value = environment.get(f"{PREFIX}{name}")
    path = environment.get(f"{PREFIX}{name}_FILE")
    if value and path:
        raise _wrong(name, f"and {PREFIX}{name}_FILE are both given", "one of them")
    if not path:
        return value or None
    try:
        kept = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(
            f"{name}_FILE", f"cannot be read ({path})", f"/run/secrets/{name.lower()}"
        ) from error
    if not kept:
        raise _wrong(
            f"{name}_FILE", f"names an empty file ({path})", f"/run/secrets/{name.lower()}"
        )
    return kept


def _wrong(name: str, what: str, example: str) -> ConfigurationError:
    return ConfigurationError(f"{PREFIX}{name} {what}; for example: {example}")
