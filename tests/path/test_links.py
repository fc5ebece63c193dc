"""Asking for links over REST: the contract, the policies, and what the survey then holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest

from milepost import app, payload
from milepost.app import Milepost
from milepost.model import Event
from milepost.settings import Settings

Landed = Callable[..., Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

SECRET = b"a secret of at least sixteen bytes"

KEYS = [
    "id",
    "event_id",
    "milestone",
    "registrant",
    "state",
    "lane",
    "route",
    "url",
    "expires_at",
    "reused",
    "reason",
    "upstream_calls",
    "created_at",
    "data_at",
]


def event(event_id: str = "e1", **changes: object) -> dict[str, object]:
    """An event of `ann`, landed."""
    return {
        "event_id": event_id,
        "milestone": "landed",
        "registrant": "ann",
        "data": {"flight": 17},
    } | changes


async def ask(client: httpx.AsyncClient, event_id: str = "e1", **changes: object) -> Any:
    """The status of an event's answer and the answer itself."""
    answer = await client.post("/v1/links", json=event(event_id, **changes))
    return answer.status_code, answer.json()


async def test_an_event_gets_a_personal_link_for_one_call(
    client: httpx.AsyncClient, landed: Landed, platform: Any
) -> None:
    """A first request is answered 201 with the URL, after exactly one call to the platform."""
    await landed()
    before = await platform.calls()
    status, link = await ask(client)
    assert 201 == status, link
    assert ("issued", "direct", "list", 1, False, None) == tuple(
        link[key] for key in ("state", "lane", "route", "upstream_calls", "reused", "reason")
    )
    assert 1 == await platform.calls() - before
    assert ["list_contact.add"] == await platform.writes()
    assert 200 == (await platform.web.get(link["url"])).status_code


async def test_the_answer_has_the_keys_of_the_contract(
    client: httpx.AsyncClient, landed: Landed
) -> None:
    """All fourteen keys are there, and no others; a second request gets 200 and the same answer."""
    await landed()
    _, first = await ask(client)
    assert KEYS == list(first)
    assert (200, first) == await ask(client, deadline_ms=8_000)
    read = await client.get(f"/v1/links/{first['id']}")
    record = read.json()
    assert first == {name: record.pop(name) for name in KEYS}
    moments = ["occurred_at", "attempt", "lease_until", "waiting_until", "issued_at", "finished_at"]
    moments += ["clicked_at", "revoked_at", "data_due_at", "delivered_at", "opened_at"]
    moments += ["started_at", "response_id", "other_url"]
    assert moments == list(record)
    assert (1, None) == (record["attempt"], record["lease_until"])
    assert first["data_at"] == record["issued_at"]


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"data": {"flight": 18}}, ["data.flight"]),
        ({"data": {"flight": 17, "gate": "B"}}, ["data.gate"]),
        ({"registrant": "ben"}, ["registrant"]),
        ({"occurred_at": "2026-11-23T21:10:00Z"}, ["occurred_at"]),
        ({"milestone": "boarded", "data": {}}, ["data.flight", "milestone"]),
    ],
)
async def test_another_payload_under_the_same_event_is_refused(
    client: httpx.AsyncClient, landed: Landed, changes: dict[str, object], fields: list[str]
) -> None:
    """It is a 409 that names the differing fields, and the first answer stands."""
    await landed()
    _, first = await ask(client)
    status, problem = await ask(client, **changes)
    assert (409, "event-mismatch", fields) == (status, problem["code"], problem["fields"])
    assert (200, first) == await ask(client)


@pytest.mark.parametrize("what", ["fields removed", "field required", "paused", "survey changed"])
async def test_a_seen_event_is_answered_as_ever_whatever_its_milestone_became(
    client: httpx.AsyncClient, landed: Landed, what: str
) -> None:
    """The ledger answers, also with a 409 for another payload."""
    await landed()
    _, first = await ask(client)
    match what:
        case "paused":
            (await client.post("/v1/milestones/landed/pause")).raise_for_status()
        case "fields removed":
            await landed(fields=[])
        case "field required":
            await landed(fields=[{"name": "seat", "required": True}])
        case _:
            await landed(survey_id="SV_000000000000000")
    assert (200, first) == await ask(client)
    status, problem = await ask(client, data={"flight": 99})
    assert (409, ["data.flight"]) == (status, problem["fields"])


async def test_a_field_that_was_just_declared_is_taken(
    client: httpx.AsyncClient, landed: Landed
) -> None:
    """An admin who declares a field need not wait before the app sends it."""
    await landed(fields=[])
    status, _ = await ask(client)
    assert 422 == status
    await landed()
    status, _ = await ask(client)
    assert 201 == status


