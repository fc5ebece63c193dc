"""Runs that are asked for, of a whole Milepost: waited for, followed, and left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from milepost.app import Milepost
from milepost.errors import UnknownJob
from milepost.store.runs import RunRecord


async def test_a_run_that_is_asked_for_comes_to_its_end(milepost: Milepost, platform: Any) -> None:
    """In this process, if no other one is quicker; the platform has what it made."""
    await platform.forget()
    ran = await milepost.run("sync", asked_by="ops")
    assert ("done", "ops", 1) == (ran.state, ran.asked_by, ran.attempt)
    assert await platform.writes()
    with pytest.raises(UnknownJob, match=r"There is no job 'clean'\. Use one of: replenish, "):
        await milepost.run("clean", asked_by="ops")


async def test_what_is_under_way_elsewhere_is_followed_and_can_be_left(milepost: Milepost) -> None:
    """Whoever waits is told, each second, how far it is, and need not wait for the end."""
    runs, stopping = milepost.store.runs, asyncio.Event()
    await runs.ask("sync", asked_by="another process")
    other = await runs.take("sync")
    assert other is not None
    seen: list[RunRecord] = []

    def follow(run: RunRecord) -> None:
        """See it, and have enough."""
        seen.append(run)
        stopping.set()

    left = await milepost.run("sync", asked_by="ops", following=follow, stopping=stopping)
    assert [other.id] == [run.id for run in seen]
    assert ("waiting", "ops", None) == (left.state, left.asked_by, left.started_at)
    await runs.end(other, "done", counts={})
    again = await milepost.run("sync", asked_by="ops")
    assert (left.id, "done") == (again.id, again.state)
