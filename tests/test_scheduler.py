"""Jobs come when they are due, in whichever process, and go on when theirs is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from msgspec import Struct
from tests.clock import Clock

from milepost import scheduler as scheduling
from milepost.calendars import Always, At, Calendar, Every
from milepost.errors import ConfigurationError, DatabaseBusy, MilepostError, UpstreamError
from milepost.jobs.run import MOST_FINDINGS, NeedsAPerson, Progress, Run
from milepost.policy import REPLENISH_SECONDS
from milepost.scheduler import (
    CADENCES,
    FIRST_PAUSE_SECONDS,
    REST_SECONDS,
    TRIES,
    Scheduler,
    standings,
    timetable,
)
from milepost.store import Store, connections
from milepost.store.runs import (
    DEATH,
    KEPT_DAYS,
    LEASE_SECONDS,
    Finding,
    RunRecord,
    RunStore,
)

BEGIN = datetime(2026, 11, 26, 12, tzinfo=UTC)
PAGES = 3

Act = Callable[[Run, int], Awaitable[None]]


class Pages(Struct, kw_only=True):
    """What a run of the job here did."""

    pages: int = 0


async def nothing(_: Run, __: int) -> None:
    """Let nothing happen."""


class Paged:
    """A job of three pages, which says what it does.

    Attributes:
        log: The id of the run and the number of the page, for each that was done.
        act: Happens before each page.
    """

    def __init__(self, act: Act = nothing) -> None:
        self.log: list[tuple[int, int]] = []
        self.act = act

    async def run_once(self, run: Run) -> Pages:
        """Do the pages that are left."""
        first = run.position["page"] if run.position else 0
        for page in range(first, PAGES):
            if run.stopping.is_set():
                break
            await self.act(run, page)
            self.log.append((run.record.id, page))
            done = page + 1
            await run.commit(
                {"page": done}, stage="pages", done=done, total=PAGES, counts=Pages(pages=done)
            )
        return Pages(pages=PAGES)


@pytest.fixture
def clock(database_url: str) -> Clock:
    """The database's clock, at noon."""
    clock = Clock(database_url)
    clock.set(BEGIN)
    return clock


@pytest.fixture
async def store(clock: Clock, database_url: str) -> AsyncIterator[Store]:  # noqa: ARG001  (it is set first)
    """The store of the process that is looked at."""
    async with await Store.open(database_url) as store:
        yield store


@pytest.fixture
async def elsewhere(clock: Clock, database_url: str) -> AsyncIterator[Store]:  # noqa: ARG001  (it is set first)
    """The store of another process, on the same database."""
    async with await Store.open(database_url) as store:
        yield store


MINUTELY: Calendar = At("* * * * *", "UTC")


def made(store: Store, job: Any, calendar: Calendar | None = MINUTELY) -> Scheduler:
    """A scheduler with one job."""
    return Scheduler(store.runs, {"sync": job}, {"sync": calendar})


async def due(scheduler: Scheduler, clock: Clock) -> RunRecord:
    """Let a minute go by, and run what is due."""
    await scheduler.run_due("sync", asyncio.Event())  # which makes the job known
    clock.go(seconds=60)
    run = await scheduler.run_due("sync", asyncio.Event())
    assert run is not None
    return run


async def never() -> None:
    """Wait for ever."""
    await asyncio.Event().wait()


# --- due times ------------------------------------------------------------------------------------