async def test_null_is_absent(client: httpx.AsyncClient, landed: Landed) -> None:
    """A field that is null is the same payload as one that is left out."""
    await landed()
    _, first = await ask(client, data={"flight": 17, "gate": None, "unheard": None})
    assert (200, first) == await ask(client)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("text", ["", "B 7", "17"], [17, True]),
        ("integer", [0, -(2**63), 2**63 - 1], ["1", 1.5, True]),
        ("number", [1, 1.5, -2e300], ["1.5", False]),
        ("boolean", [True, False], [1, "true"]),
        ("date", ["2026-02-28"], ["2026-02-30", "20260228", "tomorrow", 20260228]),
    ],
)
async def test_values_have_the_declared_type(
    client: httpx.AsyncClient, landed: Landed, kind: str, good: list[object], bad: list[object]
) -> None:
    """What fits is taken; what does not is a 422 that names the field."""
    await landed(fields=[{"name": "x", "type": kind}], slots=len(good))
    for number, value in enumerate(good):
        status, answer = await ask(client, f"good {number}", data={"x": value})
        assert 201 == status, answer
    for value in bad:
        status, problem = await ask(client, "bad", data={"x": value})
        assert (422, "invalid-data", "data.x") == (status, problem["code"], problem["field"])


@pytest.mark.parametrize(
    ("data", "status", "field"),
    [
        ({}, 422, "data.must"),
        ({"must": None}, 422, "data.must"),
        ({"must": "12345"}, 422, "data.must"),
        ({"must": "a", "more": 1}, 422, "data.more"),
        ({"must": ["a"]}, 422, "data.must"),
        ({"must": 2**64}, 422, "data.must"),
    ],
)
async def test_data_fit_the_declared_fields(
    client: httpx.AsyncClient, landed: Landed, data: object, status: int, field: str
) -> None:
    """A required field that is missing, an undeclared one and a value too long are refused."""
    await landed(fields=[{"name": "must", "required": True, "max_length": 4}])
    answered, problem = await ask(client, data=data)
    assert (status, field) == (answered, problem["field"])


async def test_an_unknown_registrant_is_refused_or_comes_with_the_event(
    client: httpx.AsyncClient, landed: Landed
) -> None:
    """Without details it is a 422; details create them, and a later event's change nothing."""
    await landed()
    status, problem = await ask(client, registrant="dora")
    assert (422, "unknown-registrant") == (status, problem["code"])
    dora = {"ref": "dora", "email": "dora@example.com", "first_name": "Dora"}
    status, link = await ask(client, registrant=dora)
    assert (201, "issued", "dora") == (status, link["state"], link["registrant"])
    assert 200 == (await ask(client, registrant="dora"))[0]
    await ask(client, "e2", registrant=dora | {"first_name": "Another"})
    known = (await client.get("/v1/registrants/dora")).json()
    assert ("Dora", "own") == (known["details"]["first_name"], known["contact"])


async def test_a_milestone_can_wait_for_its_registrant(
    client: httpx.AsyncClient, landed: Landed
) -> None:
    """The event is kept, and done when they are known: by themselves or with an event's details."""
    await landed(unknown_registrant="defer", lanes=["direct", "queued"])
    status, link = await ask(client, registrant="dora")
    assert (202, "waiting", "registrant-unknown") == (status, link["state"], link["reason"]["rule"])
    await client.put("/v1/registrants/dora", json={"email": "dora@example.com"})
    status, link = await ask(client, registrant="dora")
    assert (200, "issued") == (status, link["state"])
    emil = {"ref": "emil", "email": "emil@example.com"}
    status, link = await ask(client, "e2", registrant=emil)
    assert (201, "issued") == (status, link["state"])


async def test_a_milestone_that_is_unknown_or_paused_takes_no_event(
    client: httpx.AsyncClient, landed: Landed
) -> None:
    """They are a 404 and a 409, nothing is written down, and a resumed one takes it."""
    await landed()
    status, problem = await ask(client, milestone="nowhere")
    assert (404, "unknown-milestone") == (status, problem["code"])
    await client.post("/v1/milestones/landed/pause")
    status, problem = await ask(client)
    assert (409, "milestone-paused") == (status, problem["code"])
    await client.post("/v1/milestones/landed/resume")
    assert 201 == (await ask(client))[0]


@pytest.mark.parametrize("deadline_ms", [0, -1, 8_001, 1.5, "100", True])
async def test_the_deadline_has_bounds(
    client: httpx.AsyncClient, landed: Landed, deadline_ms: object
) -> None:
    """It is a whole number from 1 to 8,000."""
    await landed()
    status, problem = await ask(client, deadline_ms=deadline_ms)
    assert (400, "deadline_ms") == (status, problem["field"])


