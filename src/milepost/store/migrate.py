"""Brings a database to the schema that this Milepost needs, and tells whether it is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from alembic import command
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
        DatabaseError: Postgres cannot be reached, or a later version of Milepost wrote its schema.
    """
    with _alone(url) as connection:
        before = _missing(connection)
        command.upgrade(_config(connection), revision)
        after = _missing(connection)
    return [name for name in before if name not in after]


def downgrade(url: str, revision: str) -> None:
    """Take back everything that came after `revision` (`base`: everything there is)."""
    with _alone(url) as connection:
        command.downgrade(_config(connection), revision)


def pending(url: str) -> list[str]:
    """The revisions that the database lacks, oldest first; none when it is up to date.

    Raises:
        DatabaseError: as `upgrade`.
    """
    with _connected(url) as connection:
        return _missing(connection)


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    except OperationalError as error:
        raise unreachable(error) from error
    finally:
        engine.dispose()


@contextmanager
def _alone(url: str) -> Iterator[Connection]:
    with _connected(url) as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        connection.commit()  # the lock is the session's and ends with the connection
        yield connection
        connection.commit()


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
