"""Brings a database to the schema that this Milepost needs, and tells whether it is there.

Events go on meanwhile. What changes a table waits for whoever holds a lock on it, and everybody who
comes later waits behind it; so it gives way after `LOCK_SECONDS`, and tries again. What has to read
a large table is done beside the traffic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from alembic import command, op
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from milepost.errors import DatabaseError
from milepost.store.connections import sqlalchemy_url, unreachable

_INSTALLED: Final = Path(__file__).parents[1] / "migrations"
_IN_THE_REPOSITORY: Final = Path(__file__).parents[3] / "migrations"

ADVISORY_LOCK: Final = 0x6D696C65706F7374  # "milepost": one migration at a time, over all hosts


LOCK_SECONDS: Final = 1.0
"""How long a migration stands in line for a table, with everybody who comes later behind it: less
than the shortest deadline of a link."""

PAUSE_SECONDS: Final = 2.0
"""Between tries, so that whoever stood behind it is through."""

PATIENCE_SECONDS: Final = 180.0
"""After which nothing is begun again: Milepost holds no lock for longer than some seconds, a
person's transaction or a backup may."""

BESIDE_SECONDS: Final = 60.0
"""How long a statement beside the traffic waits for a transaction that was open before it. Nobody
stands behind it, and to try again is to read the table again."""

LOOK_SECONDS: Final = 0.2
"""Between looks whether another migration has ended."""


class _Held(DatabaseError):
    """Somebody holds a lock on what a migration changes."""


def _config(connection: Connection | None = None) -> Config:
    folder = _INSTALLED if _INSTALLED.is_dir() else _IN_THE_REPOSITORY
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(url: str, revision: str = "head") -> list[str]:
    """Apply what is missing up to `revision`; returns what was applied, oldest first.

    Safe to run from several hosts at once: the second waits for the first and finds nothing to do.

    Raises:
        DatabaseError: Postgres cannot be reached, a later version of Milepost wrote its schema, or
            somebody does not let go of a table.
    """
    with _alone(url):
        before = pending(url)
        _patiently(url, lambda config: command.upgrade(config, revision))
        after = pending(url)
    return [name for name in before if name not in after]


def downgrade(url: str, revision: str) -> None:
    """Take back everything that came after `revision` (`base`: everything there is)."""
    with _alone(url):
        _patiently(url, lambda config: command.downgrade(config, revision))


def pending(url: str) -> list[str]:
    """The revisions that the database lacks, oldest first; none when it is up to date.

    Raises:
        DatabaseError: as `upgrade`.
    """
    with _connected(url) as connection:
        return _missing(connection)


@contextmanager
def beside_traffic() -> Iterator[None]:
    """For those statements of a migration that hold nobody up, however long they take.

    Each is committed by itself, and what comes before them in the migration, too. So all of it must
    be such that it may be done again: it is, where one of them does not get through.
    """
    with op.get_context().autocommit_block():
        op.execute(_waiting_for(BESIDE_SECONDS))
        yield
        op.execute(_waiting_for(LOCK_SECONDS))


def make_index(name: str, of: str) -> None:
    """Make an index beside the traffic, unless an earlier try has made it.

    One that broke off is there, invalid, and is made anew. One that is valid stays: what a later
    statement takes away may be invalid by then, and this one all that the path has.

    Args:
        name: the index.
        of: its table, columns and whatever else it is made of.
    """
    valid = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    if op.get_bind().scalar(valid, {"name": name}) is False:
        op.execute(f"DROP INDEX CONCURRENTLY {name}")
    op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {of}")


def _waiting_for(seconds: float) -> str:
    return f"SET lock_timeout = {1000 * seconds:.0f}"


def _patiently(url: str, work: Callable[[Config], None]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with _connected(url) as connection:
                connection.execute(text(_waiting_for(LOCK_SECONDS)))
                connection.commit()
                work(_config(connection))
        except _Held as error:
            if time.monotonic() > give_up:
                raise DatabaseError(
                    f"for {PATIENCE_SECONDS:.0f} s, at each try, somebody held a lock on a table "
                    "that is to be changed; look for a transaction that is open for long "
                    "(pg_stat_activity, xact_start), and run again: milepost migrate"
                ) from error
        else:
            return
        time.sleep(PAUSE_SECONDS)


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    except OperationalError as error:
        if isinstance(
            error.orig, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected
        ):
            raise _Held("somebody holds a lock on a table that is to be changed") from error
        raise unreachable(error) from error
    finally:
        engine.dispose()


@contextmanager
def _alone(url: str) -> Iterator[None]:
    lock = text("SELECT pg_try_advisory_lock(:key)")
    with _connected(url) as connection:
        # Not waited for: what is built beside the traffic waits for all who wait for anything.
        while not connection.scalar(lock, {"key": ADVISORY_LOCK}):
            connection.commit()
            time.sleep(LOOK_SECONDS)
        connection.commit()  # the lock is the session's and ends with the connection
        yield


def _missing(connection: Connection) -> list[str]:
    current = MigrationContext.configure(connection).get_current_revision()
    connection.commit()
    try:
        known = ScriptDirectory.from_config(_config())
        return [script.revision for script in known.iterate_revisions("head", current or "base")][
            ::-1
        ]
    except CommandError as error:
        raise DatabaseError(
            f"the database is at revision {current}, which this Milepost does not know: "
            "run the version that wrote it, or a later one"
        ) from error
