"""The REST application on a database of its own; no platform is there, and none is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from litestar import Litestar

from milepost import api
from milepost.issuing import Issuing
from milepost.model import MilestoneDefinition, RegistrantDetails, Scope
from milepost.store import Store

SURVEY = "SV_000000000000001"
EMAIL = frozenset({"email"})


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A store that knows milestone `landed` and registrant `ann`, and has no pool."""
    async with await Store.open(database_url) as store:
        await store.deployment.load()
        await store.registrants.rekey("POOL_000000000000001", EMAIL)
        await store.milestones.put("landed", MilestoneDefinition(survey_id=SURVEY))
        ann = RegistrantDetails(email="ann@example.com", first_name="Ann", attributes={"tier": "7"})
        await store.registrants.put({"ann": ann})
        yield store


@pytest.fixture
def application(store: Store) -> Litestar:
    """The application."""
    return api.create(store, Issuing(store, {}))


@pytest.fixture
async def keys(store: Store) -> dict[Scope, str]:
    """A key for each scope, named like it."""
    return {scope: (await store.keys.create(scope, [scope]))[1] for scope in Scope}


@pytest.fixture
async def anybody(application: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    """A caller without a key."""
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://milepost.test") as client:
        yield client


@pytest.fixture
def client(anybody: httpx.AsyncClient, keys: dict[Scope, str]) -> httpx.AsyncClient:
    """A caller with an admin's key."""
    anybody.headers["Authorization"] = f"Bearer {keys[Scope.ADMIN]}"
    return anybody
