"""Calls that job `sync` makes for new registrants, and the memory that it takes.

Nobody is known to the platform at first. The job runs in a process of its own, as an operator runs
it; and once more, when it has nothing to do, for the memory of a run that holds nothing.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from os import environ

import msgspec

from benchmarks.figure import Figure
from benchmarks.stage import Size, Stage, peak_memory, staged
from milepost.local import process


async def measure(database_url: str, size: Size) -> list[Figure]:
    """Measure once."""
    crowd = msgspec.structs.replace(size, people=size.newcomers)
    async with staged(database_url, crowd) as stage:
        await stage.forget_contacts()
        stage.forget()
        most = await asyncio.to_thread(_run, stage)
        calls = stage.calls()["calls"]
        if stage.one("SELECT count(*) FROM registrants WHERE home_lookup_id IS NULL"):
            raise RuntimeError("somebody is not in the home list")
        idle = await asyncio.to_thread(_run, stage)
    return [
        Figure(
            name=f"calls for {size.newcomers:,} new registrants, sync",
            unit="calls",
            ours=calls,
            must=1_500,
            at_most=True,
        ),
        Figure(
            name="more memory than a run that has nothing to do",
            unit="MB",
            ours=most - idle,
            must=20,
            at_most=True,
        ),
    ]


def _run(stage: Stage) -> float:
    """Run the job to its end; the most memory that its process took, in MB.

    Raises:
        RuntimeError: it did not get through.
    """
    with process(
        *("run", "sync", "--json"),
        environment=environ | stage.environment,
        stdout=subprocess.PIPE,
    ) as started:
        most = peak_memory(started)
        assert started.stdout is not None  # noqa: S101  (a pipe was asked for)
        told = json.loads(started.stdout.read())
    if told["state"] != "done":
        raise RuntimeError(f"sync: {told['state']}: {told['error']}")
    return most
