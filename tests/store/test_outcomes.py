"""What becomes of links is written once, and what differs is a fact once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tests.store.conftest import SURVEY, Register, Sql, event, issued

from milepost.model import DriftKind
from milepost.store import Store
from milepost.store.drift import Flag, clear, flag
from milepost.store.outcomes import Entry, Look, StepwiseLook
from milepost.store.responses import Judged, Unread

AT = datetime(2026, 11, 23, 21, 10, tzinfo=UTC)
RESPONSE = "R_000000000000001"


async def link_of(store: Store, event_id: str = "e1", ref: str = "ann") -> tuple[UUID, str]:
    """A link that is issued, and its lookup id."""
    settlement = issued(await store.links.claim(event(event_id, ref)), url=f"https://s/{event_id}")
    await store.links.settle(settlement)
    return settlement.id, settlement.lookup_id or ""


async def look(store: Store) -> Look:
    """The first distribution that is to be looked at."""
    return (await store.outcomes.due(after=0, limit=1))[0]


def judged(unread: Unread, link_id: UUID | None, **changes: Any) -> Judged:
    """A response that was found to be of a link."""
    found = {
        "survey_id": unread.survey_id,
        "response_id": unread.response_id,
        "lookup_id": unread.lookup_id,
        "started_at": None,
        "completed_at": AT,
        "verdict": "true",
        "rule": "unconfirmed",
        "link_id": link_id,
        "is_unexplained": False,
    }
    return Judged(**(found | changes))


async def test_a_moment_is_never_moved(store: Store, register: Register) -> None:
    """Told again, in another order, earlier or later: what is written stays, and is told once.

    A later moment stands for the earlier ones that nobody tells.
    """
    await register()
    link_id, lookup_id = await link_of(store)
    there = await look(store)
    started = Entry(lookup_id=lookup_id, started_at=AT)
    (changed,) = (await store.outcomes.tell(there, [started])).changed
    assert (True, True, False) == (changed.is_opened, changed.is_started, changed.is_finished)
    assert (link_id, "landed", "ann") == (changed.link_id, changed.milestone, changed.ref)
    assert [] == (await store.outcomes.tell(there, [started])).changed
    finished = Entry(
        lookup_id=lookup_id,
        opened_at=AT - timedelta(days=1),
        started_at=AT - timedelta(hours=1),
        finished_at=AT + timedelta(hours=1),
        response_id=RESPONSE,
    )
    (changed,) = (await store.outcomes.tell(there, [finished])).changed
    assert (False, False, True) == (changed.is_opened, changed.is_started, changed.is_finished)
    other = Entry(lookup_id=lookup_id, finished_at=AT, response_id="R_000000000000009")
    assert [] == (await store.outcomes.tell(there, [other, started])).changed
    link = await store.links.find(link_id)
    assert link is not None
    assert (AT, AT, AT + timedelta(hours=1), RESPONSE) == (
        *(link.opened_at, link.started_at, link.finished_at, link.response_id),
    )


async def test_what_is_told_besides_moves_nothing(store: Store, register: Register) -> None:
    """A link whose response is told later than its end keeps its moments."""
    await register()
    _, lookup_id = await link_of(store)
    there = await look(store)
    await store.outcomes.tell(there, [Entry(lookup_id=lookup_id, finished_at=AT)])
    later = AT + timedelta(days=1)
    more = Entry(lookup_id=lookup_id, finished_at=later, started_at=later, response_id=RESPONSE)
    (changed,) = (await store.outcomes.tell(there, [more])).changed
    assert (AT, AT, RESPONSE) == (changed.started_at, changed.finished_at, changed.response_id)
    assert (False, False) == (changed.is_started, changed.is_finished)


async def test_two_who_tell_the_same_write_it_once(store: Store, register: Register) -> None:
    """Which of them does, is chance; each moment is new for one of them alone."""
    await register()
    entries = [
        Entry(lookup_id=(await link_of(store, ref, ref))[1], finished_at=AT)
        for ref in ("ann", "ben", "cleo")
    ]
    there = await look(store)
    told = await asyncio.gather(
        *(store.outcomes.tell(there, entries[::step]) for step in (1, -1) * 4)
    )
    assert 3 == sum(link.is_finished for each in told for link in each.changed)


async def test_a_distribution_is_looked_at_until_two_weeks_behind_its_end(
    store: Store, register: Register, sql: Sql
) -> None:
    """Once more then, and never again; one that was torn down is not there to be asked.

    One that was given up was not looked at: the funnel does not take what it knows for known.
    """
    await register(slots=1)

    async def due(days: int) -> list[bool]:
        """Whether it is due, so many days behind its end; and whether for the last time."""
        end = "now() - make_interval(days => %s)"
        sql(f"UPDATE distributions SET takes_until = {end}, expires_at = {end}", days, days)
        return [found.is_last for found in await store.outcomes.due(after=0, limit=9)]

    assert [False] == await due(-10)
    await store.outcomes.looked((await look(store)).id, opened=0, started=0, finished=0)
    sql("UPDATE distributions SET reconciled_at = reconciled_at - interval '2 days'")
    assert [[False], [False], [True]] == [await due(days) for days in (-9, 13, 15)]
    await store.outcomes.looked((await look(store)).id, opened=0, started=0, finished=0)
    assert [] == await due(15)
    await due(-10)
    there = await look(store)
    sql("UPDATE distributions SET reconciled_at = NULL")
    assert [False] == await due(5)
    await store.outcomes.give_up(there.id)
    assert [] == await due(5)
    assert [{"reconciled_at": None}] == sql("SELECT reconciled_at FROM distributions")
    sql("UPDATE distributions SET given_up_at = NULL, state = 'retired'")
    assert [] == await due(-10)


async def test_a_link_with_a_distribution_of_its_own_is_looked_at_when_it_is_due(
    store: Store, register: Register, sql: Sql
) -> None:
    """For the first time a quarter of an hour behind its issue; not again once it is finished.

    Those that are due for the longest come first, also where there are more than are looked at.
    """
    await register()
    first, second, third = [(await link_of(store, ref, ref))[0] for ref in ("ann", "ben", "cleo")]
    sql("UPDATE links SET route = 'stepwise', steps = jsonb_build_object('distribution', 'EMD_7')")

    async def due(limit: int = 10) -> list[UUID]:
        """Those that are, in order."""
        found: list[StepwiseLook] = await store.outcomes.stepwise_due(limit)
        assert {"EMD_7"} >= {each.distribution_id for each in found}
        return [each.link_id for each in found]

    assert [] == await due()
    sql("UPDATE links SET issued_at = issued_at - interval '16 minutes'")
    await store.outcomes.look_again(third, -90)
    assert ([third, first, second], [third]) == (await due(), await due(1))
    await store.outcomes.look_again(third, 0)
    assert [first, second, third] == await due()
    await store.outcomes.look_again(second, 900)
    await store.outcomes.look_again(first, None)
    assert [third] == await due()


async def test_what_history_tells_later_is_judged_anew(store: Store, register: Register) -> None:
    """Where it names the link that was found, the response is confirmed; else it is read again.

    What was found meanwhile by somebody who did not know of that is not written.
    """
    await register()
    link_id, lookup_id = await link_of(store)
    other_id, other_lookup = await link_of(store, "e2", "ben")
    for number in (1, 2, 3):
        assert await store.responses.note(SURVEY, f"R_{number:015}")
    first, second, third = sorted(
        await store.responses.take(9), key=lambda unread: unread.response_id
    )
    for unread in (first, second):
        await store.responses.settle([judged(unread, link_id)])
    entries = [
        Entry(lookup_id=lookup_id, response_id=first.response_id),
        Entry(lookup_id=other_lookup, response_id=second.response_id),
        Entry(lookup_id="CGC_nobody", response_id=third.response_id),
    ]
    assert 2 == (await store.outcomes.tell(await look(store), entries)).responses
    await store.responses.settle([judged(third, other_id)])
    again = {unread.response_id: unread.lookup_id for unread in await store.responses.take(9)}
    assert {second.response_id: other_lookup, third.response_id: "CGC_nobody"} == again
    assert 0 == (await store.outcomes.tell(await look(store), entries)).responses


async def test_what_is_settled_stays_so_and_what_went_by_itself_comes_back(store: Store) -> None:
    """A fact is one row, however often it is seen."""
    facts = [
        Flag(kind=DriftKind.MEMBERSHIP_WITHOUT_LINK, subject=subject, lookup_id=subject)
        for subject in ("CGC_1", "CGC_2")
    ]

    async def seen() -> int:
        """See them; returns how many were not known."""
        async with store.connections.path() as connection, connection.transaction():
            return await flag(connection, facts)

    async def listed(*, is_settled: bool = False) -> list[str | None]:
        """What is open, or settled."""
        return [each.lookup_id for each in await store.drift.page(is_settled=is_settled)]

    assert [2, 0] == [await seen(), await seen()]
    first, _ = await store.drift.page()
    for by in ("ops", "somebody else"):
        assert "ops" == (await store.drift.settle(first.id, by=by)).settled_by
    async with store.connections.path() as connection:
        await clear(connection, [(fact.kind, fact.subject) for fact in facts])
    assert ([], ["CGC_1", "CGC_2"]) == (await listed(), await listed(is_settled=True))
    await seen()
    assert (["CGC_2"], ["CGC_1"]) == (await listed(), await listed(is_settled=True))
