"""The caller: keeps a number of connections busy, and costs next to nothing.

`python -m benchmarks.load` reads an `Order` as JSON from its standard input and prints a `Yield`.
It writes prebuilt bytes and reads no more of an answer than its status, its length, and whether a
text stands in it: a usual client would measure itself.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import msgspec
import uvloop
from msgspec import Struct

REPOSITORY = Path(__file__).parents[1]
HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length: "
STRAGGLERS_SECONDS = 10
"""How long after its end the answers to what is under way may take."""


class Order(Struct, frozen=True, kw_only=True):
    """What is to be asked."""

    port: int
    path: str
    key: str = ""
    seconds: float = 0
    connections: int
    events: int = 1
    """In one request; more than one are sent as a batch."""
    milestone: str
    registrants: int
    """Events go to `r0000000` and so on, each in turn."""
    first: int = 0
    """The number of the first event."""
    expected: str = '"url":"http'
    """An answer without it does not count as one."""
    per_second: float = 0
    """Requests begun a second, whatever became of those before; 0: as many as are answered."""


class Yield(Struct, frozen=True, kw_only=True):
    """What was answered."""

    events: int
    """All that were sent: those under way at the end were waited for."""
    seconds: float
    """Until the last answer."""
    odd: dict[str, int]
    """Answers that were not as expected, counted by their beginning."""
    median_ms: float
    p99_ms: float
    """From a request's last byte, or the moment at which it was to be sent, to its answer's."""

    @property
    def per_second(self) -> float:
        """Events answered a second."""
        return self.events / self.seconds


def run(order: Order) -> Yield:
    """Send out the order in a process of its own, and wait for what comes back.

    Raises:
        RuntimeError: something was not answered as expected.
    """
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=msgspec.json.encode(order),
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        timeout=order.seconds + STRAGGLERS_SECONDS + 20,
        check=True,
    )
    brought = msgspec.json.decode(process.stdout, type=Yield)
    if brought.odd:
        raise RuntimeError(f"not answered as expected: {brought.odd}")
    return brought


class Caller:
    """Sends out an order again and again, each time for events that were not asked for before.

    Args:
        order: the first one.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._first = order.first

    @property
    def asked(self) -> int:
        """Events asked for so far; all of them were answered as expected."""
        return self._order.first - self._first

    def ask(self, seconds: float) -> Yield:
        """Ask for so long. Raises as `run`."""
        brought = run(msgspec.structs.replace(self._order, seconds=seconds))
        self._order = msgspec.structs.replace(self._order, first=self._order.first + brought.events)
        return brought


class _Load:
    """One order under way."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.expected = order.expected.encode()
        self.numbers = itertools.count(order.first)
        self.requests = self._requests()
        self.end = 0.0
        self.answered_at = 0.0
        self.events = 0
        self.odd: Counter[str] = Counter()
        self.times = array("d")

    def _requests(self) -> Iterator[bytes]:
        order = self.order
        event = f'{{"event_id":"e%010d","milestone":"{order.milestone}","registrant":"r%07d"}}'
        opening, closing = ('{"events":[', "]}") if order.events > 1 else ("", "")
        length = len(opening) + len(closing) + order.events * (len(event % (0, 0)) + 1) - 1
        authorization = f"Authorization: Bearer {order.key}\r\n" if order.key else ""
        head = (
            f"POST {order.path} HTTP/1.1\r\nHost: 127.0.0.1:{order.port}\r\n{authorization}"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{opening}"
        )
        while True:
            numbers = itertools.islice(self.numbers, order.events)
            events = ",".join(event % (number, number % order.registrants) for number in numbers)
            yield f"{head}{events}{closing}".encode()

    async def run(self) -> Yield:
        """Send until the time is over."""
        loop = asyncio.get_running_loop()
        begun = time.perf_counter()
        self.end = begun + self.order.seconds
        between = 1 / self.order.per_second if self.order.per_second else 0.0
        connections = [
            await loop.create_connection(
                partial(_Connection, self, begun + number * between), "127.0.0.1", self.order.port
            )
            for number in range(self.order.connections)
        ]
        ended = [protocol.ended for _, protocol in connections]
        async with asyncio.timeout(self.order.seconds + STRAGGLERS_SECONDS):
            await asyncio.gather(*ended)
        times = sorted(self.times)
        return Yield(
            events=self.events,
            seconds=self.answered_at - begun,
            odd=self.odd,
            median_ms=times[len(times) // 2] * 1000,
            p99_ms=times[int(len(times) * 0.99)] * 1000,
        )


class _Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request.

    Args:
        load: to which it belongs.
        due: when its first request is to be sent, if requests are begun at a pace.
    """

    def __init__(self, load: _Load, due: float) -> None:
        self._load = load
        self._due = due
        self._received = b""
        self._sent_at = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send_in_time()

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data if self._received else data
        head_end = received.find(HEAD_END)
        if head_end < 0:
            return
        at = received.find(LENGTH, 0, head_end) + len(LENGTH)
        body = head_end + len(HEAD_END)
        if len(received) < body + int(received[at : received.find(b"\r", at)]):
            return
        self._received = b""
        self._answered(received, body)

    def _answered(self, received: bytes, body: int) -> None:
        load, now = self._load, time.perf_counter()
        if received[9:11] != b"20" or received.count(load.expected, body) < load.order.events:
            load.odd[f"{received[9:12]!r} {received[body : body + 300]!r}"] += 1
        load.answered_at = now
        load.times.append(now - self._sent_at)
        if load.order.per_second:
            self._due += load.order.connections / load.order.per_second
        self._send_in_time()

    def _send_in_time(self) -> None:
        """Send the next request: now, or when it is due. What is late by then was late for us."""
        now = time.perf_counter()
        if max(now, self._due) >= self._load.end:
            self._transport.close()
        elif self._load.order.per_second and now < self._due:
            asyncio.get_running_loop().call_later(self._due - now, self._send)
        else:
            self._send(self._due if self._load.order.per_second else now)

    def _send(self, at: float | None = None) -> None:
        self._load.events += self._load.order.events
        self._sent_at = at or time.perf_counter()
        self._transport.write(next(self._load.requests))

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._load.odd[repr(exc)] += 1
        if not self.ended.done():
            self.ended.set_result(None)


if __name__ == "__main__":
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    print(msgspec.json.encode(uvloop.run(_Load(order).run())).decode())
