"""Pools: who makes a distribution, and that nobody else changes it."""

from __future__ import annotations

from asyncio import gather
from collections.abc import Awaitable, Callable
from datetime import timedelta

import msgspec
import pytest
from sqlalchemy.exc import IntegrityError
from tests.store.conftest import SUCCESSOR, SURVEY, Register, Sql, event, issued, later

from milepost.model import Demand, MilestoneDefinition, Purpose
from milepost.store import Store
from milepost.store.canaries import Canary
from milepost.store.memberships import Membership
from milepost.store.pools import NEWEST_LINKS, Making, PoolStore, TakenOver

MOVES: dict[str, Callable[[PoolStore, Making], Awaitable[object]]] = {
    "list": lambda pools, making: pools.note_list(making, "CG_late"),
    "distribution": lambda pools, making: pools.note_distribution(making, "EMD_late"),
    "ready": lambda pools, making: pools.ready(making, "late"),
    "stop": lambda pools, making: pools.stop(making, "late"),
    "release": lambda pools, making: pools.release(making, "late"),
}


async def landed(store: Store, survey_id: str = SURVEY) -> None:
    """Register milestone `landed` with one slot, which is still to be made."""
    definition = {"survey_id": survey_id, "slots": 1}
    await store.milestones.put("landed", msgspec.convert(definition, MilestoneDefinition))
    await store.pools.plan("landed", "abcdefgh")


@pytest.mark.parametrize("move", MOVES)
async def test_who_was_taken_over_changes_nothing(
    store: Store, sql: Sql, database_url: str, move: str
) -> None:
    """A process that was frozen past its lease finds out, whatever it wants to write down."""
    await landed(store)
    (frozen,) = await store.pools.claim(1)
    async with await Store.open(later(database_url, minutes=3)) as then:
        assert [frozen.id] == [making.id for making in await then.pools.claim(1)]
    everything = (
        "SELECT to_jsonb(s) AS slot, to_jsonb(d) AS distribution"
        " FROM slots AS s JOIN distributions AS d ON d.slot_id = s.id"
    )
    before = sql(everything)
    with pytest.raises(TakenOver, match="slot 1 of landed"):
        await MOVES[move](store.pools, frozen)
    assert before == sql(everything)


