"""The composition root: settings go in, a running Milepost comes out."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from msgspec import Struct

from milepost import api
from milepost.embedded import EmbeddedPostgres
from milepost.errors import ConfigurationError, DatabaseError
from milepost.issuing import Issuing
from milepost.jobs.directory import bind
from milepost.jobs.replenish import Replenish
from milepost.jobs.sync import Sync
from milepost.model import Deployment, Route
from milepost.routes import MailingListMaker
from milepost.settings import Settings
from milepost.store import Store, migrate
from milepost.upstream import Upstream

KEEP_ALIVE_SECONDS = 65
"""Longer than callers keep their pooled connections (60 s is usual): it is they who close first,
and no request meets a connection that is just going away."""

GRACE_SECONDS = 15
"""How long requests may take to end once the process was told to stop: the longest deadline that a
caller may set is 8 s."""

BACKLOG = 2048
"""Connections that wait to be taken; what Linux allows itself is the smaller number."""


class Milepost(Struct, frozen=True, kw_only=True):
    """Everything that a process of ours works with."""

    store: Store
    upstream: Upstream
    deployment: Deployment
    issuing: Issuing
    sync: Sync
    replenish: Replenish


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The URL of a database that is there and migrated, while the block runs.

    Raises:
        DatabaseError: it cannot be had, or it is one that was given to us and is behind.
    """
    if settings.database_url is None:
        with EmbeddedPostgres(settings.home) as url:
            migrate.upgrade(url)
            yield url
        return
    if migrate.pending(settings.database_url):
        raise DatabaseError(
            "the database is behind this version of Milepost; run: milepost migrate"
        )
    yield settings.database_url


@asynccontextmanager
async def opened(settings: Settings, database_url: str) -> AsyncIterator[Milepost]:
    """Milepost on its database and its platform, while the block runs.

    The platform is asked for its directory once in the life of a deployment; afterwards Milepost
    starts while the platform is down.

    Raises:
        ConfigurationError: the directory is not there.
        DatabaseError: Postgres cannot be reached.
        UpstreamError: the platform cannot be asked for the directory, the first time.
    """
    async with (
        await Store.open(database_url) as store,
        Upstream(settings.upstream_url, settings.upstream_token) as upstream,
    ):
        deployment = await store.deployment.load()
        if deployment.directory_id is None:
            deployment = await bind(store, upstream, settings.directory_id)
        maker = MailingListMaker(
            upstream,
            directory_id=deployment.directory_id or "",
            deployment=store.deployment.load,
            secret=settings.secret,
        )
        issuing = Issuing(store, {Route.LIST: maker})
        try:
            yield Milepost(
                store=store,
                upstream=upstream,
                deployment=deployment,
                issuing=issuing,
                sync=Sync(store, upstream, settings.directory_id),
                replenish=Replenish(store, upstream, deployment),
            )
        finally:
            await issuing.finish()


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that takes connections; port 0 picks a free one.

    Raises:
        ConfigurationError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"another program has port {port}: end it, or choose another port with --port"
            ) from error
        raise ConfigurationError(
            f"cannot listen on {host}, port {port}: {error.strerror}"
        ) from error
    with listener:
        yield listener


async def serve(
    settings: Settings, database_url: str, listener: socket.socket, ready: Callable[[], None]
) -> None:
    """Answer requests until SIGTERM or SIGINT; then finish what is in flight, and return.

    Args:
        settings: of this installation.
        database_url: the database, migrated.
        listener: takes the connections.
        ready: is called once, when requests are answered.

    Raises:
        As `opened`.
    """
    async with opened(settings, database_url) as milepost:
        config = uvicorn.Config(
            api.create(milepost.store, milepost.issuing),
            loop="uvloop",
            http="httptools",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            access_log=False,  # it would write refs and ids of people
            log_config=None,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        await _Server(config, ready).serve([listener])


class _Server(uvicorn.Server):
    """Says when it serves, and returns after a signal instead of dying of it.

    What stands behind it (calls in flight, the simulator, Postgres) is then ended in order.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        signals = [s for s in wanted if signal.getsignal(s) is not signal.SIG_IGN]
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
