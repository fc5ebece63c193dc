"""Runs: each due time is one run's, and nobody moves a run on who has lost it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import IntegrityError
from tests.clock import Clock
from tests.store.conftest import Sql

from milepost.store import Store
from milepost.store.connections import statement
from milepost.store.runs import (
    KEPT_DAYS,
    LEASE_SECONDS,
    LONGEST_TEXT,
    Finding,
    NumberedFinding,
    Outlook,
    RunRecord,
    RunStore,
    TakenAway,
)

BEGIN = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.fixture
def clock(database_url: str) -> Clock:
    """The database's clock, at noon."""
    clock = Clock(database_url)
    clock.set(BEGIN)
    return clock


@pytest.fixture
async def runs(clock: Clock, database_url: str) -> AsyncIterator[RunStore]:  # noqa: ARG001  (it is set first)
    """The verbs of runs; job `sync` is known."""
    async with await Store.open(database_url) as store:
        await store.runs.look(["sync"])
        yield store.runs


async def outlook(runs: RunStore, job: str = "sync") -> Outlook:
    """What comes next of a job."""
    (found,) = await runs.look([job])
    return found


async def take_due(runs: RunStore, due_at: datetime, coalesced: int = 0) -> RunRecord | None:
    """Take the run of a due time, as a scheduler that has just looked."""
    since = (await outlook(runs)).accounted_until
    return await runs.take("sync", since=since, due_at=due_at, coalesced=coalesced)


async def taken(runs: RunStore, minutes: float = 1) -> RunRecord:
    """A run of `sync` that was due so many minutes after the beginning, and is under way."""
    run = await take_due(runs, BEGIN + timedelta(minutes=minutes))
    assert run is not None
    return run


async def commit(runs: RunStore, run: RunRecord, page: int, *findings: Finding, **at: Any) -> None:
    """Commit a page."""
    given = {"stage": "contacts", "done": page, "total": 9, "counts": {"made": page}} | at
    await runs.commit(run, position={"page": page}, findings=findings, **given)


# --- taking ---------------------------------------------------------------------------------------


async def test_a_due_time_is_one_runs(runs: RunStore) -> None:
    """Of many who looked and want it, one has it; the account goes on to it."""
    since = (await outlook(runs)).accounted_until
    due_at = since + timedelta(minutes=1)
    took = await asyncio.gather(
        *(runs.take("sync", since=since, due_at=due_at, coalesced=2) for _ in range(12))
    )
    (run,) = [run for run in took if run is not None]
    assert (due_at, 2, "running", 1) == (run.due_at, run.coalesced, run.state, run.attempt)
    await runs.end(run, "done", counts={})
    assert None is await runs.take("sync", since=since, due_at=due_at)
    assert due_at == (await outlook(runs)).accounted_until


@pytest.mark.parametrize("minutes", [10, 50])
async def test_what_was_found_out_long_ago_holds_no_more(minutes: int, runs: RunStore) -> None:
    """Somebody else has taken a due time since: an earlier one is gone, a later one counts anew."""
    since = (await outlook(runs)).accounted_until
    run = await taken(runs, 30)
    await runs.end(run, "done", counts={})
    due_at = since + timedelta(minutes=minutes)
    assert None is await runs.take("sync", since=since, due_at=due_at)
    assert run.due_at == (await outlook(runs)).accounted_until


async def test_whoever_decides_is_not_waited_for(runs: RunStore, database_url: str) -> None:
    """The next tick comes in a second."""
    since = (await outlook(runs)).accounted_until
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute(statement("run_turn"), {"job": "sync"})
        async with asyncio.timeout(1):
            assert None is await runs.take("sync", since=since, due_at=since + timedelta(minutes=1))
    assert None is not await take_due(runs, since + timedelta(minutes=1))


async def test_one_run_of_a_job_is_under_way(runs: RunStore) -> None:
    """Neither a due time nor who asks begins another one; other jobs have their own."""
    run = await taken(runs)
    asked = await runs.ask("sync", asked_by="ops")
    assert None is await take_due(runs, BEGIN + timedelta(minutes=2))
    assert (True, False) == ((on := await outlook(runs)).is_held, on.is_wanted)
    other = await runs.ask("canary", asked_by="ops")
    assert other.id == ((await runs.take("canary")) or run).id
    await runs.end(run, "done", counts={})
    assert asked.id == ((await runs.take("sync")) or run).id


