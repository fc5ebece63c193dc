"""Postgres dies under load: nothing that was acknowledged is lost, and it goes on by itself."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import uvloop
from msgspec import Struct
from tests.battery.load import LONG, Answer, Installation, events
from tests.battery.verdicts import Watch, ledger, verify

from milepost.embedded import EmbeddedPostgres
from milepost.store.migrate import upgrade

log = logging.getLogger(__name__)

BACK_SECONDS: Final = 5.0
"""From when Postgres takes connections again until a caller has its event acknowledged."""


class Server(Struct):
    """A Postgres that this test alone uses, and may kill."""

    postgres: EmbeddedPostgres
    root: Path
    url: str

    def crash(self) -> None:
        """Kill it, and bring it back."""
        home = self.root / "postgres"
        os.kill(int((home / "data/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        with (home / "server").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held by all its processes, until they have gone
        self.postgres.start()


@pytest.fixture
def server() -> Iterator[Server]:
    """One that keeps what it has committed."""
    root = Path(tempfile.mkdtemp(prefix="milepost"))
    root.chmod(0o755)  # as root, an account without privileges runs it
    postgres = EmbeddedPostgres(root)
    try:
        with postgres as url:
            upgrade(url)
            yield Server(postgres, root, url)
    finally:
        shutil.rmtree((root / "postgres").resolve())
        shutil.rmtree(root)


@pytest.fixture
def database_url(server: Server) -> str:
    """The URL of that server's database."""
    return server.url


class Restarts(Struct, frozen=True):
    """So many crashes, at even distances, while so many events come."""

    events: int
    per_minute: int
    crashes: int


@pytest.mark.parametrize(
    "restarts",
    [
        pytest.param(Restarts(900, 3_600, 3), id="short"),
        pytest.param(Restarts(20_000, 6_000, 20), id="long", marks=LONG),
    ],
)
def test_a_crash_of_postgres_loses_nothing_acknowledged(
    install: Callable[..., Installation], watch: Watch, server: Server, restarts: Restarts
) -> None:
    """Callers ask again until they have an answer, and soon have one again."""
    count = restarts.events
    on = install(
        people=count,
        slots=1,
        replicas=2,
        platform=("--limits", "none", "--latency-ms", "100"),
        settings={"RATE_PER_MINUTE": "1000000", "LIMITS": "none"},
    )
    sent = events(count, people=count)
    pause = 60 * count / restarts.per_minute / (restarts.crashes + 1)

    async def scenario() -> tuple[list[Answer], list[float]]:
        """The restarts, and what the callers saw."""
        pouring = asyncio.create_task(
            asyncio.to_thread(on.pour, sent, per_minute=restarts.per_minute, insist=True)
        )
        begun = time.monotonic()
        back = []
        for number in range(1, restarts.crashes + 1):
            await asyncio.sleep(begun + number * pause - time.monotonic())
            await asyncio.to_thread(server.crash)
            back.append(time.monotonic())
        return await pouring, back

    answers, back = uvloop.run(scenario())
    watch.settled(within=60)
    answers += on.pour(sent, insist=True)

    rows = ledger(on.database_url)
    retaken = sum(row.attempt > 1 for row in rows)
    verdict = verify(on, answers, watch=watch, deadline=None, extra_writes=retaken)
    assert {"issued": count} == verdict.states
    acknowledged = [a.begun + a.seconds for a in answers if a.is_acknowledged]
    took = [min(at for at in acknowledged if at > since) - since for since in back]
    log.info("%d crashes, back after at most %.1f s", len(back), max(took))
    assert max(took) <= BACK_SECONDS
