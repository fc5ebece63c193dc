"""Route `transaction`: events that share their calls, each with data of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

import httpx
import pytest
from tests.path.conftest import SECRET

from milepost import payload
from milepost.app import Milepost
from milepost.errors import DatabaseBusy
from milepost.failpoints import VARIABLE
from milepost.jobs.flow import Counts
from milepost.jobs.provisioning import Provisioning
from milepost.jobs.rotate import Rotate
from milepost.jobs.teardown import Teardown
from milepost.model import Event, Fact, RegistrantDetails, Route
from milepost.policy import REPLENISH_SECONDS
from milepost.routes import Made, TransactionMaker, Unready
from milepost.routes.transaction import window
from milepost.settings import Settings
from milepost.simulator import Config
from milepost.store.links import Step

Landed = Callable[..., Awaitable[None]]
Elapse = Callable[[float], Awaitable[None]]
Travel = Callable[..., Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

PATIENT = ["direct", "queued"]
"""Lanes of a milestone whose callers want personal URLs only, and wait for them."""

BOTH = ["transaction.create", "transaction_batch.add"]
"""What a link takes whose registrant is in the home list."""

CREATE, ADD = "transactions", "batch_transactions"
"""The classes of the two calls."""

CREATING = "POST /directories/{POOL}/transactions"
ADDING = "POST /directories/{POOL}/transactionbatches/{BT}/transactions"
"""These calls, and none that reads."""

PEOPLE = [f"p{n}" for n in range(12)]


@pytest.fixture
def maker(milepost: Milepost) -> TransactionMaker:
    """The route's maker."""
    return cast("TransactionMaker", milepost.issuing._makers[Route.TRANSACTION])  # noqa: SLF001  (no other way leads to it)


@pytest.fixture
def much_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes while calls are out waits for their end, however long they take."""
    monkeypatch.setattr("milepost.routes.transaction.COMPANY_SECONDS", 60.0)


@pytest.fixture
async def at_home(milepost: Milepost, landed: Landed) -> Callable[..., Awaitable[None]]:
    """Register milestone `landed` on this route; everybody, and these, are in the home list."""

    async def register(*refs: str, **changes: object) -> None:
        """Register it."""
        people = {ref: RegistrantDetails(email=f"{ref}@example.com") for ref in refs}
        await milepost.store.registrants.put(people)
        await milepost.run("sync", asked_by="test")
        await landed(**{"route": "transaction", "lanes": PATIENT, **changes})

    return register


async def ask(client: httpx.AsyncClient, event_id: str = "e1", **changes: object) -> Any:
    """The answer to an event of `ann`."""
    body = {
        "event_id": event_id,
        "milestone": "landed",
        "registrant": "ann",
        "data": {"flight": 17},
        "deadline_ms": 8_000,
    }
    return (await client.post("/v1/links", json=body | changes)).json()


async def ask_once(
    client: httpx.AsyncClient, milepost: Milepost, event_id: str = "e1", **changes: object
) -> Any:
    """The link after one try, as an admin sees it: the next would be a second later."""
    link = await ask(client, event_id, **{"deadline_ms": 900, **changes})
    await milepost.issuing.finish()
    return (await client.get(f"/v1/links/{link['id']}")).json()


async def ask_all(client: httpx.AsyncClient, *refs: str, prefix: str = "e") -> list[Any]:
    """The links of events of these people that come together, each with data of its own."""
    events = [
        {
            "event_id": f"{prefix}-{ref}",
            "milestone": "landed",
            "registrant": ref,
            "data": {"gate": f"{prefix}-{ref}"},
        }
        for ref in refs
    ]
    body = {"events": events, "deadline_ms": 8_000}
    answer = await client.post("/v1/links/batch", json=body)
    return [each["link"] for each in answer.json()["results"]]


def rule(link: Any) -> tuple[str, str | None]:
    """A link's state, and why."""
    return link["state"], (link["reason"] or {}).get("rule")


async def opens(platform: Any, link: Any) -> bool:
    """Whether a link's survey opens."""
    return 'data-state="open"' in (await platform.web.get(link["url"])).text