async def test_asked_for_twice_is_one_run_until_it_begins(runs: RunStore) -> None:
    """With the same options; many may ask at once. One that is begun may have passed it by."""
    asked = await asyncio.gather(*(runs.ask("sync", asked_by="ops") for _ in range(8)))
    assert 1 == len({run.id for run in asked})
    other = await runs.ask("sync", asked_by="ops", options={"accept_removals": True})
    first = await runs.take("sync")
    assert first is not None
    assert (asked[0].id, "ops") == (first.id, first.asked_by)
    again = await runs.ask("sync", asked_by="ops")
    assert asked[0].id < other.id < again.id


async def test_who_asked_first_comes_first_and_before_what_is_due(runs: RunStore) -> None:
    """One who waits for their own run begins nobody's that comes after it."""
    first = await runs.ask("sync", asked_by="one")
    second = await runs.ask("sync", asked_by="two", options={"accept_losses": True})
    run = await take_due(runs, BEGIN + timedelta(minutes=1))
    assert run is not None
    assert first.id == run.id
    await runs.end(run, "done", counts={})
    assert None is await runs.take("sync", run_id=first.id)
    run = await runs.take("sync", run_id=second.id)
    assert run is not None
    assert ({"accept_losses": True}, second.id) == (run.options, run.id)
    await runs.end(run, "done", counts={})
    run = await take_due(runs, BEGIN + timedelta(minutes=1))
    assert run is not None
    assert None is run.asked_by


# --- going on -------------------------------------------------------------------------------------


async def test_a_run_whose_worker_is_gone_goes_on_where_it_stood(
    runs: RunStore, clock: Clock
) -> None:
    """When its lease is over, and not before; it counts as failed there, twice."""
    run = await taken(runs)
    await commit(runs, run, 3)
    clock.go(seconds=LEASE_SECONDS - 5)
    assert (None, False) == (await runs.take("sync"), (await outlook(runs)).is_wanted)
    clock.go(seconds=6)
    assert (await outlook(runs)).is_wanted
    successor = await runs.take("sync")
    assert successor is not None
    assert (run.id, 2, {"page": 3}, {"made": 3}) == (
        successor.id,
        successor.attempt,
        successor.position,
        successor.counts,
    )
    assert ("contacts", 3, 9, 2) == (
        successor.stage,
        successor.done,
        successor.total,
        successor.failures,
    )
    assert run.started_at == successor.started_at


async def test_a_renewed_run_stays_its_workers(runs: RunStore, clock: Clock) -> None:
    """A commit renews it, too."""
    run = await taken(runs)
    for renew in (lambda: runs.renew(run), lambda: commit(runs, run, 1)):
        clock.go(seconds=LEASE_SECONDS - 5)
        await renew()
    clock.go(seconds=LEASE_SECONDS - 5)
    assert None is await runs.take("sync")


@pytest.mark.parametrize("then", ["running", "ended"])
async def test_a_worker_that_lost_its_run_changes_nothing(
    then: str, runs: RunStore, clock: Clock, sql: Sql
) -> None:
    """Whoever was frozen wakes up to find it somebody else's, whatever they do next."""
    run = await taken(runs)
    clock.go(seconds=LEASE_SECONDS + 1)
    successor = await runs.take("sync")
    assert successor is not None
    if then == "ended":
        await runs.end(successor, "done", counts={"made": 1})
    whole = "SELECT (SELECT jsonb_agg(r) FROM runs r), (SELECT jsonb_agg(j) FROM jobs j)"
    before = sql(whole)
    for late in (
        lambda: runs.renew(run),
        lambda: commit(runs, run, 9, Finding(reason="late")),
        lambda: runs.set_back(run, error="late", pause=0),
        lambda: runs.leave(run),
        lambda: runs.end(run, "done", counts={"made": 9}),
        lambda: runs.end(run, "done", counts={}, idle=True),
    ):
        with pytest.raises(TakenAway):
            await late()
    assert before == sql(whole)
    assert [] == await runs.findings(run.id)


