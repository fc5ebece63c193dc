"""Lane `ready`: the URL is there before the event, and the event's data follow it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from tests.path.conftest import SECRET

from milepost.app import Milepost
from milepost.model import Fact, Purpose, Route
from milepost.payload import REFERENCE_FIELD, unseal
from milepost.routes import TooLate, contact_fields

Landed = Callable[..., Awaitable[None]]
Elapse = Callable[[float], Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]
Join = Callable[..., Awaitable[None]]

FIELDS = ("flight", "gate")
AHEAD = {"membership": "ahead", "late_data": True}

JOINED = """
INSERT INTO memberships (registrant_id, slot_id, contact_key, contact_id, lookup_id)
SELECT r.id, s.id, r.contact_key, %s, %s
FROM registrants AS r, slots AS s
WHERE r.ref = %s AND s.number = 1
"""


@pytest.fixture
def join(milepost: Milepost, platform: Any, execute: Execute) -> Join:
    """Have the platform put people into slot 1's list, and write down what it says of them."""

    async def joined(*refs: str) -> None:
        """Put them in."""
        directory_id = milepost.deployment.directory_id or ""
        ((list_id,),) = await execute("SELECT list_id FROM slots WHERE number = 1")
        for ref in refs:
            registrant = await milepost.store.registrants.get(ref)
            assert registrant is not None
            contact = contact_fields(ref, registrant.details)
            added = await milepost.upstream.add_list_contact(directory_id, list_id, contact)
            await execute(JOINED, added.contact_id, added.lookup_id, ref)
        await platform.forget()

    return joined


async def ask(client: httpx.AsyncClient, event_id: str = "e1", **changes: object) -> Any:
    """The answer to an event of `ann`."""
    body = {"event_id": event_id, "milestone": "landed", "registrant": "ann"}
    answer = await client.post("/v1/links", json=body | {"data": {"flight": 17}} | changes)
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


async def record(client: httpx.AsyncClient, link: dict[str, Any]) -> dict[str, Any]:
    """What the ledger says of a link by now."""
    found: dict[str, Any] = (await client.get(f"/v1/links/{link['id']}")).json()
    return found


async def recorded(milepost: Milepost, platform: Any, link: dict[str, Any]) -> dict[str, str]:
    """Answer the survey behind a link; returns what the response holds of the milestone's data.

    Where it holds some, it names the link.
    """
    response_id = await platform.answer(link["url"])
    response = await milepost.upstream.response(platform.ready.survey_id, response_id)
    data = {name: str(response.values[name]) for name in FIELDS if name in response.values}
    reference = str(response.values.get(REFERENCE_FIELD, ""))
    named = unseal(reference, [SECRET.encode()])
    assert named == (UUID(link["id"]) if data else None)
    return data


async def test_a_link_is_out_before_any_call_and_its_data_follow(
    client: httpx.AsyncClient, landed: Landed, join: Join, milepost: Milepost, platform: Any
) -> None:
    """No call and no permit before the URL; one update afterwards; then the survey sees them.

    Who opens the survey before is not shown the data, and what is written later does not reach
    them.
    """
    await landed(**AHEAD)
    await join("ann", "ben")
    calls = await platform.calls()
    early = await ask(client, "e0", registrant="ben", data={"flight": 16})
    link = await ask(client)
    expected = {
        "state": "issued",
        "lane": "ready",
        "route": "list",
        "reason": None,
        "upstream_calls": 0,
        "data_at": None,
    }
    assert expected == {name: link[name] for name in expected}
    assert link == await ask(client)
    assert calls == await platform.calls()
    standings = {each.call_class: each for each in await milepost.budget.standings()}
    assert 0 == standings["list_contacts"].room(Purpose.DIRECT).wanted
    assert 2 == (await client.get("/v1/capacity")).json()["late_data"]
    assert {} == await recorded(milepost, platform, early)
    await platform.forget()

    counts = await milepost.drain.run_once()
    assert (2, 0, 0) == (counts.told, counts.waiting, counts.untold)
    assert ["list_contact.update"] * 2 == await platform.writes()
    after = await record(client, link)
    assert (link["url"], 1, None) == (after["url"], after["upstream_calls"], after["data_due_at"])
    assert after["data_at"] > link["created_at"]
    assert {"flight": "17"} == await recorded(milepost, platform, link)
    assert 0 == (await milepost.drain.run_once()).told


