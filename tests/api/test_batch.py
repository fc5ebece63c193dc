"""Many events in one request: each has an outcome of its own, and none loses another's."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import httpx
import psycopg
import pytest

from milepost.api import links
from milepost.issuing import Answer, Issuing
from milepost.model import Event, Lane, MilestoneDefinition, Scope
from milepost.store import Store

SURVEY = "SV_000000000000001"
OUTCOMES = {
    "issued",
    "reused",
    "deferred",
    "queued",
    "waiting",
    "suppressed",
    "failed",
    "conflict",
    "invalid",
}


def event(event_id: object = "e1", **changes: object) -> dict[str, object]:
    """A good event, changed."""
    return {"event_id": event_id, "milestone": "landed", "registrant": "ann"} | changes


async def ask(
    client: httpx.AsyncClient, *events: object, **beside: object
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Send a batch; returns its results, which are seen to be whole, and its counts."""
    answer = await client.post("/v1/links/batch", json={"events": events, **beside})
    assert 200 == answer.status_code, answer.text
    results, counts = answer.json()["results"], answer.json()["counts"]
    assert list(range(len(events))) == [result["index"] for result in results]
    assert {True} >= {("link" in result) != ("problem" in result) for result in results}
    assert counts.keys() == OUTCOMES
    assert Counter(result["outcome"] for result in results) == Counter(counts)
    return results, counts


async def test_each_event_has_an_outcome_of_its_own(
    client: httpx.AsyncClient, store: Store
) -> None:
    """Good ones and bad ones side by side, each counted under what became of it."""
    definitions = {
        "later": MilestoneDefinition(survey_id=SURVEY, lanes=(Lane.DIRECT, Lane.QUEUED)),
        "never": MilestoneDefinition(survey_id=SURVEY, sample_percent=0),
        "paused": MilestoneDefinition(survey_id=SURVEY),
    }
    for key, definition in definitions.items():
        await store.milestones.put(key, definition)
    await store.milestones.pause("paused", paused=True)
    results, counts = await ask(
        client,
        event("a"),
        event("b", milestone="later"),
        event("c", milestone="never"),
        event("d", milestone="paused"),
        event("e", milestone="nowhere"),
        event("f", registrant="nobody"),
        event("g", data={"undeclared": 1}),
        event(""),
        7,
        event("h", deadline_ms=100),
        event("i", registrant={"ref": "ben", "email": "ben@example.com"}),
    )
    assert [
        ("deferred", None, None),
        ("queued", None, None),
        ("suppressed", None, None),
        ("conflict", "milestone-paused", "milestone"),
        ("invalid", "unknown-milestone", "milestone"),
        ("invalid", "unknown-registrant", "registrant"),
        ("invalid", "invalid-data", "data.undeclared"),
        ("invalid", "invalid-request", "event_id"),
        ("invalid", "invalid-request", None),
        ("invalid", "invalid-request", "deadline_ms"),
        ("deferred", None, None),
    ] == [
        (
            result["outcome"],
            result.get("problem", {}).get("code"),
            result.get("problem", {}).get("field"),
        )
        for result in results
    ]
    assert (2, 1, 1, 0) == tuple(
        counts[outcome] for outcome in ("deferred", "queued", "suppressed", "issued")
    )
    assert "beside events" in results[9]["problem"]["fix"]


async def test_a_link_of_a_batch_is_the_link_of_its_event(client: httpx.AsyncClient) -> None:
    """Asked for singly or in a batch, first or again: it is one link, told in the same words."""
    (first, *_), _ = await ask(client, event("a"), event("b"))
    again = await client.post("/v1/links", json=event("a"))
    assert (200, first["link"]) == (again.status_code, again.json())
    alone = await client.post("/v1/links", json=event("c"))
    assert 201 == alone.status_code
    results, counts = await ask(client, event("a"), event("c"))
    assert [first["link"], alone.json()] == [result["link"] for result in results]
    assert 2 == counts["deferred"]


async def test_an_event_that_stands_twice_in_a_batch_is_one_event(
    client: httpx.AsyncClient,
) -> None:
    """The same twice has the same outcome; with another payload one of the two is a conflict."""
    (one, other), _ = await ask(client, event("a"), event("a"))
    assert one["link"] == other["link"]
    results, _ = await ask(client, event("b"), event("b", occurred_at="2026-11-23T21:10:00Z"))
    assert {("deferred", None), ("conflict", "event-mismatch")} == {
        (result["outcome"], result.get("problem", {}).get("code")) for result in results
    }