async def test_a_run_that_is_set_back_goes_on_after_its_pause(runs: RunStore, clock: Clock) -> None:
    """It waits, and nothing of its job begins before it has ended."""
    run = await taken(runs)
    await commit(runs, run, 2)
    await runs.set_back(run, error="the platform is away", pause=60)
    paused = await runs.get(run.id)
    assert paused is not None
    assert ("waiting", "the platform is away", 1) == (paused.state, paused.error, paused.failures)
    assert None is await take_due(runs, BEGIN + timedelta(minutes=5))
    clock.go(seconds=61)
    successor = await runs.take("sync")
    assert successor is not None
    assert (run.id, 2, {"page": 2}, 1) == (
        successor.id,
        successor.attempt,
        successor.position,
        successor.failures,
    )
    await commit(runs, successor, 3)
    went_on = await runs.get(run.id)
    assert went_on is not None
    assert (0, None) == (went_on.failures, went_on.error)


async def test_who_asks_ends_a_pause(runs: RunStore) -> None:
    """They have mended what was wrong, and what was begun comes before their own."""
    run = await taken(runs)
    await runs.set_back(run, error="401", pause=900)
    asked = await runs.ask("sync", asked_by="ops")
    assert (await outlook(runs)).is_wanted
    successor = await runs.take("sync")
    assert successor is not None
    assert (run.id, 2) == (successor.id, successor.attempt)
    await runs.end(successor, "done", counts={})
    assert asked.id == ((await runs.take("sync")) or run).id


async def test_a_run_that_is_left_goes_on_at_once(runs: RunStore) -> None:
    """It did not fail."""
    run = await taken(runs)
    await runs.leave(run)
    successor = await runs.take("sync")
    assert successor is not None
    assert (run.id, 2, 0) == (successor.id, successor.attempt, successor.failures)


# --- what is written down -------------------------------------------------------------------------


async def test_findings_are_listed_with_the_page_they_belong_to(runs: RunStore) -> None:
    """Both or none; they are numbered as they come, and read page by page."""
    run = await taken(runs)
    rows = [Finding(reason=f"bad {n}", source="a.csv", line=n, ref=f"r{n}") for n in range(5)]
    await commit(runs, run, 1, *rows[:2])
    await runs.commit(
        run,
        position={"page": 2},
        stage="contacts",
        done=2,
        total=None,
        counts={},
        findings=rows[2:],
        first_finding=2,
    )
    found = await runs.findings(run.id)
    assert [
        NumberedFinding(number=n, reason=f"bad {n}", source="a.csv", line=n, ref=f"r{n}")
        for n in range(5)
    ] == found
    assert found[3:] == await runs.findings(run.id, after=2)
    assert found[1:3] == await runs.findings(run.id, after=0, limit=2)
    with pytest.raises(IntegrityError):
        await runs.commit(
            run,
            position={"page": 3},
            stage="contacts",
            done=3,
            total=None,
            counts={},
            findings=[Finding(reason="the same number again")],
            first_finding=4,
        )
    stayed = await runs.get(run.id)
    assert stayed is not None
    assert {"page": 2} == stayed.position


async def test_whatever_stands_in_a_file_can_be_listed(runs: RunStore) -> None:
    """Postgres has no NUL, UTF-8 no half characters, and nobody reads more than the beginning."""
    run = await taken(runs)
    await commit(runs, run, 1, Finding(reason="bad", ref="a\x00b\ud800c", source="x" * 10_000))
    (found,) = await runs.findings(run.id)
    assert ("a\ufffdb?c", "x" * LONGEST_TEXT) == (found.ref, found.source)


async def test_whatever_an_error_says_can_be_written_down(runs: RunStore) -> None:
    """Its text may hold what upstream said, or the name of a file."""
    run = await taken(runs)
    await runs.set_back(run, error="a\x00b\ud800c", pause=0)
    await runs.note_round("drain", "a\x00b\ud800c")
    again = await runs.get(run.id)
    drain = (await runs.records(["drain"]))["drain"]
    assert ["a\ufffdb?c"] * 2 == [again and again.error, drain.error]


async def test_of_runs_that_found_nothing_to_do_the_last_is_kept(runs: RunStore) -> None:
    """They would hide the others, which stay."""
    kept = []
    for minute, idle in enumerate((False, True, True, False, True), 1):
        run = await taken(runs, minute)
        await runs.end(run, "done", counts={} if idle else {"made": 1}, idle=idle)
        kept.append(run.id)
    assert [kept[n] for n in (4, 3, 0)] == [run.id for run in await runs.page("sync")]
    assert [kept[3]] == [run.id for run in await runs.page("sync", before=kept[4], limit=1)]


