"""Connections to Postgres: one pool for the contended statements, one engine for the everyday ones.

The path of an event goes through psycopg directly (pipelines, prepared statements); the rest is
SQLAlchemy Core. The driver's errors become ours here, and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from importlib.resources import files
from typing import Any, Final, ParamSpec, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy import RowMapping, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as EngineTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from milepost.errors import DatabaseBusy, DatabaseError

POOL_TIMEOUT_SECONDS: Final = 2.0
"""How long a statement waits for a connection before the caller is told to come back."""

RECONNECT_SECONDS: Final = 1.0
"""For how long the pool tries to replace a connection before the next statement begins a try of its
own. Left to itself it waits twice as long after each try, so that every minute that Postgres is
away would cost another one once it is back."""

START_SECONDS: Final = 10.0
"""How long a process that starts waits for Postgres, which may be starting itself."""

LOCK_SECONDS: Final = 2
STATEMENT_SECONDS: Final = 10
SILENCE_SECONDS: Final = 5
"""How long a statement waits for somebody's lock, runs, and hears nothing from its server, before
it is given up. Nothing here holds a lock for longer than a chunk of an import takes."""

TRIES: Final = 3
"""How often a transaction is begun that Postgres gives up for the sake of another."""

WRITE_AGAIN_SECONDS: Final = 0.5
"""Between tries to write while Postgres is away: a restart takes a few seconds."""

_OPTIONS: Final = (
    "-c TimeZone=UTC "
    # Compiling a statement takes longer than any of ours runs.
    "-c jit=off "
    f"-c lock_timeout={LOCK_SECONDS}s "
    f"-c statement_timeout={STATEMENT_SECONDS}s "
    # A process that is frozen amid an import must not keep events of the same people waiting.
    "-c idle_in_transaction_session_timeout=10s "
    # Lock, then decide: under any other level the decision's snapshot is as old as the lock's, and
    # a server or a database may have another one as its default.
    r"-c default_transaction_isolation=read\ committed"
)

_PATH_OPTIONS: Final = (
    # The statements of the path find rows by an index, always. A plan is made once for each
    # connection: made while the ledger is empty, it would read all of it, and go on doing so until
    # the next ANALYZE (three times the work after 20,000 links). The statements see to the rest:
    # see claim.sql and settle.sql.
    " -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c enable_material=off"
)

P = ParamSpec("P")
T = TypeVar("T")

Row = dict[str, Any]
"""A row by the names of its columns."""


def plain(row: RowMapping) -> Row:
    """SQLAlchemy's row as a dictionary; its keys are a kind of their own, which msgspec refuses."""
    return {str(name): value for name, value in row.items()}


def sqlalchemy_url(url: str) -> str:
    """The same database, named as SQLAlchemy wants it."""
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def statement(name: str, **parts: str) -> bytes:
    """The text of `sql/<name>.sql`, with each of these parts where it says `{part}`."""
    text = files("milepost.store").joinpath("sql", f"{name}.sql").read_text("utf-8")
    for part, said in parts.items():
        text = text.replace(f"{{{part}}}", said)
    return text.encode()


def numbered(text: bytes, *names: str) -> bytes:
    """A statement with `$1` for the first of these names, and so on, for an `AsyncRawCursor`.

    A long text with names psycopg takes to pieces at each execution: a tenth of what a link costs
    the process (measured).
    """
    for number, name in enumerate(names, 1):
        text = text.replace(b"%%(%s)s" % name.encode(), b"$%d" % number)
    return text.replace(b"%%", b"%")


def columns(table: str, names: Iterable[str]) -> str:
    """Columns of a table that a statement knows by this name, as it lists them.

    What leaves the store is listed by name, never as `*`: while an upgrade rolls, this version runs
    on tables that have further columns, and Postgres refuses a prepared statement whose rows are
    not what they were.
    """
    return ", ".join(f"{table}.{name}" for name in names)


def storable(text: str) -> str:
    """What others have written, as Postgres can store it: it has no NUL, UTF-8 no half characters.

    Errors hold whatever they are about: what upstream said, the name of a file.
    """
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


def unreachable(error: Exception) -> DatabaseError:
    """Say that Postgres cannot be reached, without the connection's particulars."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    first_line = first_line.removeprefix("(psycopg.OperationalError) ")
    return DatabaseError(f"Postgres cannot be reached: {first_line}")


class Sacrificed(DatabaseBusy):
    """Postgres gave the transaction up for the sake of another one: begin it again."""


class Locked(DatabaseBusy):
    """Somebody holds a lock on what the transaction needs."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn a lost or exhausted database into `DatabaseBusy`; other errors are our own mistakes."""
    try:
        yield
    except (PoolTimeout, EngineTimeout) as error:
        raise DatabaseBusy("no connection to Postgres came free in time") from error
    except psycopg.Error as error:
        if ours := _ours(error):
            raise ours from error
        raise
    except DBAPIError as error:
        if ours := _ours(error.orig):
            raise ours from error
        raise


def _is_outdated(error: psycopg.Error) -> bool:
    """Whether a statement was prepared before a migration.

    "Cached plan must not change result type", in whatever language the server says it.
    """
    return error.diag.source_function == "RevalidateCachedQuery"


