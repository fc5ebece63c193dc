"""Distributions follow one another on their lists; no link is a short or a wrong one."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, get_args

import httpx
import pytest

from milepost.app import Milepost
from milepost.errors import DatabaseBusy
from milepost.jobs.provisioning import Provisioning
from milepost.jobs.rotate import Counts, Rotate
from milepost.model import Fact
from milepost.simulator import Config
from milepost.simulator.facts import LinkFormat
from milepost.store.pools import Making, PoolStore

Landed = Callable[..., Awaitable[None]]
Travel = Callable[..., Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]
Rotation = Callable[[], Awaitable[Counts]]

SHORT = {"link_days": 30, "min_link_days": 10, "fields": [], "slots": 1, "max_slots": 1}
"""Takes links for 20 days; a successor is begun three days before they are over."""

TWO = {**SHORT, "slots": 2, "max_slots": 2}

ONE_SUCCESSOR = Counter({"mailing_list.create": 1, "list_contact.add": 1, "distribution.create": 2})
"""The successor, and a canary with its list and its probe."""


@pytest.fixture
def rotate(milepost: Milepost) -> Rotation:
    """Run the job once, in a process of its own as far as it remembers anything."""

    async def run() -> Counts:
        """Run it."""
        store, deployment = milepost.store, milepost.deployment
        provisioning = Provisioning(store, milepost.upstream, deployment)
        return await Rotate(store, provisioning, deployment).run_once()

    return run


async def ask(
    client: httpx.AsyncClient, event_id: str, ref: str = "ann", milestone: str = "landed"
) -> dict[str, Any]:
    """The answer to an event."""
    body = {"event_id": event_id, "milestone": milestone, "registrant": ref, "deadline_ms": 8_000}
    link: dict[str, Any] = (await client.post("/v1/links", json=body)).json()
    return link


async def pool(client: httpx.AsyncClient) -> list[tuple[int, int, str]]:
    """Slot, generation and state of each distribution of the pool."""
    found = (await client.get("/v1/milestones/landed/pool")).json()["distributions"]
    return [(each["slot"], each["generation"], each["state"]) for each in found]


async def listed(milepost: Milepost, url: str) -> AsyncIterator[str]:
    """The links that the platform lists of a link's distribution."""
    distribution, survey = re.findall(r"Q_DL=(?:EMD_)?(\w{15})_(\w{15})_", url)[0]
    links = milepost.upstream.distribution_links(f"EMD_{distribution}", f"SV_{survey}")
    async for each in links:
        yield each.link


async def test_a_successor_is_ready_in_time_and_gives_the_links_from_then_on(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    rotate: Rotation,
) -> None:
    """On the same list; what it replaces drains, and retires when its last link has expired."""
    await landed(**SHORT)
    first = await ask(client, "e1")
    await travel(days=16, hours=23)
    assert 0 == (await rotate()).planned
    await travel(hours=2)
    (await platform.web.delete("/control/stats")).raise_for_status()
    counts = await rotate()
    assert (1, 1) == (counts.planned, counts.ready)
    stats = (await platform.web.get("/control/stats")).json()
    assert 1 == stats["classes"]["links"]["calls"]  # the canary's: nobody's links were listed
    assert ONE_SUCCESSOR + Counter({"list_contact.add": 1}) == Counter(await platform.writes())
    assert [(1, 1, "ready"), (1, 2, "ready")] == await pool(client)
    second = await ask(client, "e2", "ben")
    links = [link async for link in listed(milepost, second["url"])]
    assert (True, False) == (second["url"] in links, first["url"] in links)
    before = await platform.calls()
    assert 0 == (await rotate()).planned
    assert before == await platform.calls()
    await travel(days=3)
    assert (1, 0) == ((counts := await rotate()).draining, counts.retired)
    assert [(1, 1, "draining"), (1, 2, "ready")] == await pool(client)
    await travel(days=9, hours=22)
    assert 0 == (await rotate()).retired
    for link in (first, second):
        assert 200 == (await platform.web.get(link["url"])).status_code
    await travel(hours=2)
    assert 1 == (await rotate()).retired
    assert [(1, 1, "retired"), (1, 2, "ready")] == await pool(client)
    assert not [operation for operation in await platform.writes() if "delete" in operation]