async def gates(milepost: Milepost, platform: Any, links: Iterable[Any]) -> list[object]:
    """What the responses to links hold of their events' data, as `ask_all` gives them."""
    responses = [await platform.answer(link["url"]) for link in links]
    survey = platform.ready.survey_id
    return [
        (await milepost.upstream.response(survey, each)).values.get("gate") for each in responses
    ]


async def created(platform: Any) -> Counter[str]:
    """How many transactions the platform has made for each link."""
    return Counter(
        key.partition(".")[2]
        for entry in await platform.entries()
        if entry["operation"] == "transaction.create"
        for key in entry["ids"]
        if key.startswith("transaction.")
    )


async def test_each_response_has_the_data_of_its_own_event(
    client: httpx.AsyncClient, at_home: Landed, milepost: Milepost, platform: Any
) -> None:
    """A person holds several links alive, and each takes two calls where it is alone."""
    await at_home()
    links = [await ask(client, f"e{n}", data={"flight": n, "gate": "B"}) for n in range(3)]
    assert BOTH * 3 == await platform.writes()
    for flight, link in enumerate(links):
        assert ("issued", "direct", "transaction", 2) == (
            *(link["state"], link["lane"], link["route"]),
            link["upstream_calls"],
        )
        response = await platform.answer(link["url"])
        held = await milepost.upstream.response(platform.ready.survey_id, response)
        assert (str(flight), "B") == (held.values["flight"], held.values["gate"])
        reference = str(held.values["milepost_ref"])
        assert UUID(link["id"]) == payload.unseal(reference, [SECRET.encode()])


async def test_events_that_come_together_share_their_calls_and_no_refusal(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    execute: Execute,
) -> None:
    """What comes while calls are out goes together, and each link bears its part of all calls.

    Each response has its own event's data all the same. Somebody deleted a contact at the platform:
    that one is looked for and made anew, alone.
    """
    await at_home(*PEOPLE)
    gone = await milepost.store.registrants.get("p3")
    assert gone is not None
    directory = milepost.deployment.directory_id or ""
    await milepost.upstream.delete_contact(directory, gone.contact_id or "")
    await platform.switch(latency_ms=30)
    before = await platform.calls()
    await platform.forget()
    first = asyncio.create_task(ask(client))
    links = dict(zip(PEOPLE, await ask_all(client, *PEOPLE), strict=True))
    shown = links.copy()
    links["ann"] = await first
    calls = await platform.calls() - before
    assert calls <= 6 + len(["look", "add", *BOTH])
    assert calls == pytest.approx(sum(link["upstream_calls"] for link in links.values()))
    assert 1 == Counter(await platform.writes())["list_contact.add"]
    assert {"issued": 13} == Counter(link["state"] for link in links.values())
    assert 13 == len({link["url"] for link in links.values()})
    assert {1} == set((await created(platform)).values())
    assert [("p3", 2)] == await execute("SELECT ref, attempt FROM links WHERE attempt > 1")
    assert [f"e-{ref}" for ref in shown] == await gates(milepost, platform, shown.values())


async def test_a_transaction_that_is_refused_costs_nobody_their_contact(
    client: httpx.AsyncClient, at_home: Landed, milepost: Milepost, platform: Any, elapse: Elapse
) -> None:
    """The contact is where it was known to be. What is refused alone, beside no other, waits."""
    await at_home()
    before = await milepost.store.registrants.get("ann")
    await platform.fault("status", call_class=CREATE, status=400)
    assert ("waiting", "upstream-refused") == rule(await ask_once(client, milepost))
    assert before == await milepost.store.registrants.get("ann")
    assert "issued" == (await ask(client, "e2"))["state"]
    await elapse(2)
    assert "issued" == (await ask(client))["state"]
    assert BOTH * 2 == await platform.writes()


@pytest.fixture
async def make_all(
    at_home: Landed, milepost: Milepost, maker: TransactionMaker
) -> Callable[[], Awaitable[list[object]]]:
    """Have the links of `PEOPLE` made together; says what becomes of each."""
    await at_home(*PEOPLE)
    events = [
        Event(event_id=ref, milestone="landed", ref=ref, data={}, occurred_at=None, asked_by="test")
        for ref in PEOPLE
    ]
    asked = await asyncio.gather(*(milepost.store.links.claim(event) for event in events))
    claims = [each.claim for each in asked if each.claim is not None]
    begin_by = asyncio.get_running_loop().time() + 60

    async def make() -> list[object]:
        """Make them."""
        making = (maker.make(claim, begin_by=begin_by) for claim in claims)
        return await asyncio.gather(*making, return_exceptions=True)

    return make


