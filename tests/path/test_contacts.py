"""Whose contact it is, when people and their details change under events that are on their way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from milepost import payload
from milepost.app import Milepost
from milepost.model import Event
from milepost.upstream import SurveyResponse

Landed = Callable[..., Awaitable[None]]
Elapse = Callable[[float], Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

PATIENT = ["direct", "queued"]
"""Lanes of a milestone whose callers want personal URLs only, and wait for them."""


async def ask(
    client: httpx.AsyncClient, event_id: str, ref: str, flight: int, **more: object
) -> Any:
    """The status of the answer to an event, and the answer."""
    body = {
        "event_id": event_id,
        "milestone": "landed",
        "registrant": ref,
        "data": {"flight": flight},
    }
    answer = await client.post("/v1/links", json=body | more)
    return answer.status_code, answer.json()


async def change(client: httpx.AsyncClient, ref: str, email: str) -> str:
    """Give a registrant another e-mail; returns whose contact they have then."""
    answer = await client.put(f"/v1/registrants/{ref}", json={"email": email})
    assert answer.is_success, answer.text
    return str(answer.json()["contact"])


async def test_a_contact_that_passes_on_keeps_the_links_made_under_it(
    client: httpx.AsyncClient, milepost: Milepost, landed: Landed, platform: Any
) -> None:
    """Who takes over another's e-mail gets other slots; the older link keeps its own data."""
    await landed(lanes=PATIENT, slots=3)
    _, anns = await ask(client, "e1", "ann", 1)
    assert "own" == await change(client, "ann", "ann@elsewhere.example")
    assert "own" == await change(client, "ben", "ann@example.com")
    status, bens = await ask(client, "e2", "ben", 2)
    assert (201, "issued", 1) == (status, bens["state"], bens["upstream_calls"])
    assert anns["url"] != bens["url"]
    for link, flight in ((anns, "1"), (bens, "2")):
        response: SurveyResponse = await milepost.upstream.response(
            (await client.get("/v1/milestones/landed")).json()["survey_id"],
            await platform.answer(link["url"]),
        )
        assert flight == response.values["flight"]
        reference = str(response.values[payload.REFERENCE_FIELD])
        assert link["id"] == str(payload.unseal(reference, [b"a secret of at least sixteen bytes"]))


@pytest.mark.parametrize("accepted", [False, True], ids=["refused by fate", "accepted"])
async def test_a_link_in_doubt_adds_nothing_under_another_contact(
    *,
    client: httpx.AsyncClient,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    accepted: bool,
) -> None:
    """What the first call made is found and handed out; otherwise the event is decided anew."""
    await landed(lanes=PATIENT, slots=3)
    moment = "after" if accepted else "before"
    await platform.fault("status", status=500, moment=moment, call_class="list_contacts")
    status, _ = await ask(client, "e1", "ann", 1, deadline_ms=400)
    assert 202 == status
    assert "shared" == await change(client, "ann", "ben@example.com")
    adds = (await platform.writes()).count("list_contact.add")
    for _ in range(4):
        await elapse(31)
        status, link = await ask(client, "e1", "ann", 1)
    assert adds == (await platform.writes()).count("list_contact.add")
    if accepted:
        assert (200, "issued") == (status, link["state"])
    else:
        assert (200, "suppressed", "contact-shared") == (
            status,
            link["state"],
            link["reason"]["rule"],
        )
    _, bens = await ask(client, "e2", "ben", 2)
    assert "issued" == bens["state"]
    assert bens["url"] != link["url"]


async def test_a_list_that_goes_amid_a_doubt_ends_the_doubt(
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
) -> None:
    """A list that is not there cannot hold the contact: the event gets its link from another."""
    await landed(lanes=PATIENT, slots=2)
    await platform.fault("status", status=500, call_class="list_contacts")
    assert 202 == (await ask(client, "e1", "ann", 1, deadline_ms=400))[0]
    pool = (await client.get("/v1/milestones/landed/pool")).json()
    directory = milepost.deployment.directory_id or ""
    await milepost.upstream.delete_mailing_list(directory, pool["distributions"][0]["list_id"])
    await elapse(2)
    status, link = await ask(client, "e1", "ann", 1)
    assert (200, "issued") == (status, link["state"])


async def test_an_event_that_waits_is_not_bound_to_a_slot_that_stopped(
    client: httpx.AsyncClient,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    execute: Execute,
) -> None:
    """Taken out of use while an event waits for it, a slot gives the event to another."""
    await landed(lanes=PATIENT, slots=2)
    await platform.fault("status", status=429, call_class="list_contacts", times=9)
    assert 202 == (await ask(client, "e1", "ann", 1))[0]
    await platform.web.delete("/control/faults")
    await execute(
        "UPDATE distributions SET state = 'stopped', stopped_because = 'test' WHERE id = ("
        "SELECT distribution_id FROM links WHERE event_id = 'e1')"
    )
    await elapse(61)
    status, link = await ask(client, "e1", "ann", 1)
    assert (200, "issued") == (status, link["state"])


async def test_somebody_elses_lock_delays_only_its_own_batch(
    client: httpx.AsyncClient, milepost: Milepost, landed: Landed
) -> None:
    """A row that is held outside answers 503 for its event, and the next one is served."""
    await landed(lanes=PATIENT)
    async with milepost.store.connections.transaction() as holder:
        await holder.exec_driver_sql("SELECT 1 FROM registrants WHERE ref = 'ann' FOR UPDATE")
        held = await client.post(
            "/v1/links",
            json={"event_id": "e1", "milestone": "landed", "registrant": "ann"}
            | {"data": {"flight": 1}},
        )
        assert (503, "1") == (held.status_code, held.headers["retry-after"])
        status, _ = await ask(client, "e2", "ben", 2)
    assert 201 == status
    assert 201 == (await ask(client, "e1", "ann", 1))[0]


def event(event_id: str) -> Event:
    """An event of `ann`."""
    return Event(
        event_id=event_id,
        milestone="landed",
        ref="ann",
        data={"flight": 1},
        occurred_at=None,
        asked_by="admin",
    )


async def test_a_milestone_says_how_long_its_callers_wait(
    milepost: Milepost, landed: Landed, platform: Any
) -> None:
    """Without a deadline of its own a request has its milestone's."""
    await landed(lanes=PATIENT, deadline_ms=500)
    await platform.web.put("/control/settings", json={"latency_ms": 700})
    answer = await milepost.issuing.issue(event("e1"))
    assert answer.link.url is None
    await milepost.issuing.finish()
    assert (await milepost.issuing.issue(event("e1"))).link.url is not None
