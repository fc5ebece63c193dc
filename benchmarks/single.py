"""Links a second, one event per request, lane `deferred`, against an endpoint that does nothing.

Both are one process of the same server, asked in turn by the same caller over as many connections,
with the same bytes. What is answered is then looked for in the database.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

import msgspec

from benchmarks import load
from benchmarks.figure import Figure
from benchmarks.load import Caller, Order
from benchmarks.stage import DEFERRED, MILESTONE, WARM_UP_SECONDS, Size, await_answer, staged
from milepost.local import free_port

CONNECTIONS = 64


async def measure(database_url: str, size: Size) -> list[Figure]:
    """Measure in alternating rounds."""
    async with staged(database_url, size) as stage:
        await stage.define(lanes=DEFERRED, slots=10)
        with stage.service("--no-worker") as service, _empty_endpoint() as port:
            order = Order(
                port=service.port,
                path="/v1/links",
                key=stage.key,
                connections=CONNECTIONS,
                milestone=MILESTONE,
                registrants=size.people,
            )
            caller = Caller(order)
            nothing = Caller(msgspec.structs.replace(order, port=port))
            for warm_up in (caller, nothing):
                warm_up.ask(min(WARM_UP_SECONDS, size.seconds))
            rounds = [
                (caller.ask(size.seconds).per_second, nothing.ask(size.seconds).per_second)
                for _ in range(size.rounds)
            ]
        stage.see_that_all_wait(caller.asked)
    ours, against = zip(*rounds, strict=True)
    return [
        Figure(
            name="links a second, one event per request, deferred",
            unit="/s",
            ours=statistics.median(ours),
            against=statistics.median(against),
            measure="empty endpoint",
            must=0.40,
            aim=0.60,
        )
    ]


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
