"""The summary of links: what is written for it and when, and that no change is lost to a count."""

from __future__ import annotations

import asyncio
from datetime import datetime

import psycopg
import pytest
from tests.store.conftest import Register, Sql, event, issued

from milepost.jobs.funnel import Funnel
from milepost.store import Store

AGO = "UPDATE links SET created_at = created_at - interval '3 hours' WHERE event_id = %s"
DELIVER = """
WITH delivered AS (
    UPDATE links SET delivered_at = now() WHERE event_id = 'e1' RETURNING milestone, created_at)
INSERT INTO funnel_changes SELECT milestone, date_trunc('hour', created_at, 'UTC') FROM delivered
"""


FILL = """
INSERT INTO links (id, event_id, milestone, survey_id, ref, data, fingerprint, asked_by, attempt,
    state, rule, published, lane, lookup_id, url, expires_at, created_at, issued_at, delivered_at)
SELECT gen_random_uuid(), 'f' || n, 'landed', 's', 'r' || n, '{}', '{}', 'app', 0,
    CASE n %% 3 WHEN 0 THEN 'suppressed' WHEN 1 THEN 'failed' ELSE 'issued' END,
    CASE WHEN n %% 3 < 2 THEN 'quiet' END,
    CASE n %% 3 WHEN 2 THEN 'personal' END,
    CASE n %% 3 WHEN 2 THEN 'direct' END,
    CASE n %% 3 WHEN 2 THEN 'CGC_' || n END,
    CASE n %% 3 WHEN 2 THEN 'https://survey.test/' || n END,
    CASE n %% 3 WHEN 2 THEN now() END,
    now() - make_interval(hours => n / 4),
    CASE n %% 3 WHEN 2 THEN now() END,
    CASE WHEN n %% 3 = 2 AND n %% 5 = 0 THEN now() END
FROM generate_series(0, 799) AS n
"""
FINISH = """
WITH finished AS (
    UPDATE links SET finished_at = now()
    WHERE url IS NOT NULL AND substr(event_id, 2)::integer %% 7 = 0
    RETURNING milestone, created_at)
INSERT INTO funnel_changes SELECT milestone, date_trunc('hour', created_at, 'UTC') FROM finished
"""

WAITING = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


async def day_of(store: Store) -> dict[str, int]:
    """What the summary says of all days together, without zeros."""
    days = await store.funnel.days("landed", datetime(2000, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001  (only their days count)
    names = ("requested", "issued", "delivered", "finished", "suppressed", "failed")
    sums = {name: sum(getattr(day, name) for day in days) for name in names}
    return {name: n for name, n in sums.items() if n}


def truth(sql: Sql) -> dict[str, int]:
    """The same, asked of the ledger itself."""
    (row,) = sql(
        "SELECT count(*) AS requested, count(issued_at) AS issued, count(delivered_at) AS"
        " delivered, count(finished_at) AS finished,"
        " count(*) FILTER (WHERE state = 'suppressed') AS suppressed,"
        " count(*) FILTER (WHERE state = 'failed') AS failed FROM links"
    )
    return {name: n for name, n in row.items() if n}


async def until_waiting(sql: Sql) -> None:
    """Wait until somebody waits for a lock of another's."""
    while not sql(WAITING):  # noqa: ASYNC110  (Postgres has no event for it)
        await asyncio.sleep(0.01)


@pytest.fixture
async def made(store: Store, register: Register) -> Store:
    """A store with a link of event `e1`."""
    await register()
    await store.links.settle(issued(await store.links.claim(event("e1"))))
    return store


async def test_an_event_writes_nothing_for_the_summary(made: Store, sql: Sql) -> None:
    """Neither its claim nor its settlement; what changes a link of hours ago names its hour."""
    assert [] == sql("SELECT * FROM funnel_changes")
    asked = await made.links.claim(event("e2", "ben"))
    sql(AGO, "e2")
    await made.links.settle(issued(asked))
    (hour,) = sql("SELECT created_at FROM links WHERE event_id = 'e2'")
    begins = hour["created_at"].replace(minute=0, second=0, microsecond=0)
    expected = [{"milestone": "landed", "hour": begins}]
    assert expected == sql("SELECT * FROM funnel_changes")


async def test_a_change_that_is_committed_during_a_count_is_counted_by_the_next(
    made: Store, sql: Sql, database_url: str
) -> None:
    """The count takes away only what it saw: the row of the other transaction stays."""
    sql(AGO, "e1")
    await made.funnel.mark()
    async with await psycopg.AsyncConnection.connect(database_url) as app:
        await app.execute(DELIVER)
        await made.funnel.count_next()
        assert {"requested": 1, "issued": 1} == await day_of(made)
        await app.commit()
    await made.funnel.count_next()
    assert {"requested": 1, "issued": 1, "delivered": 1} == await day_of(made)


async def test_a_count_sees_what_was_committed_behind_its_look(
    made: Store, sql: Sql, database_url: str
) -> None:
    """An hour is counted by a later statement than the one that took it, by a newer snapshot."""
    sql(AGO, "e1")
    await Funnel(made.funnel).run_once()
    sql("INSERT INTO funnel_changes SELECT milestone, hour FROM funnel")
    async with await psycopg.AsyncConnection.connect(database_url) as app:
        await app.execute(DELIVER)
        await app.execute("SELECT FROM funnel FOR UPDATE")
        count = asyncio.create_task(made.funnel.count_next())
        await until_waiting(sql)
        await app.commit()
        assert await count is not None
    assert {"requested": 1, "issued": 1, "delivered": 1} == await day_of(made)


async def test_a_run_that_died_is_gone_on_with(made: Store, register: Register, sql: Sql) -> None:
    """Hours that it did not come to are counted by the next, and only that one says of when."""
    await register("boarded")
    await made.links.settle(issued(await made.links.claim(event("e2", "ben", "boarded"))))
    await made.funnel.mark()
    first = await made.funnel.count_next()
    assert first is not None
    assert ("boarded", None) == (first.milestone, (await made.funnel.standing("boarded"))[1])
    sql("UPDATE funnel_folds SET marked_until = now()")
    sql(AGO, "e1")
    counts = await Funnel(made.funnel).run_once()
    assert 2 <= counts.hours
    now, as_of = await made.funnel.standing("landed")
    assert as_of is not None
    assert as_of <= now


async def test_two_counts_of_an_hour_are_one_after_the_other(
    made: Store, sql: Sql, database_url: str
) -> None:
    """A worker that wakes up beside its successor cannot write what it counted before."""
    await made.funnel.mark()
    async with await psycopg.AsyncConnection.connect(database_url) as frozen:
        await frozen.execute("SELECT pg_advisory_xact_lock(%s)", [0x66756E6E656C])
        count = asyncio.create_task(made.funnel.count_next())
        await until_waiting(sql)
        await frozen.commit()
        assert await count is not None


async def test_the_summary_is_what_the_ledger_says(
    store: Store, register: Register, sql: Sql
) -> None:
    """Over hundreds of links of many days in every state, also after any of them has changed."""
    await register()
    sql(FILL)
    assert 200 == (await Funnel(store.funnel).run_once()).hours
    assert truth(sql) == await day_of(store)
    sql(FINISH)
    await Funnel(store.funnel).run_once()
    assert truth(sql) == await day_of(store)