async def test_a_mistake_of_ours_is_the_answer_of_its_event_alone(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have their links."""
    whole = Issuing.issue

    async def broken(self: Issuing, event: Event, **given: Any) -> Answer:
        """Fail over one of the events."""
        if event.event_id == "b":
            raise RuntimeError(event.ref)
        return await whole(self, event, **given)

    monkeypatch.setattr(Issuing, "issue", broken)
    results, _ = await ask(client, event("a"), event("b"), event("c"))
    assert [None, "internal", None] == [result.get("problem", {}).get("code") for result in results]


async def test_a_thousand_events_of_one_person_are_a_thousand_links(
    client: httpx.AsyncClient,
) -> None:
    """The largest batch, of events that have to be decided one after the other."""
    events = [event(f"e{number}") for number in range(links.MAX_EVENTS)]
    results, counts = await ask(client, *events)
    assert links.MAX_EVENTS == counts["deferred"]
    assert links.MAX_EVENTS == len({result["link"]["url"] for result in results})


BAD: list[object] = [
    None,
    [],
    event(7),
    event("ä" * 101),
    event("a\0b"),
    event(milestone="No Key"),
    event(registrant={"email": "a"}),
    event(registrant={"ref": "ann", "age": 7}),
    event(registrant={"ref": "ann", "first_name": "\0"}),
    event(data=[]),
    event(data={"x": [1]}),
    event(data={"x": 2**63}),
    event(data={"x": "a\0b"}),
    event(data=json.loads('{"x":' * 32 + "1" + "}" * 32)),
    event(occurred_at="yesterday"),
    event(occurred_at="0001-01-01T00:00:00+14:00"),
    event(unknown=1),
    event(milestone="nowhere"),
    event(registrant="nobody"),
]


async def test_what_is_wrong_with_an_event_is_said_as_for_a_single_one(
    client: httpx.AsyncClient,
) -> None:
    """The problem of each bad event is that of a request that sends it alone.

    But for the name that only such a request has.
    """
    headers = {"Content-Type": "application/json"}
    bodies = [json.dumps(bad) for bad in BAD]
    alone = [(await client.post("/v1/links", content=b, headers=headers)).json() for b in bodies]
    for problem in alone:
        if "fix" in problem:
            problem["fix"] = problem["fix"].replace(", deadline_ms.", ".")
    results, counts = await ask(client, *BAD)
    assert alone == [result["problem"] for result in results]
    assert len(BAD) == counts["invalid"]


@pytest.mark.parametrize(
    "bad",
    [
        b'{"event_id":"a","event_id":"b","milestone":"landed","registrant":"ann"}',
        b'{"event_id":"a:\\u003a","milestone":"landed","registrant":"ann","data":{"x":1,"x":2}}',
        b'{"event_id":"\xff","milestone":"landed","registrant":"ann"}',
        b'{"event_id":"a","milestone":"landed","registrant":"ann","data":{"x":1e999}}',
    ],
    ids=repr,
)
async def test_what_only_bytes_can_say_is_refused_for_its_event_alone(
    client: httpx.AsyncClient, bad: bytes
) -> None:
    """Names that stand twice, broken texts, numbers without measure."""
    body = b'{"events":[' + json.dumps(event("z")).encode() + b"," + bad + b"]}"
    headers = {"Content-Type": "application/json"}
    answer = await client.post("/v1/links/batch", content=body, headers=headers)
    assert ["deferred", "invalid"] == [result["outcome"] for result in answer.json()["results"]]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, None),
        (b"[]", 400, None),
        (b"{}", 400, "events"),
        (b'{"events":{}}', 400, "events"),
        (b'{"events":[{]}', 400, None),
        (b'{"events":[{"event_id":"\\ud800"}]}', 400, None),
        (b'{"events":[],"more":1}', 400, "more"),
        (b'{"events":[],"events":[]}', 400, None),
        (b'{"events":[],"deadline_ms":0}', 400, "deadline_ms"),
        (b'{"events":[],"deadline_ms":8001}', 400, "deadline_ms"),
        (b'{"events":[' + b",".join([b"{}"] * 1_001) + b"]}", 400, "events"),
        (b'{"events":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}", 400, None),
        (b'{"events":[' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"]}", 400, None),
        (b'{"events":[]}' + b" " * (4 * 1024 * 1024), 413, None),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_a_batch_that_is_none_is_refused_as_a_whole(
    client: httpx.AsyncClient, body: bytes, status: int, field: str | None
) -> None:
    """Nothing of it is taken."""
    headers = {"Content-Type": "application/json"}
    answer = await client.post("/v1/links/batch", content=body, headers=headers)
    assert (status, field) == (answer.status_code, answer.json().get("field"))
    assert "application/problem+json" == answer.headers["Content-Type"]


async def test_a_batch_may_be_empty_and_four_mebibytes_long(client: httpx.AsyncClient) -> None:
    """Who sends what has gathered need not ask whether anything has."""
    body = b'{"events":[]}'
    body += b" " * (4 * 1024 * 1024 - len(body))
    headers = {"Content-Type": "application/json"}
    answer = await client.post("/v1/links/batch", content=body, headers=headers)
    assert (200, []) == (answer.status_code, answer.json()["results"])


async def test_an_event_of_a_batch_is_no_larger_than_one_alone(client: httpx.AsyncClient) -> None:
    """64 KiB are taken, a byte more is not; its neighbour is."""
    good = json.dumps(event("a")).encode()
    long = good[:-1] + b" " * (64 * 1024 - len(good)) + b"}"
    for middle, outcome in ((long, "deferred"), (long[:-1] + b" }", "invalid")):
        body = b'{"events":[' + middle + b"," + good + b"]}"
        headers = {"Content-Type": "application/json"}
        answer = await client.post("/v1/links/batch", content=body, headers=headers)
        results = answer.json()["results"]
        assert [outcome, "deferred"] == [result["outcome"] for result in results]


async def test_a_batch_for_which_nothing_was_promised_is_a_503(
    client: httpx.AsyncClient, store: Store
) -> None:
    """Postgres is away; a bad event among them promises nothing either."""
    await ask(client, event("a"))
    await store.connections.close()
    body = {"events": [event("b"), event("")]}
    answer = await client.post("/v1/links/batch", json=body)
    assert (503, "try-again") == (answer.status_code, answer.json()["code"])
    assert "1" == answer.headers["Retry-After"]


async def test_what_could_not_be_written_is_told_beside_what_could(
    client: httpx.AsyncClient, database_url: str
) -> None:
    """Somebody holds one registrant for longer than a claim waits; another's event is written."""
    # The registrants of one transaction wait for each other; a second event of one is in another.
    await ask(client, event("a", registrant={"ref": "ben", "email": "ben@example.com"}))
    async with await psycopg.AsyncConnection.connect(database_url) as holder:
        await holder.execute("SELECT FROM registrants WHERE ref = 'ann' FOR UPDATE")
        (held, beside, later), counts = await ask(
            client, event("b"), event("c", registrant="ben"), event("d", registrant="ben")
        )
    assert ("waiting", "try-again", 503) == (
        held["outcome"],
        held["problem"]["code"],
        held["problem"]["status"],
    )
    assert beside["outcome"] in {"waiting", "deferred"}
    assert "deferred" == later["outcome"]
    assert 3 == counts["waiting"] + counts["deferred"]
    _, counts = await ask(
        client, event("b"), event("c", registrant="ben"), event("d", registrant="ben")
    )
    assert 3 == counts["deferred"]


@pytest.mark.parametrize(
    ("columns", "outcome"),
    [
        (
            (
                "state = 'issued', lane = 'direct', published = 'personal', "
                "token = NULL, short_url = NULL"
            ),
            "issued",
        ),
        ("state = 'issued'", "deferred"),
        ("state = 'suppressed', rule = 'opted-out', due_at = NULL", "suppressed"),
        ("state = 'failed', rule = 'upstream-refused', due_at = NULL", "failed"),
    ],
)
async def test_a_seen_event_has_its_stored_outcome(
    client: httpx.AsyncClient, store: Store, columns: str, outcome: str
) -> None:
    """Whatever became of it since; a short URL stays what its caller holds."""
    await ask(client, event("a"))
    if "issued" in columns:
        columns += (
            ", url = 'https://l/a', lookup_id = 'x', expires_at = now(), issued_at = now(),"
            " rule = NULL, due_at = NULL"
        )
    async with store.connections.path() as database:
        await database.execute(f"UPDATE links SET {columns}".encode())
    (result,), _ = await ask(client, event("a"))
    assert outcome == result["outcome"]


async def test_a_key_that_may_not_ask_is_refused(
    anybody: httpx.AsyncClient, keys: dict[Scope, str]
) -> None:
    """A batch is as guarded as a single event."""
    headers = {"Authorization": f"Bearer {keys[Scope.READ]}"}
    answer = await anybody.post("/v1/links/batch", json={"events": []}, headers=headers)
    assert 403 == answer.status_code
