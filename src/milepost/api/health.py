"""Health: for whoever starts, stops and routes to this process."""

from __future__ import annotations

from litestar import Router, get
from msgspec import Struct

from milepost.api.access import PUBLIC
from milepost.api.problems import documented
from milepost.store import Store


class Health(Struct, frozen=True):
    """Well."""

    status: str = "ok"


def router(store: Store) -> Router:
    """The routes under `/health`."""

    @get("/live", opt=PUBLIC)
    async def live() -> Health:
        """The process answers."""
        return Health()

    @get("/ready", opt=PUBLIC, responses={503: documented()[503]})
    async def ready() -> Health:
        """The process can do its work: Postgres answers. 503 otherwise."""
        await store.deployment.load()
        return Health()

    return Router("/health", route_handlers=[live, ready], tags=["health"])