def full_hours(zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """The moments at which a clock on the wall shows a full hour for the first time."""
    shown: dict[str, datetime] = {}
    moment = begin.replace(minute=0) + timedelta(hours=1)
    while moment <= end:
        shown.setdefault(f"{moment.astimezone(ZoneInfo(zone)):%d %H}", moment)
        moment += timedelta(hours=1)
    return [*shown.values()]


@pytest.mark.parametrize(
    ("begin", "half_past_two"),
    [
        # 29 March has no half past two: its clock jumps at 01:00 UTC.
        (datetime(2026, 3, 28, 12, 10, tzinfo=UTC), "2026-03-29 01:00"),
        # 25 October has two.
        (datetime(2026, 10, 24, 12, 10, tzinfo=UTC), "2026-10-25 00:30"),
    ],
    ids=("forward", "back"),
)
async def test_four_schedulers_while_some_die_and_the_clock_is_set(
    begin: datetime, half_past_two: str, database_url: str
) -> None:
    """Over that night each due time of an hourly and of a daily job is one run's, none is missed.

    So say the table of runs, and what the jobs wrote down themselves. Now and then whoever has a
    run dies, and for some hours nobody is there.
    """
    zone = "Europe/Berlin"
    clock = Clock(database_url)
    clock.set(begin)
    log: list[tuple[str, datetime]] = []
    doomed: set[str] = set()

    class Written:
        """A job that writes down for which due time it was run."""

        async def run_once(self, run: Run) -> Pages:
            """Write it down, or be gone without a word, as a process that is killed."""
            if run.record.job in doomed:
                doomed.remove(run.record.job)
                raise asyncio.CancelledError
            log.append((run.record.job, run.record.due_at))
            return Pages(pages=1)

    when = {"rotate": At("0 * * * *", zone), "sync": At("30 2 * * *", zone)}
    now, end = begin, begin + timedelta(hours=26)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(await Store.open(database_url)) for _ in range(4)]
        schedulers = [
            Scheduler(store.runs, dict.fromkeys(when, Written()), when) for store in stores
        ]
        for step in range(200):
            await asyncio.gather(*(each.tick(asyncio.Event()) for each in schedulers))
            await asyncio.gather(*(each.finish() for each in schedulers))
            if now >= end:
                break
            doomed |= {"rotate", "sync"} if step % 7 == 4 else set()
            now = min(now + timedelta(minutes=240 if step == 20 else 50), end)
            clock.set(now)
        runs = {name: (await stores[0].runs.page(name, limit=1_000))[::-1] for name in when}

    expected = {
        "rotate": full_hours(zone, begin, end),
        "sync": [datetime.fromisoformat(f"{half_past_two}+00:00")],
    }
    for name, dues in expected.items():
        assert {"done"} == {run.state for run in runs[name]}
        stood_for = []
        for run in runs[name]:
            before = len(stood_for)
            stood_for += dues[before : before + run.coalesced + 1]
            assert stood_for[-1] == run.due_at
        assert dues == stood_for
        assert [(name, run.due_at) for run in runs[name]] == [at for at in log if at[0] == name]
    assert any(run.coalesced for run in runs["rotate"])
    assert any(run.attempt > 1 for run in runs["rotate"])


async def test_what_was_due_while_nobody_was_there_is_done_once(store: Store, clock: Clock) -> None:
    """By one run, which says for how many it stands."""
    job = Paged()
    every = made(store, job, Every(30))
    assert None is await every.run_due("sync", asyncio.Event())  # known from now on
    clock.go(minutes=30)
    asked = await store.runs.ask("sync", asked_by="ops")
    for expected in (asked.id, None):  # whoever asked waits for that run, and begins no other
        ran = await every.run_due("sync", asyncio.Event(), run_id=asked.id)
        assert expected == (ran and ran.id)
    job.log.clear()
    run = await every.run_due("sync", asyncio.Event())
    assert run is not None
    assert ("done", 59) == (run.state, run.coalesced)
    assert [(run.id, page) for page in range(PAGES)] == job.log
    assert None is await every.run_due("sync", asyncio.Event())


