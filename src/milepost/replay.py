"""Replays events from a file against a running Milepost, as an app's backend would send them."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from msgspec import Struct

from milepost.errors import MilepostError

AT_ONCE: Final = 16
"""Requests that are out at the same time: an app's backend with a pool of workers."""

_TIMEOUT_SECONDS: Final = 30.0


class NotReplayable(MilepostError):
    """The file is not one of events, or no Milepost answers at the address, or not to this key."""


class Tally(Struct, kw_only=True):
    """What came back so far."""

    events: int = 0
    """Answers to events, whatever they said."""
    links: int = 0
    """Events that were given a URL."""
    seen: int = 0
    """Of these, events that had been seen before."""
    waiting: int = 0
    """Events that were kept, without a URL yet."""
    without_link: int = 0
    """Events that a rule suppressed, or that failed."""
    lanes: dict[str, int] = {}
    """The links, by how their callers got them."""
    refused: dict[str, int] = {}
    """Events that were not taken, by the code of the problem."""
    upstream_calls: float = 0
    """Calls to the platform for the links that were made now."""
    milliseconds: list[float] = []
    """How long each answer took."""
    urls: dict[str, str] = {}
    """The URL of each event that has one."""

    @property
    def calls_per_link(self) -> float:
        """Calls to the platform for each link that was made now."""
        made = self.links - self.seen
        return self.upstream_calls / made if made else 0.0

    @property
    def median_ms(self) -> float:
        """The median time to an answer."""
        return statistics.median(self.milliseconds) if self.milliseconds else 0.0

    @property
    def p99_ms(self) -> float:
        """The time inside which 99 of 100 answers came."""
        ordered = sorted(self.milliseconds)
        return ordered[int(len(ordered) * 0.99)] if ordered else 0.0

    def add(self, event_id: str, response: httpx.Response, milliseconds: float) -> None:
        """Count one answer."""
        answer = msgspec.json.decode(response.content, type=dict[str, Any])
        self.events += 1
        self.milliseconds.append(milliseconds)
        if not response.is_success:
            code = str(answer.get("code", response.status_code))
            self.refused[code] = self.refused.get(code, 0) + 1
        elif answer["url"] is not None:
            self.links += 1
            lane = str(answer["lane"])
            self.lanes[lane] = self.lanes.get(lane, 0) + 1
            if response.status_code == httpx.codes.OK:
                self.seen += 1
            else:
                self.upstream_calls += answer["upstream_calls"]
            self.urls[event_id] = answer["url"]
        elif response.status_code == httpx.codes.ACCEPTED:
            self.waiting += 1
        else:
            self.without_link += 1


def read(path: Path) -> Iterator[bytes]:
    """The events of an NDJSON file, a line each, unparsed.

    Raises:
        NotReplayable: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            yield from (line for line in file if line.strip())
    except OSError as error:
        raise NotReplayable(f"{path}: {error.strerror or error}") from error


async def replay(
    events: Iterable[bytes],
    *,
    url: str,
    key: str,
    per_minute: int | None = None,
    progress: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Send events and count what comes back.

    Args:
        events: JSON bodies of `POST /v1/links`.
        url: the address of Milepost.
        key: an API key with the scope `issue`.
        per_minute: events a minute; None: as fast as they are answered.
        progress: is told after each answer.

    Raises:
        NotReplayable: no Milepost answers at the address, or not to this key; a line is no event.
    """
    if not key.isascii() or not key.isprintable():
        raise NotReplayable("the key is not one; for example: mp_0123abcd_…")
    tally = Tally()
    waiting = _paced(events, per_minute)
    try:
        async with (
            httpx.AsyncClient(
                base_url=url,
                headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
                timeout=_TIMEOUT_SECONDS,
                limits=httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE),
                trust_env=False,
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(AT_ONCE):
                group.create_task(_send(client, waiting, tally, progress))
    except httpx.InvalidURL as error:
        raise NotReplayable(
            f"{url} is not an address; for example: http://127.0.0.1:8700"
        ) from error
    except ExceptionGroup as errors:
        first = errors.exceptions[0]
        if isinstance(first, httpx.TransportError):
            raise NotReplayable(f"nobody answers at {url}: {type(first).__name__}") from first
        raise first from None
    return tally


async def _send(
    client: httpx.AsyncClient,
    waiting: Iterator[tuple[int, float, bytes]],
    tally: Tally,
    progress: Callable[[Tally], None],
) -> None:
    for number, due, event in waiting:
        if (ahead := due - time.monotonic()) > 0:
            await asyncio.sleep(ahead)
        try:
            event_id = str(msgspec.json.decode(event, type=dict[str, Any])["event_id"])
        except (msgspec.DecodeError, KeyError) as error:
            raise NotReplayable(f"event {number} is not one: {_why(error)}") from error
        begun = time.perf_counter()
        response = await client.post("/v1/links", content=event)
        milliseconds = (time.perf_counter() - begun) * 1000
        if response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            raise NotReplayable("the key is not accepted; it needs the scope: issue")
        try:
            tally.add(event_id, response, milliseconds)
        except (msgspec.DecodeError, KeyError) as error:
            raise NotReplayable(f"what answers at {client.base_url} is no Milepost") from error
        progress(tally)


def _why(error: Exception) -> str:
    return "it has no event_id" if isinstance(error, KeyError) else str(error)


def _paced(events: Iterable[bytes], per_minute: int | None) -> Iterator[tuple[int, float, bytes]]:
    """Each event with its number, from 1, and the moment at which it is due."""
    start = time.monotonic()
    for number, event in enumerate(events, 1):
        yield number, start + (number - 1) * 60 / per_minute if per_minute else 0.0, event
