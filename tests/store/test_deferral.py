"""Links handed over before they are made: what the caller holds stays, nothing waits for ever."""

from __future__ import annotations

import asyncio
import re
from uuid import uuid4

import pytest
from tests.store.conftest import Register, Sql, event, issued, later, setback

from milepost.errors import UnknownLink
from milepost.model import Lane, LinkState, Purpose, RegistrantDetails, Route
from milepost.store import LOCAL_URL, Store
from milepost.store.links import PARKED_AFTER, Asked, Backlog

DEFAULT_LANES = ["ready", "direct", "deferred"]
BUSY = "budget-spent"


def said(asked: Asked) -> tuple[str, str | None, str | None, bool]:
    """State, rule, lane, and whether there is a URL."""
    link = asked.link
    rule = link.reason.rule if link.reason else None
    return link.state.value, rule, link.lane and link.lane.value, link.url is not None


def token_of(asked: Asked) -> str:
    """The token in a short URL."""
    found = re.fullmatch(rf"{re.escape(LOCAL_URL)}/l/([A-Za-z0-9_-]{{22}})", asked.link.url or "")
    assert found is not None, asked.link.url
    return found[1]


async def test_without_a_call_the_claim_hands_a_short_url_over(
    store: Store, register: Register, sql: Sql
) -> None:
    """One write: the link waits with its slot, and its caller has a URL."""
    await register(lanes=DEFAULT_LANES)
    asked = await store.links.claim(event(), without=BUSY)
    assert ("waiting", BUSY, "deferred", True) == said(asked)
    assert (None, Route.LIST) == (asked.claim, asked.link.route)
    (row,) = sql("SELECT slot_id, distribution_id, attempt, due_at <= now() AS due FROM links")
    assert {"slot_id": 1, "distribution_id": None, "attempt": 0, "due": True} == row


@pytest.mark.parametrize("without", [None, BUSY])
async def test_who_has_a_short_url_is_told_it_again(
    store: Store, register: Register, without: str | None
) -> None:
    """A repeated event changes nothing, also when a call could be made by now."""
    await register(lanes=DEFAULT_LANES)
    first = await store.links.claim(event(), without=BUSY)
    again = await store.links.claim(event(), without=without)
    assert (first.link, None, False) == (again.link, again.claim, again.is_first)


async def test_a_job_makes_what_was_deferred_and_the_caller_keeps_what_it_has(
    store: Store, register: Register
) -> None:
    """The personal URL stands behind the short one; lane and URL of the answer stay."""
    await register(lanes=DEFAULT_LANES)
    first = await store.links.claim(event(), without=BUSY)
    (due,) = await store.links.due(LinkState.WAITING, 10)
    assert (event(), False) == (due.event, due.alone)
    taken = await store.links.claim(due.event, purpose=Purpose.DRAIN)
    assert taken.claim is not None
    assert not taken.claim.in_doubt
    link = await store.links.settle(issued(taken, lane=Lane.DIRECT))
    assert link is not None
    assert (first.link.url, Lane.DEFERRED, LinkState.ISSUED) == (link.url, link.lane, link.state)
    opened = await store.links.look(token_of(first))
    assert (issued(taken).url, None) == (opened.url, opened.gone)
    record = await store.links.find(link.id)
    assert record is not None
    assert (first.link.url, opened.url) == (record.url, record.other_url)


async def test_a_milestone_without_short_urls_queues(store: Store, register: Register) -> None:
    """Where callers want personal URLs only there is none until it is settled."""
    await register(lanes=["direct", "queued"])
    asked = await store.links.claim(event(), without=BUSY)
    assert ("waiting", BUSY, "queued", False) == said(asked)
    taken = await store.links.claim(event())
    link = await store.links.settle(issued(taken, lane=Lane.DIRECT))
    assert link is not None
    assert (issued(taken).url, Lane.QUEUED) == (link.url, link.lane)


async def test_a_setback_hands_over(store: Store, register: Register) -> None:
    """A call that brought nothing leaves a link that waits, and its caller has a URL."""
    await register(lanes=DEFAULT_LANES)
    for event_id, state in (("e1", LinkState.WAITING), ("e2", LinkState.UNKNOWN)):
        asked = await store.links.claim(event(event_id))
        link = await store.links.settle(setback(asked, state, route=Route.LIST))
        assert link is not None
        assert (state, Lane.DEFERRED, True) == (link.state, link.lane, link.url is not None)


