"""Calls to those who subscribed: form-encoded, signed, tried again a few times, in the background.

What is sent follows a recording (observed); without a shared key the `HMAC` is left out. How often
and when the platform tries again is not known. Here an end of the process ends what is under way.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from milepost.simulator.things import Session, Subscription
from milepost.simulator.wire import instant

PAUSES: Final = (1.0, 5.0, 30.0)
"""Seconds before the second, third and last attempt."""

ATTEMPT_SECONDS: Final = 10.0
"""How long one attempt may take."""

AT_ONCE: Final = 20
"""Attempts under way; the rest wait for their turn."""

KEPT_ATTEMPTS: Final = 1_000

_STATUS_LINE: Final = 1 << 12


class Attempt(Struct, frozen=True):
    """One try to deliver one event.

    Attributes:
        at: The real time of its end, ISO 8601.
        subscription: Whose wish it was.
        response: What was told.
        attempt: The first is 1.
        status: What the receiver answered; `None` without an answer.
        error: Why there is none.
        last: Whether no other follows.
    """

    at: str
    subscription: str
    response: str
    attempt: int
    status: int | None
    error: str | None
    last: bool

    @property
    def delivered(self) -> bool:
        """Whether it was taken."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 - HTTP's


class Deliveries:
    """Sends events and remembers the attempts.

    Args:
        brand: The brand's id, which the message names.
        clock: The real time, in milliseconds since the epoch.
        pauses: Seconds before each further attempt.
    """

    def __init__(
        self, brand: str, clock: Callable[[], int], pauses: tuple[float, ...] = PAUSES
    ) -> None:
        self._brand = brand
        self._clock = clock
        self._pauses = pauses
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()
        self.attempts: deque[Attempt] = deque(maxlen=KEPT_ATTEMPTS)
        self.delivered: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """How many events are not delivered and not given up."""
        return len(self._under_way)

    def send(self, subscription: Subscription, session: Session) -> None:
        """Tell a subscriber that a response was completed; returns at once."""
        body = message(subscription, session, self._brand)
        response = session.response_id or ""
        task = asyncio.create_task(self._deliver(subscription, response, body))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _deliver(self, subscription: Subscription, response: str, body: bytes) -> None:
        for number, pause in enumerate((0.0, *self._pauses), start=1):
            await asyncio.sleep(pause)
            status = error = None
            try:
                async with self._turns, asyncio.timeout(ATTEMPT_SECONDS):
                    status = await _post(subscription.url, body)
            except TimeoutError:
                error = f"no answer in {ATTEMPT_SECONDS:g} s"
            except (OSError, ValueError) as failure:
                error = str(failure) or type(failure).__name__
            attempt = Attempt(
                at=instant(self._clock()),
                subscription=subscription.id,
                response=response,
                attempt=number,
                status=status,
                error=error,
                last=number > len(self._pauses),
            )
            if attempt.delivered:
                attempt = msgspec.structs.replace(attempt, last=True)
                self.delivered[subscription.id] = self.delivered.get(subscription.id, 0) + 1
            self.attempts.append(attempt)
            if attempt.last:
                return

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


def message(subscription: Subscription, session: Session, brand: str) -> bytes:
    """The form that is sent; the order of its fields and of the message's keys is recorded.

    `CompletedDate` has no zone in the recording; here it is UTC.
    """
    completed = datetime.fromtimestamp((session.completed_at or 0) / 1000, UTC)
    told = msgspec.json.encode(
        {
            "Status": "Complete",
            "SurveyID": session.survey_id,
            "ResponseID": session.response_id,
            "CompletedDate": completed.strftime("%Y-%m-%d %H:%M:%S"),
            "BrandID": brand,
        }
    )
    form = {"MSG": told.decode(), "Topic": f"{brand}.{subscription.topics}"}
    if subscription.shared_key is not None:
        form = {"HMAC": hmac.digest(subscription.shared_key.encode(), told, "sha512").hex()} | form
    return urlencode(form).encode()


async def _post(url: str, body: bytes) -> int:
    """The status with which a URL answers a form. A redirect is not followed.

    Raises:
        OSError: Nobody is there, or the connection broke.
        ValueError: The URL is none, or the answer is no HTTP.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = (
        f"POST {target} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(
        parts.hostname,
        parts.port or (443 if secure else 80),
        ssl=True if secure else None,
        limit=_STATUS_LINE,
    )
    try:
        writer.write(head.encode("ascii") + body)
        await writer.drain()
        version, _, rest = (await reader.readline()).partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise ValueError("the answer is not HTTP")
        return int(rest[:3])
    finally:
        writer.close()
