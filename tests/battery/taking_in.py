"""Takes in what a file lists, as `sync` does first, in a process of its own that may be killed.

``python -m tests.battery.taking_in DATABASE_URL FILE OPTIONS`` prints a line for each page, and at
the end what the run was, how long it took (seconds), and by how much the process has grown (bytes).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from milepost.jobs.intake import Counts, Intake
from milepost.jobs.rows import Form
from milepost.jobs.run import Progress, Run
from milepost.jobs.sources import FileSource
from milepost.scheduler import Scheduler
from milepost.store import Store


class TakeIn:
    """A job that is an intake and nothing else."""

    def __init__(self, store: Store, path: Path) -> None:
        self._intake = Intake(store, FileSource(path, Form()))

    async def run_once(self, run: Run) -> Counts:
        """Take in what the file lists."""
        await self._intake.run(run)
        known = {name: run.counts[name] for name in Counts.__struct_fields__ if run.counts}
        return msgspec.convert(known, Counts)


def memory(name: str) -> int:
    """So many bytes this process has (VmRSS) or had at its height (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


async def take_in(database_url: str, path: Path, options: dict[str, Any]) -> None:
    """Run the job once."""

    def tell(at: Progress) -> None:
        """Print how far it is."""
        sys.stdout.write(f"{at.stage} {at.done}\n")
        sys.stdout.flush()

    async with await Store.open(database_url) as store:
        scheduler = Scheduler(store.runs, {"sync": TakeIn(store, path)}, {"sync": None})
        if (last := await store.runs.page("sync", limit=1)) == [] or last[0].ended_at is not None:
            await store.runs.ask("sync", asked_by="a test", options=options)
        begun, before = time.monotonic(), memory("VmRSS")
        run = await scheduler.run_due("sync", asyncio.Event(), progress=tell)
        told = {
            "run": run and {"id": run.id, "state": run.state, "counts": run.counts},
            "seconds": time.monotonic() - begun,
            "grown": memory("VmHWM") - before,
        }
        sys.stdout.write(msgspec.json.encode(told).decode() + "\n")


if __name__ == "__main__":
    uvloop.run(take_in(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])))