async def test_a_link_in_the_making_is_handed_over_once(store: Store, register: Register) -> None:
    """At the deadline it gets its short URL; twice is the same, and the settlement keeps it."""
    await register(lanes=DEFAULT_LANES)
    asked = await store.links.claim(event())
    one, two = await asyncio.gather(*(store.links.hand_over(asked.link.id) for _ in range(2)))
    assert one == two == await store.links.hand_over(asked.link.id)
    assert (LinkState.CLAIMED, Lane.DEFERRED) == (one.state, one.lane)
    link = await store.links.settle(issued(asked, lane=Lane.DIRECT))
    assert link is not None
    assert (one.url, Lane.DEFERRED) == (link.url, link.lane)


async def test_a_settlement_that_is_first_stays(store: Store, register: Register) -> None:
    """What is handed over after it is the personal URL."""
    await register(lanes=DEFAULT_LANES)
    asked = await store.links.claim(event())
    link = await store.links.settle(issued(asked, lane=Lane.DIRECT))
    assert link == await store.links.hand_over(asked.link.id)
    assert link is not None
    assert issued(asked).url == link.url


async def test_due_links_are_handed_to_one_worker_and_clicked_ones_first(
    store: Store, register: Register
) -> None:
    """Oldest first, but for those whose short URL was opened; nobody gets one twice."""
    await register(lanes=DEFAULT_LANES, slots=5)
    asked = [await store.links.claim(event(f"e{n}"), without=BUSY) for n in range(5)]
    await store.links.click(token_of(asked[3]))
    order = [due.event.event_id for due in await store.links.due(LinkState.WAITING, 3)]
    assert ["e3", "e0", "e1"] == order
    order = [due.event.event_id for due in await store.links.due(LinkState.WAITING, 3)]
    assert ["e2", "e4"] == order
    assert [] == await store.links.due(LinkState.WAITING, 3)
    assert [] == await store.links.due(LinkState.UNKNOWN, 3)


async def test_a_click_is_noted_once(store: Store, register: Register, sql: Sql) -> None:
    """The first click counts; looking does not."""
    await register(lanes=DEFAULT_LANES)
    asked = await store.links.claim(event(), without=BUSY)
    opened = await store.links.look(token_of(asked))
    assert (None, None) == (opened.url, opened.gone)
    assert [{"clicked_at": None}] == sql("SELECT clicked_at FROM links")
    await store.links.click(token_of(asked))
    (first,) = sql("SELECT clicked_at FROM links")
    assert first["clicked_at"] is not None
    await store.links.click(token_of(asked))
    assert [first] == sql("SELECT clicked_at FROM links")
    with pytest.raises(UnknownLink):
        await store.links.click("x" * 22)


async def test_a_revoked_link_is_gone_and_not_made(store: Store, register: Register) -> None:
    """Its short URL ends at once, and who takes it up finds that it is not to be made."""
    await register(lanes=DEFAULT_LANES)
    asked = await store.links.claim(event(), without=BUSY)
    with pytest.raises(UnknownLink):
        await store.links.revoke(asked.link.id, asked_by="somebody else")
    record = await store.links.revoke(asked.link.id, asked_by="app")
    assert record.revoked_at is not None
    assert record == await store.links.revoke(asked.link.id)
    assert "revoked" == (await store.links.look(token_of(asked))).gone
    taken = await store.links.claim(event(), purpose=Purpose.DRAIN)
    assert ("suppressed", "revoked", "deferred", True) == said(taken)
    with pytest.raises(UnknownLink):
        await store.links.revoke(uuid4())


@pytest.mark.parametrize(
    ("column", "gone"), [("expires_at", "expired"), ("erased_at", "erased")], ids=str
)
async def test_a_short_url_ends(
    store: Store, register: Register, sql: Sql, column: str, gone: str
) -> None:
    """With its personal URL, and with its registrant."""
    await register(lanes=DEFAULT_LANES)
    asked = await store.links.claim(event(), without=BUSY)
    taken = await store.links.claim(event(), purpose=Purpose.DRAIN)
    await store.links.settle(issued(taken))
    table = "links" if gone == "expired" else "registrants"
    sql(f"UPDATE {table} SET {column} = now() WHERE ref = 'ann'")
    opened = await store.links.look(token_of(asked))
    assert (None, gone) == (opened.url, opened.gone)


async def test_a_link_fails_that_waited_as_long_as_it_would_have_lived(
    store: Store, register: Register, database_url: str
) -> None:
    """Nothing waits for ever, nor is in doubt for ever."""
    await register(lanes=DEFAULT_LANES, link_days=15)
    asked = await store.links.claim(event(), without=BUSY)
    doubt = await store.links.claim(event("doubt"))
    await store.links.settle(setback(doubt, LinkState.UNKNOWN))
    async with await Store.open(later(database_url, days=16)) as then:
        for event_id in ("e1", "doubt"):
            taken = await then.links.claim(event(event_id), purpose=Purpose.DRAIN)
            assert ("failed", "waited-too-long", "deferred", True) == said(taken)
        assert "withdrawn" == (await then.links.look(token_of(asked))).gone


