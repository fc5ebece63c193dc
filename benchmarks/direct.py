"""The time of a `direct` link, against the least that such a link can cost.

Ours: `POST /v1/links` to `milepost serve`, 2,700 events a minute, simulator without latency.
Against: what no design can do without: one call to the simulator by httpx, and two commits of one
row each in the same Postgres. Both are paced alike, in alternating rounds.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import httpx
import psycopg

from benchmarks.figure import Figure
from benchmarks.load import Caller, Order
from benchmarks.stage import DIRECT, MILESTONE, WARM_UP_SECONDS, Size, Stage, staged
from milepost.settings import SIMULATOR_TOKEN
from milepost.upstream import Upstream

PER_SECOND = 2_700 / 60


CONNECTIONS = 16
"""Of the caller: enough for all that is under way at a time."""


async def measure(database_url: str, size: Size) -> list[Figure]:
    """Measure in alternating rounds."""
    async with (
        staged(database_url, size) as stage,
        httpx.AsyncClient(trust_env=False) as client,
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection,
    ):
        await stage.define(lanes=DIRECT)
        await connection.execute("CREATE TABLE least (n bigint, at timestamptz)")
        least = _least(client, connection, await _contacts_url(stage))
        with stage.service() as service:
            caller = Caller(
                Order(
                    port=service.port,
                    path="/v1/links",
                    key=stage.key,
                    connections=CONNECTIONS,
                    milestone=MILESTONE,
                    registrants=stage.people,
                    expected='"lane":"direct"',
                    per_second=PER_SECOND,
                )
            )
            warm_up = min(WARM_UP_SECONDS, size.seconds)
            caller.ask(warm_up)
            await _round(least, warm_up)
            rounds = [
                (caller.ask(size.seconds), await _round(least, size.seconds))
                for _ in range(size.rounds)
            ]
    ours, against = zip(*rounds, strict=True)
    return [
        Figure(
            name=f"time of a direct link at 2,700 a minute, {name}",
            unit="ms",
            ours=statistics.median(getattr(brought, member) for brought in ours),
            against=statistics.median(part(times) for times in against),
            measure="one call, two commits",
            must=must,
            aim=aim,
            at_most=True,
        )
        for name, member, part, must, aim in (
            ("median", "median_ms", statistics.median, 2.5, 1.5),
            ("p99", "p99_ms", _p99, 5, 3),
        )
    ]


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


async def _round(do: Callable[[], Awaitable[None]], seconds: float) -> list[float]:
    """The time of each `do()`, in ms, begun on schedule whatever became of those before."""
    times: list[float] = []

    async def one() -> None:
        begun = time.perf_counter()
        await do()
        times.append((time.perf_counter() - begun) * 1000)

    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * PER_SECOND)):
            await asyncio.sleep(max(0.0, start + number / PER_SECOND - time.monotonic()))
            group.create_task(one())
    return times


async def _contacts_url(stage: Stage) -> str:
    """Where contacts are added to a list that is nobody else's."""
    async with Upstream(stage.platform, SIMULATOR_TOKEN) as upstream:
        list_id = await upstream.create_mailing_list(stage.directory_id, "benchmark")
    return f"{stage.platform}/directories/{stage.directory_id}/mailinglists/{list_id}/contacts"


def _least(
    client: httpx.AsyncClient, connection: psycopg.AsyncConnection, url: str
) -> Callable[[], Awaitable[None]]:
    headers = {"X-API-TOKEN": SIMULATOR_TOKEN}
    numbers = iter(range(10**9))

    async def least() -> None:
        number = next(numbers)
        await connection.execute("INSERT INTO least VALUES (%s, now())", [number])
        contact = {"email": f"least{number}@example.com", "extRef": str(number)}
        answer = await client.post(url, headers=headers, json=contact)
        answer.raise_for_status()
        await connection.execute("INSERT INTO least VALUES (%s, now())", [number])

    return least
