"""The platform's event calls: signed ones are noted once, all others change nothing."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import httpx
import pytest
from tests.api.conftest import SURVEY

from milepost import api
from milepost.api.upstream_events import MAX_CALL_BYTES
from milepost.budget import Budget
from milepost.issuing import Issuing
from milepost.matching import Matching
from milepost.scheduler import Scheduler
from milepost.store import Store
from milepost.upstream import Upstream
from milepost.webhooks import Webhooks

KEY = "a shared key of at least sixteen bytes"
PATH = "/v1/upstream/events"
RESPONSE = "R_000000000000001"


def call(key: str = KEY, **changes: str) -> bytes:
    """An event call that tells of a response."""
    told = {"Status": "Complete", "SurveyID": SURVEY, "ResponseID": RESPONSE} | changes
    message = json.dumps(told)
    digest = hmac.new(key.encode(), message.encode(), hashlib.sha512).hexdigest()
    return urlencode({"HMAC": digest, "MSG": message, "Topic": "x"}).encode()


@pytest.fixture
async def platform(
    store: Store, issuing: Issuing, budget: Budget, scheduler: Scheduler, upstream: Upstream
) -> AsyncIterator[httpx.AsyncClient]:
    """Whoever calls where a key is set; nobody has an API key."""
    matching = Matching(store, upstream, [])
    async with Webhooks([]) as webhooks:
        application = api.create(
            store, issuing, budget, scheduler, matching, events_key=KEY, webhooks=webhooks
        )
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://milepost.test") as web:
            yield web


async def noted(store: Store) -> list[str]:
    """The responses that were noted, and are to be read."""
    return [unread.response_id for unread in await store.responses.take(10)]


async def test_a_signed_call_is_noted_once(platform: httpx.AsyncClient, store: Store) -> None:
    """It is durable before the answer leaves; a replay, of whatever age, changes nothing."""
    for is_new in (True, False):
        answer = await platform.post(PATH, content=call())
        assert (200, {"noted": is_new}) == (answer.status_code, answer.json())
    assert [RESPONSE] == await noted(store)
    assert {"noted": False} == (await platform.post(PATH, content=call())).json()
    assert [] == await noted(store)


async def test_a_survey_of_no_milestone_is_passed_over(
    platform: httpx.AsyncClient, store: Store
) -> None:
    """The brand may have subscribed others to the same address."""
    answer = await platform.post(PATH, content=call(SurveyID="SV_000000000000009"))
    assert (200, {"noted": False}) == (answer.status_code, answer.json())
    assert [] == await noted(store)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (call("another key of sixteen bytes"), 403, "event-refused"),
        (call()[:-20].replace(b"HMAC=", b"HMAC=0"), 403, "event-refused"),
        (call().replace(b"R_0000", b"R_0001"), 403, "event-refused"),
        (b'{"MSG": {}}', 403, "event-refused"),
        (b"\xff" * 100, 403, "event-refused"),
        (b"", 400, "invalid-request"),
        (call(ResponseID="R_1"), 400, "invalid-request"),
        (call() + b"&x=" + b"0" * MAX_CALL_BYTES, 413, "body-too-large"),
    ],
    ids=("key", "digest", "message", "json", "bytes", "empty", "unreadable", "long"),
)
async def test_what_is_not_genuine_is_refused(
    platform: httpx.AsyncClient, store: Store, body: bytes, status: int, code: str
) -> None:
    """Nothing is written, and nobody is told what would have been right."""
    answer = await platform.post(PATH, content=body)
    assert (status, code) == (answer.status_code, answer.json()["code"])
    assert "application/problem+json" == answer.headers["Content-Type"]
    assert KEY not in answer.text
    assert [] == await noted(store)


async def test_without_a_key_nothing_is_taken(anybody: httpx.AsyncClient, store: Store) -> None:
    """Whoever reads the answer knows what to set; an empty key would be everybody's."""
    for body in (call(), call("")):
        answer = await anybody.post(PATH, content=body)
        assert (404, "events-unwanted") == (answer.status_code, answer.json()["code"])
        assert "MILEPOST_EVENTS_KEY" in answer.json()["detail"]
    assert [] == await noted(store)


async def test_drift_that_there_is_not_cannot_be_settled(client: httpx.AsyncClient) -> None:
    """Whatever number it is; and what is no kind is named."""
    for number in (0, 1, -1, 2**63):
        answer = await client.post(f"/v1/drift/{number}/settle")
        assert (404, "unknown-drift") == (answer.status_code, answer.json()["code"])
    assert 400 == (await client.get("/v1/drift?kind=nothing")).status_code
