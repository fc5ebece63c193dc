"""What a claim decides: every rule of `claim.sql`, one after the other."""

from __future__ import annotations

import pytest
from tests.store.conftest import (
    SUCCESSOR,
    Register,
    Sql,
    event,
    issued,
    later,
    setback,
    told,
)

from milepost.errors import (
    EventMismatch,
    MilestonePaused,
    UnknownMilestone,
    UnknownRegistrant,
)
from milepost.model import LinkState, RegistrantDetails
from milepost.store import Store
from milepost.store.links import Asked


def decision(asked: Asked) -> tuple[str, str | None]:
    """State and rule of an answer; what is said with the rule must never be empty."""
    reason = asked.link.reason
    assert reason is None or reason.detail, reason
    return asked.link.state.value, reason.rule if reason else None


async def test_a_first_event_is_claimed(store: Store, register: Register) -> None:
    """The claim holds its place, and nothing is in doubt."""
    await register()
    asked = await store.links.claim(event(data={"gate": "B4", "delay": 2.5}))
    claim = asked.claim
    assert claim is not None
    assert ("claimed", None) == decision(asked)
    assert (True, 1, False, False) == (
        asked.is_first,
        claim.attempt,
        claim.in_doubt,
        claim.looked_enough,
    )
    assert {"gate": "B4", "delay": 2.5} == claim.data
    assert "ann@x.test" == claim.details.email


async def test_a_seen_event_is_not_claimed_again(store: Store, register: Register) -> None:
    """While the lease holds, and for ever once it is issued, the row is only told."""
    await register()
    first = await store.links.claim(event())
    second = await store.links.claim(event())
    assert (first.link.id, False, None) == (second.link.id, second.is_first, second.claim)
    link = await store.links.settle(issued(first))
    assert link is not None
    assert link == (await store.links.claim(event())).link


async def test_another_payload_is_refused_by_name(store: Store, register: Register) -> None:
    """The fields that differ are named, and the row is as it was."""
    await register()
    await store.links.claim(event(data={"gate": "B4", "same": 1}))
    with pytest.raises(EventMismatch) as refused:
        await store.links.claim(event(ref="ben", data={"gate": "B5", "same": 1}))
    assert ("data.gate", "registrant") == refused.value.fields


async def test_what_cannot_be_taken_is_refused(store: Store, register: Register, sql: Sql) -> None:
    """An unknown milestone or registrant and a paused milestone write nothing."""
    await register()
    with pytest.raises(UnknownMilestone):
        await store.links.claim(event(milestone="lost"))
    with pytest.raises(UnknownRegistrant):
        await store.links.claim(event(ref="dora"))
    await store.milestones.pause("landed", paused=True)
    with pytest.raises(MilestonePaused):
        await store.links.claim(event())
    assert [] == sql("SELECT 1 FROM links")


async def test_a_pause_does_not_stop_what_was_seen(store: Store, register: Register) -> None:
    """An event that waits is taken up although its milestone was paused since."""
    await register()
    asked = await store.links.claim(event())
    await store.links.settle(setback(asked))
    await store.milestones.pause("landed", paused=True)
    assert ("claimed", None) == decision(await store.links.claim(event()))


async def test_an_event_waits_for_its_registrant(store: Store, register: Register) -> None:
    """With `defer` it waits, and is claimed once they are there."""
    await register(unknown_registrant="defer")
    assert ("waiting", "registrant-unknown") == decision(await store.links.claim(event(ref="dora")))
    await store.registrants.put({"dora": RegistrantDetails(email="dora@x.test")})
    again = await store.links.claim(event(ref="dora"))
    assert ("claimed", None) == decision(again)
    assert (False, 1) == (again.is_first, again.claim and again.claim.attempt)


@pytest.mark.parametrize(
    ("column", "rule"), [("opted_out_at", "opted-out"), ("erased_at", "erased")]
)
async def test_who_is_out_gets_no_link(
    store: Store, register: Register, sql: Sql, column: str, rule: str
) -> None:
    """Neither a first time nor when a call of theirs is in doubt."""
    await register()
    await store.links.settle(
        setback(await store.links.claim(event("doubt")), LinkState.UNKNOWN, pause=0)
    )
    sql(f"UPDATE registrants SET {column} = now() WHERE ref = 'ann'")
    for event_id in ("doubt", "e1"):
        assert ("suppressed", rule) == decision(await store.links.claim(event(event_id)))