async def test_headroom_is_what_is_left_without_us(
    client: httpx.AsyncClient, *, landed: Landed, platform: Any, travel: Travel, rotate: Rotation
) -> None:
    """Until the first slot takes no links, or the busiest person has used up the last one."""

    async def headroom() -> float | None:
        """As it is told."""
        found = (await client.get("/v1/milestones/landed/pool")).json()
        days: float | None = found["headroom_days"]
        return None if days is None else round(days)

    three = {"survey_id": platform.ready.survey_id, **SHORT, "slots": 3, "max_slots": 3}
    await client.put("/v1/milestones/landed", json=three)
    assert None is await headroom()
    await landed(**three)
    assert 20 == await headroom()
    await ask(client, "e1")
    assert 14 == await headroom()  # two places are left, at one link a week
    await travel(days=17, hours=1)
    assert 3 == await headroom()
    await rotate()
    assert 20 == await headroom()


async def test_both_rules_of_a_slot_hold_across_generations(
    client: httpx.AsyncClient,
    landed: Landed,
    travel: Travel,
    rotate: Rotation,
    execute: Execute,
) -> None:
    """One live link of a person in a list, one link of theirs in a distribution."""
    await landed(**TWO)
    await ask(client, "e1")
    await travel(days=18)
    assert 2 == (await rotate()).ready
    await ask(client, "e2")
    placed = (
        "SELECT s.number, d.generation, l.lookup_id FROM links AS l"
        " JOIN slots AS s ON s.id = l.slot_id JOIN distributions AS d ON d.id = l.distribution_id"
        " ORDER BY l.id"
    )
    first, second = await execute(placed)
    assert (1, 1) == first[:2]
    assert (2, 2) == second[:2]  # her link in list 1 is alive, though its distribution is old
    assert "no-slot" == (await ask(client, "e3"))["reason"]["rule"]
    await execute("UPDATE links SET finished_at = milepost_now() WHERE event_id = 'e1'")
    await ask(client, "e4")
    third = (await execute(placed))[-1]
    assert (1, 2, first[2]) == third  # her lookup id in the list, and a fresh URL
    await execute("UPDATE links SET finished_at = milepost_now()")
    await ask(client, "e5")
    assert (2, 1) == (await execute(placed))[-1][:2]  # the only distribution that she had none of
    await execute("UPDATE links SET finished_at = milepost_now()")
    assert "no-slot" == (await ask(client, "e6"))["reason"]["rule"]
    assert 4 == len({url for (url,) in await execute("SELECT url FROM links")} - {None})


STEPS = [
    ("slot", "note_distribution"),
    *(("canary", step) for step in ("note_list", "note_probe", "note_distribution", "ready")),
    ("slot", "ready"),
]
"""In the order in which they come; the canary is made when the successor is there."""


