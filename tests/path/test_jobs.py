"""The work ahead of time: pools are filled, contacts made, and crashes leave nothing double."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest

from milepost.app import Milepost
from milepost.budget import Denied, Permit
from milepost.errors import DatabaseBusy
from milepost.jobs.flow import AT_ONCE, Counts
from milepost.model import Event, Link, LinkState, RegistrantDetails
from milepost.personal_link import parse
from milepost.simulator import Config
from milepost.store.pools import PoolStore
from milepost.upstream import ListedLink, Upstream

Landed = Callable[..., Awaitable[None]]
Elapse = Callable[[float], Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

ONE_SLOT = Counter({"mailing_list.create": 1, "list_contact.add": 1, "distribution.create": 1})


@pytest.fixture
def dedup(request: pytest.FixtureRequest) -> bool:
    """Whether the directory knows a person again."""
    return bool(request.param)


@pytest.fixture
def simulator_config(request: pytest.FixtureRequest) -> Config:
    """A simulator without limits, with deduplication unless the test says otherwise."""
    with_dedup = "dedup" not in request.fixturenames or request.getfixturevalue("dedup")
    return Config(limits="none", dedup=bool(with_dedup))


async def pool(client: httpx.AsyncClient) -> dict[str, Any]:
    """The pool of milestone `landed`."""
    entries: dict[str, Any] = (await client.get("/v1/milestones/landed/pool")).json()
    return entries


async def define(client: httpx.AsyncClient, platform: Any, **changes: object) -> None:
    """Register milestone `landed` with one slot, without filling its pool."""
    definition = {"survey_id": platform.ready.survey_id, "slots": 1, **changes}
    (await client.put("/v1/milestones/landed", json=definition)).raise_for_status()
    await platform.forget()


async def test_replenish_makes_each_slot_and_learns_its_template(
    client: httpx.AsyncClient, milepost: Milepost, platform: Any
) -> None:
    """A list, a probe and a distribution each; the template gives the very link that is listed."""
    await define(client, platform, slots=2, link_days=30, min_link_days=7)
    counts = await milepost.replenish.run_once()
    assert (2, 2, 0, 0) == (counts.planned, counts.ready, counts.stopped, counts.failed)
    assert ONE_SLOT + ONE_SLOT == Counter(await platform.writes())
    made = await pool(client)
    assert 2 == made["ready"]
    for entry in made["distributions"]:
        links = milepost.upstream.distribution_links(entry["distribution_id"], made["survey_id"])
        (listed,) = [link async for link in links]
        assert entry["template"] == re.sub(r"(CGC_)\w{15}", r"\1{}", listed.link)
        assert milepost.deployment.id in entry["list_name"]
    before = await platform.calls()
    assert 0 == (await milepost.replenish.run_once()).ready
    assert before == await platform.calls()


@pytest.mark.parametrize("step", ["note_list", "note_probe", "note_distribution", "ready"])
async def test_replenish_goes_on_with_what_a_crash_left(
    client: httpx.AsyncClient,
    *,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    """A step whose id was never written down is found again, and not made twice."""
    await define(client, platform)

    async def die(*_: object) -> None:
        """End before it is written down."""
        raise DatabaseBusy("the process is gone")

    with monkeypatch.context() as patch:
        patch.setattr(PoolStore, step, die)
        with pytest.raises(DatabaseBusy):
            await milepost.replenish.run_once()
    await elapse(121)
    assert 1 == (await milepost.replenish.run_once()).ready
    assert ONE_SLOT == Counter(await platform.writes())


@pytest.mark.parametrize("call_class", ["mailing_lists", "list_contacts", "distributions"])
@pytest.mark.parametrize("kind", ["reset", "html"])
@pytest.mark.parametrize("dedup", [True, False], indirect=["dedup"])
async def test_replenish_asks_what_became_of_a_lost_answer(
    client: httpx.AsyncClient,
    *,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    call_class: str,
    kind: str,
    dedup: bool,
) -> None:
    """After each write with an unknown outcome there is still one list, probe and distribution."""
    assert dedup == bool(milepost.deployment.dedup_criteria)
    await define(client, platform)
    await platform.fault(kind, call_class=call_class)
    counts = await milepost.replenish.run_once()
    assert (0, 1) == (counts.ready, counts.failed)
    (entry,) = (await pool(client))["distributions"]
    assert ("making", counts.errors[0]) == (
        entry["state"],
        f"slot 1 of landed: {entry['last_error']}",
    )
    await elapse(6)
    assert 1 == (await milepost.replenish.run_once()).ready
    assert ONE_SLOT == Counter(await platform.writes())


async def test_a_link_that_does_not_fit_stops_its_distribution_alone(
    client: httpx.AsyncClient, milepost: Milepost, platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no links, the reason stands in the pool, and the others are made."""
    await define(client, platform, slots=2)
    links, asked = Upstream.distribution_links, list[str]()

    async def misfit(
        self: Upstream, distribution_id: str, survey_id: str
    ) -> AsyncIterator[ListedLink]:
        """List somebody else's link in place of the probe's, of the first that is asked for."""
        asked.append(distribution_id)
        async for each in links(self, distribution_id, survey_id):
            other = parse(each.link).template().url("CGC_000000000000001")
            link = other if distribution_id == asked[0] else each.link
            yield msgspec.structs.replace(each, link=link)

    monkeypatch.setattr(Upstream, "distribution_links", misfit)
    counts = await milepost.replenish.run_once()
    assert (1, 1, 0) == (counts.ready, counts.stopped, counts.failed)
    made = await pool(client)
    states = {each["state"]: each["stopped_because"] for each in made["distributions"]}
    assert (1, {"ready", "stopped"}) == (made["ready"], set(states))
    assert "names lookup id CGC_000000000000001 and not" in states["stopped"]


