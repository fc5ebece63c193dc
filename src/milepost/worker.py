"""The worker of a process: runs each job again and again, until the process ends.

Every process may have one, on any number of hosts: jobs take their work in Postgres, under leases,
so that workers share it and none does the other's. A job that finds nothing to do asks one cheap,
indexed question.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import msgspec
from msgspec import Struct

from milepost.errors import DatabaseError, MilepostError, whereabouts

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 5.0
MOST_DOUBLINGS: Final = 4
"""Between looks while Postgres is away: a restart takes a few seconds, an outage may take days."""


NOTE_SECONDS: Final = 10.0
"""Between notes that somebody is at a job: who watches looks every minute."""


class WorkerEnded(MilepostError):
    """A job ended by an error of the worker's own, and the others with it."""


class Endless(Struct, frozen=True, kw_only=True):
    """Something to do again and again, and how often."""

    job: str
    run: Callable[[asyncio.Event], Awaitable[Struct | None]]
    """Does it once and returns counts, if it has some; begins nothing more once the event is set.
    """
    every: float
    """Seconds from the end of a run to the next one."""
    note: Callable[[str, str | None], Awaitable[None]] | None = None
    """Writes down that somebody is at it, and what was met; None: that is written elsewhere."""


class Worker:
    """Does things again and again, each at its own pace and none twice at the same time."""

    def __init__(self, *endless: Endless) -> None:
        self._endless = endless

    async def run(self, stopping: asyncio.Event) -> None:
        """Run the jobs until `stopping` is set and the calls that are out then have ended.

        Nothing that a job meets ends it: a failure is logged, and the next run comes. A mistake of
        the worker's own sets `stopping`: a process without its jobs must not look like a sound one.

        Raises:
            WorkerEnded: by such a mistake.
        """
        repeating = (_repeat_or_end(each, stopping) for each in self._endless)
        noting = (_keep_noting(each, stopping) for each in self._endless)
        ends = await asyncio.gather(*repeating, *noting, return_exceptions=True)
        if any(ends):
            raise WorkerEnded("the worker ended by an error of its own; the log says where")


async def _repeat_or_end(each: Endless, stopping: asyncio.Event) -> None:
    try:
        await _repeat(each, stopping)
    except BaseException as error:
        if not stopping.is_set():
            log.critical("%s has ended: %s", each.job, whereabouts(error))
            stopping.set()
        raise


async def _repeat(each: Endless, stopping: asyncio.Event) -> None:
    away = 0
    while not stopping.is_set():
        pause = each.every
        away, before = 0, away
        try:
            counts = await each.run(stopping)
        except DatabaseError as error:
            if not before:
                log.warning("%s waits: %s", each.job, error)
            pause = min(
                FIRST_PAUSE_SECONDS * 2 ** min(before, MOST_DOUBLINGS), LONGEST_PAUSE_SECONDS
            )
            away = before + 1
        except MilepostError as error:
            log.warning("%s: %s", each.job, error)
            await _note(each, str(error))
        except Exception as error:  # noqa: BLE001  (a mistake in one run must not end the others)
            log.error("%s: %s", each.job, whereabouts(error))  # noqa: TRY400  (see there)
            await _note(each, f"{type(error).__name__}; the log says where")
        else:
            _tell(each.job, counts)
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), pause)


async def _keep_noting(each: Endless, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        await _note(each, None)
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), NOTE_SECONDS)


async def _note(each: Endless, error: str | None) -> None:
    if each.note is not None:
        with suppress(DatabaseError):  # it is noted again soon
            await each.note(each.job, error)


def _tell(job: str, counts: Struct | None) -> None:
    if counts is None:
        return
    done = {
        name: count
        for name, count in msgspec.structs.asdict(counts).items()
        if isinstance(count, int) and count
    }
    if done:
        log.info("%s: %s", job, ", ".join(f"{count} {name}" for name, count in done.items()))


@contextmanager
def told_to_stop(stop: Callable[[int], None]) -> Iterator[None]:
    """Call `stop` for each signal that asks the process to end, instead of ending it."""
    loop = asyncio.get_running_loop()
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signals = [s for s in wanted if signal.getsignal(s) is not signal.SIG_IGN]  # as under nohup
    for number in signals:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
