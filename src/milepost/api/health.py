"""Health: for whoever starts, stops and routes to this process."""

from __future__ import annotations

from collections.abc import Callable

from litestar import Router, get
from litestar.exceptions import ServiceUnavailableException
from msgspec import Struct

from milepost.api.access import PUBLIC
from milepost.api.problems import documented
from milepost.store import Store


class Health(Struct, frozen=True):
    """Well."""

    status: str = "ok"


def router(store: Store, stopping: Callable[[], bool]) -> Router:
    """The routes under `/health`.

    Args:
        store: is asked whether it answers.
        stopping: whether the process was told to end.
    """

    @get("/live", opt=PUBLIC)
    async def live() -> Health:
        """The process answers."""
        return Health()

    @get("/ready", opt=PUBLIC, responses={503: documented()[503]})
    async def ready() -> Health:
        """The process can do its work: Postgres answers, and it is not ending. 503 otherwise."""
        if stopping():
            raise ServiceUnavailableException(
                "The process is about to end.", headers={"Retry-After": "1"}
            )
        await store.deployment.load()
        return Health()

    return Router("/health", route_handlers=[live, ready], tags=["health"])
