"""Links a minute under the platform's limits: true at the platform, and answered to callers.

Callers ask for as much as one process gives them; the milestone has the usual lanes. So calls are
made for what is answered directly and, with what is left of the budget, by the worker for what was
answered with a short URL. The platform counts what came true, and what it had to refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from benchmarks import load
from benchmarks.figure import Figure
from benchmarks.load import Order
from benchmarks.stage import DIRECT, MILESTONE, Size, sibling, staged
from milepost.settings import PUBLISHED_LIMITS, RATE_PER_MINUTE

CONNECTIONS = 64
LATENCY_MS = 150
TAIL_SECONDS = 2.0
"""After the counted minute callers still ask. It begins with them: a budget may be spent in its
first seconds, and then there is nothing to see until the minute is over."""


async def measure(database_url: str, size: Size) -> list[Figure]:
    """Measure once under the brand's limit alone, and once with the published ones beside it."""
    brand = await _measure(database_url, size, {}, "brand limit only", must=2_700)
    with sibling(database_url, "published") as other:
        published = await _measure(other, size, PUBLISHED_LIMITS, "published limits", must=450)
    return [*brand, *published]


async def _measure(
    database_url: str, size: Size, limits: Mapping[str, int], what: str, *, must: float
) -> list[Figure]:
    options = ("--rate-per-minute", str(RATE_PER_MINUTE), "--latency-ms", str(LATENCY_MS))
    async with staged(
        database_url,
        size,
        *("--limits", "published" if limits else "none", *options),
        rate_per_minute=RATE_PER_MINUTE,
        limits=msgspec.json.encode(dict(limits)).decode(),
    ) as stage:
        await stage.define(lanes=DIRECT, slots=5)
        with stage.service() as service:
            order = Order(
                port=service.port,
                path="/v1/links",
                key=stage.key,
                seconds=size.minute + min(TAIL_SECONDS, size.minute),
                connections=CONNECTIONS,
                milestone=MILESTONE,
                registrants=size.people,
            )
            stage.forget()
            asking = asyncio.create_task(asyncio.to_thread(load.run, order))
            await asyncio.sleep(size.minute)
            calls = stage.calls("list_contacts")
            refused = stage.calls()["throttled"]
            answered = await asking
    per_minute = 60 / size.minute
    return [
        Figure(
            name=f"links a minute true at the platform, {what}",
            unit="/min",
            ours=calls["accepted"] * per_minute,
            must=must,
        ),
        Figure(
            name=f"links a minute answered, {what}",
            unit="/min",
            ours=answered.per_second * 60,
            must=100_000,
        ),
        Figure(
            name=f"calls that the platform throttled meanwhile, {what}",
            unit="calls",
            ours=refused,
            must=0,
            at_most=True,
        ),
    ]
