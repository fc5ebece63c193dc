"""How claims end, and what becomes of those that do not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from tests.store.conftest import SUCCESSOR, Register, Sql, event, issued, later, setback, told

from milepost.model import LinkState
from milepost.store import Store
from milepost.store.links import LookupTaken, Step


async def test_an_issued_link_says_all(store: Store, register: Register) -> None:
    """URL, expiry and calls are the settlement's; the link is found by id and by event."""
    await register()
    settlement = issued(await store.links.claim(event()), calls=1)
    link = await store.links.settle(settlement)
    assert link is not None
    assert (settlement.url, settlement.expires_at, 1.0, None) == (
        link.url,
        link.expires_at,
        link.upstream_calls,
        link.reason,
    )
    assert link.data_at is not None
    assert told(link) == told(await store.links.find(link.id))
    assert told(link) == told(await store.links.find(event_id="e1", asked_by="app"))
    assert None is await store.links.find(link.id, asked_by="somebody else")
    assert [] == await store.links.page(after=link.id)


async def test_whatever_a_reason_says_can_be_written_down(store: Store, register: Register) -> None:
    """It may repeat what upstream said; links that are settled with it are none the worse."""
    await register()
    asked = await store.links.claim(event())
    link = await store.links.settle(setback(asked, detail="a\x00b\ud800c"))
    assert link is not None
    assert link.reason is not None
    assert "a\ufffdb?c" == link.reason.detail


async def test_a_late_settlement_changes_nothing(
    store: Store, register: Register, database_url: str
) -> None:
    """After the lease another takes over, in doubt; the frozen one finds its claim gone."""
    await register()
    frozen = await store.links.claim(event())
    async with await Store.open(later(database_url, seconds=19)) as before:
        assert None is (await before.links.claim(event())).claim
    async with await Store.open(later(database_url, seconds=21)) as after:
        taken = await after.links.claim(event())
        assert taken.claim is not None
        assert frozen.claim is not None
        assert (2, True, frozen.claim.place) == (
            taken.claim.attempt,
            taken.claim.in_doubt,
            taken.claim.place,
        )
        assert None is await store.links.settle(issued(frozen))
        link = await after.links.settle(issued(taken))
    assert link is not None
    assert None is await store.links.settle(setback(frozen, LinkState.FAILED))
    assert told(link) == told(await store.links.find(link.id))


async def test_an_unknown_outcome_is_resolved_by_three_looks_over_a_minute(
    store: Store, register: Register, database_url: str
) -> None:
    """A look that could not be made takes none away; a call that may be accepted takes all."""
    await register()
    await store.links.settle(setback(await store.links.claim(event()), LinkState.UNKNOWN))
    enough = []
    empty, none, lost = {"looked": True}, {"looked": False}, {"outcome_unknown": True}
    looks = (empty, empty, none, empty, lost, empty, empty, lost, empty, none)
    for seconds, outcome in zip(range(1, 200, 20), looks, strict=True):
        async with await Store.open(later(database_url, seconds=seconds)) as then:
            asked = await then.links.claim(event())
            assert asked.claim is not None
            assert asked.claim.in_doubt
            enough.append(asked.claim.looked_enough)
            await then.links.settle(setback(asked, LinkState.UNKNOWN, **outcome))
    assert [4] == [number for number, is_enough in enumerate(enough) if is_enough]


async def test_looks_are_good_for_one_claim(
    store: Store, register: Register, database_url: str
) -> None:
    """Whoever dies after it may have called on their strength: the next one looks again."""
    await register()
    await store.links.settle(setback(await store.links.claim(event()), LinkState.UNKNOWN))
    enough = []
    for seconds in (1, 21, 41, 62, 83):
        async with await Store.open(later(database_url, seconds=seconds)) as then:
            asked = await then.links.claim(event())
            assert asked.claim is not None
            enough.append(asked.claim.looked_enough)
            if seconds < 62:
                await then.links.settle(setback(asked, LinkState.UNKNOWN, looked=True))
    assert [False, False, False, True, False] == enough


async def test_looks_for_one_step_are_none_for_the_next(
    store: Store, register: Register, sql: Sql
) -> None:
    """What is written down was what they looked for."""
    await register()
    asked = await store.links.claim(event())
    sql("UPDATE links SET looks = 2, first_look_at = now()")
    assert asked.claim is not None
    step = Step(
        id=asked.link.id,
        attempt=asked.claim.attempt,
        name="transaction",
        value="CTR_1",
        contact="CID_1",
    )
    assert await store.links.note(step)
    assert [{"looks": 0, "first_look_at": None}] == sql("SELECT looks, first_look_at FROM links")


