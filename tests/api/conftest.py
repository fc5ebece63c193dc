"""The REST application on a database of its own; no platform is there, and none is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_network

import httpx
import pytest
from litestar import Litestar
from msgspec import Struct

from milepost import admin, api
from milepost.admin.sessions import Sessions
from milepost.budget import Budget
from milepost.issuing import Issuing
from milepost.jobs.run import Run
from milepost.matching import Matching
from milepost.model import MilestoneDefinition, RegistrantDetails, Route, Scope
from milepost.routes import Joining, MailingListMaker, Maker, StepwiseMaker
from milepost.scheduler import CADENCES, Scheduler, timetable
from milepost.store import Store
from milepost.upstream import Upstream
from milepost.webhooks import Webhooks

DIRECTORY = "POOL_000000000000001"
SURVEY = "SV_000000000000001"
EMAIL = frozenset({"email"})
SECRET = b"a secret of at least sixteen bytes"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A store that knows milestone `landed` and registrant `ann`, and has no pool."""
    async with await Store.open(database_url) as store:
        await store.deployment.load()
        await store.registrants.rekey(DIRECTORY, EMAIL)
        await store.milestones.put("landed", MilestoneDefinition(survey_id=SURVEY))
        ann = RegistrantDetails(email="ann@example.com", first_name="Ann", attributes={"tier": "7"})
        await store.registrants.put({"ann": ann})
        yield store


@pytest.fixture
async def budget(store: Store) -> AsyncIterator[Budget]:
    """The calls that may be made."""
    async with Budget(store.budget, rate_per_minute=3_000, limits={}) as budget:
        yield budget


@pytest.fixture
async def upstream(budget: Budget) -> AsyncIterator[Upstream]:
    """The client of a platform that is not there."""
    async with Upstream("http://127.0.0.1:9/API/v3", "nobody", gate=budget) as upstream:
        yield upstream


@pytest.fixture
async def issuing(store: Store, budget: Budget, upstream: Upstream) -> AsyncIterator[Issuing]:
    """The path of an event up to the platform."""
    maker = MailingListMaker(
        upstream,
        directory_id=DIRECTORY,
        deployment=store.deployment.load,
        capabilities=store.capabilities.current,
        secret=SECRET,
    )
    stepwise = StepwiseMaker(
        upstream,
        Joining(upstream, store.contacts, directory_id=DIRECTORY),
        directory_id=DIRECTORY,
        deployment_id="deployed",
        deployment=store.deployment.load,
        capabilities=store.capabilities.current,
        note=store.links.note,
        secrets=(SECRET,),
        limits={},
    )
    makers: dict[Route, Maker] = {Route.LIST: maker, Route.STEPWISE: stepwise}
    issuing = Issuing(store, makers, maker, budget)
    yield issuing
    await issuing.finish()


class Nothing(Struct):
    """What the jobs here did."""

    rows: int = 0


class Job:
    """A job that does nothing."""

    async def run_once(self, run: Run) -> Nothing:  # noqa: ARG002  (as every job)
        """Be done."""
        return Nothing()


@pytest.fixture
def scheduler(store: Store) -> Scheduler:
    """The jobs, none of which does anything."""
    return Scheduler(store.runs, dict.fromkeys(CADENCES, Job()), timetable({}, "Europe/Berlin"))


@pytest.fixture
async def application(
    store: Store, issuing: Issuing, budget: Budget, scheduler: Scheduler, upstream: Upstream
) -> AsyncIterator[Litestar]:
    """The application, whose test messages go to this machine as well."""
    matching = Matching(store, upstream, [SECRET])
    pages = admin.router(store, scheduler, secret=SECRET, secure=False)
    async with Webhooks([ip_network("127.0.0.0/8")]) as webhooks:
        yield api.create(
            store, issuing, budget, scheduler, matching, besides=[pages], webhooks=webhooks
        )


@pytest.fixture
async def keys(store: Store) -> dict[Scope, str]:
    """A key for each scope, named like it."""
    return {scope: (await store.keys.create(scope, [scope]))[1] for scope in Scope}


@pytest.fixture
def sessions(store: Store) -> Sessions:
    """Those of the page."""
    return Sessions(store.keys, SECRET, secure=False)


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
