"""When jobs are due, and who runs them.

Every process has a scheduler, on any number of hosts, and none is a leader: a due time is taken in
Postgres, by whoever comes first, and nobody else. What is due is told by a calendar (`Every`,
`At`) and the database's clock. A job's due times are those of the calendar after the last one that
is accounted for, so that none is missed while nobody is there: they are made up for by one run.

A run is taken over when its worker is gone, and goes on where it was committed last. One that met
something that passes is taken up again after a pause, `TRIES` times at the same place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol
from zoneinfo import ZoneInfo

import msgspec
from apscheduler.triggers.cron import CronTrigger
from msgspec import Struct

from milepost.errors import ConfigurationError, DatabaseError, MilepostError, UpstreamError
from milepost.jobs.run import Job, NeedsAPerson, Progress, Run
from milepost.store.runs import LEASE_SECONDS, RunRecord, RunStore, TakenAway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0
"""Between looks for a run that is due; a look is one cheap statement."""

RENEW_SECONDS: Final = LEASE_SECONDS / 4
"""Three renewals may fail before a lease ends."""

FIRST_PAUSE_SECONDS: Final = 15.0
LONGEST_PAUSE_SECONDS: Final = 900.0
TRIES: Final = 10
"""A run that breaks off at the same place is taken up again after pauses that double: ten tries
take an hour and three quarters. An outage that lasts longer is for the next due time."""

LONGEST_GAP: Final = timedelta(days=400)
"""Due times further back are not counted any more."""


class Calendar(Protocol):
    """Tells when a job is due."""

    def between(self, since: datetime, now: datetime) -> tuple[datetime | None, int]:
        """The latest due time after `since` and up to `now`, and how many come before it."""
        ...

    def following(self, moment: datetime) -> datetime | None:
        """The first due time after a moment."""
        ...


class Every(Struct, frozen=True):
    """Due every so many seconds, counted from 1970 on, so that all processes mean the same."""

    seconds: int

    def between(self, since: datetime, now: datetime) -> tuple[datetime | None, int]:
        """See `Calendar`."""
        latest = int(now.timestamp()) // self.seconds
        passed = latest - int(max(since, now - LONGEST_GAP).timestamp()) // self.seconds
        if passed < 1:
            return None, 0
        return datetime.fromtimestamp(latest * self.seconds, UTC), passed - 1

    def following(self, moment: datetime) -> datetime:
        """See `Calendar`."""
        number = int(moment.timestamp()) // self.seconds + 1
        return datetime.fromtimestamp(number * self.seconds, UTC)

    def __str__(self) -> str:
        return f"every {self.seconds} s"


class At(Struct, frozen=True):
    """Due when the clock on the wall says so: a crontab line, in a time zone.

    What is due at 02:30 is due once a day, also on the two days a year on which the clock is set:
    where there is no 02:30, at the moment at which it would be (03:30); where there are two, at the
    first. APScheduler reads the line, but on a wall without a zone: with one, it fires twice in the
    night in which the clock is set back (3.11.3, measured).
    """

    crontab: str
    zone: str

    @classmethod
    def parse(cls, crontab: str, zone: str) -> At:
        """A crontab line of five fields.

        Raises:
            ConfigurationError: it is none, or there is no such zone.
        """
        try:
            ZoneInfo(zone)
        except (ValueError, OSError, LookupError) as error:
            raise ConfigurationError(
                f"MILEPOST_TIME_ZONE: there is no time zone {zone!r}; for example: Europe/Berlin"
            ) from error
        try:
            made = cls(crontab, zone)
            made._wall()
        except ValueError as error:
            raise ConfigurationError(
                f"MILEPOST_SCHEDULE: {crontab!r} is not a crontab line: {error}; "
                "for example: 30 2 * * *"
            ) from error
        return made

    def between(self, since: datetime, now: datetime) -> tuple[datetime | None, int]:
        """See `Calendar`."""
        latest, passed = None, 0
        for due in self._after(max(since, now - LONGEST_GAP)):
            if due > now:
                break
            latest, passed = due, passed + 1
        return latest, max(0, passed - 1)

    def following(self, moment: datetime) -> datetime | None:
        """See `Calendar`."""
        return next(self._after(moment), None)

    def _after(self, moment: datetime) -> Iterator[datetime]:
        """The due times after a moment, each once."""
        zone, trigger = ZoneInfo(self.zone), self._wall()
        # From a while before: an hour may be there twice, and what is there twice is its first.
        wall = moment.astimezone(zone).replace(tzinfo=UTC) - timedelta(hours=3)
        last = moment
        while (wall := trigger.get_next_fire_time(None, wall)) is not None:
            due = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
            if due > last:
                last = due
                yield due
            wall += timedelta(seconds=1)

    def _wall(self) -> CronTrigger:
        trigger: CronTrigger = CronTrigger.from_crontab(self.crontab, timezone=UTC)
        return trigger

    def __str__(self) -> str:
        return f"{self.crontab} ({self.zone})"


class Cadence(Struct, frozen=True):
    """How often a job is to be done."""

    due: str | int | None
    """A crontab line, in the time zone of the installation, which may give another one; or seconds;
    None: it is never due. It never ends, or runs only when somebody asks."""
    fresh: timedelta
    """So long ago it may have been done to the end at the most, or something is wrong."""


CADENCES: Final[Mapping[str, Cadence]] = {
    "replenish": Cadence(30, timedelta(minutes=5)),
    "rotate": Cadence("7 * * * *", timedelta(hours=3)),
    "sync": Cadence("30 2 * * *", timedelta(hours=26)),
    "canary": Cadence("30 4 * * *", timedelta(hours=26)),
    "drain": Cadence(None, timedelta(minutes=1)),
    "sweep": Cadence(None, timedelta(minutes=1)),
}
"""The jobs. The two that never end are looked after by the worker of every process."""


class Scheduled(Struct, frozen=True, kw_only=True):
    """A job, and when it is due."""

    job: Job
    calendar: Calendar | None
    """None: never by itself; it runs when somebody asks, or never ends (`drain`)."""
    fresh: timedelta
    """So long ago it may have been done at the most, or it is not fresh any more."""


def scheduled(
    jobs: Mapping[str, Job], schedule: Mapping[str, str], zone: str
) -> dict[str, Scheduled]:
    """The jobs with their calendars.

    Args:
        jobs: by name.
        schedule: crontab lines of an installation's own, by name.
        zone: in which these and the usual ones are meant.

    Raises:
        ConfigurationError: one of them is no crontab line, or of no such job.
    """
    by_line = [name for name in jobs if isinstance(CADENCES[name].due, str)]
    if unknown := sorted(schedule.keys() - set(by_line)):
        raise ConfigurationError(
            f"MILEPOST_SCHEDULE: {unknown[0]!r} is no job with a time of its own; "
            f"these have one: {', '.join(by_line)}"
        )
    return {
        name: Scheduled(
            job=job,
            calendar=_calendar(schedule.get(name, CADENCES[name].due), zone),
            fresh=CADENCES[name].fresh,
        )
        for name, job in jobs.items()
    }


def _calendar(due: str | int | None, zone: str) -> Calendar | None:
    if due is None:
        return None
    return Every(due) if isinstance(due, int) else At.parse(due, zone)


class Scheduler:
    """Runs jobs that are due or were asked for.

    Args:
        runs: where runs are taken.
        jobs: by name.
    """

    def __init__(self, runs: RunStore, jobs: Mapping[str, Scheduled]) -> None:
        self.jobs = jobs
        self._runs = runs

    async def tick(self, name: str, stopping: asyncio.Event) -> None:
        """Run a job if something is to be done; for the worker, which ticks again and again."""
        run = await self.run_due(name, stopping)
        if run is not None and (done := {k: v for k, v in run.counts.items() if v}):
            log.info("%s is %s: %s", name, run.state, msgspec.json.encode(done).decode())

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
            run_id: only this run.
            progress: is told how far it is.

        Returns:
            The run as it ended or was left; None: there was nothing to do.
        """
        record = await self._take(name, run_id)
        if record is None:
            return None
        run = Run(self._runs, record, stopping, progress)
        try:
            async with self._renewed(record):
                await self._run(self.jobs[name].job, run)
        except TakenAway as error:
            log.warning("%s", error)
        return await self._runs.get(record.id) or record

    async def _take(self, name: str, run_id: int | None) -> RunRecord | None:
        if run_id is not None:
            return await self._runs.take(name, run_id=run_id)
        accounted = await self._runs.accounted(name)
        if accounted.is_running:
            return None
        calendar = self.jobs[name].calendar
        due_at, coalesced = (
            calendar.between(accounted.since, accounted.now) if calendar else (None, 0)
        )
        if due_at is None and not accounted.is_asked_for:
            return None
        return await self._runs.take(
            name, since=accounted.since, due_at=due_at, coalesced=coalesced
        )

    async def _run(self, job: Job, run: Run) -> None:
        name = run.record.job
        try:
            counts = await job.run_once(run)
        except TakenAway:
            raise
        except NeedsAPerson as error:
            log.error("%s stops: %s", name, error)  # noqa: TRY400  (a decision, not a crash)
            await self._runs.end(run.record, "stopped", counts=run.counts, error=str(error))
        except (UpstreamError, DatabaseError) as error:
            await self._set_back(run, str(error))
        except MilepostError as error:
            log.error("%s failed: %s", name, error)  # noqa: TRY400  (as above)
            await self._runs.end(run.record, "failed", counts=run.counts, error=str(error))
        else:
            if run.stopping.is_set() and not run.is_idle:
                # Somebody else goes on at once; whether all was done is theirs to see.
                await self._runs.set_back(run.record, error="the process was told to end", pause=0)
                return
            told = msgspec.to_builtins(counts)
            await self._runs.end(
                run.record,
                "done",
                counts={**told, **({"found": run.counts["found"]} if run.counts else {})},
                is_idle=run.is_idle and not any(told.values()),
            )

    async def _set_back(self, run: Run, error: str) -> None:
        # A commit since it was taken has set the count back to nothing.
        record = await self._runs.get(run.record.id) or run.record
        if record.failures + 1 >= TRIES:
            log.error("%s failed: %s", record.job, error)
            await self._runs.end(run.record, "failed", counts=run.counts, error=error)
            return
        pause = min(FIRST_PAUSE_SECONDS * 2**record.failures, LONGEST_PAUSE_SECONDS)
        log.warning("%s goes on in %.0f s: %s", record.job, pause, error)
        await self._runs.set_back(run.record, error=error, pause=pause)

    @asynccontextmanager
    async def _renewed(self, record: RunRecord) -> AsyncIterator[None]:
        """Keep the lease while the block runs; the block is broken off when it is lost."""
        owner = asyncio.current_task()
        lost: list[TakenAway] = []

        async def renew() -> None:
            while True:
                await asyncio.sleep(RENEW_SECONDS)
                try:
                    await self._runs.renew(record)
                except TakenAway as error:
                    lost.append(error)
                    if owner is not None:
                        owner.cancel()
                    return
                except DatabaseError:
                    continue  # the next one may come in time

        renewing = asyncio.create_task(renew())
        try:
            yield
        except asyncio.CancelledError:
            if not lost:
                raise
            if owner is not None:
                owner.uncancel()
            raise lost[0] from None
        finally:
            renewing.cancel()
            with suppress(asyncio.CancelledError):
                await renewing


def upcoming(calendar: Calendar, moment: datetime, count: int) -> list[datetime]:
    """The next due times after a moment."""

    def following() -> Iterator[datetime]:
        at: datetime | None = moment
        while at is not None and (at := calendar.following(at)) is not None:
            yield at

    return [*islice(following(), count)]