async def test_an_event_that_kills_its_takers_is_parked(
    store: Store, register: Register, sql: Sql
) -> None:
    """Its claims are counted when they are taken over; a settlement in between begins anew."""
    await register(lanes=DEFAULT_LANES)
    asked = await store.links.claim(event())
    for deaths in range(1, PARKED_AFTER):
        sql("UPDATE links SET lease_until = now(), due_at = now()")
        (due,) = await store.links.due(LinkState.CLAIMED, 10)
        assert (deaths > 2) is due.alone
        asked = await store.links.claim(due.event, purpose=Purpose.DRAIN)
        assert asked.claim is not None
        assert asked.claim.in_doubt
    sql("UPDATE links SET lease_until = now(), due_at = now()")
    asked = await store.links.claim(event(), purpose=Purpose.DRAIN)
    assert ("failed", "parked") == said(asked)[:2]
    # The place is not given to another link: a call may have been accepted there.
    other = await store.links.claim(event("e2"))
    assert other.claim is not None
    assert 2 == other.claim.place.slot_id


async def test_once_is_handed_over_with_its_first_link(store: Store, register: Register) -> None:
    """While the first is only deferred nobody waits for it; both lead to one survey in the end."""
    await register(lanes=DEFAULT_LANES, repeat="once")
    await store.links.claim(event("e1"), without=BUSY)
    second = await store.links.claim(event("e2"), without=BUSY)
    assert ("waiting", "once", "deferred", True) == said(second)
    taken = await store.links.claim(event("e1"), purpose=Purpose.DRAIN)
    await store.links.settle(issued(taken))
    again = await store.links.claim(event("e2"), purpose=Purpose.DRAIN)
    assert ("issued", "once", "deferred", True) == said(again)
    assert (second.link.url, True) == (again.link.url, again.link.reused)
    assert issued(taken).url == (await store.links.look(token_of(second))).url


async def test_a_full_registrant_waits_with_a_short_url(store: Store, register: Register) -> None:
    """No place is free, so the caller gets its URL at once, and the link a place when one is."""
    await register(lanes=DEFAULT_LANES, slots=1)
    await store.links.settle(issued(await store.links.claim(event("e1"))))
    asked = await store.links.claim(event("e2"))
    assert ("waiting", "no-slot", "deferred", True) == said(asked)


async def test_arriving_registrants_wake_their_links(store: Store, register: Register) -> None:
    """A link that waits for its registrant is due when they come."""
    await register(lanes=DEFAULT_LANES, unknown_registrant="defer")
    asked = await store.links.claim(event(ref="dora"))
    assert ("waiting", "registrant-unknown", "deferred", True) == said(asked)
    assert [] == await store.links.due(LinkState.WAITING, 10)
    await store.registrants.put({"dora": RegistrantDetails(email="dora@x.test")})
    (due,) = await store.links.due(LinkState.WAITING, 10)
    taken = await store.links.claim(due.event, purpose=Purpose.DRAIN)
    assert taken.claim is not None
    assert asked.link.url == taken.link.url


async def test_what_waits_in_vain_is_looked_at_ever_less_often(
    store: Store, register: Register, sql: Sql
) -> None:
    """A job's look that changes nothing puts the next one off by a quarter of the link's age."""
    await register(lanes=DEFAULT_LANES, unknown_registrant="defer")
    await store.links.claim(event(ref="dora"))
    sql("UPDATE links SET created_at = created_at - interval '400 s'")
    await store.links.claim(event(ref="dora"), purpose=Purpose.DRAIN)
    (row,) = sql("SELECT extract(epoch FROM due_at - now())::int AS seconds FROM links")
    assert 98 <= row["seconds"] <= 100


async def test_the_backlog_is_what_is_unsettled(
    store: Store, register: Register, database_url: str
) -> None:
    """Clicked or not; whoever asks again soon is told the same, and nothing is counted for them."""
    await register(lanes=DEFAULT_LANES)
    first = await store.links.claim(event("e1"), without="budget-spent")
    await store.links.claim(event("e2", "ben"), without="budget-spent")
    await store.links.click((first.link.url or "").rsplit("/", 1)[1])
    both = [Backlog("landed", Route.LIST, LinkState.WAITING, 2)]
    assert both == await store.links.backlog()
    await store.links.claim(event("e3", "cleo"), without="budget-spent")
    assert both == await store.links.backlog()
    async with await Store.open(database_url) as another:
        assert [
            Backlog("landed", Route.LIST, LinkState.WAITING, 3)
        ] == await another.links.backlog()
