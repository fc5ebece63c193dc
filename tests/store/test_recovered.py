"""Links that are written down as they were found at the platform, and are their events' again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from tests.store.conftest import SURVEY, Register, Sql, event

from milepost.jobs.funnel import Funnel
from milepost.model import Route
from milepost.store import Store
from milepost.store.recovered import FoundLink

HOURS_AGO = 3 * 3_600_000 << 80
"""What the id of a link of three hours ago is smaller by: the hour is not counted by itself."""


async def counted(store: Store) -> dict[str, int]:
    """How many links each milestone has by the summary, when what has changed is counted."""
    await Funnel(store.funnel).run_once()
    today = datetime.now(UTC).date()
    return {
        key: sum(day.issued for day in await store.funnel.days(key, today - timedelta(1), today))
        for key in ("here", "there")
    }


async def test_a_link_is_counted_where_its_event_says_that_it_belongs(
    store: Store, database_url: str, register: Register, sql: Sql
) -> None:
    """Of two milestones of route `stepwise` with one survey it may have been held for the other."""
    for key in ("here", "there"):
        await register(key, route="stepwise", lanes=["queued"])
    link = (await store.links.claim(event(milestone="there"), without="no-lane")).link
    sql("DELETE FROM links")
    held = FoundLink(
        id=UUID(int=link.id.int - HOURS_AGO),
        is_short=False,
        milestone="here",
        survey_id=SURVEY,
        route=Route.STEPWISE,
        slot_id=None,
        distribution_id=None,
        ref="ann",
        contact_key=None,
        lookup_id="CGC_a",
        url="https://survey.test/a",
        expires_at=datetime.now(UTC) + timedelta(days=60),
    )
    assert await store.recovered.hold(held)
    assert {"here": 1, "there": 0} == await counted(store)
    async with await Store.open(database_url, recovers=True) as restored:
        again = await restored.links.claim(event(milestone="there"))
    assert (held.id, "there") == (again.link.id, again.link.milestone)
    assert {"here": 0, "there": 1} == await counted(store)
