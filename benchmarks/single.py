"""Links a second, one event per request, lanes `ready` and `deferred`, against an empty endpoint.

All are one process of the same server, asked in turn by the same caller over as many connections,
with the same bytes. What is answered is then looked for in the database.
"""

from __future__ import annotations

import operator
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

import msgspec

from benchmarks import load
from benchmarks.figure import Figure
from benchmarks.load import Caller, Order
from benchmarks.stage import (
    AHEAD,
    DEFERRED,
    MILESTONE,
    READY,
    WARM_UP_SECONDS,
    Size,
    await_answer,
    staged,
)
from milepost.local import free_port

CONNECTIONS = 64

LANES = ("ready", "deferred")
MEDIAN = operator.attrgetter("median_ms")
P99 = operator.attrgetter("p99_ms")

FIRST_READY = 5_000_000_000
"""Its events have numbers of their own."""

MOST_PER_SECOND = 10_000
"""Links of lane `ready`, one for each person: so many people must there be."""


async def measure(database_url: str, size: Size) -> list[Figure]:
    """Measure in alternating rounds."""
    warm_up = min(WARM_UP_SECONDS, size.seconds)
    enough = round(MOST_PER_SECOND * (warm_up + size.rounds * size.seconds))
    async with staged(
        database_url, msgspec.structs.replace(size, people=max(size.people, enough))
    ) as stage:
        await stage.define(lanes=DEFERRED, slots=10)
        await stage.define(AHEAD, membership="ahead", lanes=READY)
        stage.join(AHEAD)
        with stage.service("--no-worker") as service, _empty_endpoint() as port:
            order = Order(
                port=service.port,
                path="/v1/links",
                key=stage.key,
                connections=CONNECTIONS,
                milestone=MILESTONE,
                registrants=stage.people,
            )
            deferred = Caller(order)
            ready = Caller(
                msgspec.structs.replace(
                    order, milestone=AHEAD, first=FIRST_READY, expected='"lane":"ready"'
                )
            )
            nothing = Caller(msgspec.structs.replace(order, port=port))
            callers = (ready, deferred, nothing)
            for caller in callers:
                caller.ask(warm_up)
            rounds = [[caller.ask(size.seconds) for caller in callers] for _ in range(size.rounds)]
        stage.see_that_all_wait(deferred.asked)
        stage.see_that_all_are_ready(AHEAD, ready.asked)
    *ours, against = [
        statistics.median(one.per_second for one in yields) for yields in zip(*rounds, strict=True)
    ]
    throughput = [
        Figure(
            name=f"links a second, one event per request, {lane}",
            unit="/s",
            ours=per_second,
            against=against,
            measure="empty endpoint",
            must=0.40,
            aim=0.60,
        )
        for lane, per_second in zip(LANES, ours, strict=True)
    ]
    latency = [
        Figure(
            name=f"time of a {lane} link while {CONNECTIONS} callers do nothing but ask, {name}",
            unit="ms",
            ours=statistics.median(part(one) for one in yields),
        )
        for lane, yields in zip(LANES, zip(*rounds, strict=True), strict=False)
        for name, part in (("median", MEDIAN), ("p99", P99))
    ]
    return throughput + latency


@contextmanager
def _empty_endpoint() -> Iterator[int]:
    port = free_port(0)
    command = [sys.executable, "-m", "benchmarks.empty", str(port)]
    with Popen(command, cwd=load.REPOSITORY) as started:  # noqa: S603  (our own words)
        try:
            await_answer(f"http://127.0.0.1:{port}/health/ready")
            yield port
        finally:
            started.terminate()