async def test_a_long_job_holds_up_no_other(store: Store, clock: Clock) -> None:
    """Each has its own task, and none is begun twice."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: Run, __: int) -> None:
        """Be long."""
        begun.set()
        await go_on.wait()

    long, short = Paged(wait), Paged()
    when = {"rotate": MINUTELY, "sync": MINUTELY}
    both = Scheduler(store.runs, {"rotate": long, "sync": short}, when)
    stopping = asyncio.Event()
    await both.tick(stopping)
    for _ in range(3):
        clock.go(minutes=1)
        await both.tick(stopping)
        await begun.wait()
        while len(both._under_way) > 1:  # noqa: ASYNC110, SLF001  (there is no event for the other's end)
            await asyncio.sleep(0)
    go_on.set()
    await both.finish()
    assert (PAGES, 3 * PAGES) == (len(long.log), len(short.log))


# --- going on -------------------------------------------------------------------------------------


async def test_a_run_goes_on_at_the_page_that_was_committed_last(
    store: Store, elsewhere: Store, clock: Clock
) -> None:
    """Another process takes it when the lease of the one that died is over."""
    killed = asyncio.Event()

    async def die(_: Run, page: int) -> None:
        """Be killed before the third page is done."""
        if page == 2:
            killed.set()
            await never()

    one, two = Paged(die), Paged()
    first, second = made(store, one), made(elsewhere, two)
    await first.tick(asyncio.Event())
    clock.go(minutes=1)
    await first.tick(asyncio.Event())
    await killed.wait()
    (task,) = first._under_way.values()  # noqa: SLF001  (its process is gone)
    task.cancel()
    assert None is await second.run_due("sync", asyncio.Event())
    clock.go(seconds=LEASE_SECONDS)
    run = await second.run_due("sync", asyncio.Event())
    assert run is not None
    assert ([(run.id, 0), (run.id, 1)], [(run.id, 2)]) == (one.log, two.log)
    assert ("done", 2, {"pages": PAGES, "found": 0}) == (run.state, run.attempt, run.counts)


async def test_a_process_that_ends_leaves_its_run_to_another_at_once(
    store: Store, elsewhere: Store, clock: Clock
) -> None:
    """At the page that it had come to; that is no failure."""
    stopping = asyncio.Event()

    async def end(_: Run, page: int) -> None:
        """Be told to end amid the second page."""
        if page == 1:
            stopping.set()

    one, two = Paged(end), Paged()
    first, second = made(store, one), made(elsewhere, two)
    await first.run_due("sync", stopping)
    clock.go(minutes=1)
    left = await first.run_due("sync", stopping)
    assert left is not None
    assert ("waiting", {"page": 2}, None) == (left.state, left.position, left.error)
    run = await second.run_due("sync", asyncio.Event())
    assert run is not None
    assert (left.id, "done", 0) == (run.id, run.state, run.failures)
    assert [(run.id, 2)] == two.log


async def test_a_job_that_comes_to_no_page_is_broken_off_when_its_process_ends(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a time that is enough for a call; whoever ends processes does not wait for ever."""
    monkeypatch.setattr(scheduling, "LEAVE_SECONDS", 0.01)
    stopping = asyncio.Event()

    async def stay(_: Run, page: int) -> None:
        """Never be done."""
        if page == 1:
            stopping.set()
            await never()

    one = made(store, Paged(stay))
    await one.run_due("sync", stopping)
    clock.go(minutes=1)
    left = await one.run_due("sync", stopping)
    assert left is not None
    assert ("waiting", {"page": 1}, 0) == (left.state, left.position, left.failures)