async def test_who_was_in_a_list_that_is_gone_is_forgotten(
    store: Store, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page, and whoever is put into it meanwhile: nobody is in the list that follows."""
    monkeypatch.setattr("milepost.store.pools.PAGE", 2)
    await landed(store)
    (making,) = await store.pools.claim(1)
    making = await store.pools.note_list(making, "CG_1")
    members = [
        Membership(registrant_id=id_, contact_key="k", contact_id=f"C{id_}", lookup_id=f"L{id_}")
        for (id_,) in (row.values() for row in sql("SELECT id FROM registrants"))
    ]
    assert 3 == await store.memberships.put(making.slot_id, "CG_1", members)
    forget = PoolStore._forget_members  # noqa: SLF001  (to come in behind it)

    async def overtaken(self: PoolStore, slot_id: int) -> None:
        """Somebody is put into the list behind the last page."""
        await forget(self, slot_id)
        assert [] == sql("SELECT * FROM memberships")
        assert 1 == await store.memberships.put(slot_id, "CG_1", members[:1])

    monkeypatch.setattr(PoolStore, "_forget_members", overtaken)
    await store.pools.leave_list(making, "it is gone")
    assert [] == sql("SELECT * FROM memberships")
    assert 0 == await store.memberships.put(making.slot_id, "CG_1", members)


async def test_what_is_made_is_not_made_again(store: Store) -> None:
    """One that is ready stays so, even for the attempt that made it."""
    await landed(store)
    (making,) = await store.pools.claim(1)
    making = await store.pools.note_list(making, "CG_1")
    making = await store.pools.note_distribution(making, "EMD_1")
    await store.pools.ready(making, "t")
    with pytest.raises(TakenOver):
        await store.pools.stop(making, "late")


async def test_a_pool_of_a_survey_that_was_left_is_not_made(store: Store) -> None:
    """Calls are spent on the milestone's present survey alone."""
    other = "SV_000000000000002"
    await landed(store)
    await landed(store, other)
    assert [other] == [making.survey_id for making in await store.pools.claim(9)]


async def test_the_home_list_of_who_was_taken_over_does_not_count(
    store: Store, database_url: str
) -> None:
    """The one who has the claim says which list it is."""
    first = await store.deployment.claim_home_list()
    async with await Store.open(later(database_url, minutes=2)) as then:
        second = await then.deployment.claim_home_list()
    assert (1, 2) == (first, second)
    assert not await store.deployment.note_home_list("CG_late", 1)
    assert (await store.deployment.load()).home_list_id is None
    assert await store.deployment.note_home_list("CG_1", 2)
    assert "CG_1" == (await store.deployment.load()).home_list_id


async def test_milestones_are_put_together_or_not_at_all(store: Store) -> None:
    """One that the table refuses takes the others with it."""
    good = MilestoneDefinition(survey_id=SURVEY)
    assert {"b": True, "a": True} == await store.milestones.put_all({"b": good, "a": good})
    assert {"c": True, "a": False} == await store.milestones.put_all({"c": good, "a": good})
    bad = msgspec.structs.replace(good, slots=0)
    with pytest.raises(IntegrityError):
        await store.milestones.put_all({"d": good, "e": bad})
    known = [milestone.key for milestone in await store.milestones.all()]
    assert ["a", "b", "c"] == known


OTHERS = """
INSERT INTO links (id, event_id, milestone, survey_id, ref, data, fingerprint, asked_by, attempt,
    created_at, state, rule)
SELECT ('ffffffff-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'x' || n, 'landed', %s,
    'x' || n, '{}', '{}', 'app', 0, now(), 'suppressed', 'sample'
FROM generate_series(0, %s) AS n
"""
"""Events of others, newer than any that came before."""


async def test_who_waits_for_a_place_is_seen_behind_any_number_of_events(
    store: Store, register: Register, sql: Sql
) -> None:
    """Two events that wait make two slots, one after the other, whoever came in between."""
    await register(lanes=["direct", "deferred"], slots=1, max_slots=5)
    await store.links.settle(issued(await store.links.claim(event("e1"))))
    for waiting in ("e2", "e3"):
        asked = await store.links.claim(event(waiting))
        assert "no-slot" == (asked.link.reason and asked.link.reason.rule)
    sql(OTHERS, SURVEY, NEWEST_LINKS)
    assert 1 == await store.pools.plan("landed", "abcdefgh")
    assert 0 == await store.pools.plan("landed", "abcdefgh")
    await register(lanes=["direct", "deferred"], slots=1, max_slots=5)  # the second slot is ready
    assert 0 == await store.pools.plan("landed", "abcdefgh")
    sql("UPDATE links SET due_at = now() WHERE event_id = 'e2'")
    again = await store.links.claim(event("e2"), purpose=Purpose.DRAIN)
    await store.links.settle(issued(again))
    assert 1 == await store.pools.plan("landed", "abcdefgh")


async def test_demand_counts_what_a_person_holds_and_asks_for(
    store: Store, register: Register, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live links, events that wait for a place, and those of the last week; nobody else's."""
    await register(lanes=["direct", "deferred"], slots=3, max_slots=3)
    await register("other", lanes=["direct", "deferred"], slots=3)
    for number in range(3):
        await store.links.settle(issued(await store.links.claim(event(f"e{number}"))))
    await store.links.claim(event("waits"))
    await store.links.claim(event("elsewhere", milestone="other"))
    await store.links.settle(issued(await store.links.claim(event("b1", "ben"))))
    assert [Demand(4, 4), Demand(1, 1)] == await store.pools.demand("landed")
    with monkeypatch.context() as patch:
        patch.setattr("milepost.store.pools.BUSIEST", 1)
        assert [Demand(4, 4)] == await store.pools.demand("landed")  # who is in the highest slot
    sql("UPDATE links SET finished_at = now() WHERE event_id = 'e0'")
    sql("UPDATE links SET expires_at = now() WHERE event_id = 'e1'")
    sql("UPDATE links SET created_at = now() - interval '8 days' WHERE event_id = 'e2'")
    assert Demand(2, 3) in await store.pools.demand("landed")


async def test_the_next_distribution_of_a_slot_is_planned_once(
    store: Store, register: Register, sql: Sql
) -> None:
    """However many look at the same time, and not while one is in the making."""
    await register(slots=2, max_slots=2)
    assert 0 == await store.pools.plan("landed", "abcdefgh", lead=timedelta(days=45))
    lead = timedelta(days=46)
    planned = await gather(*(store.pools.plan("landed", "abcdefgh", lead=lead) for _ in range(4)))
    assert 2 == sum(planned)
    generations = sql("SELECT generation, description FROM distributions ORDER BY id")
    assert [1, 1, 2, 2] == [row["generation"] for row in generations]
    assert generations[2]["description"].endswith(" 1 g2")


async def test_a_successor_is_not_calibrated_on_a_list_with_people_in_it(
    store: Store, register: Register, sql: Sql
) -> None:
    """Whether one has taken links there, or members were put there ahead of events."""
    await landed(store)
    (making,) = await store.pools.claim(1)
    assert (False, None) == (making.is_filled, making.inherited)
    making = await store.pools.note_list(making, "CG_1")
    making = await store.pools.note_probe(making, "CID_1", "CGC_1")
    sql(
        "INSERT INTO memberships SELECT r.id, %s, dedup_key, 'CID_2', 'CGC_2' FROM registrants AS r"
        " WHERE ref = 'ann'",
        making.slot_id,
    )
    sql("UPDATE distributions SET lease_until = NULL")
    (making,) = await store.pools.claim(1)
    assert (True, None) == (making.is_filled, making.inherited)
    sql("DELETE FROM memberships")
    await register(slots=1)
    await store.pools.plan("landed", "abcdefgh", lead=timedelta(days=50))
    (making,) = await store.pools.claim(1)
    assert (True, "t", 2) == (making.is_filled, making.inherited, making.generation)
    making = await store.pools.leave_list(making, "gone")
    assert (False, "t", None) == (making.is_filled, making.inherited, making.list_id)
    await store.pools.note_list(making, "CG_2")
    sql("UPDATE distributions SET lease_until = NULL")
    (making,) = await store.pools.claim(1)
    assert (False, None, "CG_2") == (making.is_filled, making.inherited, making.list_id)


async def test_a_canary_is_made_by_one_and_good_for_all(store: Store, sql: Sql) -> None:
    """One claim at a time; then whoever needs none newer gets its link, and others another."""
    await landed(store)
    began = await store.runs.now()
    first, second = [await store.canaries.take(SURVEY, "abcdefgh", since=began) for _ in range(2)]
    assert isinstance(first, Making)
    assert (None, None) == (first.milestone, second)
    assert [] == [each.id for each in await store.pools.claim(9) if each.milestone is None]
    making = await store.pools.note_list(first, "CG_c")
    making = await store.pools.note_probe(making, "CID_c", "CGC_c")
    making = await store.pools.note_distribution(making, "EMD_c")
    await store.pools.ready(making, "t{}")
    for _ in range(2):
        found = await store.canaries.take(SURVEY, "abcdefgh", since=began)
        assert isinstance(found, Canary)
        assert ("t{}", "CGC_c") == (found.template, found.probe_lookup_id)
    assert {} == await store.canaries.old(SURVEY)
    fresh = await store.canaries.take(SURVEY, "abcdefgh", since=await store.runs.now())
    assert isinstance(fresh, Making)
    assert ("CG_c", 2, frozenset({"EMD_c"})) == (fresh.list_id, fresh.generation, fresh.known)
    await store.pools.note_distribution(fresh, "EMD_d")
    await store.pools.stop(fresh, "unlike")
    assert {first.id: "EMD_c"} == await store.canaries.old(SURVEY)
    assert 1 == len(sql("SELECT id FROM slots WHERE milestone IS NULL"))


async def test_learning_changes_what_is_in_use_and_nothing_else(
    store: Store, register: Register, sql: Sql
) -> None:
    """What drains builds the links of those in doubt; what is retired builds none."""
    await register(slots=2)
    sql(SUCCESSOR)
    sql("UPDATE distributions SET state = 'draining' WHERE slot_id = 1 AND generation = 1")
    sql("UPDATE distributions SET state = 'retired' WHERE slot_id = 2")
    learnt = await store.canaries.learnt(SURVEY)
    assert {"EMD_1", "EMD_second"} == {each.distribution_id for each in learnt}
    await store.canaries.learn({each.id: "anew" for each in learnt})
    templates = sql("SELECT template FROM distributions ORDER BY id")
    assert ["anew", "t", "anew"] == [row["template"] for row in templates]


async def canary(store: Store, name: str, template: str = "t{}") -> Making:
    """Make a canary, whether or not there is one."""
    began = await store.runs.now()
    taken = await store.canaries.take(SURVEY, "abcdefgh", since=began)
    assert isinstance(taken, Making)
    making = await store.pools.note_distribution(taken, f"EMD_{name}")
    await store.pools.ready(making, template)
    return making


async def test_the_newest_canary_tells(store: Store, sql: Sql) -> None:
    """What it shows may have changed since the ones before."""
    began = await store.runs.now()
    await canary(store, "a", "older{}")
    await canary(store, "b", "newer{}")
    sql("UPDATE slots SET list_id = 'CG_c', probe_contact_id = 'CID_c', probe_lookup_id = 'CGC_c'")
    found = await store.canaries.take(SURVEY, "abcdefgh", since=began)
    assert isinstance(found, Canary)
    assert "newer{}" == found.template


async def test_a_canary_that_somebody_makes_is_not_taken_away(store: Store, sql: Sql) -> None:
    """Although a newer one is there: its lease has to end first."""
    began = await store.runs.now()
    making = await store.canaries.take(SURVEY, "abcdefgh", since=began)
    assert isinstance(making, Making)
    await store.pools.note_distribution(making, "EMD_a")
    await canary(store, "b")
    assert {} == await store.canaries.old(SURVEY)
    sql("UPDATE distributions SET lease_until = now()")
    assert {making.id: "EMD_a"} == await store.canaries.old(SURVEY)


async def test_canaries_do_not_age(store: Store, register: Register, sql: Sql) -> None:
    """They give no links; they are replaced."""
    await register(slots=1)
    await canary(store, "a")
    sql("UPDATE distributions SET expires_at = now(), takes_until = now()")
    assert {"draining": 0, "retired": 1} == await store.pools.age()


async def test_templates_of_a_survey_that_was_left_are_not_looked_at(
    store: Store, register: Register
) -> None:
    """Its milestone would be stopped for what it does not use."""
    await register(slots=1)
    assert 1 == len(await store.canaries.learnt(SURVEY))
    await landed(store, "SV_000000000000002")
    assert [] == await store.canaries.learnt(SURVEY)


async def test_nothing_is_made_for_a_milestone_that_is_stopped(store: Store) -> None:
    """Also of what was planned before; once it is trusted again, it is."""
    await landed(store)
    await store.milestones.stop("landed", "unlike", survey_id=SURVEY)
    assert [] == await store.pools.claim(9)
    assert await store.milestones.trust("landed", await store.runs.now(), survey_id=SURVEY)
    assert 1 == len(await store.pools.claim(9))


async def test_a_stop_is_ended_by_what_is_known_of_a_later_moment(store: Store) -> None:
    """What was known before it says nothing against it."""
    await landed(store)
    before = await store.runs.now()
    await store.milestones.stop("landed", "unlike", survey_id=SURVEY)
    assert not await store.milestones.trust("landed", before, survey_id=SURVEY)
    stopped = (await store.milestones.get("landed")).stop
    assert stopped is not None
    await store.milestones.stop("landed", "unlike again", survey_id=SURVEY)
    assert not await store.milestones.trust("landed", stopped.at, survey_id=SURVEY)
    again = (await store.milestones.get("landed")).stop
    assert again is not None
    assert (stopped.at, "unlike again") == (again.at, again.because)
    now = await store.runs.now()
    assert await store.milestones.trust("landed", now, survey_id=SURVEY)


async def test_what_is_seen_of_one_survey_says_nothing_of_another(store: Store, sql: Sql) -> None:
    """A milestone that has got another survey meanwhile is neither stopped for it nor trusted."""
    await landed(store)
    await landed(store, "SV_000000000000002")
    await store.milestones.stop("landed", "unlike", survey_id=SURVEY)
    assert None is (await store.milestones.get("landed")).stop
    await store.milestones.stop("landed", "unlike", survey_id="SV_000000000000002")
    assert not await store.milestones.trust("landed", await store.runs.now(), survey_id=SURVEY)
    assert None is not (await store.milestones.get("landed")).stop
    assert [{"trusted_at": None}] == sql("SELECT trusted_at FROM milestones")


async def test_an_answer_from_before_a_stop_answers_nobody(store: Store) -> None:
    """Whoever has resumed the milestone waits for what is seen after it was stopped."""
    await landed(store)
    before = await store.runs.now()
    await store.milestones.stop("landed", "unlike", survey_id=SURVEY)
    resumed = (await store.milestones.pause("landed", paused=False)).stop
    assert resumed is not None
    assert resumed.resumed_at is not None
    await store.milestones.answer("landed", resumed.resumed_at, before)
    assert resumed == (await store.milestones.get("landed")).stop


async def test_the_version_before_can_end_a_stop_that_was_resumed(store: Store, sql: Sql) -> None:
    """It does not know of the wish, which is not taken for one about the next stop."""
    await landed(store)
    await store.milestones.stop("landed", "unlike", survey_id=SURVEY)
    await store.milestones.pause("landed", paused=False)
    sql(
        "UPDATE milestones SET stopped_at = NULL, stopped_because = NULL, stopped_expected = NULL,"
        " stopped_found = NULL"
    )
    assert None is (await store.milestones.get("landed")).stop
    await store.milestones.stop("landed", "unlike again", survey_id=SURVEY)
    again = (await store.milestones.get("landed")).stop
    assert again is not None
    assert None is again.resumed_at


async def test_an_answer_is_to_who_has_resumed_the_milestone_by_then(store: Store) -> None:
    """Whoever resumes it while a canary is looked at waits for the next one."""
    await landed(store)
    assert None is (await store.milestones.pause("landed", paused=False)).stop
    await store.milestones.stop("landed", "unlike", survey_id=SURVEY)
    first, second = [await store.milestones.pause("landed", paused=False) for _ in range(2)]
    moments = [each.stop.resumed_at for each in (first, second) if each.stop]
    for moment, left in zip(moments, [moments[1], None], strict=True):
        assert moment is not None
        await store.milestones.answer("landed", moment, await store.runs.now())
        stop = (await store.milestones.get("landed")).stop
        assert stop is not None
        assert left == stop.resumed_at
