"""Postgres for the tests: one server a run, and for each test that asks a database of its own.

The server is the embedded one, shared by all workers of the run, or the one that
`MILEPOST_TEST_DATABASE_URL` names (its user must be allowed to create databases). Migrations run
once, into a template that every test's database is copied from (about 10 ms in memory).
"""

from __future__ import annotations

import fcntl
import functools
import itertools
import os
import secrets
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from milepost.embedded import EmbeddedPostgres
from milepost.store.migrate import upgrade

# The name of this run, handed down to the xdist workers, which inherit the environment.
_RUN = "MILEPOST_TEST_RUN"
_GIVEN_SERVER = os.environ.get("MILEPOST_TEST_DATABASE_URL")
_NUMBERS = itertools.count(1)


def _run_folder() -> Path:
    """A short path, in memory where there is plenty: creating databases is all disk traffic.

    Not among pytest's own folders: those are closed to the account that runs Postgres for root.
    """
    memory = Path("/dev/shm")  # noqa: S108 - the name that is made in it is random
    if memory.is_dir():
        about = os.statvfs(memory)
        roomy = about.f_bavail * about.f_frsize > 2 * 1024**3
        if roomy and os.access(memory, os.W_OK) and not about.f_flag & os.ST_NOEXEC:
            return memory / os.environ[_RUN]
    return Path(tempfile.gettempdir(), os.environ[_RUN])


def _in_database(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def pytest_configure(config: pytest.Config) -> None:
    """Name the run, in the one process that starts it; clear away what killed runs left."""
    if hasattr(config, "workerinput"):
        return
    os.environ[_RUN] = f"milepost_test_{secrets.token_hex(4)}"
    for folder in _run_folder().parent.glob("milepost_test_*"):
        with suppress(OSError), (folder / "postgres" / "users").open("r+") as users:
            # Held by whoever uses that run's server.
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the run made, once all of its workers have gone."""
    if hasattr(config, "workerinput"):
        return
    if _GIVEN_SERVER:
        _drop_databases_of_the_run(_GIVEN_SERVER)
    _remove(_run_folder())


def _remove(folder: Path) -> None:
    home = folder / "postgres"
    if home.exists():
        with (home / "server").open("a") as lock:
            # Free when the server has stopped, which after a killed worker is its keeper's doing.
            fcntl.flock(lock, fcntl.LOCK_EX)
    # A server that ends removes files of its own meanwhile, and leaves some to a second look.
    for _ in range(2):
        shutil.rmtree(home.resolve(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _drop_databases_of_the_run(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as server:
        for (name,) in server.execute(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [os.environ[_RUN]]
        ).fetchall():
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session", autouse=True)
def _certificates() -> Iterator[None]:
    """Trusted certificates are read once: an HTTP client takes 20 ms for them, a test has several.

    No test speaks TLS.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture
def grants_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call waits for its own grant alone: for a test whose subject is not the budget.

    A process asks Postgres ten times a second at the most, so that calls that are made one after
    the other would wait for a tenth of a second each.
    """
    monkeypatch.setattr("milepost.budget.STATEMENTS", 1_000)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The run's Postgres server, as the URL of a database to which one may connect."""
    if _GIVEN_SERVER:
        yield _GIVEN_SERVER
        return
    settings = {"max_wal_size": "256MB", "wal_level": "minimal", "max_wal_senders": "0"}
    with EmbeddedPostgres(_run_folder(), durable=False, settings=settings) as url:
        yield url


@pytest.fixture(scope="session")
def _template(postgres_url: str) -> Iterator[tuple[psycopg.Connection, sql.Identifier]]:
    """A connection that may create databases, and the database to copy them from."""
    name = f"{os.environ[_RUN]}_template"
    half = f"{name}_half"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        # One worker makes it; the others wait for the lock and find it made.
        server.execute("SELECT pg_advisory_lock(hashtext(%s))", [name])
        if not server.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            renamed = {"half": sql.Identifier(half), "name": sql.Identifier(name)}
            server.execute(sql.SQL("DROP DATABASE IF EXISTS {half}").format(**renamed))
            server.execute(sql.SQL("CREATE DATABASE {half} TEMPLATE template0").format(**renamed))
            upgrade(_in_database(postgres_url, half))
            server.execute(sql.SQL("ALTER DATABASE {half} RENAME TO {name}").format(**renamed))
        server.execute("SELECT pg_advisory_unlock(hashtext(%s))", [name])
        yield server, sql.Identifier(name)


@pytest.fixture(scope="session")
def _used() -> list[sql.Identifier]:
    """Databases of earlier tests.

    They are dropped one test late: Postgres waits in steps of 100 ms for connections to go, and the
    ones of a test that has just ended are still on their way.
    """
    return []


@pytest.fixture
def database_url(
    postgres_url: str,
    _template: tuple[psycopg.Connection, sql.Identifier],
    _used: list[sql.Identifier],
) -> Iterator[str]:
    """The URL of an empty, migrated database that belongs to this test alone."""
    server, template = _template
    while _used:
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(_used.pop()))
    name = f"{os.environ[_RUN]}_{os.getpid()}_{next(_NUMBERS)}"
    database = sql.Identifier(name)
    # Files are copied in less than half the time that it takes to log their pages.
    copied = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
    server.execute(copied.format(database, template))
    yield _in_database(postgres_url, name)
    _used.append(database)


def set_clock_ahead(database_url: str, by: timedelta) -> None:
    """Let `milepost_now()` be ahead of the real clock, for whoever is connected already as well.

    The function is replaced once, since every connection plans its statements anew after that. A
    connection that sets `milepost.now` keeps its own time.
    """
    with psycopg.connect(database_url, autocommit=True) as database:
        if database.execute("SELECT to_regclass('ahead')").fetchone() == (None,):
            database.execute(_AHEAD)
        database.execute("UPDATE ahead SET by = %s", [by])


_AHEAD = """
    CREATE TABLE ahead AS SELECT interval '0' AS by;
    CREATE OR REPLACE FUNCTION milepost_now() RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
        SELECT coalesce(
            nullif(current_setting('milepost.now', true), '')::timestamptz,
            statement_timestamp() + (SELECT a.by FROM ahead AS a))
    $$;
"""
