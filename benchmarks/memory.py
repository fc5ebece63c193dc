"""Resident memory of a process: idle, and more while it drains a million waiting links."""

from __future__ import annotations

import asyncio

import psycopg
from psycopg import sql

from benchmarks.figure import Figure
from benchmarks.ledger import Filling, fill
from benchmarks.stage import DIRECT, Size, staged
from milepost.settings import RATE_PER_MINUTE

SETTLE_SECONDS = 2.0
"""After its start: what runs once has run."""

DRAIN_SECONDS = 30.0


async def measure(database_url: str, size: Size) -> list[Figure]:
    """Measure the same service before and after."""
    async with staged(database_url, size, rate_per_minute=RATE_PER_MINUTE) as stage:
        await stage.define(lanes=DIRECT, slots=10)
        with stage.service() as service:
            await asyncio.sleep(SETTLE_SECONDS)
            idle = service.memory()
            waiting