async def test_steps_are_one_contacts(store: Store, register: Register, sql: Sql) -> None:
    """What was made for another contact is given up with the first step for this one, and kept.

    So is what is made anew, as for another survey; when a link was to end is nothing there.
    """
    await register()
    asked = await store.links.claim(event())
    assert asked.claim is not None
    for name, value, contact in (
        ("transaction", "CTR_1", "CID_1"),
        ("batch", "BT_1", "CID_1"),
        ("end", "today", "CID_1"),
        ("end", "tomorrow", "CID_1"),
        ("transaction", "CTR_2", "CID_2"),
        ("distribution", "EMD_1", "CID_2"),
        ("distribution", "EMD_1", "CID_2"),
        ("distribution", "EMD_2", "CID_2"),
    ):
        step = Step(
            id=asked.link.id,
            attempt=asked.claim.attempt,
            name=name,
            value=value,
            contact=contact,
        )
        assert await store.links.note(step)
    steps = {
        "contact": "CID_2",
        "transaction": "CTR_2",
        "distribution": "EMD_2",
        "given_up": "distribution EMD_1, batch BT_1, transaction CTR_1",
    }
    assert [{"steps": steps}] == sql("SELECT steps FROM links")


async def test_earlier_lookup_ids_prove_nothing(store: Store, register: Register, sql: Sql) -> None:
    """A claim in doubt knows the lookup ids that its registrant had in the list before."""
    await register(slots=1)
    first = issued(await store.links.claim(event("e1")))
    await store.links.settle(first)
    sql("UPDATE links SET finished_at = now()")
    sql(SUCCESSOR)
    second = await store.links.claim(event("e2"))
    assert second.claim is not None
    assert frozenset() == second.claim.lookups_before
    await store.links.settle(setback(second, LinkState.UNKNOWN))
    asked = await store.links.claim(event("e2"))
    assert asked.claim is not None
    assert frozenset({first.lookup_id}) == asked.claim.lookups_before


async def test_a_link_in_doubt_stays_as_it_is_while_its_distribution_is_stopped(
    store: Store, register: Register, sql: Sql
) -> None:
    """Nothing is added to a distribution whose links are not trusted."""
    await register()
    await store.links.settle(setback(await store.links.claim(event()), LinkState.UNKNOWN))
    sql("UPDATE distributions SET state = 'stopped', stopped_because = 'format'")
    asked = await store.links.claim(event())
    assert (LinkState.UNKNOWN, None) == (asked.link.state, asked.claim)


async def test_a_pause_keeps_everybody_away(
    store: Store, register: Register, database_url: str
) -> None:
    """Until the pause is over the event is not taken up; then it is, as if for the first time."""
    await register()
    await store.links.settle(setback(await store.links.claim(event()), pause=30))
    asked = await store.links.claim(event())
    assert None is asked.claim
    assert asked.pause_until is not None
    assert 29 < (asked.pause_until - asked.at).total_seconds() <= 30
    async with await Store.open(later(database_url, seconds=31)) as then:
        claim = (await then.links.claim(event())).claim
    assert claim is not None
    assert (2, False) == (claim.attempt, claim.in_doubt)


async def test_a_failed_link_gives_its_place_back(store: Store, register: Register) -> None:
    """The next event of the person goes to the place that the failed one left."""
    await register()
    first = await store.links.claim(event("e1"))
    failed = await store.links.settle(
        setback(first, LinkState.FAILED, detail="refused\0", leaves=True)
    )
    assert failed is not None
    assert failed.reason is not None
    assert "refused\ufffd" == failed.reason.detail
    second = await store.links.claim(event("e2"))
    assert first.claim is not None
    assert second.claim is not None
    assert first.claim.place == second.claim.place
    assert failed == (await store.links.claim(event("e1"))).link


async def test_two_links_never_have_one_url(store: Store, register: Register) -> None:
    """A lookup id that another link has is refused by the database, and both rows stand."""
    await register()
    ann, ben = [await store.links.claim(event(ref, ref)) for ref in ("ann", "ben")]
    link = await store.links.settle(issued(ann))
    with pytest.raises(LookupTaken):
        await store.links.settle(issued(ben, lookup_id=issued(ann).lookup_id))
    assert told(link) == told(await store.links.find(event_id="ann"))
    assert LinkState.CLAIMED is (await store.links.claim(event("ben", "ben"))).link.state


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=-12))),
        datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
    ],
)
async def test_dates_at_the_edge_are_kept(
    store: Store, register: Register, sql: Sql, moment: datetime
) -> None:
    """The moment is stored to the microsecond, and the same moment in another zone is the same."""
    await register()
    first = await store.links.claim(event(occurred_at=moment))
    again = await store.links.claim(event(occurred_at=moment.astimezone(UTC)))
    assert first.link == again.link
    (row,) = sql("SELECT (extract(epoch FROM occurred_at) * 1000000)::bigint AS at FROM links")
    assert (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == row["at"]
