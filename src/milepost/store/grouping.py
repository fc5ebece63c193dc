"""Group commit: what arrives together is written together, in one transaction."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class GroupCommit(Generic[Item, Outcome]):
    """Writes items in batches, each as soon as the one before it is written.

    Nothing waits for company: an item that arrives at an idle group goes at once, alone. Under load
    the batches grow by themselves, since more arrives while one is written.

    Args:
        write: writes a batch in one transaction and returns one outcome for each item, in order.
        apart: items with the same value go into different batches.
        most: items in a batch at the most.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome]]],
        *,
        apart: Callable[[Item], Hashable],
        most: int = 100,
    ) -> None:
        self._write = write
        self._apart = apart
        self._most = most
        self._queue: deque[tuple[Item, asyncio.Future[Outcome]]] = deque()
        self._writer: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Outcome:
        """Have an item written and return its outcome, or raise what its batch raised."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        if self._writer is None:
            self._writer = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while batch := self._next_batch():
                await self._settle(batch)
        finally:
            self._writer = None

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Outcome]]]:
        batch: list[tuple[Item, asyncio.Future[Outcome]]] = []
        taken: set[Hashable] = set()
        left: list[tuple[Item, asyncio.Future[Outcome]]] = []
        while self._queue and len(batch) < self._most:
            entry = self._queue.popleft()
            key = self._apart(entry[0])
            if key in taken:
                left.append(entry)
            else:
                taken.add(key)
                batch.append(entry)
        self._queue.extendleft(reversed(left))
        return batch

    async def _settle(self, batch: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        try:
            outcomes = await self._write([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  (every waiter is told, whatever it is)
            if len(batch) > 1 and not isinstance(error, ConnectionError | OSError):
                # One bad item must not fail its neighbours: each is written again by itself.
                for entry in batch:
                    await self._settle([entry])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)
