"""Processes that run jobs die and freeze: each due time is one run's, which goes on by itself."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
import psycopg
import pytest
from psycopg.rows import dict_row
from tests.battery.jobbing import Line
from tests.battery.load import SECRET, variables
from tests.clock import Clock

from milepost.local import process, simulator
from milepost.scheduler import TRIES
from milepost.store.runs import LEASE_SECONDS

log = logging.getLogger(__name__)

ZONE: Final = "Europe/Berlin"
ROOT: Final = Path(__file__).parents[2]

RESUMED_SECONDS: Final = 30.0
"""From the death of a process to the first page that another one does of its run."""

PATIENCE_SECONDS: Final = 60.0


class Crew:
    """Processes that share the jobs of one database.

    Args:
        url: the database.
        folder: holds what the jobs write, and what the processes say.
        pages: of a run of the long job.
    """

    def __init__(self, url: str, folder: Path, pages: int) -> None:
        self._url = url
        self._log = folder / "jobs"
        self._said = folder / "said"
        self._pages = pages
        self._exit = ExitStack()
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start another one, which leads a process group."""
        said = self._exit.enter_context(self._said.open("ab"))
        arguments = (self._url, self._log, ZONE, self._pages)
        started = subprocess.Popen(  # noqa: S603  (our own program)
            [sys.executable, "-m", "tests.battery.jobbing", *map(str, arguments)],
            cwd=ROOT,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        self.processes[started.pid] = started

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to the whole process group."""
        os.killpg(pid, number)
        if number is signal.SIGKILL:
            self.processes.pop(pid).wait()

    def stop(self) -> None:
        """End all of them, as an operator would."""
        for pid, one in self.processes.items():
            self.signal(pid, signal.SIGCONT)
            one.terminate()
        ends = [one.wait(PATIENCE_SECONDS) for one in self.processes.values()]
        self._exit.close()
        self.processes.clear()
        assert {0, -signal.SIGTERM} >= {*ends}, self._said.read_text()[-2_000:]

    def lines(self) -> list[Line]:
        """What the jobs have written down."""
        written = self._log.read_bytes() if self._log.exists() else b""
        return [msgspec.json.decode(line, type=Line) for line in written.splitlines()]

    def runs(self, job: str) -> list[dict[str, Any]]:
        """The runs of a job, as the table has them."""
        with psycopg.connect(self._url, row_factory=dict_row) as database:
            return database.execute(
                "SELECT * FROM runs WHERE job = %s ORDER BY id", [job]
            ).fetchall()

    def at(self, job: str, page: int) -> Line | None:
        """Who has come to this page of a job first, if anybody has."""
        found = (line for line in self.lines() if line.job == job and line.page >= page)
        return next(found, None)

    def knows(self, job: str) -> bool:
        """Whether a process has looked at a job."""
        return self.accounted_until(job) is not None

    def accounted_until(self, job: str) -> datetime | None:
        """Up to where all due times of a job have their run."""
        with psycopg.connect(self._url) as database:
            row = database.execute(
                "SELECT accounted_until FROM jobs WHERE name = %s", [job]
            ).fetchone()
        return row[0] if row else None

    def saying(self) -> str:
        """What the processes have said."""
        return self._said.read_text()


@pytest.fixture
def crew(database_url: str, tmp_path: Path) -> Iterator[Callable[[int], Crew]]:
    """Makes a crew without processes, whose long job has so many pages."""
    with ExitStack() as stack:

        def make(pages: int) -> Crew:
            made = Crew(database_url, tmp_path, pages)
            stack.callback(made.stop)
            return made

        yield make


def until(what: Callable[[], Any]) -> Any:
    """Wait until something is so, and return it."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not (found := what()):
        assert time.monotonic() < give_up, "it does not come to be"
        time.sleep(0.01)
    return found


def full_hours(begin: datetime, end: datetime) -> list[datetime]:
    """The moments at which the clock on the wall shows a full hour for the first time."""
    shown: dict[str, datetime] = {}
    moment = begin.replace(minute=0) + timedelta(hours=1)
    while moment <= end:
        shown.setdefault(f"{moment.astimezone(ZoneInfo(ZONE)):%d %H}", moment)
        moment += timedelta(hours=1)
    return [*shown.values()]


def begin(crew: Crew, clock: Clock, processes: int) -> None:
    """Start processes some minutes before half past two, and let it be that."""
    clock.set(datetime(2026, 11, 26, 2, 20, tzinfo=ZoneInfo(ZONE)))
    for _ in range(processes):
        crew.start()
    until(lambda: crew.knows("sync"))
    clock.go(minutes=11)


def is_one_course(lines: Sequence[Line], pages: int) -> bool:
    """Whether a run went through its pages in their order, by whichever processes.

    Who takes it over goes on at the page that was committed last: the one that its predecessor had
    written down last, or the one after it.
    """
    steps = [(two.page - one.page, two.pid != one.pid) for one, two in pairwise(lines)]
    allowed = {(1, False), (1, True), (0, True)}
    return (0, pages - 1) == (lines[0].page, lines[-1].page) and allowed >= {*steps}


def test_a_run_outlives_its_processes(crew: Callable[[int], Crew], database_url: str) -> None:
    """One is frozen amid a page, the next is killed, the third brings the run to its end.

    The frozen one wakes up when all is done, changes nothing, and goes on with other jobs.
    """
    clock, on = Clock(database_url), crew(60)
    begin(on, clock, 3)
    frozen = until(lambda: on.at("sync", 10)).pid
    on.signal(frozen, signal.SIGSTOP)
    clock.go(seconds=LEASE_SECONDS + 1)
    killed = until(lambda: on.at("sync", 30)).pid
    on.signal(killed, signal.SIGKILL)
    clock.go(seconds=LEASE_SECONDS + 1)
    until(lambda: on.runs("sync")[0]["state"] == "done")
    ended = on.runs("sync")

    on.signal(frozen, signal.SIGCONT)
    until(lambda: "somebody else goes on with run" in on.saying())
    clock.go(hours=1)
    until(lambda: on.at("rotate", 0))
    assert ended == on.runs("sync")
    assert [("done", 3, {"pages": 60, "found": 0})] == [
        (run["state"], run["attempt"], run["counts"]) for run in ended
    ]
    lines = [line for line in on.lines() if line.job == "sync"]
    assert is_one_course(lines, 60), lines
    assert 3 == len({line.pid for line in lines})


@pytest.mark.battery
def test_a_killed_processs_run_goes_on_within_half_a_minute(
    crew: Callable[[int], Crew], database_url: str
) -> None:
    """By the real clock, five times in one run, which ends complete."""
    clock, on = Clock(database_url), crew(300)
    begin(on, clock, 3)
    took = []
    for page in range(50, 300, 50):
        killed = until(lambda page=page: on.at("sync", page)).pid  # type: ignore[misc]
        on.signal(killed, signal.SIGKILL)
        died_at = time.monotonic()
        seen = len(on.lines())
        on.start()
        until(lambda seen=seen: len(on.lines()) > seen)  # type: ignore[misc]
        took.append(time.monotonic() - died_at)
    until(lambda: on.runs("sync")[0]["state"] == "done")
    log.info("5 kills, resumed after %s s", ", ".join(f"{seconds:.1f}" for seconds in took))
    assert max(took) <= RESUMED_SECONDS
    assert is_one_course([line for line in on.lines() if line.job == "sync"], 300)
    assert [6] == [run["attempt"] for run in on.runs("sync")]


@pytest.mark.battery
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("begin_at", "half_past_two"),
    [
        (datetime(2026, 3, 27, 23, 10, tzinfo=UTC), ["28 01:30", "29 01:00", "30 00:30"]),
        (datetime(2026, 10, 23, 22, 10, tzinfo=UTC), ["24 00:30", "25 00:30", "26 01:30"]),
    ],
    ids=("forward", "back"),
)
def test_four_processes_while_they_are_killed_and_the_clock_is_set(
    crew: Callable[[int], Crew],
    database_url: str,
    begin_at: datetime,
    half_past_two: list[str],
) -> None:
    """Over three days no due time has two runs and none is missed; a job with a mistake ends.

    So say the table of runs and what the jobs wrote down. Every few hours whoever did the last page
    is killed, and another one started.
    """
    clock, on = Clock(database_url), crew(20)
    clock.set(begin_at)
    for _ in range(4):
        on.start()
    until(lambda: on.knows("sync") and on.knows("rotate") and on.knows("canary"))
    now, end = begin_at, begin_at + timedelta(days=3)
    hours = full_hours(begin_at, end)
    met: set[int] = set()
    kills = 0
    while now < end:
        now += timedelta(minutes=20)
        clock.set(now)
        if not (passed := [hour for hour in hours if hour <= now]):
            continue
        until(lambda due=passed[-1]: on.accounted_until("rotate") == due)  # type: ignore[misc]
        *_, last = on.lines()
        is_amid = last.job == "sync" and last.run not in met
        if last.pid in on.processes and (is_amid or (now.minute, now.hour % 4) == (30, 0)):
            met.add(last.run)
            on.signal(last.pid, signal.SIGKILL)
            on.start()
            kills += 1
    clock.go(seconds=LEASE_SECONDS + 1)
    until(lambda: all(run["ended_at"] for job in ("rotate", "sync") for run in on.runs(job)))

    nights = [
        datetime.strptime(f"{begin_at:%Y-%m}-{at} +0000", "%Y-%m-%d %H:%M %z")
        for at in half_past_two
    ]
    log.info("%d kills, %d runs", kills, len(on.runs("rotate")) + len(on.runs("sync")))
    assert kills >= 10
    for job, dues in (("rotate", hours), ("sync", nights)):
        runs = on.runs(job)
        assert {"done"} == {run["state"] for run in runs}
        stood_for: list[datetime] = []
        for run in runs:
            before = len(stood_for)
            stood_for += dues[before : before + run["coalesced"] + 1]
            assert stood_for[-1] == run["due_at"]
        assert dues == stood_for
        for run in runs:
            lines = [line for line in on.lines() if line.run == run["id"]]
            assert is_one_course(lines, 20 if job == "sync" else 1)
        assert {run["id"] for run in runs} == {line.run for line in on.lines() if line.job == job}
    poisonous = on.runs("canary")
    assert 3 == len(poisonous)
    assert {"failed"} == {run["state"] for run in poisonous}
    assert all(run["attempt"] <= TRIES for run in poisonous)
    assert poisonous[0]["error"].startswith("ValueError at jobbing.py:")
    assert "ann@example.com" not in f"{on.saying()}{poisonous}"