async def test_runs_are_forgotten_with_what_they_list(
    runs: RunStore, clock: Clock, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a time, so many findings at once; no due time that they stood for comes again."""
    monkeypatch.setattr("milepost.store.runs.SWEPT", 2)
    run = await taken(runs)
    await commit(runs, run, 1, *[Finding(reason="bad")] * 3)
    await runs.end(run, "done", counts={})
    assert not await runs.forget_some("sync")
    clock.go(days=KEPT_DAYS + 1)
    asked = await runs.ask("sync", asked_by="ops")
    await runs.end((await runs.take("sync")) or run, "done", counts={})
    assert await runs.forget_some("sync")
    assert [{"count": 1}] == sql("SELECT count(*) FROM findings")
    assert not await runs.forget_some("sync")
    assert [asked.id] == [run.id for run in await runs.page("sync")]
    assert [{"count": 0}] == sql("SELECT count(*) FROM findings")
    assert run.due_at == (await outlook(runs)).accounted_until


async def test_it_is_known_up_to_when_a_job_is_done(runs: RunStore, clock: Clock) -> None:
    """What began later than a due time has done it; what failed has not."""
    assert None is await runs.get(1)
    (record,) = (await runs.records(["sync", "rotate"])).values()
    assert (None, None) == (record.run, record.error)
    clock.go(minutes=10)
    run = await taken(runs, 5)
    clock.go(minutes=10)
    running = (await runs.records(["sync"]))["sync"]
    assert (run.id, record.done_until) == ((running.run or run).id, running.done_until)
    await runs.end(run, "done", counts={})
    done = (await runs.records(["sync"]))["sync"]
    assert run.started_at == done.done_until
    run = await taken(runs, 15)
    await runs.end(run, "failed", counts={}, error="refused")
    failed = (await runs.records(["sync"]))["sync"]
    assert done.done_until == failed.done_until
    assert (run.id, "failed") == (failed.run and failed.run.id, failed.run and failed.run.state)
    assert None is not (await outlook(runs)).failed_at


async def test_a_run_that_only_says_what_it_would_do_has_done_nothing(runs: RunStore) -> None:
    """The job is as late as it was, and its last run is the one before."""
    before = (await runs.records(["sync"]))["sync"]
    await runs.ask("sync", asked_by="ops", options={"dry_run": True})
    run = await runs.take("sync")
    assert run is not None
    await runs.end(run, "done", counts={"made": 1})
    after = (await runs.records(["sync"]))["sync"]
    assert (before.run, before.done_until) == (after.run, after.done_until)


async def test_rounds_of_a_job_that_never_ends_are_noted(runs: RunStore, clock: Clock) -> None:
    """With what was met last."""
    await runs.note_round("drain", "refused")
    first = (await runs.records(["drain"]))["drain"]
    assert ("refused", first.done_until) == (first.error, first.error_at)
    clock.go(seconds=10)
    await runs.note_round("drain")
    second = (await runs.records(["drain"]))["drain"]
    assert ("refused", first.error_at) == (second.error, second.error_at)
    assert second.done_until >= first.done_until + timedelta(seconds=10)


async def test_a_long_history_costs_nothing(runs: RunStore, sql: Sql) -> None:
    """What is asked each second finds its rows by their indexes."""
    sql(
        "INSERT INTO runs (job, due_at, state, attempt, counts, created_at, started_at, ended_at)"
        " SELECT 'sync', now() - n * interval '30 s', 'done', 1, '{}', now(), now(), now()"
        " FROM generate_series(1, 20000) n"
    )
    sql("ANALYZE runs")
    asked = await runs.ask("sync", asked_by="ops")
    explain = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
    async with runs._connections.path() as connection:  # noqa: SLF001  (as the verbs do)
        cursor = await connection.execute(explain + statement("run_look"), {"jobs": ["sync"]})
        (row,) = await cursor.fetchall()
    (plan,) = row["QUERY PLAN"]
    assert 100 > plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    assert asked.id == ((await runs.take("sync")) or asked).id