async def test_a_refusal_of_whatever_is_asked_for_is_found_out_with_few_calls(
    make_all: Callable[[], Awaitable[list[object]]], platform: Any
) -> None:
    """Two are tried alone; all wait until the platform thinks better of it."""
    await platform.fault("status", call_class=CREATE, status=400, times=100)
    before = await platform.calls()
    outcomes = await make_all()
    tried, contacts = len([12, 6, 3, 1, 2, 1]), 2
    assert tried + contacts == await platform.calls() - before
    assert {Unready: 12} == Counter(map(type, outcomes))
    await platform.web.delete("/control/faults")
    assert {Made: 12} == Counter(map(type, await make_all()))


async def test_a_refusal_that_ends_while_it_is_looked_into_fails_nobody(
    make_all: Callable[[], Awaitable[list[object]]], platform: Any
) -> None:
    """Who was refused alone is tried once more when another one was taken."""
    await platform.fault("status", call_class=CREATE, status=400, times=len([12, 6, 3, 1]))
    assert {Made: 12} == Counter(map(type, await make_all()))


@pytest.mark.parametrize(
    ("coming", "took", "wait"),
    [
        pytest.param(1, 0.3, 0.0, id="idle"),
        pytest.param(31, 0.35, 0.5, id="an eighth of 30,000 a minute"),
        pytest.param(62, 0.35, 0.0, id="a quarter of them"),
        pytest.param(31, 0.6, 0.4, id="slow platform"),
        pytest.param(31, 0.9, 0.0, id="too slow to wait longer than calls are out"),
    ],
)
def test_groups_are_as_far_apart_as_gives_them_company(
    coming: int, took: float, wait: float
) -> None:
    """And no further than leaves time for the calls within a second."""
    assert wait == pytest.approx(window(coming, took))


