"""Job `deliver`: sends the messages that are due, each until its endpoint has taken it.

Every process sends, and they share the endpoints: each has two lines, of which whoever sends holds
one. So many go out at once that none waits for another endpoint, however long that takes to answer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from milepost import policy
from milepost.model import LinkRecord
from milepost.store import Store
from milepost.store.connections import persistently
from milepost.store.messages import LEASE_SECONDS, Delivery, Taken
from milepost.webhooks import Answer, Webhooks, body, name_of

LOOK_SECONDS: Final = 0.5
"""While answers are waited for, between looks for what has come to be due elsewhere."""

LONGEST_WAIT: Final = timedelta(hours=10)
"""However long an endpoint wants to be left alone: the longest pause there is."""


class Counts(Struct):
    """What a run did, in attempts and messages."""

    delivered: int = 0
    put_off: int = 0
    parked: int = 0


class Deliver:
    """Sends messages.

    Args:
        store: knows what is due.
        webhooks: sends one.
        schedule: how long after each failed attempt the next one is due.
    """

    def __init__(
        self,
        store: Store,
        webhooks: Webhooks,
        schedule: Sequence[timedelta] = policy.ATTEMPTS_AFTER,
    ) -> None:
        self._store = store
        self._webhooks = webhooks
        self._schedule = schedule

    async def run_once(self, stopping: asyncio.Event | None = None) -> Counts:
        """Send until nothing is due and every answer is there.

        Args:
            stopping: once it is set, no further attempt is begun.

        Raises:
            DatabaseBusy: what came of an attempt may not be written down; it is made again.
        """
        counts = Counts()
        sending: set[asyncio.Task[None]] = set()
        try:
            while True:
                for taken, content in await self._take(stopping):
                    sending.add(asyncio.create_task(self._send(taken, content, counts)))
                if not sending:
                    return counts
                done, sending = await asyncio.wait(
                    sending, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
        finally:
            if sending:
                await asyncio.wait(sending)

    async def tidy(self, stopping: asyncio.Event) -> None:
        """Forget old messages."""
        while not stopping.is_set() and await self._store.messages.forget_some():
            pass

    async def _take(self, stopping: asyncio.Event | None) -> list[tuple[Taken, bytes | None]]:
        """What is due, with its content; None: the link that it tells of is not there any more."""
        if stopping is not None and stopping.is_set():
            return []
        taken = await self._store.messages.take()
        ids = [each.link_id for each in taken if each.link_id is not None]
        links = await self._store.links.records(ids) if ids else {}
        return [(each, _content(each, links)) for each in taken]

    async def _send(self, taken: Taken, content: bytes | None, counts: Counts) -> None:
        if content is None:
            answer = Answer(seconds=0, error="the link that it tells of is not there any more")
        else:
            answer = await self._webhooks.send(taken.url, taken.secrets, name_of(taken.id), content)
        delivery = self._outcome(taken, answer, may_come_again=content is not None)
        match delivery.state:
            case "delivered":
                counts.delivered += 1
            case "waiting":
                counts.put_off += 1
            case "parked":
                counts.parked += 1
        await persistently(lambda: self._store.messages.settle(delivery), LEASE_SECONDS)

    def _outcome(self, taken: Taken, answer: Answer, *, may_come_again: bool) -> Delivery:
        made = partial(
            Delivery,
            id=taken.id,
            attempt=taken.attempt,
            line=taken.line,
            seconds=answer.seconds,
            code=answer.code,
            error=answer.error,
            said=answer.said,
            gone=answer.is_gone,
        )
        chance = random.random()  # noqa: S311  (spreads attempts, and keeps nothing secret)
        pause = policy.next_attempt(taken.tries, chance, self._schedule)
        if answer.is_taken:
            return made(state="delivered")
        if pause is None or answer.is_gone or not may_come_again:
            return made(state="parked")
        wish = min(timedelta(seconds=answer.retry_after or 0), LONGEST_WAIT)
        return made(state="waiting", pause=max(pause, wish).total_seconds())


def _content(taken: Taken, links: Mapping[UUID, LinkRecord]) -> bytes | None:
    if taken.link_id is None:
        return body(taken.type, taken.created_at, taken.data)
    if (link := links.get(taken.link_id)) is None:
        return None
    # As whoever asked for it sees it: of its two URLs they have one.
    return body(taken.type, taken.created_at, msgspec.structs.replace(link, other_url=None))
