"""A process with the scheduler of `milepost work`, and jobs that write down what they do.

Arguments: the database's URL; the file that jobs write to; a time zone; how many pages a run of the
long job has.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from msgspec import Struct

from milepost.app import told_to_stop
from milepost.calendars import At
from milepost.jobs.run import Run
from milepost.scheduler import Scheduler
from milepost.store import Store
from milepost.worker import Endless, Worker

PAGE_SECONDS: Final = 0.02
"""What a page takes, so that a run can be met amid one."""

TICK_SECONDS: Final = 0.05


class Line(Struct, frozen=True):
    """A page that a run did, or was about to do when its process died."""

    job: str
    run: int
    due_at: str
    page: int
    pid: int


class Counts(Struct, kw_only=True):
    """What a run did."""

    pages: int = 0


class Written:
    """A job that writes each page down, does it, and commits it.

    Args:
        log: where to.
        pages: how many.
    """

    def __init__(self, log: Path, pages: int) -> None:
        self._log = log
        self._pages = pages

    async def run_once(self, run: Run) -> Counts:
        """Do the pages that are left."""
        for page in range(run.position or 0, self._pages):
            if run.stopping.is_set():
                break
            record = run.record
            line = Line(record.job, record.id, record.due_at.isoformat(), page, os.getpid())
            with self._log.open("ab", buffering=0) as log:
                log.write(msgspec.json.encode(line) + b"\n")  # one write, so whole lines
            await asyncio.sleep(PAGE_SECONDS)
            await run.commit(
                page + 1,
                stage="pages",
                done=page + 1,
                total=self._pages,
                counts=Counts(pages=page + 1),
            )
        return Counts(pages=self._pages)


class Poisonous:
    """A job with a mistake in it."""

    async def run_once(self, run: Run) -> Counts:
        """Make it."""
        raise ValueError(f"ann@example.com {run.record.id}")


async def work(url: str, log: Path, zone: str, pages: int) -> None:
    """Run the jobs until SIGTERM."""
    stopping = asyncio.Event()
    jobs = {"rotate": Written(log, 1), "sync": Written(log, pages), "canary": Poisonous()}
    when = {
        "rotate": At("0 * * * *", zone),
        "sync": At("30 2 * * *", zone),
        "canary": At("30 4 * * *", zone),
    }
    async with await Store.open(url) as store:
        scheduler = Scheduler(store.runs, jobs, when)
        with told_to_stop(lambda _: stopping.set()):
            tick = Endless(job="scheduler", run=scheduler.tick, every=TICK_SECONDS)
            await Worker(tick).run(stopping)
            await scheduler.finish()


if __name__ == "__main__":
    database_url, log_file, time_zone, count = sys.argv[1:]
    uvloop.run(work(database_url, Path(log_file), time_zone, int(count)))
