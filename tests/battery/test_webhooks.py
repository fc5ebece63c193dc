"""Messages reach their endpoints, whatever these answer and however often their senders die.

The verdict is the receiver's own record. It is written in another language, and verifies by the
library of Standard Webhooks for it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import msgspec
import playwright
import psycopg
import pytest
import uvloop
from tests.battery.load import LONG

from milepost.model import MessageType
from milepost.store import Store

HERE = Path(__file__).parent
NODE = Path(playwright.__file__).parent / "driver" / "node"
SENDERS = 2

LEFT = "SELECT count(*) FROM messages WHERE state <> 'delivered' AND endpoint_id <> %s"
TRIED = "SELECT coalesce(sum(attempt), 0) FROM messages WHERE endpoint_id = %s"
TELL = """
INSERT INTO messages (endpoint_id, type, data, due_at, created_at)
SELECT e.id, 'job.failed', jsonb_build_object('n', n, 'at', extract(epoch FROM clock_timestamp())),
    now(), now()
FROM endpoints AS e, generate_series(%s::integer, %s::integer) AS n WHERE e.description = ANY (%s)
"""


@dataclass(frozen=True)
class Figures:
    """How large a scenario is."""

    endpoints: int
    messages: int
    """To each of them."""
    kills: int
    seconds: str
    """For an attempt; 10 s in earnest. Whatever depends on it is shorter by as much."""
    quiet: float = 0
    """Seconds beforehand in which the sound endpoint is told alone."""


@dataclass
class Bench:
    """A receiver, a dead endpoint, and the processes that send."""

    database_url: str
    record: Path
    dead: str
    seconds: str
    senders: list[subprocess.Popen[bytes]]

    def tell(self, first: int, last: int, *endpoints: str) -> None:
        """Write a message for each number to these endpoints."""
        with psycopg.connect(self.database_url) as database:
            database.execute(TELL, (first, last, list(endpoints)))

    def left(self) -> int:
        """How many messages are not delivered, but for those of the dead endpoint."""
        return self._count(LEFT)

    def tried(self) -> int:
        """How many attempts were made at the dead endpoint."""
        return self._count(TRIED)

    def _count(self, query: str) -> int:
        with psycopg.connect(self.database_url) as database:
            row = database.execute(query.encode(), (self.dead,)).fetchone()
        assert row is not None
        return int(row[0])

    def kill_one(self) -> None:
        """Kill a sender at once, and start another one in its place."""
        number = random.randrange(len(self.senders))  # noqa: S311 - chance is the point
        os.killpg(self.senders[number].pid, signal.SIGKILL)
        self.senders[number].communicate()
        self.senders[number] = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start a sender."""
        return subprocess.Popen(  # noqa: S603 - ourselves
            [*(sys.executable, "-m", "tests.battery.delivering"), self.database_url, self.seconds],
            cwd=HERE.parent.parent,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def entries(self) -> list[dict[str, Any]]:
        """What the receiver wrote down."""
        lines = self.record.read_bytes().splitlines()
        return [msgspec.json.decode(line) for line in lines]


@contextmanager
def bench(database_url: str, folder: Path, paths: list[str], seconds: str) -> Iterator[Bench]:
    """A receiver with 30 % errors and 10 % timeouts, a dead endpoint, and senders."""

    async def register(port: int, dead_port: int) -> tuple[dict[str, str], str]:
        """Make the endpoints."""
        async with await Store.open(database_url) as store:
            made = {}
            for path in paths:
                url = f"http://127.0.0.1:{port}{path}"
                _, made[path] = await store.messages.create(url, [MessageType.JOB_FAILED], path)
            url = f"http://127.0.0.1:{dead_port}/"
            dead, _ = await store.messages.create(url, [MessageType.JOB_FAILED], "dead")
        return made, str(dead.id)

    # Connections are made by the kernel, and nobody ever takes them.
    with socket.create_server(("127.0.0.1", 0), backlog=1_000) as silence:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        secrets, dead = uvloop.run(register(port, silence.getsockname()[1]))
        record = folder / "record"
        receiver = subprocess.Popen(  # noqa: S603 - the node of Playwright
            [NODE, HERE / "receiver.js", record, json.dumps(secrets), "0.3", "0.1", str(port)],
            env=os.environ | {"NODE_PATH": str(HERE / "javascript")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert receiver.stdout is not None
        made = Bench(database_url, record, dead, seconds, [])
        try:
            assert receiver.stdout.readline()
            made.senders += [made.start() for _ in range(SENDERS)]
            yield made
        finally:
            for process in (*made.senders, receiver):
                process.kill()
                process.communicate()


def p95(entries: list[dict[str, Any]]) -> float:
    """Within how many seconds 95 % of the messages arrived."""
    return quantiles([entry["at"] - entry["data"]["at"] for entry in entries], n=20)[-1]


@contextmanager
def trickling(on: Bench, first: int) -> Iterator[None]:
    """Meanwhile the sound endpoint is told something five times a second."""
    ended = threading.Event()

    def trickle() -> None:
        number = first
        while not ended.wait(0.2):
            on.tell(number, number, "/well")
            number += 1

    teller = threading.Thread(target=trickle)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


@pytest.mark.parametrize(
    "figures",
    [
        pytest.param(Figures(2, 12, 1, "0.5"), id="short"),
        pytest.param(Figures(10, 1_000, 20, "1", quiet=20.0), id="long", marks=LONG),
    ],
)
def test_every_message_arrives(database_url: str, tmp_path: Path, figures: Figures) -> None:
    """At least once and verified, with 30 % errors, 10 % timeouts, a dead endpoint and kills.

    A sound endpoint does not notice: what it is told arrives as soon as without all of that.
    """
    paths = [f"/{number}" for number in range(figures.endpoints)]
    with bench(database_url, tmp_path, [*paths, "/well"], figures.seconds) as on:
        if figures.quiet:
            with trickling(on, 1_000_000):
                time.sleep(figures.quiet)
        quiet = len(on.entries()) if figures.quiet else 0
        on.tell(1, figures.messages, *paths, "dead")
        begun, give_up = time.monotonic(), time.monotonic() + 600
        killed = 0
        with trickling(on, 1):
            while on.left() > 5 or killed < figures.kills:
                assert time.monotonic() < give_up, on.left()
                if killed < figures.kills:
                    time.sleep(random.uniform(0.2, 4 if figures.quiet else 1))  # noqa: S311 - as above
                    on.kill_one()
                    killed += 1
                else:
                    time.sleep(0.2)
        while on.left():
            assert time.monotonic() < give_up, on.left()
            time.sleep(0.1)
        seconds = time.monotonic() - begun
        entries = on.entries()
        tried = on.tried()
    assert 0 < tried
    assert [] == [entry for entry in entries if entry["verdict"] == "forged"]
    wanted = set(range(1, figures.messages + 1))
    for path in paths:
        taken = {e["data"]["n"] for e in entries if (e["path"], e["verdict"]) == (path, "taken")}
        assert (path, set()) == (path, wanted - taken)
    well = [entry for entry in entries if entry["path"] == "/well"]
    told = {entry["data"]["n"] for entry in well if entry["data"]["n"] < 1_000_000}
    assert set(range(1, max(told) + 1)) == told
    if figures.quiet:
        before = p95([entry for entry in entries[:quiet] if entry["path"] == "/well"])
        beside = p95([entry for entry in entries[quiet:] if entry["path"] == "/well"])
        sys.stdout.write(
            f"{len(entries)} requests in {seconds:.0f} s; the sound endpoint's p95 {beside:.2f} s, "
            f"{before:.2f} s in quiet\n"
        )
        assert beside <= 2 * before