async def test_every_event_gets_its_own_link(
    client: httpx.AsyncClient, landed: Landed, platform: Any, milepost: Milepost
) -> None:
    """Two events of one person are two links, and each response holds its own event's data."""
    await landed()
    for number, flight in ((1, 17), (2, 18)):
        status, link = await ask(client, f"e{number}", data={"flight": flight, "gate": "B"})
        assert 201 == status
        response = await platform.answer(link["url"])
        held = await milepost.upstream.response(platform.ready.survey_id, response)
        assert (str(flight), "B") == (held.values["flight"], held.values["gate"])
        reference = str(held.values["milepost_ref"])
        assert UUID(link["id"]) == payload.unseal(reference, [SECRET])


async def test_once_gives_the_first_link_again(
    client: httpx.AsyncClient, landed: Landed, execute: Execute
) -> None:
    """Alive it is reused, finished the event is suppressed, expired there is a fresh one."""
    await landed(repeat="once")
    _, first = await ask(client)
    status, second = await ask(client, "e2")
    assert (201, True, "once") == (status, second["reused"], second["reason"]["rule"])
    assert (first["url"], 0, None) == (second["url"], second["upstream_calls"], second["lane"])
    assert (200, second) == await ask(client, "e2")
    await execute("UPDATE links SET finished_at = now() WHERE event_id = 'e1'")
    status, third = await ask(client, "e3")
    assert (201, "suppressed", None) == (status, third["state"], third["url"])
    await execute(
        "UPDATE links SET finished_at = NULL, expires_at = now() - interval '1 day'"
        " WHERE event_id = 'e1'"
    )
    _, fourth = await ask(client, "e4")
    assert ("issued", False) == (fourth["state"], fourth["reused"])


async def test_a_cooldown_suppresses_until_it_is_over(
    client: httpx.AsyncClient, landed: Landed, execute: Execute
) -> None:
    """The reason says until when."""
    await landed(repeat={"cooldown_days": 30})
    await ask(client)
    status, second = await ask(client, "e2")
    reason = second["reason"]
    assert (201, "suppressed", "cooldown") == (status, second["state"], reason["rule"])
    assert reason["until"] is not None
    await execute("UPDATE links SET created_at = created_at - interval '31 days'")
    _, third = await ask(client, "e3")
    assert "issued" == third["state"]


@pytest.mark.parametrize(
    ("details", "rule"),
    [({"email": "ANN@example.com"}, "contact-shared"), ({}, "contact-incomplete")],
)
async def test_whoever_has_no_contact_of_their_own_is_suppressed(
    client: httpx.AsyncClient,
    landed: Landed,
    platform: Any,
    details: dict[str, str],
    rule: str,
) -> None:
    """Never one URL for two people: no call is made for them, and the reason is told."""
    await landed()
    status, link = await ask(client, registrant={"ref": "twin", **details})
    assert (201, "suppressed", rule) == (status, link["state"], link["reason"]["rule"])
    assert (None, None, None) == (link["url"], link["lane"], link["route"])
    assert [] == await platform.writes()


async def test_an_event_without_a_place_waits(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """With an empty pool or no free slot it is 202 and a reason, and done when there is one."""
    definition = {
        "survey_id": platform.ready.survey_id,
        "fields": [{"name": "flight"}],
        "lanes": ["direct", "queued"],
    }
    await client.put("/v1/milestones/landed", json=definition | {"slots": 1})
    status, link = await ask(client, data={})
    assert (202, "waiting", "pool-empty") == (status, link["state"], link["reason"]["rule"])
    await milepost.replenish.run_once()
    assert 200 == (await ask(client, data={}))[0]
    status, link = await ask(client, "e2", data={})
    assert (202, "waiting", "no-slot") == (status, link["state"], link["reason"]["rule"])
    await landed(slots=2, lanes=["direct", "queued"])
    assert (200, "issued") == ((again := await ask(client, "e2", data={}))[0], again[1]["state"])


async def test_one_event_at_once_everywhere_is_one_link(
    settings: Settings, database_url: str, milepost: Milepost, landed: Landed, platform: Any
) -> None:
    """Fifty requests over two processes' worth of Milepost: one link and one call."""
    await landed()
    one = Event(
        event_id="e1",
        milestone="landed",
        ref="ann",
        data={"flight": 17},
        occurred_at=None,
        asked_by="app",
    )
    async with app.opened(settings, database_url) as other:
        answers = await asyncio.gather(
            *(
                (milepost, other)[number % 2].issuing.issue(one, deadline_ms=8_000)
                for number in range(50)
            )
        )
    assert 1 == len({(answer.link.id, answer.link.url) for answer in answers})
    assert 1 == sum(answer.is_new for answer in answers)
    assert ["list_contact.add"] == await platform.writes()
