"""Several processes on one port: who answers, who takes whose place, and how all of them end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import uvicorn

from milepost import app, settings
from milepost.local import process, simulator
from milepost.model import MilestoneDefinition, RegistrantDetails, Scope

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def environment(database_url: str) -> Iterator[dict[str, str]]:
    """The settings of an installation with a simulator, and no limits."""
    with simulator(0) as ready:
        yield {
            "MILEPOST_DATABASE_URL": database_url,
            "MILEPOST_UPSTREAM_URL": ready()["url"],
            "MILEPOST_UPSTREAM_TOKEN": "simulator",
            "MILEPOST_SECRET": "a secret of at least sixteen bytes",
            "MILEPOST_RATE_PER_MINUTE": "1000000",
            "MILEPOST_LIMITS": "none",
            "MILEPOST_PUBLIC_URL": "http://127.0.0.1:8700",
            "SURVEY": ready()["survey_id"],
        }


class Served:
    """A `milepost serve` that runs."""

    def __init__(self, started: subprocess.Popen[bytes], url: str) -> None:
        self.started = started
        self.url = url

    def processes(self) -> list[int]:
        """The processes that answer for it, by id."""
        parent = self.started.pid
        return [
            int(pid)
            for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            if b"serve-one" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    async def replaced(self, pid: int, count: int = 2) -> None:
        """Wait until a process has gone and as many as before answer."""
        while pid in (now := self.processes()) or len(now) < count:
            await asyncio.sleep(0.02)  # another process's children have no event


@contextmanager
def serving(environment: dict[str, str], *options: str) -> Iterator[Served]:
    """`milepost serve` in processes of its own, ready to answer."""
    arguments = ("serve", "--port", "0", *options)
    whole = os.environ | environment
    with process(*arguments, environment=whole, stderr=subprocess.PIPE) as started:
        assert started.stderr is not None
        said = started.stderr.readline().decode()
        assert said.startswith("Milepost on http://"), said
        yield Served(started, said.split()[2])


async def set_up(environment: dict[str, str], tmp_path: Path) -> str:
    """A milestone whose pool is full, and a registrant for each of 100; returns a key."""
    given = settings.load(environment, tmp_path)
    async with app.opened(given, environment["MILEPOST_DATABASE_URL"]) as milepost:
        definition = MilestoneDefinition(survey_id=environment["SURVEY"], slots=5, max_slots=5)
        await milepost.store.milestones.put("landed", definition)
        people = {
            f"r{n}": RegistrantDetails(email=f"r{n}@example.com", first_name="R") for n in range(100)
        }
        await milepost.store.registrants.put(people)
        await milepost.replenish.run_once()
        return (await milepost.store.keys.create("app", [Scope.ISSUE]))[1]


class Load:
    """Callers that ask for links without a pause, each over a connection that it keeps."""

    def __init__(self, urls: list[str], key: str) -> None:
        self.urls = urls
        self.outcomes: Counter[object] = Counter()
        self.links: dict[str, str] = {}
        self._headers = {"Authorization": f"Bearer {key}"}
        self._next = iter(range(10**6))

    async def run(self, callers: int, until: Callable[[], bool]) -> None:
        """Ask until it is time to end."""
        await asyncio.gather(*(self._call(until) for _ in range(callers)))

    async def _call(self, until: Callable[[], bool]) -> None:
        async with httpx.AsyncClient(headers=self._headers, timeout=20, trust_env=False) as client:
            while not until():
                await self._ask(client, next(self._next))

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        event = {
            "event_id": f"e{number}",
            "milestone": "landed",
            "registrant": f"r{number % 100}",
            "deadline_ms": 8000,
        }
        for turn in range(100 * len(self.urls)):
            url = self.urls[(number + turn) % len(self.urls)]
            try:
                answer = await client.post(f"{url}/v1/links", json=event)
            except httpx.ConnectError:  # nothing was sent: it goes to the other one
                await asyncio.sleep(0.01)
                continue
            except httpx.TransportError as error:
                self.outcomes[type(error).__name__] += 1
                return
            self.outcomes[answer.status_code] += 1
            if answer.is_success:
                self.links[event["event_id"]] = answer.json()["url"]
            return
        self.outcomes["nobody there"] += 1
