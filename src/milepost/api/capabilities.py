"""Capabilities: what this account has been proved to accept, or not to."""

from __future__ import annotations

from litestar import Router, get
from msgspec import Struct

from milepost.api.access import needs
from milepost.api.problems import documented
from milepost.model import Capability, Fact, Scope
from milepost.store import Store


class Known(Struct, frozen=True):
    """What `milepost doctor --probe` has found."""

    capabilities: list[Capability]
    unprobed: list[Fact]
    """What was never tried, and counts as true."""


def router(store: Store) -> Router:
    """The route `/v1/capabilities`."""

    @get("/", opt=needs(Scope.READ), responses=documented())
    async def read() -> Known:
        """Look at what has been proved of the account."""
        account = await store.capabilities.all()
        found = [known for fact in Fact if (known := account.get(fact)) is not None]
        return Known(capabilities=found, unprobed=list(account.unprobed))

    return Router("/v1/capabilities", route_handlers=[read], tags=["capabilities"])