@pytest.mark.battery
def test_a_run_that_is_interrupted_is_left(database_url: str) -> None:
    """Where it stands, for somebody else; the exit code says that it was ended."""
    with simulator(0, "--latency-ms", "300") as ready:
        on = ready()
        settings = variables(
            {
                "DATABASE_URL": database_url,
                "UPSTREAM_URL": on["url"],
                "UPSTREAM_TOKEN": "simulator",
                "SECRET": SECRET,
            }
        )
        with psycopg.connect(database_url) as database:
            database.execute(
                "INSERT INTO milestones SELECT 'landed', %s, 'n', 'list', 'event', '{deferred}',"
                " 'every_event', NULL, 100, 200, 200, 'deferred', 60, 14, '[]', NULL, NULL,"
                " 'reject', false, 1500, 'active', now(), now()",
                [on["survey_id"]],
            )
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with process("run", "replenish", environment=os.environ | settings, **pipes) as running:
            with psycopg.connect(database_url, autocommit=True) as database:
                is_begun = "SELECT EXISTS (SELECT FROM distributions WHERE attempt > 0)"
                until(lambda: database.execute(is_begun).fetchone() == (True,))
            running.send_signal(signal.SIGINT)
            assert 128 + signal.SIGINT == running.wait(60)
            assert running.stdout is not None
            assert running.stderr is not None
            told, said = running.stdout.read(), running.stderr.read()
            with psycopg.connect(database_url) as database:
                runs = database.execute("SELECT state, failures FROM runs").fetchall()
    assert b"nothing was done\n" == told
    assert said.startswith(b"milepost: replenish is left where it stands: `milepost serve` or ")
    assert [("waiting", 0)] == runs