async def test_rotation_goes_on_with_what_each_crash_left(
    *,
    client: httpx.AsyncClient,
    landed: Landed,
    platform: Any,
    travel: Travel,
    rotate: Rotation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever takes it over dies a step later: what was never written down is found again."""
    # By its list alone, as on a platform that does not tell dates.
    monkeypatch.setattr("milepost.upstream.wire.Distribution.expires_at", None)
    await landed(**SHORT)
    await ask(client, "e1")
    await travel(days=18)
    await platform.forget()
    for whose, step in STEPS:
        take_down = getattr(PoolStore, step)

        async def die(
            self: PoolStore,
            making: Making,
            *more: Any,
            at: str = whose,
            otherwise: Callable[..., Awaitable[Any]] = take_down,
        ) -> Any:
            """End before it is written down, where it is meant."""
            if (making.milestone is None) == (at == "canary"):
                raise DatabaseBusy("the process is gone")
            return await otherwise(self, making, *more)

        with monkeypatch.context() as patch:
            patch.setattr(PoolStore, step, die)
            with pytest.raises(DatabaseBusy):
                await rotate()
        await travel(seconds=121)
    assert 1 == (await rotate()).ready
    assert ONE_SUCCESSOR == Counter(await platform.writes())


async def test_what_could_not_be_made_for_a_day_gets_later_dates(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    travel: Travel,
    rotate: Rotation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And what a dead process has left behind under the earlier ones is not taken for it."""
    await landed(**SHORT)
    await travel(days=18)

    async def die(*_: Any) -> Making:
        """End before it is written down."""
        raise DatabaseBusy("the process is gone")

    with monkeypatch.context() as patch:
        patch.setattr(PoolStore, "note_distribution", die)
        with pytest.raises(DatabaseBusy):
            await rotate()
    await travel(hours=25)
    assert 1 == (await rotate()).ready
    made = (await client.get("/v1/milestones/landed/pool")).json()
    ours = made["distributions"][-1]
    expires = {
        each.distribution_id: each.expires_at
        async for each in milepost.upstream.distributions(made["survey_id"])
    }
    assert datetime.fromisoformat(ours["expires_at"]) == expires[ours["distribution_id"]]


async def test_who_rotates_at_the_same_time_makes_nothing_twice(
    client: httpx.AsyncClient, *, landed: Landed, platform: Any, travel: Travel, rotate: Rotation
) -> None:
    """Each successor is one process's to make, and so is the canary that all of them need."""
    await landed(**TWO)
    await travel(days=18)
    await platform.forget()
    await asyncio.gather(*(rotate() for _ in range(3)))
    await travel(minutes=1)
    await rotate()
    assert [2, 2] == [generation for _, generation, _ in await pool(client)][1::2]
    one_more = Counter({"distribution.create": 1})
    assert ONE_SUCCESSOR + one_more == Counter(await platform.writes())


async def test_rotation_asks_what_became_of_lost_answers(
    *, client: httpx.AsyncClient, landed: Landed, platform: Any, travel: Travel, rotate: Rotation
) -> None:
    """After a write of each kind with an unknown outcome nothing is there twice."""
    await landed(**SHORT)
    await ask(client, "e1")
    await travel(days=18)
    await platform.forget()
    await platform.fault("reset", endpoint="POST /directories/{POOL}/mailinglists")
    add = "POST /directories/{POOL}/mailinglists/{CG}/contacts"
    await platform.fault("html", endpoint=add)
    await platform.fault("reset", endpoint="POST /distributions", times=2)
    for _ in range(4):
        assert 1 == (await rotate()).failed
        await travel(minutes=1)
    assert 1 == (await rotate()).ready
    assert ONE_SUCCESSOR == Counter(await platform.writes())


async def test_a_successor_that_would_give_other_links_stops_its_milestone(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    platform: Any,
    travel: Travel,
    rotate: Rotation,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It says why; the successor takes no links, and nothing further is made meanwhile."""
    await landed(**TWO)
    await ask(client, "e1")
    await travel(days=18)
    await platform.switch(facts={"link_format": "2020"})
    assert 1 <= (await rotate()).stopped
    stopped = (await client.get("/v1/milestones/landed")).json()["stopped"]
    assert "differ from those that are built here in their query" in stopped["because"]
    assert stopped["expected"].endswith("&_g_=g")
    assert stopped["found"].endswith("&Q_CHL=gl")
    assert "http" not in caplog.text
    states = Counter(state for _, _, state in await pool(client))
    assert (2, 0) == (states["ready"], states["draining"])
    await travel(days=2)
    await platform.forget()
    assert 0 == (await rotate()).planned
    assert [] == await platform.writes()


async def test_a_further_slot_that_would_give_other_links_stops_its_milestone(
    client: httpx.AsyncClient, *, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """Once the platform has gone back, nothing is left of the other form."""
    await landed(**TWO)
    await platform.switch(facts={"link_format": "2020"})
    await landed(**(TWO | {"slots": 3, "max_slots": 3}))
    stopped = (await client.get("/v1/milestones/landed")).json()["stopped"]
    assert stopped["expected"].endswith("&_g_=g")
    assert stopped["found"].endswith("&Q_CHL=gl")
    await platform.switch(facts={"link_format": "2023"})
    assert "done" == (await milepost.run("canary", asked_by="test")).state
    assert "issued" == (await ask(client, "e1"))["state"]
    states = Counter(state for _, _, state in await pool(client))
    assert (2, 1) == (states["ready"], states["stopped"])


async def test_a_pool_that_nobody_tended_is_filled_again(
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
) -> None:
    """After weeks without a job, replenish makes what takes links, on the same lists."""
    await landed(**TWO)
    await ask(client, "e1")
    await travel(days=100)
    assert "pool-empty" == (await ask(client, "e2"))["reason"]["rule"]
    assert 2 == (await milepost.replenish.run_once()).ready
    assert "issued" == (await ask(client, "e3"))["state"]
    assert 1 == Counter(await platform.writes())["mailing_list.create"]  # the canary's


async def test_a_deleted_list_is_replaced(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    rotate: Rotation,
    execute: Execute,
) -> None:
    """After three looks that did not find it, its slot gets another list, and takes links again."""
    await landed(**SHORT)
    await ask(client, "e1")
    ((list_id,),) = await execute("SELECT list_id FROM slots WHERE milestone = 'landed'")
    directory = milepost.deployment.directory_id or ""
    await milepost.upstream.delete_mailing_list(directory, list_id)
    await travel(days=18)
    see = "GET /directories/{POOL}/mailinglists/{CG}"
    await platform.fault("status", status=400, endpoint=see, times=2)
    for _ in range(4):  # what the first two looks met says nothing of the list
        assert 1 == (await rotate()).failed
        await travel(minutes=2)
    assert 1 == (await rotate()).ready
    assert [(1, 1, "stopped"), (1, 2, "ready")] == await pool(client)
    link = await ask(client, "e2", "ben")
    assert link["url"] in [each async for each in listed(milepost, link["url"])]
    ((other,),) = await execute("SELECT list_id FROM slots WHERE milestone = 'landed'")
    assert list_id != other


async def test_a_list_that_is_there_is_not_left(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    platform: Any,
    travel: Travel,
    rotate: Rotation,
    execute: Execute,
) -> None:
    """Neither for looks that came between ones that found it, nor while its name finds it."""
    await landed(**SHORT)
    await ask(client, "e1")
    await travel(days=18)
    see = "GET /directories/{POOL}/mailinglists/{CG}"

    async def miss(times: int) -> None:
        """Let so many looks in a row find no list."""
        await platform.fault("status", status=404, endpoint=see, times=times)
        for _ in range(times):
            assert 1 == (await rotate()).failed
            await travel(minutes=2)

    await miss(2)
    await platform.fault("status", status=400, endpoint="POST /distributions")
    assert 1 == (await rotate()).failed
    assert [(0,)] == await execute("SELECT list_misses FROM distributions WHERE state = 'making'")
    await travel(minutes=2)
    await miss(4)
    assert [(1, 1, "ready"), (1, 2, "making")] == await pool(client)
    assert 1 == (await rotate()).ready
    assert [(1, 1, "ready"), (1, 2, "ready")] == await pool(client)


async def test_a_list_with_people_in_it_is_not_taken_up_by_its_name(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    rotate: Rotation,
    execute: Execute,
) -> None:
    """Where it was left, although it is there, nobody's links are listed; it gets another one."""
    await landed(**SHORT)
    await ask(client, "e1")
    ((former,),) = await execute("SELECT list_id FROM slots WHERE milestone = 'landed'")
    await travel(days=18)
    await platform.fault("status", status=400, endpoint="POST /distributions")
    assert 1 == (await rotate()).failed
    await travel(minutes=2)
    (making,) = await milepost.store.pools.claim(1)
    await milepost.store.pools.note_list_look(making, is_there=False)
    await milepost.store.pools.leave_list(making, "gone, as it seemed")  # and it died
    assert [(0,)] == await execute("SELECT list_misses FROM distributions WHERE state = 'making'")
    await travel(minutes=3)
    assert 1 == (await rotate()).ready
    ((other,),) = await execute("SELECT list_id FROM slots WHERE milestone = 'landed'")
    assert former != other


@pytest.mark.parametrize("what", ["distribution", "list"])
async def test_what_is_deleted_before_it_is_listed_is_made_anew(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    execute: Execute,
    what: str,
) -> None:
    """A distribution that the platform did know is stopped, and its slot gets another one."""
    await platform.switch(facts={"links_lag_seconds": 3_600})
    await landed(**SHORT)
    await platform.switch(facts={"links_lag_seconds": 0})
    ((list_id, made),) = await execute(
        "SELECT s.list_id, d.distribution_id FROM slots AS s"
        " JOIN distributions AS d ON d.slot_id = s.id"
    )
    if what == "list":
        await milepost.upstream.delete_mailing_list(milepost.deployment.directory_id or "", list_id)
    else:
        await milepost.upstream.delete_distribution(made)
    await travel(minutes=5)
    assert 1 == (await milepost.replenish.run_once()).failed  # it may be too new
    await travel(minutes=6)
    assert 1 == (await milepost.replenish.run_once()).stopped
    assert None is (await client.get("/v1/milestones/landed")).json()["stopped"]
    await travel(hours=1)
    for _ in range(4):
        await milepost.replenish.run_once()
        await travel(minutes=2)
    assert [(1, 1, "stopped"), (1, 2, "ready")] == await pool(client)


async def test_a_successor_that_is_deleted_before_it_is_ready_is_made_anew(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    rotate: Rotation,
    execute: Execute,
) -> None:
    """Well before the one that it follows takes no more links."""
    await landed(**SHORT)
    await travel(days=17, hours=1)
    await platform.switch(facts={"links_lag_seconds": 600})
    assert 1 == (await rotate()).failed
    ((made,),) = await execute(
        "SELECT distribution_id FROM distributions WHERE state = 'making' AND slot_id = 1"
    )
    await milepost.upstream.delete_distribution(made)
    await travel(minutes=11)
    assert 1 == (await rotate()).stopped
    await travel(hours=1)
    await rotate()
    await travel(minutes=11)
    assert 1 == (await rotate()).ready
    assert [(1, 1, "ready"), (1, 2, "stopped"), (1, 3, "ready")] == await pool(client)


async def test_links_that_must_live_longer_shorten_what_a_distribution_takes(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, travel: Travel
) -> None:
    """From the moment at which the milestone says so, also for what is made already."""
    await landed(slots=1, link_days=30, min_link_days=10, fields=[])
    await travel(days=15)
    await landed(slots=1, link_days=30, min_link_days=20, fields=[])
    assert [(1, 1, "ready"), (1, 2, "ready")] == await pool(client)
    link = await ask(client, "e1")
    lives = datetime.fromisoformat(link["expires_at"]) - await milepost.store.runs.now()
    assert lives > timedelta(days=29)


async def test_what_is_paused_or_left_is_not_tended(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    rotate: Rotation,
) -> None:
    """It ages; a milestone that is resumed has what it needs before its first event."""
    await client.put("/v1/milestones/begun", json={"survey_id": platform.ready.survey_id})
    await milepost.store.pools.plan("begun", milepost.deployment.id)
    await client.post("/v1/milestones/begun/pause")
    await landed(**SHORT)
    begun = (await client.get("/v1/milestones/begun/pool")).json()["distributions"]
    assert ["making"] * 3 == [each["state"] for each in begun]
    await client.post("/v1/milestones/landed/pause")
    await travel(days=25)
    assert (0, 1) == ((counts := await rotate()).planned, counts.draining)
    assert 0 == (await milepost.replenish.run_once()).planned
    await client.post("/v1/milestones/landed/resume")
    assert 1 == (await milepost.replenish.run_once()).ready
    assert "issued" == (await ask(client, "e1"))["state"]
    assert 2 == Counter(await platform.writes())["distribution.create"]  # with its canary
    other = {"survey_id": "SV_000000000000002", **SHORT}
    await client.put("/v1/milestones/landed", json=other)
    await travel(days=31)
    await platform.forget()
    assert 2 == (await rotate()).retired
    assert "distribution.create" not in await platform.writes()


async def test_a_successor_is_made_as_the_account_allows(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    rotate: Rotation,
) -> None:
    """Not where no canary can be; and in time, with one canary, where that is listed late."""
    await landed(**SHORT)
    await ask(client, "e1")
    note = milepost.store.capabilities.note
    await note(Fact.PROBE_ONLY_DISTRIBUTION, holds=False, evidence="tried")
    await note(Fact.COMPLETE_LINKS, holds=False, evidence="tried")
    await platform.switch(facts={"links_lag_seconds": 48 * 3_600})
    await travel(days=17, hours=1)
    await platform.forget()
    assert (0, 1) == ((counts := await rotate()).planned, len(counts.errors))
    await note(Fact.PROBE_ONLY_DISTRIBUTION, holds=True, evidence="tried")
    for _ in range(9):
        counts = await rotate()
        await travel(hours=6)
    assert 1 == counts.ready
    assert [(1, 1, "ready"), (1, 2, "ready")] == await pool(client)
    assert ONE_SUCCESSOR == Counter(await platform.writes())


async def test_a_successor_whose_life_is_cut_short_is_stopped_alone(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    platform: Any,
    travel: Travel,
    rotate: Rotation,
    execute: Execute,
) -> None:
    """It would give links that die before they are said to; its canary is as short, and good."""
    await landed(**SHORT)
    await travel(days=18)
    await platform.fault("status", status=400, call_class="links")
    assert 1 == (await rotate()).failed
    await execute(
        "UPDATE distributions SET expires_at = expires_at + interval '1 day', lease_until = NULL"
        " WHERE state = 'making'"
    )
    assert 1 == (await rotate()).stopped
    _, successor = (await client.get("/v1/milestones/landed/pool")).json()["distributions"]
    assert successor["stopped_because"].startswith("the distribution expires at ")
    canary = "SELECT state FROM distributions WHERE description LIKE '%% canary %%'"
    assert [("ready",)] == await execute(canary)
    assert None is (await client.get("/v1/milestones/landed")).json()["stopped"]


async def test_a_successor_is_begun_three_days_before_where_links_are_listed_late(
    landed: Landed, milepost: Milepost, travel: Travel, rotate: Rotation
) -> None:
    """Although the one before takes links for only four."""
    await landed(**{**SHORT, "link_days": 14})
    await travel(days=1, hours=1)
    assert 0 == (await rotate()).planned
    await milepost.store.capabilities.note(Fact.COMPLETE_LINKS, holds=False, evidence="tried")
    assert 1 == (await rotate()).planned


async def test_links_of_each_known_form_are_built_across_generations(
    client: httpx.AsyncClient,
    *,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    rotate: Rotation,
) -> None:
    """The first is learnt, the second inherited; both are what the platform lists."""
    definition = {"survey_id": platform.ready.survey_id, **SHORT}
    for form in sorted({*get_args(LinkFormat)} - {"unknown"}):
        await platform.switch(facts={"link_format": form})
        key = f"in-{form}"
        (await client.put(f"/v1/milestones/{key}", json=definition)).raise_for_status()
        await milepost.replenish.run_once()
        for ref in ("ann", "ben"):
            link = await ask(client, f"{ref}-{form}", ref, key)
            assert link["url"] in [each async for each in listed(milepost, link["url"])]
            await travel(days=18)
            assert 1 == (await rotate()).ready
        await client.post(f"/v1/milestones/{key}/pause")


@pytest.mark.parametrize(
    "simulator_config", [Config(limits="none", facts={"link_format": "unknown"})]
)
async def test_links_of_an_unknown_form_are_not_built(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """The milestone is stopped and says why; nothing is made until a canary finds it mended."""
    await landed(**TWO)
    assert {"stopped"} == {state for _, _, state in await pool(client)}
    stop = (await client.get("/v1/milestones/landed")).json()["stopped"]
    assert (None, True) == (stop["expected"], "/survey/" in stop["found"])
    assert "a form that is not known" in stop["because"]
    (asked,) = await milepost.store.runs.page("canary", limit=1)
    assert "waiting" == asked.state
    for _ in range(3):
        await travel(days=1)
        assert "stopped" == (await milepost.run("canary", asked_by="a test")).state
        assert 0 == (await milepost.replenish.run_once()).planned
    made = Counter(await platform.writes())
    assert (1, 3) == (made["mailing_list.create"], made["distribution.create"])  # the canary's
    assert "route-stopped" == (await ask(client, "e1"))["reason"]["rule"]
    await platform.switch(facts={"link_format": "2023"})
    assert "done" == (await milepost.run("canary", asked_by="a test")).state
    assert 2 == (await milepost.replenish.run_once()).ready
    assert "issued" == (await ask(client, "e2", "ben"))["state"]
