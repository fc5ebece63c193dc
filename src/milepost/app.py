"""The composition root: settings go in, a running Milepost comes out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from msgspec import Struct

from milepost import api
from milepost.embedded import EmbeddedPostgres
from milepost.errors import DatabaseError
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
            deduplicates=bool(deployment.dedup_criteria),
            secret=settings.secret,
        )
        issuing = Issuing(store, {Route.LIST: maker})
        yield Milepost(
            store=store,
            upstream=upstream,
            deployment=deployment,
            issuing=issuing,
            sync=Sync(store, upstream, settings.directory_id),
            replenish=Replenish(store, upstream, deployment),
        )
        await issuing.finish()


async def serve(settings: Settings, database_url: str, *, host: str, port: int) -> None:
    """Answer requests until the process is told to stop; then finish what is in flight.

    Raises:
        As `opened`.
    """
    async with opened(settings, database_url) as milepost:
        application = api.create(milepost.store, milepost.issuing)
        server = uvicorn.Server(
            uvicorn.Config(
                application,
                host=host,
                port=port,
                loop="uvloop",
                http="httptools",
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                access_log=False,  # it would write refs and ids of people
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=15,
            )
        )
        await server.serve()