async def test_whoever_loses_the_lease_is_broken_off(
    store: Store, elsewhere: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was frozen, say; the run is another's, and what it did last does not count."""
    monkeypatch.setattr(scheduling, "RENEW_SECONDS", 0.01)
    begun, broken_off = asyncio.Event(), asyncio.Event()

    async def stay(_: Run, page: int) -> None:
        """Be at the second page for ever."""
        if page == 1:
            begun.set()
            try:
                await never()
            finally:
                broken_off.set()

    one, two = made(store, Paged(stay)), made(elsewhere, Paged())
    await one.run_due("sync", asyncio.Event())
    clock.go(minutes=1)
    running = asyncio.create_task(one.run_due("sync", asyncio.Event()))
    await begun.wait()
    clock.go(seconds=LEASE_SECONDS + 1)
    took: RunRecord | None = None
    while took is None:  # the first may have renewed it meanwhile: nobody else wanted it
        took = await two.run_due("sync", asyncio.Event())
        clock.go(seconds=LEASE_SECONDS + 1)
    await broken_off.wait()
    seen = await running
    assert seen is not None
    assert ("done", took.id, took.attempt) == (took.state, seen.id, seen.attempt)
    assert took == await store.runs.get(took.id)


async def test_a_long_page_keeps_its_lease(
    store: Store, elsewhere: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is renewed while the job is at it."""
    monkeypatch.setattr(scheduling, "RENEW_SECONDS", 0.001)
    renewed = asyncio.Event()
    renew = store.runs.renew

    async def told(run: RunRecord) -> None:
        """Renew, and say so."""
        await renew(run)
        renewed.set()

    monkeypatch.setattr(store.runs, "renew", told)

    async def wait(_: Run, __: int) -> None:
        """Be as long as several leases."""
        for _ in range(4):
            clock.go(seconds=LEASE_SECONDS - 2)
            renewed.clear()
            await renewed.wait()
            assert None is await other.run_due("sync", asyncio.Event())

    one, other = made(store, Paged(wait)), made(elsewhere, Paged())
    run = await due(one, clock)
    assert ("done", 1) == (run.state, run.attempt)


async def test_whoever_cannot_renew_the_lease_stops_in_time(
    clock: Clock, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others see the database, it may be, and have the run by now."""
    monkeypatch.setattr(connections, "POOL_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(scheduling, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(scheduling, "LEASE_SECONDS", 0.2)
    broken_off = asyncio.Event()
    async with await Store.open(database_url) as store, AsyncExitStack() as stack:

        async def stay(_: Run, __: int) -> None:
            """Have no connection any more, and never be done."""
            for _ in range(4):
                await stack.enter_async_context(store.connections.transaction())
            try:
                await never()
            finally:
                broken_off.set()
                await stack.aclose()

        run = await due(made(store, Paged(stay)), clock)
        assert broken_off.is_set()
        assert ("running", 1) == (run.state, run.attempt)


# --- what goes wrong ------------------------------------------------------------------------------


def failing(*errors: BaseException, page: int = 1) -> Act:
    """Meet these, one after the other, before a page."""
    left = [*errors]

    async def meet(_: Run, at: int) -> None:
        """Meet the next."""
        if at == page and left:
            raise left.pop(0)

    return meet


async def test_what_passes_is_waited_for_ever_longer(store: Store, clock: Clock) -> None:
    """The platform is away: the run goes on at its page after pauses that double."""
    away = [UpstreamError("the platform is away")] * 2
    job = Paged(failing(*away))
    one = made(store, job)
    run = await due(one, clock)
    for number, pause in enumerate((FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS), 1):
        assert ("waiting", number, "the platform is away") == (run.state, run.failures, run.error)
        clock.go(seconds=pause - 5)
        assert None is await one.run_due("sync", asyncio.Event())
        clock.go(seconds=5)
        again = await one.run_due("sync", asyncio.Event())
        assert again is not None
        run = again
    assert ("done", 0, None, 3) == (run.state, run.failures, run.error, run.attempt)
    assert [(run.id, page) for page in range(PAGES)] == job.log


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([UpstreamError("the platform is away"), DatabaseBusy("Postgres is away")], "Postgres is"),
        (
            [ExceptionGroup("ann@example.com", [ValueError("ann")]), ValueError("ann@example.com")],
            "ValueError at test_scheduler.py:",
        ),
    ],
    ids=("passing", "mistake"),
)
async def test_a_run_that_fails_again_and_again_is_given_up(
    errors: list[Exception],
    said: str,
    store: Store,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ours may be the mistake; what an error says of people is told nowhere.

    The next due time waits a while, and then has a run of its own.
    """
    one = made(store, Paged(failing(*errors * (TRIES // 2))))
    run = await due(one, clock)
    for _ in range(TRIES - 1):
        assert "waiting" == run.state
        clock.go(minutes=15)
        again = await one.run_due("sync", asyncio.Event())
        assert again is not None
        run = again
    assert ("failed", TRIES, {"pages": 1, "found": 0}) == (run.state, run.attempt, run.counts)
    assert str(run.error).startswith(said)
    assert "ann" not in f"{run.error}{caplog.text}"
    clock.go(seconds=REST_SECONDS - 30)
    assert None is await one.run_due("sync", asyncio.Event())
    clock.go(seconds=30)
    following = await one.run_due("sync", asyncio.Event())
    assert following is not None
    assert ("done", True) == (following.state, following.id > run.id)


async def test_a_run_of_which_workers_die_is_given_up(store: Store, clock: Clock) -> None:
    """It takes everything along that its process does, so fewer deaths are enough."""
    one = made(store, Paged(failing(*[asyncio.CancelledError()] * TRIES, page=0)))
    stopping = asyncio.Event()
    await one.tick(stopping)
    clock.go(minutes=1)
    deaths = 0
    while True:
        await one.tick(stopping)
        await one.finish()
        (run,) = await store.runs.page("sync")
        if run.state != "running":
            break
        deaths += 1
        clock.go(seconds=LEASE_SECONDS + 1)
    assert ("failed", TRIES // DEATH) == (run.state, deaths)
    assert "its workers died of it, again and again" == run.error


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (NeedsAPerson("15 % are missing; run sync with --accept-removals"), "stopped"),
        (MilepostError("there is no such file"), "failed"),
    ],
    ids=("stopped", "failed"),
)
async def test_what_only_a_person_can_mend_ends_the_run(
    error: MilepostError, state: str, store: Store, clock: Clock
) -> None:
    """At once, and with the sentence; what was done until then stays told."""
    run = await due(made(store, Paged(failing(error))), clock)
    assert (state, str(error), {"pages": 1, "found": 0}, 1) == (
        run.state,
        run.error,
        run.counts,
        run.attempt,
    )


async def test_the_end_is_written_down_also_past_an_outage(
    clock: Clock, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done need not be done again because Postgres restarted at the last moment."""
    monkeypatch.setattr(connections, "POOL_TIMEOUT_SECONDS", 0.02)
    monkeypatch.setattr(connections, "WRITE_AGAIN_SECONDS", 0.01)
    async with await Store.open(database_url) as store, AsyncExitStack() as stack:

        class Last(Paged):
            """The job, whose process has no connection any more when it ends."""

            async def run_once(self, run: Run) -> Pages:
                """Do it all."""
                counts = await super().run_once(run)
                for _ in range(4):
                    await stack.enter_async_context(store.connections.transaction())
                asyncio.get_running_loop().call_later(
                    0.2, lambda: ending.append(asyncio.create_task(stack.aclose()))
                )
                return counts

        ending: list[asyncio.Task[None]] = []
        run = await due(made(store, Last()), clock)
        await ending[0]
        assert ("done", 1) == (run.state, run.attempt)


async def test_what_is_old_is_forgotten_behind_the_end_of_a_run(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some at a time, and all of it; where that cannot be done, the run has ended all the same."""
    monkeypatch.setattr("milepost.store.runs.SWEPT", 1)

    async def find(run: Run, page: int) -> None:
        """Find something on each page."""
        await run.commit(page, stage=None, done=page, counts=Pages(), findings=[Finding(reason="")])

    async def away(_: RunStore, __: str) -> bool:
        """Be away."""
        raise DatabaseBusy("restarting")

    first = await due(made(store, Paged(find)), clock)
    clock.go(days=KEPT_DAYS + 1)
    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "forget_some", away)
        assert "done" == (await due(made(store, Paged()), clock)).state
    assert PAGES == len(await store.runs.findings(first.id))
    await due(made(store, Paged()), clock)
    assert None is await store.runs.get(first.id)


# --- what a run tells -----------------------------------------------------------------------------


async def test_a_run_shows_how_far_it_is(store: Store, elsewhere: Store) -> None:
    """To whoever watches in this process, and to all others in its row."""
    seen: list[Progress] = []
    rows: list[RunRecord | None] = []

    async def look(run: Run, page: int) -> None:
        """See what others see; and tell of more than is written down."""
        rows.append(await elsewhere.runs.get(run.record.id))
        if page == 2:
            run.advance(5)

    one = made(store, Paged(look))
    asked = await store.runs.ask("sync", asked_by="ops")
    run = await one.run_due("sync", asyncio.Event(), run_id=asked.id, progress=seen.append)
    assert [
        Progress("pages", 1, 3),
        Progress("pages", 2, 3),
        Progress("pages", 7, 3),
        Progress("pages", 3, 3),
    ] == seen
    assert [(None, 0, None), ("pages", 1, 3), ("pages", 2, 3)] == [
        (row.stage, row.done, row.total) for row in rows if row
    ]
    assert run is not None
    assert (asked.id, "done", "ops") == (run.id, run.state, run.asked_by)


async def test_findings_are_counted_beyond_those_that_are_listed(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And counted on by whoever takes the run over."""
    monkeypatch.setattr("milepost.jobs.run.MOST_FINDINGS", 5)
    assert MOST_FINDINGS > 5

    class Listing(Paged):
        """A job that finds two bad rows on each page, and breaks off once."""

        async def run_once(self, run: Run) -> Pages:
            """Do the pages that are left."""
            for page in range(run.position or 0, 4):
                rows = [Finding(reason=f"bad {page}.{n}") for n in range(2)]
                await run.commit(
                    page + 1, stage="rows", done=page, counts=Pages(pages=page), findings=rows
                )
                if page == 1 and run.record.attempt == 1:
                    raise UpstreamError("away")
            return Pages(pages=4)

    one = made(store, Listing())
    first = await due(one, clock)
    assert {"pages": 1, "found": 4} == first.counts
    clock.go(minutes=1)
    run = await one.run_due("sync", asyncio.Event())
    assert run is not None
    assert {"pages": 4, "found": 8} == run.counts
    listed = await store.runs.findings(run.id)
    assert ["bad 0.0", "bad 0.1", "bad 1.0", "bad 1.1", "bad 2.0"] == [one.reason for one in listed]


async def test_a_run_that_did_nothing_hides_no_other(store: Store, clock: Clock) -> None:
    """Of those that were due; whoever asked for one finds it."""

    class Idle:
        """A job that commits, and has nothing to do."""

        async def run_once(self, run: Run) -> Pages:
            """Do nothing."""
            await run.commit(None, stage="looking", done=0, counts=Pages())
            return Pages()

    one = made(store, Idle())
    await due(one, clock)
    asked = await store.runs.ask("sync", asked_by="ops")
    await one.run_due("sync", asyncio.Event())
    last = [await due(one, clock) for _ in range(3)][-1]
    assert [last.id, asked.id] == [run.id for run in await store.runs.page("sync")]


# --- freshness ------------------------------------------------------------------------------------


async def test_a_job_is_fresh_until_it_is_later_than_it_may_be(store: Store, clock: Clock) -> None:
    """It is late from the first due time on that is not done; one that never ends must be seen."""
    runs = store.runs
    when = timetable({}, "Europe/Berlin")
    names = ["sync", "drain"]
    broken = Scheduler(runs, {"sync": Paged(failing(MilepostError("no")))}, when)
    assert [] == await standings(runs, when, names)
    await runs.look(names)
    sync, drain = await standings(runs, when, names)
    at = datetime(2026, 11, 27, 1, 30, tzinfo=UTC)
    assert (True, timedelta(0), at, "every day at 02:30 (Europe/Berlin)") == (
        sync.is_fresh,
        sync.late,
        sync.next_due_at,
        sync.calendar,
    )
    assert (True, None, "always") == (drain.is_fresh, drain.next_due_at, drain.calendar)

    clock.set(at + timedelta(minutes=1))
    assert None is not await broken.run_due("sync", asyncio.Event())
    clock.set(at + CADENCES["sync"].grace - timedelta(minutes=1))
    assert (await standings(runs, when, ["sync"]))[0].is_fresh
    clock.go(minutes=2)
    sync, drain = await standings(runs, when, names)
    assert (False, CADENCES["sync"].grace, "failed") == (
        sync.is_fresh,
        sync.late - sync.late % timedelta(minutes=1) - timedelta(minutes=1),
        sync.run and sync.run.state,
    )
    assert not drain.is_fresh

    await runs.note_round("drain")
    await runs.ask("sync", asked_by="ops")
    assert None is not await broken.run_due("sync", asyncio.Event())
    assert [True, True] == [one.is_fresh for one in await standings(runs, when, names)]


# --- settings -------------------------------------------------------------------------------------


def test_an_installation_has_times_of_its_own() -> None:
    """In its zone; what never ends, or is due every few seconds, has none."""
    when = timetable({"sync": "0 1 * * 1-5"}, "America/New_York")
    assert At("0 1 * * 1-5", "America/New_York") == when["sync"]
    assert At("30 4 * * *", "America/New_York") == when["canary"]
    assert (Every(REPLENISH_SECONDS), Always()) == (when["replenish"], when["drain"])


@pytest.mark.parametrize(
    ("schedule", "zone", "said"),
    [
        ({"sync": "30 2"}, "UTC", "MILEPOST_SCHEDULE: sync: '30 2' is not a crontab line: it has"),
        ({"drain": "0 1 * * *"}, "UTC", "these have one: rotate, sync, canary"),
        ({"clean": "0 1 * * *"}, "UTC", "'clean' is no job with a time of its own"),
        ({}, "Mars/Phobos", "there is no time zone 'Mars/Phobos'; for example: Europe/Berlin"),
        ({}, "../zone", "there is no time zone"),
    ],
)
def test_a_wrong_schedule_is_named(schedule: dict[str, str], zone: str, said: str) -> None:
    """With the setting and an example."""
    with pytest.raises(ConfigurationError) as caught:
        timetable(schedule, zone)
    assert said in str(caught.value)
