"""Settings, from the environment; each secret may also stand in a file (`…_FILE`).

A missing or wrong one is named, with an example, and the program does not start.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from milepost.errors import ConfigurationError

PREFIX: Final = "MILEPOST_"
HOME: Final = Path(".milepost")
"""Where an installation without settings keeps what it makes: database, secret, simulator state."""

SIMULATOR: Final = "simulator"
SIMULATOR_PORT: Final = 8790
SIMULATOR_TOKEN: Final = "simulator"  # noqa: S105  (it opens a stand-in on this machine)

RATE_PER_MINUTE: Final = 3_000
"""Calls a minute that the platform allows a whole brand, shared with everybody in it (documented).
"""

MAX_RATE_PER_MINUTE: Final = 10_000_000
"""More than any machine can ask: who means "no limit" gives it."""

PUBLISHED_LIMITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "list_contacts": 500,
        "directory_contacts": 500,
        "links": 500,
        "history": 300,
        "distributions": 3_000,
        "responses": 240,
        "transactions": 500,
        "transaction_batches": 500,
        "batch_transactions": 3_000,
        "imports": 100,
        "subscriptions": 120,
    }
)
"""Calls a minute of single call classes, from one second-hand list (inferred). The platform gives
each endpoint its own number and a class holds several: the smallest of them counts."""

CALL_CLASSES: Final = frozenset(PUBLISHED_LIMITS) | {
    "account",
    "directories",
    "mailing_lists",
    "surveys",
}

MIN_SECRET_BYTES: Final = 16
_UNPRINTED: Final = re.compile(r"[\s\x00-\x20\x7f]")
_NUMBER: Final = re.compile("[0-9]{1,9}")
_DIRECTORY_ID: Final = re.compile(r"POOL_[0-9A-Za-z]{15}")
_LIMITS_EXAMPLE: Final = '{"list_contacts": 500}, or: published, or: none'
_PUBLIC_URL_EXAMPLE: Final = "https://links.example.com"
_CREDENTIALS_EXAMPLE: Final = (
    "the API token of the account, or its file in MILEPOST_UPSTREAM_TOKEN_FILE; or give an OAuth "
    "client's MILEPOST_UPSTREAM_CLIENT_ID and MILEPOST_UPSTREAM_CLIENT_SECRET"
)
_SECRET_EXAMPLE: Final = "the output of: openssl rand -hex 32"  # noqa: S105  (no secret, a hint)


class Settings(Struct, frozen=True, kw_only=True):
    """What an installation is told."""

    home: Path
    database_url: str | None
    """None: the embedded Postgres, under `home`."""
    upstream_url: str
    upstream_token: str | None
    """None: an OAuth client is given."""
    upstream_client: tuple[str, str] | None
    """Id and secret of an OAuth client of the account. None: a token is given."""
    simulated: bool
    """The upstream is our simulator on this machine."""
    directory_id: str | None
    secret: bytes
    """Signs the references by which responses are matched to their links."""
    secret_before: bytes | None
    """Has signed those of links that may still be answered; None: no other one has."""
    public_url: str | None
    """Where customers reach Milepost, without a slash at its end: short links begin with it. None:
    it was not given."""
    rate_per_minute: int
    """Calls a minute to the platform, all processes together."""
    limits: Mapping[str, int]
    """Calls a minute of single call classes; one that is not named has the brand's rate alone."""
    time_zone: str
    """In which the times of jobs are meant."""
    schedule: Mapping[str, str]
    """When jobs are due, by name, where that is not the usual time; crontab lines."""
    events_key: str | None
    """Signs the platform's calls about completed responses; None: none is taken."""
    registrants_source: str | None
    """Where the nightly job finds the registrants, in the words of `jobs/sources.py`."""
    webhooks_allow: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    """Networks that endpoints may be in although they are not public."""
    recover: bool
    """The database was restored from a backup: what is known at the platform alone is found out
    before anything is made, and events that were answered since the backup come again."""

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """What a reference that comes back may have been signed with."""
        return (self.secret,) if self.secret_before is None else (self.secret, self.secret_before)

    @property
    def embedded(self) -> bool:
        """Whether Milepost runs its own Postgres."""
        return self.database_url is None