async def test_contacts_decide_who_gets_links(store: Store, register: Register) -> None:
    """A registrant without a value of the criteria has no contact, one with another's shares it."""
    await register()
    await store.registrants.put(
        {"dora": RegistrantDetails(), "eve": RegistrantDetails(email=" ANN@x.test ")}
    )
    for ref, rule in (("dora", "contact-incomplete"), ("eve", "contact-shared")):
        assert ("suppressed", rule) == decision(await store.links.claim(event(ref, ref)))


async def test_the_sample_is_sticky(store: Store, register: Register) -> None:
    """What is outside the sample stays outside, and about as many are in as were asked for."""
    await register(sample_percent=30, slots=25)
    rules = [decision(await store.links.claim(event(f"e{n}", "ann")))[1] for n in range(60)]
    outside = rules.count("sample")
    assert 30 < outside < 54
    await register(sample_percent=100, slots=25)
    again = await store.links.claim(event(f"e{rules.index('sample')}"))
    assert ("suppressed", "sample") == decision(again)


async def test_once_waits_reuses_and_ends(store: Store, register: Register, sql: Sql) -> None:
    """`once`: wait while the first is unsettled, reuse while it lives, suppress when finished."""
    await register(repeat="once")
    first = await store.links.claim(event("e1"))
    assert ("waiting", "once") == decision(await store.links.claim(event("e2")))
    link = await store.links.settle(issued(first))
    assert link is not None
    for event_id in ("e2", "e3"):
        reused = await store.links.claim(event(event_id))
        assert ("issued", "once") == decision(reused)
        assert (True, link.url, link.expires_at) == (
            reused.link.reused,
            reused.link.url,
            reused.link.expires_at,
        )
        assert reused.link.id != link.id
        assert told(reused.link) == told(await store.links.find(reused.link.id))
    sql("UPDATE links SET finished_at = now() WHERE event_id = 'e1'")
    assert ("suppressed", "once") == decision(await store.links.claim(event("e4")))


async def test_once_begins_again_when_the_link_expired_unfinished(
    store: Store, register: Register, sql: Sql
) -> None:
    """An expired link that nobody finished makes room for a fresh one, in another distribution."""
    await register(repeat="once")
    first = await store.links.claim(event("e1"))
    await store.links.settle(issued(first))
    sql("UPDATE links SET expires_at = now() - interval '1 s'")
    second = await store.links.claim(event("e2"))
    assert first.claim is not None
    assert second.claim is not None
    assert first.claim.place.distribution_id != second.claim.place.distribution_id


async def test_a_cooldown_counts_from_the_creation_of_both(
    store: Store, register: Register, database_url: str
) -> None:
    """It suppresses until it is over, also what waited longer than the cooldown lasts."""
    await register(repeat={"cooldown_days": 1}, unknown_registrant="defer")
    await store.links.claim(event("w1", "dora"))
    await store.links.claim(event("w2", "dora"))
    first = await store.links.claim(event("e1"))
    second = await store.links.claim(event("e2"))
    assert ("suppressed", "cooldown") == decision(second)
    assert second.link.reason is not None
    assert 86_400 == (second.link.reason.until - first.link.created_at).total_seconds()
    await store.registrants.put({"dora": RegistrantDetails(email="dora@x.test")})
    async with await Store.open(later(database_url, days=2)) as tomorrow:
        assert ("claimed", None) == decision(await tomorrow.links.claim(event("e3")))
        # The second one asks first: it counts the first all the same.
        assert ("suppressed", "cooldown") == decision(
            await tomorrow.links.claim(event("w2", "dora"))
        )
        assert ("claimed", None) == decision(await tomorrow.links.claim(event("w1", "dora")))


