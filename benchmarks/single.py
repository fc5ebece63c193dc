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
from benchmarks.load import Order
from benchmarks.stage import DEFERRED, MILESTONE, Size, Stage, await_answer, staged
from milepost.local import free_port

CONNECTIONS = 64
WARM_UP_SECONDS = 2.0


async def measure(database_url: str, size: Size) -> list[Figure]:
    """Measure in alternating rounds."""
    async with staged(database_url, size) as stage:
        await stage.define(lanes=DEFERRED, slots=10)
        with stage.service("--no-worker") as service, _empty_endpoint() as port:
            order = Order(
                port=service.port,
                path="/v1/links",
                key=stage.key,
                seconds=min(WARM_UP_SECONDS, size.seconds),
                connections=CONNECTIONS,
                milestone=MILESTONE,
                registrants=size.people,
                first=0,
            )
            ours, against = [], []
            for number in range(size.rounds + 1):
                link = load.run(order)
                empty = load.run(msgspec.structs.replace(order, port=port))
                order = msgspec.structs.replace(
                    order, first=order.first + link.sent, seconds=size.seconds
                )
                if number > 0:  # connections, prepared statements
                    ours.append(link.per_second)
                    against.append(empty.per_second)
        _see_that_all_are_there(stage, order.first)
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


def _see_that_all_are_there(stage: Stage, sent: int) -> None:
    found = stage.one(
        "SELECT count(*) FROM links WHERE state = 'waiting' AND published = 'short' "
        "AND short_url LIKE '%/l/' || token"
    )
    if found != sent:
        raise RuntimeError(f"{sent} events were answered, and {found} links are in the database")


@contextmanager
def _empty_endpoint() -> Iterator[int]:
    port = free_port(0)
    with Popen([sys.executable, "-m", "benchmarks.empty", str(port)]) as started:  # noqa: S603  (our own)
        try:
            await_answer(f"http://127.0.0.1:{port}/health/ready")
            yield port
        finally:
            started.terminate()