def simulator_url(port: int = SIMULATOR_PORT) -> str:
    """The base URL of a simulator on this machine."""
    return f"http://127.0.0.1:{port}/API/v3"


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
    upstream_url, simulated = _upstream_url(environment)
    secret = _signing_secret(environment, home, embedded=database_url is None)
    return Settings(
        home=home,
        database_url=database_url,
        upstream_url=upstream_url,
        upstream_token=SIMULATOR_TOKEN if simulated else _upstream_token(environment),
        upstream_client=None if simulated else _upstream_client(environment),
        simulated=simulated,
        directory_id=directory_id,
        secret=secret,
        secret_before=_former_secret(environment, secret),
        public_url=_public_url(environment),
        rate_per_minute=_rate_per_minute(environment),
        limits=_limits(environment),
        time_zone=environment.get(f"{PREFIX}TIME_ZONE") or "UTC",
        schedule=_schedule(environment),
        events_key=_events_key(environment),
        registrants_source=_secret(environment, "REGISTRANTS_SOURCE"),
        webhooks_allow=_webhooks_allow(environment),
        recover=_recover(environment),
    )


def demand_public_url(given: Settings) -> None:
    """Refuse to hand out short URLs that begin anyhow, where no server says where it is.

    A job hands one out for an event whose server died before it could answer. With a simulator the
    usual address of `serve` will do: everything is on this machine.

    Raises:
        ConfigurationError: it is missing.
    """
    if given.public_url is None and not given.simulated:
        raise _wrong("PUBLIC_URL", "is missing", _PUBLIC_URL_EXAMPLE)


def _upstream_url(environment: Mapping[str, str]) -> tuple[str, bool]:
    url = environment.get(f"{PREFIX}UPSTREAM_URL", "").rstrip("/")
    if not url:
        raise _wrong(
            "UPSTREAM_URL", "is missing", "https://fra1.qualtrics.com/API/v3, or: simulator"
        )
    if url == SIMULATOR:
        return simulator_url(), True
    if not _is_url(url, {"http", "https"}) or not urlsplit(url).hostname:
        raise _wrong(
            "UPSTREAM_URL", "is not a URL", "https://fra1.qualtrics.com/API/v3, or: simulator"
        )
    if not urlsplit(url).path.strip("/"):
        raise _wrong("UPSTREAM_URL", "has no path", "https://fra1.qualtrics.com/API/v3")
    return url, False


def _upstream_token(environment: Mapping[str, str]) -> str | None:
    token = _secret(environment, "UPSTREAM_TOKEN")
    client = [
        name
        for name in ("UPSTREAM_CLIENT_ID", "UPSTREAM_CLIENT_SECRET")
        if _secret(environment, name) is not None
    ]
    if token is None and not client:
        raise _wrong("UPSTREAM_TOKEN", "is missing", _CREDENTIALS_EXAMPLE)
    if token is not None and client:
        raise _wrong("UPSTREAM_TOKEN", f"and {PREFIX}{client[0]} are both given", "one of them")
    return token


def _upstream_client(environment: Mapping[str, str]) -> tuple[str, str] | None:
    client_id = _secret(environment, "UPSTREAM_CLIENT_ID")
    client_secret = _secret(environment, "UPSTREAM_CLIENT_SECRET")
    if client_id is None and client_secret is None:
        return None
    if client_id is None:
        raise _wrong("UPSTREAM_CLIENT_ID", "is missing", "the id that belongs to the secret")
    if client_secret is None:
        raise _wrong(
            "UPSTREAM_CLIENT_SECRET",
            "is missing",
            "the secret of the client, or its file in MILEPOST_UPSTREAM_CLIENT_SECRET_FILE",
        )
    return client_id, client_secret


def _public_url(environment: Mapping[str, str]) -> str | None:
    url = environment.get(f"{PREFIX}PUBLIC_URL", "").rstrip("/")
    if not url:
        return None
    if not _is_url(url, {"http", "https"}) or not urlsplit(url).hostname or _UNPRINTED.search(url):
        raise _wrong("PUBLIC_URL", "is not a URL", _PUBLIC_URL_EXAMPLE)
    parts = urlsplit(url)
    if "?" in url or "#" in url or parts.username is not None:
        raise _wrong("PUBLIC_URL", "is more than an address and a path", _PUBLIC_URL_EXAMPLE)
    return url


