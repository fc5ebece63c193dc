"""When jobs are due, and who runs them.

Every process that has a worker has a scheduler, on any number of hosts, and none is a leader: a due
time is taken in Postgres, by whoever comes first, and nobody else. When a job is due is told by a
calendar (`Every`, `At`) and the database's clock; no process asks its own. Due times that pass
while nobody is there are not missed: one run stands for them all.

A run whose worker is gone is taken over, and goes on where it was committed last. One that met
something that passes is taken up again after a pause, at the same place, until it has failed there
`TRIES` times.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from milepost import policy
from milepost.calendars import Always, At, Calendar, Due, Every
from milepost.errors import (
    ConfigurationError,
    DatabaseBusy,
    DatabaseError,
    MilepostError,
    UpstreamError,
    whereabouts,
)
from milepost.jobs.run import Job, NeedsAPerson, NotNow, Progress, Run
from milepost.store.connections import persistently
from milepost.store.runs import LEASE_SECONDS, Outlook, RunRecord, RunStore, TakenAway

log = logging.getLogger(__name__)

_PACKAGE: Final = Path(__file__).parent

TICK_SECONDS: Final = 1.0
"""Between looks at what is due: one cheap statement, for all jobs together."""

RENEW_SECONDS: Final = LEASE_SECONDS / 4
"""Three renewals may fail before a lease ends."""

LEAVE_SECONDS: Final = 10.0
"""How long a job may take to come to the end of a page when its process is to end: as long as the
longest call to the platform. Then it is broken off."""

FIRST_PAUSE_SECONDS: Final = 15.0
LONGEST_PAUSE_SECONDS: Final = 900.0
TRIES: Final = 10
"""A run that breaks off is taken up again after pauses that double; ten tries at the same place
take an hour. An outage that lasts longer is for the next due time."""

REST_SECONDS: Final = 900.0
"""After a run that failed the next due time waits so long: what is due every few seconds must not
fail, and say so, every few seconds."""


# --- the jobs -------------------------------------------------------------------------------------


class Cadence(Struct, frozen=True, kw_only=True):
    """What a job does, and how often."""

    does: str
    """In a sentence."""
    due: str | Calendar | None
    """A crontab line, in the time zone of the installation, which may give another one; or another
    calendar; None: only when somebody asks."""
    grace: timedelta = timedelta()
    """So long after it was due it is to be done at the latest, or something is wrong."""
    options: tuple[str, ...] = ()
    """What a person may allow a run that they ask for."""
    by: str | None = None
    """How it is asked for, where it needs more than a name."""


CADENCES: Final[Mapping[str, Cadence]] = {
    "replenish": Cadence(
        does="makes the distributions that milestones lack, so that events find a place",
        due=Every(policy.REPLENISH_SECONDS),
        grace=timedelta(minutes=5),
    ),
    "rotate": Cadence(
        does="makes the successors of distributions before they stop taking links",
        due="7 * * * *",
        grace=timedelta(hours=2),
    ),
    "sync": Cadence(
        does="brings registrants in, and makes a contact for each",
        due="30 2 * * *",
        grace=timedelta(hours=6),
        options=("accept_removals", "accept_losses", "dry_run"),
    ),
    "canary": Cadence(
        does="holds the links that the platform tells of against those that were built",
        due="30 4 * * *",
        grace=timedelta(hours=3),
    ),
    "reconcile": Cadence(
        does="brings in what became of links, and flags in what ledger and platform differ",
        due="*/15 * * * *",
        grace=timedelta(hours=2),
        options=("thorough",),
    ),
    "drain": Cadence(does="makes the links that wait", due=Always(), grace=timedelta(minutes=1)),
    "sweep": Cadence(
        does="finishes links whose process died or whose call's outcome is unknown",
        due=Always(),
        grace=timedelta(minutes=1),
    ),
    "deliver": Cadence(
        does="sends the messages that are due to their endpoints",
        due=Always(),
        grace=timedelta(minutes=1),
    ),
    "funnel": Cadence(
        does="counts how far links have come",
        due=Every(120),
        grace=timedelta(minutes=15),
    ),
    "recover": Cadence(
        does="finds out what was made at the platform since the backup that was restored",
        due=None,
    ),
    "import": Cadence(
        does="takes in registrants that somebody has sent",
        due=None,
        by="milepost registrants import FILE, or POST /v1/registrants/import",
    ),
}
"""The jobs. The worker of every process is always at those that never end."""

Timetable = Mapping[str, Calendar | None]
"""When each job is due; None: only when somebody asks."""


def timetable(schedule: Mapping[str, str], zone: str) -> Timetable:
    """When the jobs are due in an installation.

    Args:
        schedule: crontab lines of its own, by name.
        zone: in which these and the usual ones are meant.

    Raises:
        ConfigurationError: one of them is no crontab line, or of no such job.
    """
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, LookupError) as error:
        raise ConfigurationError(
            f"MILEPOST_TIME_ZONE: there is no time zone {zone!r}; for example: Europe/Berlin"
        ) from error
    by_line = [name for name, cadence in CADENCES.items() if isinstance(cadence.due, str)]
    if unknown := sorted(schedule.keys() - set(by_line)):
        raise ConfigurationError(
            f"MILEPOST_SCHEDULE: {unknown[0]!r} is no job with a time of its own; "
            f"these have one: {', '.join(by_line)}"
        )
    when: dict[str, Calendar | None] = {}
    for name, cadence in CADENCES.items():
        due = schedule.get(name, cadence.due)
        try:
            when[name] = At.parse(due, zone) if isinstance(due, str) else due
        except ValueError as error:
            raise ConfigurationError(
                f"MILEPOST_SCHEDULE: {name}: {due!r} is not a crontab line: {error}; "
                "for example: 30 2 * * *"
            ) from error
    return when


class Standing(Struct, frozen=True, kw_only=True):
    """How a job stands."""

    name: str
    does: str
    calendar: str
    """When it is due, in words."""
    next_due_at: datetime | None
    """None: it never ends, or comes only when somebody asks."""
    late: timedelta
    """How long ago the first due time was that is not done; of a job that never ends, when somebody
    was last at it."""
    is_fresh: bool
    """It is not later than it may be."""
    error: str | None
    """What a job that never ends met last."""
    error_at: datetime | None
    run: RunRecord | None
    """The one that was begun last."""

    @property
    def is_well(self) -> bool:
        """Nothing is late, and nothing waits for somebody to mend or to decide something."""
        return self.is_fresh and (self.run is None or self.run.state not in {"failed", "stopped"})


async def standings(
    runs: RunStore, when: Timetable, jobs: Collection[str] = CADENCES
) -> list[Standing]:
    """How jobs stand; one that no worker has looked at yet is not there."""
    records = await runs.records(jobs)
    found = []
    for name in jobs:
        if (record := records.get(name)) is None:
            continue
        calendar, cadence, now = when[name], CADENCES[name], record.now
        missed = (calendar.following(record.done_until) if calendar else None) or now
        upcoming = calendar.following(now) if calendar else None
        late = max(now - missed, timedelta())
        found.append(
            Standing(
                name=name,
                does=cadence.does,
                calendar=str(calendar or "when somebody asks"),
                next_due_at=upcoming if upcoming != now else None,
                late=late,
                is_fresh=late <= cadence.grace,
                error=record.error,
                error_at=record.error_at,
                run=record.run,
            )
        )
    return found


# --- running them ---------------------------------------------------------------------------------


class _OutOfTime(Exception):
    """The process ends, and the job has not come to the end of a page."""


class Scheduler:
    """Runs jobs that are due or were asked for.

    Args:
        runs: where runs are taken.
        jobs: by name.
        when: they are due.
        holds: says of a job that none of its runs may begin now.
    """

    def __init__(
        self,
        runs: RunStore,
        jobs: Mapping[str, Job],
        when: Timetable,
        *,
        holds: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.jobs = jobs
        self.when = when
        self._runs = runs
        self._holds = holds
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def standings(self, jobs: Collection[str]) -> list[Standing]:
        """How these jobs stand; one that was never looked at is known from now on."""
        await self._runs.look(jobs)
        return await standings(self._runs, self.when, jobs)

    async def tick(self, stopping: asyncio.Event) -> None:
        """Begin what is due, was asked for, or lost its worker; for the worker of a process.

        It does not wait until that has ended: `finish` does.

        Args:
            stopping: once it is set, runs are left where they were committed last.

        Raises:
            DatabaseError: Postgres is away.
        """
        free = [job for job in self.jobs.keys() - self._under_way.keys() if not self._holds(job)]
        for outlook in await self._runs.look(free):
            due = self._due(outlook)
            if outlook.is_wanted or due is not None:
                task = asyncio.create_task(self._look_after(outlook, due, stopping))
                self._under_way[outlook.job] = task
                task.add_done_callback(partial(self._forget, outlook.job))

    def _forget(self, job: str, _: asyncio.Task[None]) -> None:
        del self._under_way[job]

    async def finish(self) -> None:
        """Wait until what was begun has ended, or is left."""
        if self._under_way:
            await asyncio.wait(self._under_way.values())

    async def _look_after(self, outlook: Outlook, due: Due | None, stopping: asyncio.Event) -> None:
        try:
            run = await self._run_next(outlook, due, stopping)
        except MilepostError as error:
            log.warning("%s: %s", outlook.job, error)
        except Exception as error:  # noqa: BLE001  (a mistake of ours must not end the other jobs)
            log.error("%s: %s", outlook.job, whereabouts(error))  # noqa: TRY400  (see there)
        else:
            if run is not None and (done := {k: v for k, v in run.counts.items() if v}):
                log.info("%s is %s: %s", run.job, run.state, msgspec.json.encode(done).decode())

    async def run_due(
        self,
        name: str,
        stopping: asyncio.Event,
        *,
        run_id: int | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> RunRecord | None:
        """Run a job once if it is due, was asked for, or lost its worker.

        Args:
            name: of the job.
            stopping: once it is set, the run is left where it was committed last.
            run_id: one that was asked for. No due time is looked at then, only what comes before it
                and this run itself.
            progress: is told how far it is.

        Returns:
            The run as it ended or was left; None: there was nothing to do, or somebody is at it.

        Raises:
            DatabaseError: Postgres is away.
        """
        if self._holds(name):
            return None
        (outlook,) = await self._runs.look([name])
        due = self._due(outlook) if run_id is None else None
        return await self._run_next(outlook, due, stopping, run_id=run_id, progress=progress)

    def _due(self, outlook: Outlook) -> Due | None:
        calendar, failed_at = self.when[outlook.job], outlook.failed_at
        if calendar is None or outlook.is_held:
            return None
        if failed_at is not None and outlook.now < failed_at + timedelta(seconds=REST_SECONDS):
            return None
        return calendar.between(outlook.accounted_until, outlook.now)

    async def _run_next(
        self,
        outlook: Outlook,
        due: Due | None,
        stopping: asyncio.Event,
        *,
        run_id: int | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> RunRecord | None:
        if due is None and not outlook.is_wanted:
            return None
        record = await self._runs.take(
            outlook.job,
            since=outlook.accounted_until,
            due_at=due.at if due else None,
            coalesced=due.coalesced if due else 0,
            run_id=run_id,
        )
        if record is None:
            return None
        run = Run(self._runs, record, stopping, progress)
        try:
            await self._run(run)
        except TakenAway as error:
            log.warning("%s", error)
        return await self._runs.get(record.id) or record

    async def _run(self, run: Run) -> None:
        """Do the job, and write down how it went.

        Raises:
            TakenAway: somebody else has the run by now.
        """
        job = run.record.job
        if run.failures >= TRIES:
            await self._end(run, "failed", "its workers died of it, again and again")
            return
        try:
            counts = await self._attempt(run)
        except TakenAway:
            raise
        except _OutOfTime:
            await persistently(lambda: self._runs.leave(run.record), LEASE_SECONDS)
        except NeedsAPerson as error:
            await self._end(run, "stopped", str(error))
        except (UpstreamError, DatabaseError, NotNow) as error:
            await self._set_back(run, str(error))
        except MilepostError as error:
            await self._end(run, "failed", str(error))
        except Exception as error:  # noqa: BLE001  (a mistake in a job must not end its worker)
            log.error("%s: %s", job, whereabouts(error))  # noqa: TRY400  (see there)
            await self._set_back(run, _place(error))
        else:
            if run.stopping.is_set():
                # Whether all was done, somebody else sees, who goes on at once.
                await persistently(lambda: self._runs.leave(run.record), LEASE_SECONDS)
                return
            told = run.in_all(counts)
            idle = run.record.asked_by is None and not any(told.values())
            await self._finish(run, "done", told, idle=idle)

    async def _attempt(self, run: Run) -> Struct:
        """Do the job while its lease is kept; broken off when that is lost, or out of time."""
        try:
            async with asyncio.TaskGroup() as group:
                watches = [
                    group.create_task(self._keep(run.record)),
                    group.create_task(_run_out(run.stopping)),
                ]
                counts = await self.jobs[run.record.job].run_once(run)
                for watch in watches:
                    watch.cancel()
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        return counts

    async def _keep(self, record: RunRecord) -> None:
        """Renew the lease, for as long as it can be had.

        Raises:
            TakenAway: somebody else has the run, or may have: it could not be renewed in time.
        """
        clock = asyncio.get_running_loop().time
        kept_until = clock() + LEASE_SECONDS
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            renewed_at = clock()
            try:
                await self._runs.renew(record)
            except DatabaseError as error:
                if clock() > kept_until:
                    raise TakenAway(
                        f"{record.job}: the lease of run {record.id} ran out: {error}"
                    ) from None
            else:
                kept_until = renewed_at + LEASE_SECONDS

    async def _set_back(self, run: Run, error: str) -> None:
        if run.failures + 1 >= TRIES:
            await self._end(run, "failed", error)
            return
        pause = min(FIRST_PAUSE_SECONDS * 2**run.failures, LONGEST_PAUSE_SECONDS)
        log.warning("%s goes on in %.0f s: %s", run.record.job, pause, error)
        await persistently(
            lambda: self._runs.set_back(run.record, error=error, pause=pause), LEASE_SECONDS
        )

    async def _end(self, run: Run, state: Literal["failed", "stopped"], error: str) -> None:
        log.error("%s %s: %s", run.record.job, state, error)
        await self._finish(run, state, run.counts, error=error)

    async def _finish(
        self,
        run: Run,
        state: Literal["done", "failed", "stopped"],
        counts: Mapping[str, Any],
        *,
        error: str | None = None,
        idle: bool = False,
    ) -> None:
        """Write down how a run ended; behind that, what is old of its job is forgotten."""
        await persistently(
            lambda: self._runs.end(run.record, state, counts=counts, error=error, idle=idle),
            LEASE_SECONDS,
        )
        with suppress(DatabaseBusy):  # the end of the next run goes on with it
            while not run.stopping.is_set() and await self._runs.forget_some(run.record.job):
                pass


async def _run_out(stopping: asyncio.Event) -> None:
    """Wait until a process that is told to end cannot wait any longer."""
    await stopping.wait()
    await asyncio.sleep(LEAVE_SECONDS)
    raise _OutOfTime


def _place(error: Exception) -> str:
    """Of which type a mistake is, and where in a job it came about: see `whereabouts`."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)] or frames
    place = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}{place}"
