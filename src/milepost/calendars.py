"""Calendars: when something is due, by intervals or by the clock on a wall.

Pure: moments go in and come out. Nobody's clock is asked here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice, takewhile
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger
from msgspec import Struct

FIELDS: Final = 5
"""Of a crontab line: minute, hour, day, month, weekday."""

EVEN_STEPS: Final = {f"*/{step}": step for step in range(2, 31) if not 60 % step}
"""Minutes of a crontab line that are as far apart over the end of the hour as within it."""

MOST_COUNTED: Final = 1_000
"""Due times that one run stands for are counted up to here: six weeks of a job that is due each
hour. Meanwhile, some 50 ms, the process does nothing else."""


class Due(Struct, frozen=True):
    """The latest due time that has come, and how many passed before it."""

    at: datetime
    coalesced: int
    """Where it is `MOST_COUNTED`, at least so many."""


class Calendar(Protocol):
    """Tells when a job is due; `str()` says it in words."""

    def between(self, since: datetime, now: datetime) -> Due | None:
        """What has come due after `since` and up to `now`."""
        ...

    def following(self, moment: datetime) -> datetime | None:
        """The first due time after a moment."""
        ...


class Always(Struct, frozen=True):
    """Due at every moment: what never ends, and of which no single run is due."""

    def between(self, since: datetime, now: datetime) -> None:
        """See `Calendar`."""

    def following(self, moment: datetime) -> datetime:
        """See `Calendar`."""
        return moment

    def __str__(self) -> str:
        return "always"


class Every(Struct, frozen=True):
    """Due every so many seconds, counted from 1970 on, so that all processes mean the same."""

    seconds: int

    def between(self, since: datetime, now: datetime) -> Due | None:
        """See `Calendar`."""
        latest = int(now.timestamp()) // self.seconds
        passed = latest - int(since.timestamp()) // self.seconds
        if passed < 1:
            return None
        return Due(datetime.fromtimestamp(latest * self.seconds, UTC), passed - 1)

    def following(self, moment: datetime) -> datetime:
        """See `Calendar`."""
        number = int(moment.timestamp()) // self.seconds + 1
        return datetime.fromtimestamp(number * self.seconds, UTC)

    def __str__(self) -> str:
        minutes, seconds = divmod(self.seconds, 60)
        return f"every {self.seconds} s" if seconds else f"every {minutes} min"


class At(Struct, frozen=True):
    """Due when the clock on the wall says so: a crontab line, in a time zone.

    What the wall's clock shows twice, when it is set back, counts at the first time; what it never
    shows, when it is set forward, counts at the moment at which it is set. So a line for once a day
    is due once each day. APScheduler reads the line, but for a wall without a zone: with one, it
    fires twice in the night in which the clock is set back (3.11.3, measured). It also counts
    weekdays from Monday on, where crontab's 0 is Sunday; they are handed to it by name.
    """

    crontab: str
    zone: str

    @classmethod
    def parse(cls, crontab: str, zone: str) -> At:
        """A crontab line of five fields.

        Raises:
            ValueError: it is none, or never comes.
        """
        if _trigger(crontab).get_next_fire_time(None, datetime(2000, 1, 1, tzinfo=UTC)) is None:
            raise ValueError("there is no such day")
        return cls(crontab, zone)

    def between(self, since: datetime, now: datetime) -> Due | None:
        """See `Calendar`; counts no more than `MOST_COUNTED`."""
        if (first := self.following(since)) is None or first > now:
            return None
        # A crontab line tells what comes next, not what came last: we look ever further back.
        window = timedelta(minutes=1)
        while not (found := [*self._until(now, max(since, now - window))]):
            window *= 2
        earlier = takewhile(lambda due: due < found[-1], self._after(since))
        return Due(found[-1], sum(1 for _ in islice(earlier, MOST_COUNTED)))

    def following(self, moment: datetime) -> datetime | None:
        """See `Calendar`."""
        return next(self._after(moment), None)

    def _until(self, now: datetime, since: datetime) -> Iterator[datetime]:
        return takewhile(lambda due: due <= now, self._after(since))

    def _after(self, moment: datetime) -> Iterator[datetime]:
        """The due times after a moment, each once."""
        zone, trigger = ZoneInfo(self.zone), _trigger(self.crontab)
        wall = moment.astimezone(zone).replace(tzinfo=UTC)
        last = moment
        while (wall := trigger.get_next_fire_time(None, wall)) is not None:
            due = _first_shown(wall.replace(tzinfo=zone))
            if due > last:
                last = due
                yield due
            wall += timedelta(seconds=1)

    def __str__(self) -> str:
        match self.crontab.split():
            case [minute, "*", "*", "*", "*"] if minute.isdecimal():
                return f"every hour at :{int(minute):02}"
            case [step, "*", "*", "*", "*"] if step in EVEN_STEPS:
                return f"every {EVEN_STEPS[step]} min"
            case [minute, hour, "*", "*", "*"] if minute.isdecimal() and hour.isdecimal():
                return f"every day at {int(hour):02}:{int(minute):02} ({self.zone})"
        return f"crontab {self.crontab} ({self.zone})"


def _first_shown(wall: datetime) -> datetime:
    """The first moment at which the clock on a wall shows this time, or a later one."""
    due = wall.replace(fold=0).astimezone(UTC)
    if due.astimezone(wall.tzinfo).replace(tzinfo=None) == wall.replace(tzinfo=None):
        return due
    # It is never shown. Read as before the change it lies after it, and the other way round.
    before, after = wall.replace(fold=1).astimezone(UTC), due
    offset = before.astimezone(wall.tzinfo).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        if middle.astimezone(wall.tzinfo).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)


@cache
def _trigger(crontab: str) -> CronTrigger:
    """APScheduler's reading of a crontab line, for a wall without a zone.

    Raises:
        ValueError: it is none.
    """
    if len(fields := crontab.split()) != FIELDS:
        raise ValueError(f"it has {len(fields)} fields, not {FIELDS}")
    minute, hour, day, month, weekday = fields
    if "*" not in {day, weekday}:
        # Some read it as both, and cron as either.
        raise ValueError("it names a day of the month and one of the week")
    return CronTrigger(
        minute=minute, hour=hour, day=day, month=month, day_of_week=_named(weekday), timezone=UTC
    )


def _named(weekdays: str) -> str:
    """Weekdays of a crontab line by their names; 0 and 7 are Sunday."""
    names = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
    found: list[str] = []
    for part in weekdays.split(","):
        days, slash, step = part.partition("/")
        first, dash, last = days.partition("-")
        if days == "*" and slash:
            first, last = "0", "6"
        elif not dash:
            last = "6" if slash else first
        if not (first.isdecimal() and last.isdecimal() and (step or "1").isdecimal()):
            found.append(part)
            continue
        if not int(first) <= int(last) < len(names) or not int(step or "1"):
            raise ValueError(f"{part!r} is no range of weekdays from 0 to 7")
        found += names[int(first) : int(last) + 1 : int(step or "1")]
    return ",".join(dict.fromkeys(found))