def _rate_per_minute(environment: Mapping[str, str]) -> int:
    given = environment.get(f"{PREFIX}RATE_PER_MINUTE", "")
    if not given:
        return RATE_PER_MINUTE
    if not _NUMBER.fullmatch(given) or not 0 < int(given) <= MAX_RATE_PER_MINUTE:
        raise _wrong(
            "RATE_PER_MINUTE",
            f"is not a whole number from 1 to {MAX_RATE_PER_MINUTE}",
            str(RATE_PER_MINUTE),
        )
    return int(given)


def _limits(environment: Mapping[str, str]) -> Mapping[str, int]:
    given = environment.get(f"{PREFIX}LIMITS", "")
    if given in {"", "published"}:
        return PUBLISHED_LIMITS
    if given == "none":
        return {}
    try:
        limits = msgspec.json.decode(given, type=dict[str, object])
    except msgspec.DecodeError:
        raise _wrong(
            "LIMITS", "is neither published nor none nor a JSON object", _LIMITS_EXAMPLE
        ) from None
    return {name: _limit(name, number) for name, number in limits.items()}


def _limit(call_class: str, number: object) -> int:
    if call_class == "brand":
        raise _wrong(
            "LIMITS",
            f"names the brand, whose calls a minute are {PREFIX}RATE_PER_MINUTE",
            _LIMITS_EXAMPLE,
        )
    if call_class not in CALL_CLASSES:
        known = ", ".join(sorted(CALL_CLASSES))
        raise _wrong(
            "LIMITS", f"names {call_class!r}, and call classes are {known}", _LIMITS_EXAMPLE
        )
    if type(number) is not int or not 0 < number <= MAX_RATE_PER_MINUTE:
        raise _wrong(
            "LIMITS",
            f"gives {call_class} no whole number from 1 to {MAX_RATE_PER_MINUTE}",
            _LIMITS_EXAMPLE,
        )
    return number


def _recover(environment: Mapping[str, str]) -> bool:
    given = environment.get(f"{PREFIX}RECOVER", "")
    if given not in {"", "0", "1"}:
        raise _wrong("RECOVER", "is neither 1 nor 0", "1, after a restore of the database")
    return given == "1"


def _schedule(environment: Mapping[str, str]) -> Mapping[str, str]:
    given = environment.get(f"{PREFIX}SCHEDULE", "")
    try:
        return msgspec.json.decode(given or "{}", type=dict[str, str])
    except msgspec.DecodeError:
        raise _wrong(
            "SCHEDULE", "is not a JSON object of crontab lines", '{"sync": "30 2 * * *"}'
        ) from None


def _webhooks_allow(
    environment: Mapping[str, str],
) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    given = environment.get(f"{PREFIX}WEBHOOKS_ALLOW", "")
    try:
        networks = filter(None, map(str.strip, given.split(",")))
        return tuple(ipaddress.ip_network(network) for network in networks)
    except ValueError:
        raise _wrong(
            "WEBHOOKS_ALLOW", "is not a list of networks", "10.20.0.0/16,127.0.0.1/32"
        ) from None


def _signing_secret(environment: Mapping[str, str], home: Path, *, embedded: bool) -> bytes:
    given = _secret(environment, "SECRET")
    if given is not None:
        if len(given.encode()) < MIN_SECRET_BYTES:
            raise _wrong("SECRET", f"has fewer than {MIN_SECRET_BYTES} bytes", _SECRET_EXAMPLE)
        return given.encode()
    if not embedded:
        raise _wrong("SECRET", "is missing", _SECRET_EXAMPLE)
    return _kept_secret(home / "secret")


def _former_secret(environment: Mapping[str, str], present: bytes) -> bytes | None:
    given = _secret(environment, "SECRET_BEFORE")
    if given is None:
        return None
    example = "what MILEPOST_SECRET was"
    if len(given.encode()) < MIN_SECRET_BYTES:
        raise _wrong("SECRET_BEFORE", f"has fewer than {MIN_SECRET_BYTES} bytes", example)
    if given.encode() == present:
        raise _wrong("SECRET_BEFORE", f"is {PREFIX}SECRET itself", example)
    return given.encode()


def _events_key(environment: Mapping[str, str]) -> str | None:
    given = _secret(environment, "EVENTS_KEY")
    if given is not None and len(given.encode()) < MIN_SECRET_BYTES:
        raise _wrong("EVENTS_KEY", f"has fewer than {MIN_SECRET_BYTES} bytes", _SECRET_EXAMPLE)
    return given


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
