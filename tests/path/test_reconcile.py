"""What becomes of links is brought in, and in what ledger and platform differ is flagged."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from tests.path.conftest import EVENTS_KEY

from milepost.app import Milepost
from milepost.model import DriftKind, Fact, LinkState, RegistrantDetails
from milepost.payload import REFERENCE_FIELD
from milepost.personal_link import parse
from milepost.simulator import Config
from milepost.store.links import Settlement

Landed = Callable[..., Awaitable[None]]
Travel = Callable[..., Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

ROUTES: dict[str, dict[str, Any]] = {
    "list": {"route": "list"},
    "transaction": {"route": "transaction"},
    "stepwise": {"route": "stepwise"},
    "anonymous": {"route": "anonymous"},
}
PEOPLE = ("ann", "ben", "cleo")


@pytest.fixture
def simulator_config() -> Config:
    """The survey's flow declares the reference and the field."""
    return Config(limits="none", declared_fields=(REFERENCE_FIELD, "flight"))


async def ask(
    client: httpx.AsyncClient, event_id: str = "e1", ref: str = "ann", milestone: str = "landed"
) -> dict[str, Any]:
    """The personal link of an event."""
    body = {"event_id": event_id, "milestone": milestone, "registrant": ref, "deadline_ms": 8_000}
    link: dict[str, Any] = (await client.post("/v1/links", json=body)).json()
    assert "issued" == link["state"], link
    return link


async def moments(client: httpx.AsyncClient, link: dict[str, Any]) -> tuple[bool, bool, bool, Any]:
    """Whether a link is opened, started, finished; and its response."""
    found = (await client.get(f"/v1/links/{link['id']}")).json()
    at = [found[name] for name in ("opened_at", "started_at", "finished_at")]
    told = [datetime.fromisoformat(each) for each in at if each]
    assert told == sorted(told), at
    return bool(at[0]), bool(at[1]), bool(at[2]), found["response_id"]


async def drift(client: httpx.AsyncClient, **wanted: object) -> list[tuple[str, str | None]]:
    """What differs, by kind and response."""
    answer = await client.get("/v1/drift", params={k: str(v) for k, v in wanted.items()})
    answer.raise_for_status()
    return sorted((each["kind"], each["response_id"]) for each in answer.json()["drift"])


async def reconcile(milepost: Milepost, **options: bool) -> dict[str, Any]:
    """What a run of the job counts."""
    run = await milepost.run("reconcile", asked_by="a test", options=options)
    assert ("done", None) == (run.state, run.error)
    return dict(run.counts)


def called(response_id: str, survey_id: str, key: str = EVENTS_KEY) -> bytes:
    """An event call, as the platform makes it."""
    told = {"Status": "Complete", "SurveyID": survey_id, "ResponseID": response_id}
    message = json.dumps(told)
    digest = hmac.new(key.encode(), message.encode(), hashlib.sha512).hexdigest()
    return urlencode({"HMAC": digest, "MSG": message, "Topic": "x"}).encode()


@pytest.mark.parametrize("kind", [kind for kind in ROUTES if kind != "anonymous"])
async def test_links_become_what_their_history_tells(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, kind: str
) -> None:
    """Nothing, started, finished, on each route; again nothing changes, and history is not read."""
    await landed(**ROUTES[kind], fields=[])
    await milepost.run("sync", asked_by="a test")
    untouched, begun, done = [await ask(client, f"{kind} {ref}", ref) for ref in PEOPLE]
    await platform.open(begun["url"])
    response_id = await platform.answer(done["url"])
    counts = await reconcile(milepost)
    assert (2, 2, 1, 1, 0) == tuple(
        counts[name] for name in ("opened", "started", "finished", "read", "drift")
    )
    assert (False, False, False, None) == await moments(client, untouched)
    assert (True, True, False, None) == await moments(client, begun)
    assert (True, True, True, response_id) == await moments(client, done)
    assert [] == await drift(client)

    again = await reconcile(milepost)
    assert (0, 0, 0) == tuple(again[name] for name in ("moved", "entries", "finished"))
    thorough = await reconcile(milepost, thorough=True)
    assert (kind != "stepwise", 0) == (thorough["moved"] > 0, thorough["finished"])


@pytest.mark.parametrize("tells", [True, False], ids=["with history", "by reference alone"])
@pytest.mark.parametrize("kind", ROUTES)
async def test_an_event_call_finishes_its_link(
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    kind: str,
    tells: bool,  # noqa: FBT001  (both ways)
) -> None:
    """The response is fetched, and matched by its reference; a replay changes nothing.

    What history tells then confirms it, where it does.
    """
    await milepost.store.capabilities.note(Fact.HISTORY_LINKS, holds=tells, evidence="a test")
    await platform.switch(facts={"history_links": tells})
    await landed(**ROUTES[kind], fields=[])
    await milepost.run("sync", asked_by="a test")
    link = await ask(client)
    response_id = await platform.answer(link["url"])
    call = called(response_id, platform.ready.survey_id)
    for is_new in (True, False):
        taken = await client.post("/v1/upstream/events", content=call)
        assert (200, {"noted": is_new}) == (taken.status_code, taken.json())
    counts = await milepost.responses.run_once()
    assert (1, 1, 0) == (counts.read, counts.finished, counts.drift)
    assert (True, True, True, response_id) == await moments(client, link)
    assert {"noted": False} == (await client.post("/v1/upstream/events", content=call)).json()
    assert 0 == (await milepost.responses.run_once()).read

    counts = await reconcile(milepost)
    assert (0, 0) == (counts["read"], counts["drift"])
    assert (True, True, True, response_id) == await moments(client, link)
    assert [] == await drift(client)