async def test_under_load_a_group_waits_for_company_and_a_lone_event_does_not(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    platform: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind a group of twelve what comes one by one goes together; behind one it does not wait."""
    await at_home(*PEOPLE)
    monkeypatch.setattr("milepost.routes.transaction.LONGEST_WINDOW_SECONDS", 0.9)
    await ask_all(client, *PEOPLE)
    await platform.forget()
    late = []
    for ref in PEOPLE[:3]:
        late.append(asyncio.create_task(ask(client, f"late-{ref}", registrant=ref)))
        await asyncio.sleep(0.05)
    assert ["issued"] * 3 == [link["state"] for link in await asyncio.gather(*late)]
    assert BOTH == await platform.writes()


async def test_a_refusal_that_lasts_fails_no_link(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    execute: Execute,
) -> None:
    """Of the one call, then of the other: a short link that was given out is good in the end.

    No batch is made instead of one that has not taken anything.
    """
    await at_home(*PEOPLE, lanes=["deferred"])
    await ask_all(client, *PEOPLE)
    for endpoint, told in ((CREATING, "upstream-refused"), (ADDING, "batch-refused")):
        await platform.fault("status", endpoint=endpoint, status=400, times=10_000)
        for _ in range(2):
            assert Counts(waiting=12) == await milepost.drain.run_once()
            await elapse(600)
        assert [("waiting", told, 12)] == await execute(
            "SELECT state, rule, count(*) FROM links GROUP BY state, rule"
        )
        await platform.web.delete("/control/faults")
    assert 0 == (await milepost.replenish.run_once()).planned
    assert Counts(issued=12) == await milepost.drain.run_once()
    assert {1} == set((await created(platform)).values())


async def test_a_batch_that_takes_no_more_is_replaced(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
) -> None:
    """How many go into one is not known: its links wait for the next one, with what they have."""
    await at_home(*PEOPLE)
    await ask(client)
    await platform.fault("status", endpoint=ADDING, status=400, times=100)
    assert ("waiting", "batch-refused") == rule(await ask_once(client, milepost, "e2"))
    await platform.web.delete("/control/faults")
    counts = await milepost.replenish.run_once()
    assert (1, 1) == (counts.planned, counts.ready)
    await elapse(2)
    links = [await ask(client, event) for event in ("e1", "e2")]
    assert 2 == len({link["url"].partition("_CTR_")[0] for link in links})
    assert {1} == set((await created(platform)).values())


async def test_how_many_go_together_is_found_out(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    maker: TransactionMaker,
) -> None:
    """Half as many after a call that was too large, more again later; as many as were proved."""
    await at_home(*PEOPLE)
    await platform.switch(facts={"transactions_per_call": 3})
    links = await ask_all(client, *PEOPLE)
    assert {"issued": 12} == Counter(link["state"] for link in links)
    assert maker.carries <= 6
    sizes = [len(e["body"]) for e in await platform.entries() if e["operation"] == BOTH[0]]
    assert (12, True) == (sum(sizes), max(sizes) <= 3)
    await platform.switch(facts={"transactions_per_call": 1_000})
    small = maker.carries
    await ask_all(client, *PEOPLE, prefix="more")
    assert maker.carries > small
    for figure in (7, 1):
        await milepost.store.capabilities.note(
            Fact.TRANSACTIONS_PER_CALL, holds=figure > 1, figure=figure, evidence="tried"
        )
        links = await ask_all(client, *PEOPLE, prefix=str(figure))
        assert figure == maker.carries
    assert [2] * 12 == [link["upstream_calls"] for link in links]


async def test_one_that_a_batch_does_not_take_holds_up_nobody(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    maker: TransactionMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody deletes a transaction: its call is refused as a whole, and made in halves."""
    await at_home(*PEOPLE)
    before = maker.carries
    note, lost = milepost.store.links.note, list[UUID]()

    async def delete_one(step: Step) -> bool:
        """Delete the first that is written down."""
        if not lost:
            lost.append(step.id)
            directory = milepost.deployment.directory_id or ""
            await milepost.upstream.delete_transaction(directory, step.value)
        return await note(step)

    monkeypatch.setattr(maker, "_note_step", delete_one)
    links = {link["id"]: link for link in await ask_all(client, *PEOPLE)}
    assert ("failed", "upstream-refused") == rule(links.pop(str(lost[0])))
    assert {"issued": 11} == Counter(link["state"] for link in links.values())
    assert before == maker.carries


async def test_a_lost_creation_is_asked_for(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
) -> None:
    """By the contact's transactions: found, or made again after three looks over a minute."""
    await at_home()
    for event, moment in (("accepted", "after"), ("lost", "before")):
        await platform.fault("reset", call_class=CREATE, moment=moment)
        assert ("unknown", "outcome-unknown") == rule(await ask_once(client, milepost, event))
        await elapse(2)
    for _ in range(3):
        assert "unknown" == (await ask_once(client, milepost, "lost"))["state"]
        await elapse(31)
    for event in ("accepted", "lost"):
        link = await ask(client, event)
        assert ("issued", True) == (link["state"], await opens(platform, link))
    assert {1} == set((await created(platform)).values())


@pytest.mark.parametrize("lost", [CREATE, ADD])
async def test_what_was_lost_is_asked_for_also_of_who_was_forgotten_since(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    execute: Execute,
    lost: str,
) -> None:
    """They are put into the home list again, and are the same contact: it has the transaction."""
    await at_home()
    await platform.fault("reset", call_class=lost, moment="after")
    assert "unknown" == (await ask_once(client, milepost))["state"]
    ((place,),) = await execute("SELECT home_lookup_id FROM registrants WHERE ref = 'ann'")
    await milepost.store.contacts.miss("ann", place)
    await elapse(2)
    link = await ask(client)
    assert "issued" == link["state"]
    assert dict.fromkeys(("list_contact.add", *BOTH), 1) == Counter(await platform.writes())
    assert await opens(platform, link)


@pytest.mark.usefixtures("much_patience")
async def test_nobody_waits_for_who_must_be_asked_about(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The platform does not answer the look that a job makes; events and clicks go on meanwhile.

    Also the click on the link of somebody who has to be put into the home list first.
    """
    monkeypatch.setattr("milepost.issuing.BEGIN_SECONDS", 3.0)
    await at_home(lanes=["direct", "deferred"])
    await milepost.store.registrants.put({"dan": RegistrantDetails(email="dan@example.com")})
    await platform.fault("reset", call_class="list_contacts", moment="before")
    outside = await ask_once(client, milepost, "outside", registrant="dan")
    await platform.fault("reset", call_class=CREATE, moment="after")
    doubtful = await ask_once(client, milepost, "doubtful")
    assert [("waiting", "contact-missing"), ("unknown", "outcome-unknown")] == [
        rule(outside),
        rule(doubtful),
    ]
    await elapse(2)
    look = "GET /directories/{POOL}/contacts/{CID}/transactions"
    await platform.fault("timeout", endpoint=look, times=9)
    sweep = asyncio.create_task(milepost.sweep.run_once())
    while not (await platform.web.get("/control/faults")).json()[0]["struck"]:
        """The look is not out yet."""
    ready = await ask(client, "ready", registrant="ben", deadline_ms=2_000)
    assert ("issued", "direct") == (ready["state"], ready["lane"])
    opened = await milepost.issuing.click(outside["url"].rpartition("/")[2], wait=2)
    assert "_CTR_" in (opened.url or "")
    assert 1 == (await sweep).unknown


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_lost_addition_is_looked_for_in_the_batch(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    moment: str,
) -> None:
    """Which is read once for all of a call; their transactions are those of before."""
    await at_home(*PEOPLE, lanes=["deferred"])
    await platform.fault("reset", call_class=ADD, moment=moment, times=12)
    await ask_all(client, *PEOPLE)
    assert 12 == (await milepost.drain.run_once()).unknown
    await platform.web.delete("/control/faults")
    await platform.forget()
    await elapse(2)
    (await platform.web.delete("/control/stats")).raise_for_status()
    assert 12 == (await milepost.sweep.run_once()).issued
    stats = (await platform.web.get("/control/stats")).json()["classes"]
    assert {ADD} == stats.keys()
    assert stats[ADD]["calls"] <= 8
    entered = [
        each
        for entry in await platform.entries()
        if entry["operation"] == BOTH[1]
        for each in entry["body"]["transactionIds"]
    ]
    assert ((12, 12) if moment == "before" else (0, 0)) == (len(entered), len(set(entered)))


async def test_what_is_lost_in_a_batch_too_large_to_read_is_added_again(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After three tries over a minute; it is in the batch once."""
    await at_home(lanes=["deferred"])
    await platform.fault("reset", call_class=ADD, moment="after")
    await ask(client, "e1")
    assert 1 == (await milepost.drain.run_once()).unknown
    monkeypatch.setattr("milepost.routes.transaction.READING_SECONDS", -60.0)
    for _ in range(3):
        await elapse(31)
        assert 1 == (await milepost.sweep.run_once()).unknown
    await elapse(31)
    assert 1 == (await milepost.sweep.run_once()).issued
    assert 1 == Counter(await platform.writes())[BOTH[0]]


async def test_a_transaction_that_is_not_written_down_goes_no_further_and_is_found(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    maker: TransactionMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Postgres is away between the two calls, or somebody else has the claim by then."""
    await at_home()

    async def away(_: Step) -> bool:
        """Fail."""
        raise DatabaseBusy("away")

    async def taken_over(_: Step) -> bool:
        """Say that it is somebody else's."""
        return False

    for event, note in (("e1", away), ("e2", taken_over)):
        with monkeypatch.context() as patch:
            patch.setattr(maker, "_note_step", note)
            await ask_once(client, milepost, event)
        await elapse(21)
    assert BOTH[:1] * 2 == await platform.writes()
    assert "issued" == (await ask(client, "e1"))["state"]
    assert [*BOTH[:1] * 2, BOTH[1]] == await platform.writes()


async def test_a_batch_that_is_gone_is_replaced_and_its_links_wait(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    execute: Execute,
) -> None:
    """The same transaction goes into the next batch; a link that ends before says what is left."""
    await at_home()
    ((batch_id,),) = await execute("SELECT batch_id FROM slots")
    await milepost.upstream.delete_batch(milepost.deployment.directory_id or "", batch_id)
    await platform.forget()
    assert "waiting" == (await ask_once(client, milepost))["state"]
    assert BOTH[:1] == await platform.writes()
    await elapse(31)
    assert "waiting" == (await ask_once(client, milepost, "e2", registrant="ben"))["state"]
    counts = await milepost.replenish.run_once()
    assert (1, 1) == (counts.planned, counts.ready)
    assert 0 == (await milepost.replenish.run_once()).planned
    link = await ask(client)
    assert ("issued", True) == (link["state"], await opens(platform, link))
    await execute("UPDATE registrants SET opted_out_at = now() WHERE ref = 'ben'")
    link = await ask(client, "e2", registrant="ben")
    assert ("suppressed", "opted-out") == rule(link)
    ((left,),) = await execute("SELECT steps ->> 'transaction' FROM links WHERE ref = 'ben'")
    assert f"unfinished: transaction {left}." in link["reason"]["detail"]
    assert {1} == set((await created(platform)).values())


async def test_a_transaction_of_a_contact_that_is_another_persons_by_now_is_given_up(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
) -> None:
    """While the link waited for its batch, the e-mail passed to somebody else."""
    await at_home()
    await platform.fault("status", call_class=ADD, status=404)
    assert "waiting" == (await ask_once(client, milepost))["state"]
    await milepost.store.registrants.put({"ann": RegistrantDetails(email="moved@example.com")})
    await milepost.store.registrants.put({"dan": RegistrantDetails(email="ann@example.com")})
    await elapse(31)
    assert "issued" == (await ask(client))["state"]
    made = [
        each["contactId"]
        for entry in await platform.entries()
        if entry["operation"] == BOTH[0]
        for each in entry["body"].values()
    ]
    ann = await milepost.store.registrants.get("ann")
    assert ann is not None
    assert (2, ann.contact_id) == (len(set(made)), made[-1])


async def test_who_is_not_in_the_home_list_is_put_into_it_once(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    execute: Execute,
) -> None:
    """For all of their events, also those that come together; a lost answer doubles nobody."""
    await at_home()
    people = {ref: RegistrantDetails(email=f"{ref}@example.com") for ref in ("new", "lost")}
    await milepost.store.registrants.put(people)
    links = await asyncio.gather(*(ask(client, f"e{n}", registrant="new") for n in range(3)))
    assert ["issued"] * 3 == [link["state"] for link in links]
    assert [(1,)] == await execute("SELECT max(attempt) FROM links")
    assert 2 == (await ask(client, "late", registrant="new"))["upstream_calls"]
    assert 1 == Counter(await platform.writes())["list_contact.add"]
    await platform.fault("reset", call_class="list_contacts")
    lost = await ask_once(client, milepost, "e4", registrant="lost")
    assert ("waiting", "contact-missing") == rule(lost)
    await elapse(2)
    assert "issued" == (await ask(client, "e4", registrant="lost"))["state"]
    added = [e for e in await platform.entries() if e["operation"] == "list_contact.add"]
    assert (3, 2) == (len(added), len({entry["ids"]["contact"] for entry in added}))
    await execute("UPDATE deployment SET home_list_id = NULL")
    assert ("waiting", "home-list-missing") == rule(await ask_once(client, milepost, "e5"))


@pytest.mark.parametrize(
    "simulator_config", [Config(limits="none", dedup=False)], ids=["dedup off"]
)
async def test_where_nobody_is_recognised_a_lost_contact_is_looked_for(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, elapse: Elapse
) -> None:
    """It is found, and not made again; our own probe is one contact for all batches."""
    await landed(route="transaction", lanes=PATIENT)
    await platform.fault("reset", call_class="list_contacts")
    assert ("waiting", "contact-missing") == rule(await ask_once(client, milepost))
    await elapse(2)
    assert "issued" == (await ask(client))["state"]
    assert ["list_contact.add", *BOTH] == await platform.writes()
    await milepost.run("canary", asked_by="test")
    assert 1 == Counter(await platform.writes())["list_contact.add"]


async def test_short_links_are_made_by_the_drain_and_by_clicks(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    execute: Execute,
) -> None:
    """Together, where many wait."""
    await at_home(*PEOPLE, lanes=["deferred"])
    links = await ask_all(client, *PEOPLE)
    assert {("waiting", "deferred")} == {(link["state"], link["lane"]) for link in links}
    opened = await milepost.issuing.click(links[0]["url"].rpartition("/")[2], wait=8)
    assert "_CTR_" in (opened.url or "")
    assert 11 == (await milepost.drain.run_once()).issued
    assert max(Counter(await platform.writes()).values()) <= 6
    urls = await execute("SELECT url FROM links WHERE position('_CTR_' IN url) > 0")
    assert 12 == len(set(urls))


async def test_a_batch_is_followed_by_another_one(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When it is full, and three days before it takes no more; its links stay good."""
    await at_home(link_days=30, min_link_days=10)
    monkeypatch.setattr("milepost.policy.BATCH_LINKS", 1)
    links = [await ask(client, "e1")]
    assert 1 == (await milepost.replenish.run_once()).ready
    links.append(await ask(client, "e2"))
    monkeypatch.undo()
    assert 0 == (await milepost.replenish.run_once()).planned
    await travel(days=17, hours=1)
    store, deployment = milepost.store, milepost.deployment
    rotate = Rotate(store, Provisioning(store, milepost.upstream, deployment), deployment)
    counts = await rotate.run_once()
    assert (1, 1) == (counts.planned, counts.ready)
    links.append(await ask(client, "e3"))
    assert 3 == len({link["url"].partition("_CTR_")[0] for link in links})
    first, _, third = (datetime.fromisoformat(link["expires_at"]) for link in links)
    assert timedelta(days=16) < third - first
    assert [True] * 3 == [await opens(platform, link) for link in links]
    await travel(days=3)
    assert 2 == (await rotate.run_once()).draining


async def test_a_batch_is_full_before_what_comes_until_the_next_look(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    travel: Travel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many are expected as came since the last look, and not those from before."""
    await at_home(*PEOPLE, lanes=["deferred"])
    monkeypatch.setattr("milepost.policy.BATCH_LINKS", 9)

    async def planned() -> int:
        """How many batches the next look makes."""
        return (await milepost.replenish.run_once()).planned

    await ask_all(client, *PEOPLE[:4])
    assert 0 == await planned()
    await travel(seconds=REPLENISH_SECONDS + 1)
    await ask(client)
    assert 0 == await planned()
    await ask_all(client, *PEOPLE[4:7])
    assert [1, 0] == [await planned(), await planned()]


async def test_the_making_of_a_batch_goes_on_after_lost_answers(
    client: httpx.AsyncClient, milepost: Milepost, platform: Any, elapse: Elapse
) -> None:
    """What can be asked for is found; a batch cannot, and is made again."""
    definition = {"survey_id": platform.ready.survey_id, "route": "transaction"}
    (await client.put("/v1/milestones/landed", json=definition)).raise_for_status()
    await platform.forget()
    directory = "POST /directories/{POOL}"
    for lost in (
        f"{directory}/mailinglists",
        f"{directory}/mailinglists/{{CG}}/contacts",
        f"{directory}/transactions",
        f"{directory}/transactionbatches",
        "POST /distributions",
    ):
        await platform.fault("reset", endpoint=lost)
        assert 1 == (await milepost.replenish.run_once()).failed
        await elapse(121)
    assert 1 == (await milepost.replenish.run_once()).ready
    assert {
        "mailing_list.create": 1,
        "list_contact.add": 1,
        "transaction.create": 1,
        "transaction_batch.create": 2,
        "distribution.create": 1,
    } == Counter(op for op in await platform.writes() if op != "distribution.list_links")


async def test_the_canary_of_transactions_is_a_batch(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    execute: Execute,
) -> None:
    """Their links have a form of their own: a change of the other stops nobody, one of theirs does.

    With the pool, the canary's batch is taken away.
    """
    await at_home(fields=[])
    other = {"survey_id": platform.ready.survey_id, "slots": 1}
    (await client.put("/v1/milestones/other", json=other)).raise_for_status()
    await milepost.replenish.run_once()
    await ask(client, data={})
    assert "done" == (await milepost.run("canary", asked_by="test")).state
    await platform.switch(facts={"link_format": "2020"})
    await travel(days=1)
    assert "stopped" == (await milepost.run("canary", asked_by="test")).state
    told = (await client.get("/v1/milestones")).json()["milestones"]
    assert ["other"] == [each["key"] for each in told if each["stopped"]]
    await client.post("/v1/milestones/other/pause")
    teardown = Teardown(milepost.store, milepost.upstream, milepost.deployment)
    await teardown.run_once("other")
    await execute("DELETE FROM distributions WHERE template IS NULL OR template LIKE '%%CGC%%'")
    await platform.switch(facts={"link_format": "2023"})
    await execute("UPDATE distributions SET template = replace(template, '&_g_=g', '')")
    await travel(days=1)
    assert "stopped" == (await milepost.run("canary", asked_by="test")).state
    await client.post("/v1/milestones/landed/resume")
    await milepost.scheduler.run_due("canary", asyncio.Event())
    link = await ask(client, "e2", data={})
    assert ("issued", True) == (link["state"], await opens(platform, link))
    await client.post("/v1/milestones/landed/pause")
    teardown = Teardown(milepost.store, milepost.upstream, milepost.deployment)
    report = await teardown.run_once("landed", live_links=2)
    assert (1, 2, []) == (report.lists, report.batches, report.remains)
    held = (await platform.web.get("/control/stats")).json()["held"]
    assert 0 == held["distributions"]
    assert 0 == (await teardown.run_once("landed")).batches


async def test_what_the_account_does_not_allow_is_refused(
    client: httpx.AsyncClient, milepost: Milepost, platform: Any
) -> None:
    """With what to write instead."""
    definition = {"survey_id": platform.ready.survey_id, "route": "transaction"}
    ahead = {**definition, "membership": "ahead"}
    refused = await client.put("/v1/milestones/landed", json=ahead)
    assert (422, "membership") == (refused.status_code, refused.json()["field"])
    for fact in (Fact.PROBE_ONLY_DISTRIBUTION, Fact.ONE_CONTACT):
        await milepost.store.capabilities.note(fact, holds=False, evidence="tried")
    assert 201 == (await client.put("/v1/milestones/landed", json=definition)).status_code
    assert 1 == (await milepost.replenish.run_once()).ready
    await milepost.store.capabilities.note(Fact.TRANSACTION_BATCH, holds=False, evidence="tried")
    refused = await client.put("/v1/milestones/other", json=definition)
    assert (422, "route", True) == (
        *(refused.status_code, refused.json()["field"]),
        "stepwise" in refused.json()["fix"],
    )
    told = (await client.get("/v1/milestones/landed")).json()["cautions"]
    assert {"batches-refused", "not-probed"} == {caution["code"] for caution in told}


async def test_whoever_makes_links_may_die_between_the_calls(
    *,
    client: httpx.AsyncClient,
    at_home: Landed,
    milepost: Milepost,
    platform: Any,
    settings: Settings,
    elapse: Elapse,
) -> None:
    """Transactions are made, and none is written down: all are found, and nothing is made twice."""
    await at_home(*PEOPLE, lanes=["deferred"])
    await ask_all(client, *PEOPLE)
    given = {
        "DATABASE_URL": settings.database_url or "",
        "UPSTREAM_URL": settings.upstream_url,
        "UPSTREAM_TOKEN": "simulator",
        "SECRET": SECRET,
        "PUBLIC_URL": "https://go.example.com",
        "LIMITS": "none",
    }
    dying = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "milepost", "run", "drain"),
        env={
            **os.environ,
            **{f"MILEPOST_{name}": value for name, value in given.items()},
            VARIABLE: "created=kill@3",
        },
        start_new_session=True,
    )
    assert -signal.SIGKILL == await dying.wait()
    await elapse(21)
    await milepost.sweep.run_once()
    await milepost.drain.run_once()
    for _ in range(3):
        await elapse(31)
        await milepost.sweep.run_once()
    links = [
        (await client.get("/v1/links", params={"event_id": f"e-{ref}"})).json()["links"][0]
        for ref in PEOPLE
    ]
    assert ["issued"] * 12 == [link["state"] for link in links]
    assert {link["id"]: 1 for link in links} == await created(platform)
    entered = Counter(
        each
        for entry in await platform.entries()
        if entry["operation"] == BOTH[1]
        for each in entry["body"]["transactionIds"]
    )
    assert (12, {1}) == (len(entered), set(entered.values()))