async def test_quiet_counts_over_all_milestones(
    store: Store, register: Register, database_url: str
) -> None:
    """Two links in a week, of whatever milestone, and the third waits for the first to age."""
    await register("boarded")
    await register(quiet={"links": 2, "days": 7})
    first = await store.links.claim(event("e1", milestone="boarded"))
    await store.links.claim(event("e2"))
    third = await store.links.claim(event("e3"))
    assert ("suppressed", "quiet") == decision(third)
    assert third.link.reason is not None
    assert 7 == (third.link.reason.until - first.link.created_at).days
    assert ("claimed", None) == decision(await store.links.claim(event("e4", milestone="boarded")))
    async with await Store.open(later(database_url, days=8)) as store_then:
        assert ("claimed", None) == decision(await store_then.links.claim(event("e5")))


async def test_a_person_has_one_live_link_in_a_list(
    store: Store, register: Register, sql: Sql
) -> None:
    """Slots are given out in order; when all are taken `when_full` decides; an end makes room."""
    await register(slots=2, max_slots=2)
    for event_id in ("e1", "e2"):
        await store.links.settle(issued(await store.links.claim(event(event_id))))
    assert ("waiting", "no-slot") == decision(await store.links.claim(event("e3")))
    await register(slots=2, max_slots=2, when_full="suppressed")
    assert ("suppressed", "no-slot") == decision(await store.links.claim(event("e4")))
    assert ("claimed", None) == decision(await store.links.claim(event("b1", "ben")))
    # The end of a link frees its list, but never its distribution: they would share one URL.
    sql("UPDATE links SET finished_at = now() WHERE event_id = 'e1'")
    await register(slots=2, max_slots=2)
    assert ("waiting", "no-slot") == decision(await store.links.claim(event("e3")))
    sql(SUCCESSOR)
    asked = await store.links.claim(event("e3"))
    assert asked.claim is not None
    assert (1, 3) == (asked.claim.place.slot_id, asked.claim.place.distribution_id)


async def test_a_pool_can_be_empty(store: Store, register: Register, sql: Sql) -> None:
    """Without a distribution that takes links the event waits, and a held place is kept."""
    await register()
    asked = await store.links.claim(event("held"))
    await store.links.settle(setback(asked))
    sql("UPDATE distributions SET takes_until = now()")
    for event_id in ("held", "e1"):
        assert ("waiting", "pool-empty") == decision(await store.links.claim(event(event_id)))
    sql("UPDATE distributions SET takes_until = expires_at")
    again = await store.links.claim(event("held"))
    assert again.claim is not None
    assert asked.claim is not None
    assert asked.claim.place == again.claim.place


async def test_a_milestone_without_the_direct_lane_waits(store: Store, register: Register) -> None:
    """No personal link is made at the event when no lane asks for one."""
    await register(lanes=["deferred"])
    assert ("waiting", "no-lane") == decision(await store.links.claim(event()))


async def test_a_place_of_another_survey_is_given_up(store: Store, register: Register) -> None:
    """A waiting event moves to the present survey; one in doubt is asked about where it was."""
    await register()
    waits = await store.links.claim(event("waits"))
    doubt = await store.links.claim(event("doubt"))
    await store.links.settle(setback(waits))
    await store.links.settle(setback(doubt, LinkState.UNKNOWN))
    await register(survey_id="SV_000000000000002")
    moved = await store.links.claim(event("waits"))
    asked = await store.links.claim(event("doubt"))
    assert moved.claim is not None
    assert asked.claim is not None
    assert doubt.claim is not None
    assert 3 < moved.claim.place.slot_id
    assert (doubt.claim.place, True) == (asked.claim.place, asked.claim.in_doubt)


async def test_names_are_only_names(store: Store, register: Register) -> None:
    """Whatever stands in a ref, an event's id or its data is stored as it was sent."""
    nasty = "'; DROP TABLE links; -- %s {} \\ \" \u2028 \U0001f6eb"
    await register(unknown_registrant="defer")
    await store.registrants.put({nasty: RegistrantDetails(email="n@x.test")})
    asked = await store.links.claim(event(nasty, nasty, data={"gate": nasty}))
    assert asked.claim is not None
    assert (nasty, nasty, {"gate": nasty}) == (
        asked.link.event_id,
        asked.link.registrant,
        asked.claim.data,
    )
    assert [asked.link] == await store.links.page(ref=nasty, event_id=nasty)