async def test_each_link_of_a_person_keeps_its_own_data(
    *,
    client: httpx.AsyncClient,
    landed: Landed,
    join: Join,
    milepost: Milepost,
    platform: Any,
    execute: Execute,
) -> None:
    """The second is made in another list, the third on the first list's next distribution.

    There it has the same lookup id and another URL; and since the list held the first one's data,
    it is no ready link: its own would follow too late.
    """
    await landed(**AHEAD, slots=2, max_slots=2)
    await join("ann")
    first = await ask(client, data={"flight": 1, "gate": "A"})
    second = await ask(client, "e2", data={"flight": 2})
    assert ["ready", "direct"] == [first["lane"], second["lane"]]
    await milepost.drain.run_once()
    assert {"flight": "1", "gate": "A"} == await recorded(milepost, platform, first)
    assert {"flight": "2"} == await recorded(milepost, platform, second)

    await execute("UPDATE links SET finished_at = now() WHERE event_id = 'e1'")
    ((list_id, template, distribution_id, expires_at),) = await execute(
        "SELECT s.list_id, d.template, d.distribution_id, d.expires_at"
        " FROM slots AS s JOIN distributions AS d ON d.slot_id = s.id WHERE s.number = 1"
    )
    successor = await milepost.upstream.create_distribution(
        platform.ready.survey_id, list_id, description="second", expires_at=expires_at
    )
    await execute(
        "INSERT INTO distributions (slot_id, generation, description, distribution_id, template,"
        " state, expires_at, takes_until, calibrated_at, created_at)"
        " SELECT slot_id, 2, 'second', %s, %s, 'ready', expires_at, takes_until, now(), now()"
        " FROM distributions WHERE distribution_id = %s",
        *(successor, template.replace(distribution_id[4:], successor[4:]), distribution_id),
    )
    third = await ask(client, "e3", data={"flight": 3})
    assert "direct" == third["lane"]
    assert first["url"].replace(distribution_id[4:], successor[4:]) == third["url"]
    assert {"flight": "3"} == await recorded(milepost, platform, third)


@pytest.mark.usefixtures("probes_at_once")
async def test_a_link_is_out_whatever_the_platform_does(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    join: Join,
    milepost: Milepost,
    platform: Any,
    execute: Execute,
) -> None:
    """While it is away, throttles or loses answers; its data are told until they are taken.

    An update whose answer was lost is made again, and changes nothing. A worker that was frozen for
    too long makes none.
    """
    await landed(**AHEAD)
    await join("ann")
    link = await ask(client)
    frozen = await milepost.store.links.claim_late_data()
    assert frozen is not None
    with pytest.raises(TooLate):
        await milepost.issuing._makers[Route.LIST].tell(  # noqa: SLF001  (as when it wakes up)
            frozen, begin_by=asyncio.get_running_loop().time() - 0.001
        )
    assert [] == await platform.writes()
    await execute("UPDATE links SET data_due_at = now()")
    faults: list[dict[str, Any]] = [
        {"kind": "timeout", "seconds": 0.05, "moment": "before"},
        {"kind": "status", "status": 429},
        {"kind": "status", "status": 401},
        {"kind": "reset"},
    ]
    for fault in faults:
        await platform.fault(**fault, call_class="list_contacts")
        assert 1 == (await milepost.drain.run_once()).waiting, fault
        after = await record(client, link)
        assert ("issued", None, None) == (after["state"], after["reason"], after["data_at"]), fault
        await execute("UPDATE links SET data_due_at = now() WHERE data_due_at IS NOT NULL")
    assert 1 == (await milepost.drain.run_once()).told
    lost, again = await platform.entries()
    assert ("list_contact.update", lost["body"]) == (again["operation"], again["body"])
    assert {"flight": "17"} == await recorded(milepost, platform, link)


