"""What was read from Postgres a few seconds ago, and is not read again for each request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

Question = TypeVar("Question", bound=Hashable)
Answer = TypeVar("Answer")

REMEMBERED_SECONDS: Final = 5.0
"""How long a change may take to be known everywhere, such as the revocation of a key."""


class Remembered(Generic[Question, Answer]):
    """Answers that hold for `REMEMBERED_SECONDS`. Who asks for the same at once asks together.

    Args:
        ask: reads an answer. What it raises is told to whoever waits for it, and not remembered.
        most: how many answers are kept; the oldest goes first.
    """

    def __init__(self, ask: Callable[[Question], Awaitable[Answer]], *, most: int = 1_000) -> None:
        self._ask = ask
        self._most = most
        self._known: dict[Question, tuple[float, asyncio.Future[Answer]]] = {}

    async def get(self, question: Question) -> Answer:
        """The answer; where it is remembered, nothing is awaited that suspends."""
        now = time.monotonic()
        known = self._known.get(question)
        if known is None or known[0] <= now:
            answer: asyncio.Future[Answer] = asyncio.ensure_future(self._ask(question))
            # Whoever waits is told an error; should nobody be left, it is nobody's.
            answer.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            self.forget(question)  # so that it is the youngest again
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[question] = (now + REMEMBERED_SECONDS, answer)
        else:
            answer = known[1]
        if not answer.done():
            # Who gives up waiting must not end it for the others.
            await asyncio.wait({answer})
        if answer.cancelled() or answer.exception() is not None:
            self.forget(question)
        return answer.result()

    def forget(self, question: Question) -> None:
        """Have it read again, when somebody asks."""
        self._known.pop(question, None)