async def test_a_link_that_expires_too_early_is_not_trusted(
    client: httpx.AsyncClient, milepost: Milepost, platform: Any, execute: Execute
) -> None:
    """A platform that shortens a distribution's life would make links die that we call alive."""
    await define(client, platform)
    (milestone,) = await milepost.store.milestones.all()
    await milepost.store.pools.plan(milestone.key, milepost.deployment.id)
    (making,) = await milepost.store.pools.claim(1)
    await milepost.store.pools.release(making, "waits")
    await platform.fault("reset", call_class="links", times=3)
    await execute("UPDATE distributions SET lease_until = NULL")
    await milepost.replenish.run_once()
    await execute(
        "UPDATE distributions SET lease_until = NULL, expires_at = expires_at + interval '1 day'"
    )
    assert 1 == (await milepost.replenish.run_once()).stopped
    (entry,) = (await pool(client))["distributions"]
    assert "expires" in entry["stopped_because"]


async def test_a_run_ends_while_the_platform_is_away(
    client: httpx.AsyncClient,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each slot is tried once, what failed is told, and a later run makes all."""
    monkeypatch.setattr("milepost.upstream.breaker.PROBE_SECONDS", 0.2)
    await define(client, platform, slots=10)
    await platform.fault("status", status=503, times=None)
    counts = await milepost.replenish.run_once()
    assert (0, 10, 10) == (counts.ready, counts.failed, counts.unfinished)
    at_once = await milepost.replenish.run_once()
    assert (0, 0, 10) == (at_once.ready, at_once.failed, at_once.unfinished)
    await platform.web.delete("/control/faults")
    await elapse(6)
    assert 10 == (await milepost.replenish.run_once()).ready


async def issue(client: httpx.AsyncClient, event_id: str, ref: str = "ann") -> dict[str, Any]:
    """The answer to an event."""
    body = {"event_id": event_id, "milestone": "landed", "registrant": ref}
    link: dict[str, Any] = (await client.post("/v1/links", json=body)).json()
    return link


async def test_a_pool_grows_before_a_person_runs_out_of_places(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost
) -> None:
    """A link in the highest slot brings the next one, up to `max_slots`; then they are full."""
    await landed(slots=3, max_slots=4, when_full="suppressed", fields=[])
    for number in (1, 2):
        assert "issued" == (await issue(client, f"e{number}"))["state"]
    assert 0 == (await milepost.replenish.run_once()).planned
    assert "issued" == (await issue(client, "e3"))["state"]
    counts = await milepost.replenish.run_once()
    assert (1, 1) == (counts.planned, counts.ready)
    assert "issued" == (await issue(client, "e4"))["state"]
    assert 0 == (await milepost.replenish.run_once()).planned
    suppressed = await issue(client, "e5")
    assert ("suppressed", "no-slot") == (suppressed["state"], suppressed["reason"]["rule"])
    assert 4 == len((await pool(client))["distributions"])


async def test_a_pool_does_not_grow_for_links_that_have_ended(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, execute: Execute
) -> None:
    """Their places are free again."""
    await landed(slots=1, max_slots=9, fields=[])
    await issue(client, "e1")
    await execute("UPDATE links SET finished_at = now()")
    assert 0 == (await milepost.replenish.run_once()).planned
    await execute("UPDATE links SET finished_at = NULL, expires_at = now()")
    assert 0 == (await milepost.replenish.run_once()).planned


async def test_a_pool_grows_for_events_that_found_no_place(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, execute: Execute
) -> None:
    """Also when the links that hold the places are old; and by one slot, though looked at twice."""
    await landed(slots=1, max_slots=9, when_full="suppressed", fields=[])
    await issue(client, "e1")
    assert "suppressed" == (await issue(client, "e2"))["state"]
    await execute("DELETE FROM links WHERE event_id = 'e1'")  # as if thousands had come since
    assert [1, 0] == [(await milepost.replenish.run_once()).planned for _ in range(2)]


async def test_a_pool_does_not_grow_while_its_highest_slot_takes_no_links(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, execute: Execute
) -> None:
    """A platform whose links are not trusted is not given one list after the other."""
    await landed(slots=1, max_slots=9, fields=[])
    await issue(client, "e1")
    await platform.switch(facts={"link_format": "unknown"})
    assert (1, 1) == ((counts := await milepost.replenish.run_once()).planned, counts.stopped)
    assert 0 == (await milepost.replenish.run_once()).planned
    await execute("UPDATE distributions SET created_at = now() - interval '1 day'")
    assert 0 == (await milepost.replenish.run_once()).planned
    made = Counter(await platform.writes())
    assert (1, 1) == (made["mailing_list.create"], made["distribution.create"])
    await platform.switch(facts={"link_format": "2023"})
    await milepost.run("canary", asked_by="a test")
    assert (1, 1) == ((counts := await milepost.replenish.run_once()).planned, counts.ready)


async def test_a_pool_grows_by_as_many_slots_as_a_day_needs(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, execute: Execute
) -> None:
    """At once, for who has had two events a day in the last week and has used up most of them."""
    await landed(slots=2, max_slots=9, fields=[])
    await issue(client, "e1")
    await execute(
        "INSERT INTO links SELECT (jsonb_populate_record(l, jsonb_build_object("
        "'id', gen_random_uuid(), 'event_id', 'old-' || n, 'distribution_id', NULL,"
        "'state', 'issued', 'url', 'https://x.test/' || n, 'lookup_id', 'CGC_' || n,"
        "'finished_at', now(), 'slot_id', NULL, 'contact_key', NULL))).*"
        " FROM links AS l CROSS JOIN generate_series(1, 13) AS n WHERE l.event_id = 'e1'"
    )
    counts = await milepost.replenish.run_once()
    assert (2, 2) == (counts.planned, counts.ready)  # she holds 1, and 2 are to come: 4
    assert 0 == (await milepost.replenish.run_once()).planned


async def test_drain_makes_what_waits_and_a_slow_call_holds_up_no_other(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, execute: Execute
) -> None:
    """All but one of more links than calls may be out are made while that one is out."""
    people = {f"r{n}": RegistrantDetails(email=f"r{n}@example.com") for n in range(AT_ONCE + 8)}
    await milepost.store.registrants.put(people)
    await landed(lanes=["deferred"], fields=[])
    for ref in people:
        await issue(client, f"of-{ref}", ref)
    await platform.fault("slow", seconds=2, call_class="list_contacts")
    run = asyncio.create_task(milepost.drain.run_once())
    query = "SELECT count(*) FROM links WHERE state = 'issued'"
    while await execute(query) != [(len(people) - 1,)]:  # noqa: ASYNC110  (Postgres has no event)
        await asyncio.sleep(0.05)
    assert not run.done()
    assert len(people) == (await run).issued
    assert len(people) == Counter(await platform.writes())["list_contact.add"]
    assert Counts() == await milepost.drain.run_once()


async def test_drain_leaves_the_links_to_others_while_the_platform_is_away(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    elapse: Elapse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run ends with the first denial, and the next one asks for a permit before it takes any."""
    await landed(lanes=["deferred"], fields=[])
    for number in range(3):
        await issue(client, f"e{number}")
    await elapse(5)

    async def deny(*_: object, **__: object) -> Denied:
        """Know that the platform is away."""
        return Denied("upstream-away", 1)

    with monkeypatch.context() as patch:
        patch.setattr(milepost.budget, "grant", deny)
        assert Counts() == await milepost.drain.run_once()
        assert 2 == len(await milepost.store.links.due(LinkState.WAITING, 9))
        await elapse(16)  # what was taken and not tried comes back
        assert Counts() == await milepost.drain.run_once()
        assert 3 == len(await milepost.store.links.due(LinkState.WAITING, 9))
    await elapse(16)
    assert 3 == (await milepost.drain.run_once()).issued


async def test_one_link_that_goes_wrong_ends_no_flow(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever goes wrong; the log says where, and nothing of what was said."""
    await landed(lanes=["deferred"], fields=[])
    for ref in ("ann", "ben", "cleo"):
        await issue(client, f"of-{ref}", ref)
    take_up = milepost.issuing.take_up

    async def stumble(event: Event, permit: Permit) -> Link:
        """Go wrong for two of three."""
        if event.ref == "ann":
            raise ValueError("ann@example.com")
        if event.ref == "ben":
            raise DatabaseBusy("away")
        return await take_up(event, permit)

    monkeypatch.setattr(milepost.issuing, "take_up", stumble)
    counts = await milepost.drain.run_once()
    assert (1, 2) == (counts.issued, counts.broken_off)
    assert "ValueError at" in caplog.text
    assert "ann@example.com" not in caplog.text


async def test_a_job_that_is_told_to_stop_begins_nothing_and_breaks_nothing_off(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """The call that is out ends, and its link is settled."""
    await landed(lanes=["deferred"], fields=[])
    await issue(client, "e1")
    await platform.fault("slow", seconds=1, call_class="list_contacts")
    stopping = asyncio.Event()
    run = asyncio.create_task(milepost.drain.run_once(stopping))
    while not await platform.writes():  # noqa: ASYNC110  (the simulator has no event for it)
        await asyncio.sleep(0.02)
    await issue(client, "e2", "ben")
    stopping.set()
    assert 1 == (await run).issued
    assert Counts() == await milepost.drain.run_once(stopping)
    assert 1 == (await milepost.drain.run_once()).issued


@pytest.mark.parametrize("dedup", [True, False], indirect=["dedup"])
async def test_sweep_finishes_what_a_dead_process_left(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    dedup: bool,
) -> None:
    """A link whose call was accepted, and whose process died before it could write so."""
    assert dedup == bool(milepost.deployment.dedup_criteria)
    await landed(fields=[])
    await platform.fault("timeout", seconds=30, call_class="list_contacts")
    body = {"event_id": "e1", "milestone": "landed", "registrant": "ann", "deadline_ms": 1_000}
    link = (await client.post("/v1/links", json=body)).json()
    await elapse(31)  # its lease is over, and its process still hangs
    assert 1 == (await milepost.sweep.run_once()).issued
    assert Counts() == await milepost.sweep.run_once()
    made = (await client.get(f"/v1/links/{link['id']}")).json()
    assert ("issued", link["url"]) == (made["state"], made["url"])
    adds = [e for e in await platform.entries() if e.get("effect") != "list_contact_modified"]
    assert 1 == len(adds)
