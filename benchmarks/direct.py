"""The time of a `direct` link, against the least that such a link can cost.

Ours: `POST /v1/links` to `milepost serve`, 2,700 events a minute, simulator without latency.
Against: what no design can do without, from the same caller: one call to the simulator, and two
commits of one row each in the same Postgres. Both are paced alike, in alternating rounds.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psycopg

from milepost import app
from milepost.embedded import EmbeddedPostgres
from milepost.local import free_port
from milepost.local import simulator as simulator_process
from milepost.model import MilestoneDefinition, RegistrantDetails, Scope
from milepost.settings import SIMULATOR_TOKEN, load

PER_SECOND = 2_700 / 60
REGISTRANTS = 500
MILESTONE = "landed"


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    unit: str
    ours: float
    against: float
    must: str
    aim: str

    @property
    def ratio(self) -> float:
        """Ours in parts of what it is measured against."""
        return self.ours / self.against

    def as_dict(self) -> dict[str, object]:
        """The figure for the JSON file."""
        return asdict(self) | {"ratio": self.ratio}


async def measure(home: Path, *, rounds: int, seconds: float) -> list[Figure]:
    """Measure in alternating rounds and return the medians over them."""
    with EmbeddedPostgres(home) as url, simulator_process(free_port(8790)) as ready:
        async with _set_up(home, url, ready()) as (link, least):
            await _round(link, 2.0)  # connections, prepared statements
            await _round(least, 2.0)
            ours, against = [], []
            for _ in range(rounds):
                ours.append(await _round(link, seconds))
                against.append(await _round(least, seconds))
    return [
        Figure(
            name=f"direct link at 2,700 a minute, {name}",
            unit="ms",
            ours=statistics.median(part(times) for times in ours),
            against=statistics.median(part(times) for times in against),
            must=must,
            aim=aim,
        )
        for name, part, must, aim in (
            ("median", statistics.median, "≤ 2.5", "1.5"),
            ("p99", _p99, "≤ 5", "3"),
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


@asynccontextmanager
async def _set_up(
    home: Path, url: str, simulator: dict[str, str]
) -> AsyncIterator[tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]]:
    environment = {
        "MILEPOST_DATABASE_URL": url,
        "MILEPOST_UPSTREAM_URL": simulator["url"],
        "MILEPOST_UPSTREAM_TOKEN": SIMULATOR_TOKEN,
        "MILEPOST_SECRET": secrets.token_hex(32),
    }
    app.migrate.upgrade(url)
    async with app.opened(load(environment, home), url) as milepost:
        people = {f"r{n}": RegistrantDetails(email=f"r{n}@example.com") for n in range(REGISTRANTS)}
        await milepost.store.registrants.put(people)
        definition = MilestoneDefinition(survey_id=simulator["survey_id"], slots=25, max_slots=25)
        await milepost.store.milestones.put(MILESTONE, definition)
        await milepost.replenish.run_once()
        directory_id = milepost.deployment.directory_id or ""
        list_id = await milepost.upstream.create_mailing_list(directory_id, "benchmark")
        contacts = f"{simulator['url']}/directories/{directory_id}/mailinglists/{list_id}/contacts"
        _, key = await milepost.store.keys.create("benchmark", [Scope.ISSUE])
    port = free_port(8700)
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "milepost", "serve", "--port", str(port)),
        env=os.environ | environment,
    )
    try:
        async with (
            httpx.AsyncClient(trust_env=False) as client,
            await psycopg.AsyncConnection.connect(url, autocommit=True) as connection,
        ):
            await connection.execute("CREATE TABLE least (n bigint, at timestamptz)")
            await _healthy(client, f"http://127.0.0.1:{port}/health/ready")
            yield (
                _links(client, f"http://127.0.0.1:{port}/v1/links", key),
                _least(client, connection, contacts),
            )
    finally:
        service.send_signal(signal.SIGTERM)
        await service.wait()


async def _healthy(client: httpx.AsyncClient, url: str) -> None:
    for _ in range(200):
        try:
            (await client.get(url)).raise_for_status()
        except httpx.HTTPError:
            await asyncio.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nobody answers at {url}")


def _links(client: httpx.AsyncClient, url: str, key: str) -> Callable[[], Awaitable[None]]:
    numbers = iter(range(10**9))

    async def ask() -> None:
        number = next(numbers)
        answer = await client.post(
            url,
            headers={"Authorization": f"Bearer {key}"},
            json={
                "event_id": f"e{number}",
                "milestone": MILESTONE,
                "registrant": f"r{number % REGISTRANTS}",
            },
        )
        if answer.status_code != httpx.codes.CREATED or answer.json()["lane"] != "direct":
            raise RuntimeError(f"not a direct link: {answer.status_code} {answer.text}")

    return ask


def _least(
    client: httpx.AsyncClient, connection: psycopg.AsyncConnection, url: str
) -> Callable[[], Awaitable[None]]:
    headers = {"X-API-TOKEN": SIMULATOR_TOKEN}
    numbers = iter(range(10**9))

    async def least() -> None:
        number = next(numbers)
        await connection.execute("INSERT INTO least VALUES (%s, now())", [number])
        contact = {"email": f"r{number % REGISTRANTS}@example.com", "extRef": str(number)}
        answer = await client.post(url, headers=headers, json=contact)
        answer.raise_for_status()
        await connection.execute("INSERT INTO least VALUES (%s, now())", [number])

    return least
