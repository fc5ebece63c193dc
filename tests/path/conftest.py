"""A whole Milepost for each test: a database of its own, a simulator, the real client between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from milepost import api, app
from milepost.app import Milepost
from milepost.model import RegistrantDetails, Scope
from milepost.settings import Settings, load
from milepost.simulator import Config, Ready, running

SECRET = "a secret of at least sixteen bytes"
FIELDS = ({"name": "flight", "type": "integer"}, {"name": "gate"})


@pytest.fixture
def simulator() -> Iterator[Ready]:
    """A simulator on a real socket, without limits, with deduplication by e-mail."""
    with running(Config(limits="none")) as ready:
        yield ready


@pytest.fixture
def settings(database_url: str, simulator: Ready, tmp_path: Any) -> Settings:
    """The settings of this test's Milepost."""
    return load(
        {
            "MILEPOST_DATABASE_URL": database_url,
            "MILEPOST_UPSTREAM_URL": simulator.url,
            "MILEPOST_UPSTREAM_TOKEN": "simulator",
            "MILEPOST_SECRET": SECRET,
        },
        tmp_path,
    )


@pytest.fixture
async def milepost(settings: Settings, database_url: str) -> AsyncIterator[Milepost]:
    """A Milepost with registrants `ann`, `ben` and `cleo`, and no milestone yet."""
    async with app.opened(settings, database_url) as milepost:
        people = {
            ref: RegistrantDetails(email=f"{ref}@example.com", first_name=ref.title())
            for ref in ("ann", "ben", "cleo")
        }
        await milepost.store.registrants.put(
            people, milepost.deployment.dedup_criteria or frozenset()
        )
        yield milepost


@pytest.fixture
async def keys(milepost: Milepost) -> dict[Scope, str]:
    """A key for each scope."""
    return {scope: (await milepost.store.keys.create(scope, [scope]))[1] for scope in Scope}


@pytest.fixture
async def client(milepost: Milepost, keys: dict[Scope, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of the REST API with an admin's key."""
    transport = httpx.ASGITransport(api.create(milepost.store, milepost.issuing))
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://milepost.test",
        headers={"Authorization": f"Bearer {keys[Scope.ADMIN]}"},
    ) as client:
        yield client


@pytest.fixture
async def control(simulator: Ready) -> AsyncIterator[httpx.AsyncClient]:
    """The simulator's control API (`docs/simulator.md`)."""
    async with httpx.AsyncClient(base_url=simulator.origin, trust_env=False) as client:
        yield client


@pytest.fixture
async def landed(
    client: httpx.AsyncClient, milepost: Milepost, simulator: Ready
) -> Callable[..., Any]:
    """Register milestone `landed` with these changes to its definition, and fill its pool."""

    async def register(**changes: Any) -> None:
        definition = {"survey_id": simulator.survey_id, "fields": FIELDS, **changes}
        (await client.put("/v1/milestones/landed", json=definition)).raise_for_status()
        await milepost.replenish.run_once()

    return register