async def test_what_the_platform_refuses_for_good_is_told(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    join: Join,
    milepost: Milepost,
    platform: Any,
    execute: Execute,
) -> None:
    """The link stays and says why; the membership is forgotten; a list that is gone is left."""
    await landed(**AHEAD)
    await join("ann", "ben", "cleo")
    directory_id = milepost.deployment.directory_id or ""
    ((contact_id,),) = await execute(
        "SELECT m.contact_id FROM memberships AS m JOIN registrants AS r ON r.id = registrant_id"
        " WHERE r.ref = 'ann'"
    )
    ((list_id,),) = await execute("SELECT list_id FROM slots WHERE number = 1")
    link = await ask(client)
    await milepost.upstream.remove_list_contact(directory_id, list_id, contact_id)
    assert 1 == (await milepost.drain.run_once()).untold
    after = await record(client, link)
    assert ("issued", link["url"], "data-refused") == (
        *(after["state"], after["url"], after["reason"]["rule"]),
    )
    assert [(None,)] == await execute("SELECT rests_until FROM slots WHERE number = 1")

    link = await ask(client, "e2", registrant="ben")
    assert "ready" == link["lane"]
    await milepost.upstream.delete_mailing_list(directory_id, list_id)
    assert 1 == (await milepost.drain.run_once()).untold
    assert "list-missing" == (await record(client, link))["reason"]["rule"]
    await execute("UPDATE slots SET rests_until = now() WHERE rests_until IS NOT NULL")
    calls = await platform.calls()
    assert 0 == (await milepost.drain.run_once()).untold
    assert calls == await platform.calls()
    assert "ready" != (await ask(client, "e3", registrant="cleo"))["lane"]


async def test_a_list_that_is_found_again_gives_ready_links_again(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    join: Join,
    milepost: Milepost,
    platform: Any,
    execute: Execute,
) -> None:
    """Once it was missed, perhaps by mistake, the next link on it is made by a call."""
    await landed(**AHEAD)
    await join("ann", "ben")
    await execute("UPDATE slots SET rests_until = now() WHERE number = 1")
    assert "direct" == (await ask(client))["lane"]
    await milepost.issuing.finish()
    assert [(None,)] == await execute("SELECT rests_until FROM slots WHERE number = 1")
    assert "ready" == (await ask(client, "e2", registrant="ben"))["lane"]
    assert ["list_contact.add"] == await platform.writes()


async def test_data_that_surveys_do_not_see_are_not_sent(
    client: httpx.AsyncClient, landed: Landed, join: Join, milepost: Milepost, platform: Any
) -> None:
    """On such an account the link says so, and takes no call at all."""
    await landed(**AHEAD)
    await join("ann")
    await milepost.store.capabilities.note(Fact.PRIVATE_DATA, holds=False, evidence="none seen")
    link = await ask(client)
    assert 1 == (await milepost.drain.run_once()).untold
    after = await record(client, link)
    assert ("issued", "data-unseen", None, 0) == (
        *(after["state"], after["reason"]["rule"], after["data_at"], after["upstream_calls"]),
    )
    assert [] == await platform.writes()


async def test_who_is_not_in_the_list_yet_gets_the_next_lane(
    client: httpx.AsyncClient, landed: Landed, join: Join, platform: Any
) -> None:
    """Also one whom the event tells of; in a batch each has the lane that there is for them."""
    await landed(**AHEAD)
    await join("ann")
    dora = {"ref": "dora", "email": "dora@example.com"}
    batch = [
        {"event_id": f"e{n}", "milestone": "landed", "registrant": who, "data": {"flight": n}}
        for n, who in enumerate(["ann", "ben", dora, "nobody"])
    ]
    answer = (await client.post("/v1/links/batch", json={"events": batch})).json()
    lanes = [result.get("link", {}).get("lane") for result in answer["results"]]
    assert ["ready", "direct", "direct", None] == lanes
    assert {"issued": 3, "invalid": 1} == {k: n for k, n in answer["counts"].items() if n}
    assert ["list_contact.add"] * 2 == await platform.writes()
