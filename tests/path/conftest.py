"""A whole Milepost for each test: a database of its own, a simulator, the real client between."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from litestar import Litestar
from tests.conftest import set_clock_ahead

from milepost import api, app
from milepost.app import Milepost
from milepost.model import RegistrantDetails, Scope
from milepost.settings import Settings, load
from milepost.simulator import Config, Ready, running

SECRET = "a secret of at least sixteen bytes"
EVENTS_KEY = "a shared key of at least sixteen bytes"
FIELDS = ({"name": "flight", "type": "integer"}, {"name": "gate"})


@dataclass
class Platform:
    """The simulator as a test sees it: what goes wrong, and what it was told to write."""

    ready: Ready
    web: httpx.AsyncClient
    seen: int = 0

    async def fault(self, kind: str, **particulars: object) -> None:
        """Let the next call go wrong, or those that the particulars say."""
        body = {"kind": kind, "times": 1, **particulars}
        (await self.web.post("/control/faults", json=body)).raise_for_status()

    async def switch(self, **settings: object) -> None:
        """Turn switches."""
        (await self.web.put("/control/settings", json=settings)).raise_for_status()

    async def entries(self) -> list[dict[str, Any]]:
        """The journal from the last `forget` on."""
        answer = await self.web.get("/control/journal", params={"after": self.seen})
        entries: list[dict[str, Any]] = answer.json()["entries"]
        return entries

    async def writes(self) -> list[str]:
        """The operations of those entries."""
        return [entry["operation"] for entry in await self.entries()]

    async def forget(self) -> None:
        """Leave what was written so far out of `writes`."""
        self.seen = (await self.web.get("/control/journal")).json()["last"]

    async def calls(self) -> int:
        """How many calls were made, reads and refused ones among them."""
        stats = (await self.web.get("/control/stats")).json()
        return int((stats["brand"] or {"calls": 0})["calls"])

    async def open(self, link: str) -> str:
        """Open a link in a browser; returns the session that is started by that."""
        page = await self.web.get(link)
        session = re.search(r'name="session" value="(FS_\w{15})"', page.text)
        assert session is not None, page.text
        return session[1]

    async def answer(self, link: str, session: str | None = None) -> str:
        """Send the survey of a link off; returns the id of the response.

        Without a session that was started before the link is opened first.
        """
        session = session or await self.open(link)
        sent = await self.web.post(link, data={"session": session, "QID1": "5"})
        assert 'data-state="thanks"' in sent.text
        return str((await self.entries())[-1]["ids"]["response"])


@pytest.fixture(autouse=True)
def _budget(request: pytest.FixtureRequest) -> None:
    """The budget has its own tests."""
    request.getfixturevalue("grants_at_once")


@pytest.fixture
def simulator_config() -> Config:
    """How the simulator starts: without limits, with deduplication by e-mail."""
    return Config(limits="none")


@pytest.fixture
def simulator(simulator_config: Config) -> Iterator[Ready]:
    """A simulator on a real socket."""
    with running(simulator_config) as ready:
        yield ready


@pytest.fixture
def settings(database_url: str, simulator: Ready, tmp_path: Path) -> Settings:
    """The settings of this test's Milepost."""
    return load(
        {
            "MILEPOST_DATABASE_URL": database_url,
            "MILEPOST_UPSTREAM_URL": simulator.url,
            "MILEPOST_UPSTREAM_TOKEN": "simulator",
            "MILEPOST_SECRET": SECRET,
            "MILEPOST_RATE_PER_MINUTE": "1000000",
            "MILEPOST_LIMITS": "none",
            "MILEPOST_WEBHOOKS_ALLOW": "127.0.0.1",
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
        await milepost.store.registrants.put(people)
        yield milepost


@pytest.fixture
async def keys(milepost: Milepost) -> dict[Scope, str]:
    """A key for each scope."""
    return {scope: (await milepost.store.keys.create(scope, [scope]))[1] for scope in Scope}


@pytest.fixture
def application(milepost: Milepost) -> Litestar:
    """The REST API."""
    return api.create(
        milepost.store,
        milepost.issuing,
        milepost.budget,
        milepost.scheduler,
        milepost.matching,
        events_key=EVENTS_KEY,
        webhooks=milepost.webhooks,
    )


@pytest.fixture
async def client(application: Litestar, keys: dict[Scope, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of the REST API with an admin's key."""
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://milepost.test",
        headers={"Authorization": f"Bearer {keys[Scope.ADMIN]}"},
    ) as client:
        yield client


@pytest.fixture
async def platform(simulator: Ready) -> AsyncIterator[Platform]:
    """The simulator with its control API (`docs/simulator.md`)."""
    async with httpx.AsyncClient(base_url=simulator.origin, trust_env=False) as web:
        yield Platform(simulator, web)


@pytest.fixture
async def landed(
    client: httpx.AsyncClient, milepost: Milepost, platform: Platform
) -> Callable[..., Awaitable[None]]:
    """Register milestone `landed` with these changes to its definition, and fill its pool."""

    async def register(**changes: object) -> None:
        """Register it."""
        definition = {"survey_id": platform.ready.survey_id, "fields": FIELDS, **changes}
        (await client.put("/v1/milestones/landed", json=definition)).raise_for_status()
        await milepost.replenish.run_once()
        await platform.forget()

    return register


@pytest.fixture
def probes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An open breaker lets the next call through as its probe."""
    monkeypatch.setattr("milepost.upstream.breaker.PROBE_SECONDS", 0.0)


@pytest.fixture
def execute(database_url: str) -> Callable[..., Awaitable[list[tuple[Any, ...]]]]:
    """Run a statement in the test's database, past the store."""

    async def run(statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run it, in a transaction of its own."""
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as database:
            cursor = await database.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def elapse(
    execute: Callable[..., Awaitable[list[tuple[Any, ...]]]],
) -> Callable[[float], Awaitable[None]]:
    """Let seconds go by for what waits: every deadline of the ledger comes nearer by as much."""

    async def pass_by(seconds: float) -> None:
        """Let them go by."""
        for table, column in (
            ("links", "lease_until"),
            ("links", "due_at"),
            ("links", "first_look_at"),
            ("slots", "rests_until"),
            ("distributions", "lease_until"),
            ("registrants", "contact_lease_until"),
            ("registrants", "contact_first_look_at"),
            ("deployment", "home_lease_until"),
            ("call_classes", "closed_until"),
            ("call_classes", "cut_at"),
            ("messages", "due_at"),
            ("endpoint_lines", "lease_until"),
        ):
            await execute(
                f"UPDATE {table} SET {column} = {column} - make_interval(secs => %s)", seconds
            )

    return pass_by


@pytest.fixture
def travel(database_url: str, platform: Platform) -> Callable[..., Awaitable[None]]:
    """Let time go by, by `days`, `hours` and so on, in the database and at the platform alike.

    What a process measures by itself (how long a permit holds, when a breaker closes) goes on by
    the real clock.
    """
    ahead = timedelta()

    async def go(**by: float) -> None:
        """Go so far ahead; the particulars are those of a `timedelta`."""
        nonlocal ahead
        ahead += timedelta(**by)
        set_clock_ahead(database_url, ahead)
        clock = {"advance_seconds": timedelta(**by).total_seconds()}
        (await platform.web.put("/control/clock", json=clock)).raise_for_status()

    return go