def _ours(error: BaseException | None) -> DatabaseBusy | None:
    match error:
        case psycopg.errors.DeadlockDetected() | psycopg.errors.SerializationFailure():
            return Sacrificed("Postgres gave the transaction up for another one")
        case psycopg.errors.UniqueViolation(
            diag=psycopg.errors.Diagnostic(
                constraint_name="links_one_per_distribution"
                | "links_one_per_contact"
                | "links_pkey"
            )
        ):
            # The registrant was written between a claim's lock and its decision, so nobody held
            # them, and two claims chose one place, or were one event's in one millisecond. Begun
            # again, the claim finds them and waits.
            return Sacrificed("two claims chose the same place")
        case psycopg.errors.FeatureNotSupported() if _is_outdated(error):
            return Sacrificed("a migration has changed what a statement brings")
        case psycopg.errors.LockNotAvailable():
            return Locked("somebody holds a lock that is needed")
        case psycopg.errors.ProgramLimitExceeded():
            pass  # a value too large for an index: to come back would not help
        case psycopg.OperationalError():
            return DatabaseBusy("Postgres cannot be reached at the moment")
    return None


def begun_again(verb: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Run a verb, which is one transaction, again when it was sacrificed; `TRIES` times in all."""

    @wraps(verb)
    async def persistent(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(TRIES - 1):
            try:
                return await verb(*args, **kwargs)
            except Sacrificed:
                continue
        return await verb(*args, **kwargs)

    return persistent


async def persistently(write: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Write what would be lost otherwise, also past a restart of Postgres.

    Args:
        write: a verb that may be done twice.
        seconds: how long it is tried.

    Raises:
        DatabaseBusy: Postgres is away for longer.
    """
    clock = asyncio.get_running_loop().time
    give_up = clock() + seconds
    while True:
        try:
            return await write()
        except DatabaseBusy:
            if clock() > give_up:
                raise
        await asyncio.sleep(WRITE_AGAIN_SECONDS)


class Connections:
    """What the store's verbs run on.

    Args:
        url: a libpq URL (`postgresql://user:password@host/database`).
        size: connections for the path of an event. Those for readers and for the everyday verbs
            come on top.
    """

    def __init__(self, url: str, *, size: int = 6) -> None:
        given = conninfo_to_dict(url).get("options")
        options = f"{given} {_OPTIONS}" if given else _OPTIONS
        session = {
            "application_name": "milepost",
            "options": options,
            "connect_timeout": SILENCE_SECONDS,
            "tcp_user_timeout": SILENCE_SECONDS * 1000,
        }
        straight = session | {"options": options + _PATH_OPTIONS}
        self._path = _pool(url, straight, size)
        # Whoever opens short links has no key, and must not keep those waiting who have one.
        self._readers = _pool(url, straight, 2)
        self._engine: AsyncEngine = create_async_engine(
            sqlalchemy_url(url),
            pool_size=2,
            max_overflow=2,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            pool_pre_ping=True,  # which also ends what psycopg has prepared, so none is outdated
            hide_parameters=True,  # they hold people's data, and errors end in logs
            connect_args=session,
        )

    async def open(self) -> None:
        """Connect.

        Raises:
            DatabaseError: Postgres cannot be reached.
        """
        await self._path.open()
        await self._readers.open()
        clock = asyncio.get_running_loop().time
        give_up = clock() + START_SECONDS
        while True:
            try:
                async with self._path.connection(timeout=RECONNECT_SECONDS):
                    return
            except PoolTimeout as error:
                if clock() < give_up:
                    continue
                await self.close()
                raise DatabaseError(
                    f"Postgres cannot be reached: no connection within {START_SECONDS:.0f} s; "
                    "see whether it runs and whether MILEPOST_DATABASE_URL names it"
                ) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._path.close()
        await self._readers.close()
        await self._engine.dispose()

    @asynccontextmanager
    async def path(self) -> AsyncIterator[psycopg.AsyncConnection[DictRow]]:
        """A psycopg connection in autocommit, for the path of an event."""
        with translated():
            async with _one_of(self._path) as connection:
                yield connection

    @asynccontextmanager
    async def readers(self) -> AsyncIterator[psycopg.AsyncConnection[DictRow]]:
        """One of few for whoever looks at links or opens short ones."""
        with translated():
            async with _one_of(self._readers) as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A SQLAlchemy connection within one transaction, for an everyday verb."""
        with translated():
            async with self._engine.begin() as connection:
                yield connection


@asynccontextmanager
async def _one_of(
    pool: AsyncConnectionPool[psycopg.AsyncConnection[DictRow]],
) -> AsyncIterator[psycopg.AsyncConnection[DictRow]]:
    """A connection of a pool.

    Where what it has prepared is from before a migration, so is what the others have: all of them
    are replaced.
    """
    try:
        async with pool.connection() as connection:
            yield connection
    except psycopg.errors.FeatureNotSupported as error:
        if _is_outdated(error):
            await pool.drain()
        raise


def _pool(
    url: str, session: Mapping[str, object], size: int
) -> AsyncConnectionPool[psycopg.AsyncConnection[DictRow]]:
    return AsyncConnectionPool(
        url,
        min_size=1,
        max_size=size,
        timeout=POOL_TIMEOUT_SECONDS,
        reconnect_timeout=RECONNECT_SECONDS,
        open=False,
        kwargs={"row_factory": dict_row, "autocommit": True, **session},
    )
