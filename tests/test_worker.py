"""The worker: jobs come again, whatever they meet, and end when the process does."""

from __future__ import annotations

import asyncio
import logging

import pytest
from msgspec import Struct

from milepost import worker
from milepost.errors import DatabaseBusy, MilepostError
from milepost.worker import Endless, Worker, WorkerEnded


class Done(Struct):
    """What a run of the job did."""

    links: int = 0
    errors: tuple[str, ...] = ()


async def test_a_job_comes_again_whatever_it_meets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While Postgres is away, after a refusal, after a mistake; what was done is told."""
    monkeypatch.setattr(worker, "FIRST_PAUSE_SECONDS", 0.001)
    caplog.set_level(logging.INFO)
    met: list[Exception | Done] = [
        *(DatabaseBusy("away"), DatabaseBusy("away"), Done()),
        *(MilepostError("refused"), ValueError("ann@example.com"), Done(links=2)),
    ]
    stopping = asyncio.Event()

    async def run(given: asyncio.Event) -> Done:
        """Meet the next of them; with the last, the process is told to end."""
        assert given is stopping
        happens = met.pop(0)
        if not met:
            stopping.set()
        if isinstance(happens, Exception):
            raise happens
        return happens

    await Worker(Endless(job="drain", run=run, every=0.001)).run(stopping)
    assert [] == met
    told = [record.getMessage().split(" at ")[0] for record in caplog.records]
    assert ["drain waits: away", "drain: refused", "drain: ValueError", "drain: 2 links"] == told


async def test_a_worker_waits_for_runs_that_are_under_way() -> None:
    """Told to stop, it ends when they do; a job that pauses ends at once."""
    begun, stopping, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def long(_: asyncio.Event) -> Done:
        """Be under way."""
        begun.set()
        await may_end.wait()
        return Done()

    async def short(_: asyncio.Event) -> Done:
        """Be done, and come again in an hour."""
        return Done()

    jobs = [Endless(job=job.__name__, run=job, every=3600) for job in (long, short)]
    work = asyncio.create_task(Worker(*jobs).run(stopping))
    await begun.wait()
    stopping.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not work.done()
    may_end.set()
    await work


async def test_postgres_may_be_away_for_as_long_as_it_likes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The pauses end to grow, and the second time that it is away is told as the first one was."""
    monkeypatch.setattr(worker, "LONGEST_PAUSE_SECONDS", 0.0)
    met: list[Exception] = [
        *(DatabaseBusy("away") for _ in range(1_100)),
        *(MilepostError("refused"), DatabaseBusy("away"), ValueError(), DatabaseBusy("away")),
    ]
    stopping = asyncio.Event()

    async def run(_: asyncio.Event) -> Done:
        """Meet the next of them; with the last, the process is told to end."""
        happens = met.pop(0)
        if not met:
            stopping.set()
        raise happens

    await Worker(Endless(job="drain", run=run, every=0)).run(stopping)
    told = [record.getMessage().split(" at ")[0] for record in caplog.records]
    waits = "drain waits: away"
    assert [waits, "drain: refused", waits, "drain: ValueError", waits] == told


async def test_a_mistake_of_the_workers_own_ends_all_jobs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One job does not go on without another: the process is told to stop, and the log says why."""
    stopping = asyncio.Event()

    async def sound(_: asyncio.Event) -> Done:
        """Be done, and come again in an hour."""
        return Done()

    async def unsound(_: asyncio.Event) -> Done:
        """Be ended by what no job is meant to meet."""
        raise asyncio.CancelledError

    jobs = [Endless(job=job.__name__, run=job, every=3600) for job in (sound, unsound)]
    with pytest.raises(WorkerEnded):
        await Worker(*jobs).run(stopping)
    assert stopping.is_set()
    told = [record.getMessage().split(" at ")[0] for record in caplog.records]
    assert ["unsound has ended: CancelledError"] == told
