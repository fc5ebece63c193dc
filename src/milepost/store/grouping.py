"""Group commit: what arrives together is written together, in one transaction."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

from milepost.errors import DatabaseError
from milepost.store.connections import Locked, Sacrificed

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

ENOUGH: Final = 32
"""Items for which a batch goes out beside another one, however large that one is. A batch costs
what 20 items cost, so that many small ones would be most of the work (with 64 requests at a time
a sixth of all that a link costs, measured)."""

PATIENCE_SECONDS: Final = 0.05
"""After which a batch under way is not waited for any more. It takes a fifth of that, unless
somebody else has locked what it needs."""


def _as_large(size: int) -> int:
    return min(size, ENOUGH)


def _no_window(_: Sequence[object]) -> float:
    return 0.0


class _Entry(Generic[Item, Outcome]):
    """An item in the queue, and everybody who submitted it."""

    def __init__(self, item: Item, key: Hashable, apart: Sequence[Hashable]) -> None:
        self.item = item
        self.key = key
        self.apart = apart
        self.waiters: list[asyncio.Future[tuple[Outcome, bool]]] = []

    def end(self, outcome: Outcome) -> None:
        """Tell everybody; the first who is still there gets it as their own."""
        own = True
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result((outcome, own))
                own = False

    def fail(self, error: Exception) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)


class GroupCommit(Generic[Item, Outcome]):
    """Writes items in batches, each as soon as the one before it is written.

    Nothing waits for company: an item that arrives at an idle group goes at once, alone. Under load
    the batches grow by themselves, since more arrives while they are written. A batch goes out
    beside another one if it is as large, or has `ENOUGH` items: else it goes when that one ends.
    Many that arrive at once are shared out among the writers that are idle.

    A batch is written in a context of its own: what counts and permits the calls of whoever came
    first is not the others'.

    Args:
        write: writes a batch in one transaction and returns one outcome for each item, in order.
            For what it raises of a batch it is called again with each half of it.
        apart: items that have one of these values in common go into different batches. Those with
            the same first value take turns with all others, so that many of them hold up nobody.
        same: items with the same value, while they queue, are written once.
        most: items in a batch at the most.
        writers: batches that may be under way at once, each on a connection of its own. Two keep
            Postgres at work while what it said of the one before is read.
        beside: how many items go out beside a batch of so many.
        patience: seconds after which a batch under way is not waited for any more.
        window: for how many seconds from its beginning a batch is waited for, be it written by then
            or not, so that the next one is larger; 0: until it is written, or for `patience`.

    Attributes:
        most: Items in a batch at the most; it may be changed at any time.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome]]],
        *,
        apart: Callable[[Item], Sequence[Hashable]],
        same: Callable[[Item], Hashable],
        most: int = 200,
        writers: int = 1,
        beside: Callable[[int], int] = _as_large,
        patience: float = PATIENCE_SECONDS,
        window: Callable[[Sequence[Item]], float] = _no_window,
    ) -> None:
        self._write = write
        self._apart = apart
        self._same = same
        self.most = most
        self._beside = beside
        self._patience = patience
        self._window = window
        # Whose turn it is, and what they have in the queue.
        self._turns: deque[Hashable] = deque()
        self._lines: dict[Hashable, deque[_Entry[Item, Outcome]]] = {}
        self._queued: dict[Hashable, _Entry[Item, Outcome]] = {}
        self._idle = writers
        self._is_starting = False
        self._writing: set[asyncio.Task[None]] = set()
        # How large each batch is that is waited for: under way and not for long, or in its window.
        self._sizes: dict[object, int] = {}

    async def submit(self, item: Item) -> tuple[Outcome, bool]:
        """Have an item written.

        Returns:
            Its outcome, and whether that is this caller's own: of all who share it, one caller's.

        Raises:
            DatabaseError: the database is away; everything in the queue fails with it.
            Exception: whatever `write` raises for this item alone.
        """
        waiter: asyncio.Future[tuple[Outcome, bool]] = asyncio.get_running_loop().create_future()
        key = self._same(item)
        entry = self._queued.get(key)
        if entry is None:
            entry = self._queued[key] = _Entry(item, key, self._apart(item))
            self._line_up(entry)
        entry.waiters.append(waiter)
        self._begin()
        return await waiter

    def _begin(self) -> None:
        """Start a writer, if one is idle and has enough to do.

        It takes its batch in the next turn of the loop: with what has arrived in this one.
        """
        if self._idle and not self._is_starting and self._is_enough():
            self._idle -= 1
            self._is_starting = True
            writer = asyncio.create_task(self._run(), context=contextvars.Context())
            self._writing.add(writer)
            writer.add_done_callback(self._writing.discard)

    def _is_enough(self) -> bool:
        return len(self._queued) >= min(map(self._beside, self._sizes.values()), default=1)

    async def _run(self) -> None:
        try:
            self._is_starting = False
            while self._is_enough():
                await self._write_next()
        finally:
            self._idle += 1

    async def _write_next(self) -> None:
        batch, token = self._next_batch(), object()
        self._sizes[token] = len(batch)
        self._begin()
        window = self._window([entry.item for entry in batch])
        late = asyncio.get_running_loop().call_later(
            window or self._patience, self._overlook, token
        )
        try:
            await self._settle(batch)
        finally:
            if not window:
                late.cancel()
                self._sizes.pop(token, None)

    def _overlook(self, token: object) -> None:
        del self._sizes[token]
        self._begin()

    def _line_up(self, entry: _Entry[Item, Outcome]) -> None:
        whose = entry.apart[0]
        if whose not in self._lines:
            self._lines[whose] = deque()
            self._turns.append(whose)
        self._lines[whose].append(entry)

    def _next_batch(self) -> list[_Entry[Item, Outcome]]:
        batch: list[_Entry[Item, Outcome]] = []
        taken: set[Hashable] = set()
        # What is there is shared with the writers that are idle, if the pieces may go out together.
        share = len(self._queued) // (1 + self._idle)
        most = min(self.most, share) if share >= self._beside(self.most) else self.most
        for _ in range(len(self._turns)):
            if len(batch) >= most:
                break
            whose = self._turns.popleft()
            line = self._lines[whose]
            entry = line[0]
            if taken.isdisjoint(entry.apart):
                taken.update(entry.apart)
                batch.append(line.popleft())
                del self._queued[entry.key]
            if line:
                self._turns.append(whose)
            else:
                del self._lines[whose]
        return batch

    async def _settle(self, batch: Sequence[_Entry[Item, Outcome]]) -> None:
        try:
            outcomes = await self._write([entry.item for entry in batch])
        except (Locked, Sacrificed) as error:
            # Who waits behind it may have nothing to do with what it met.
            for entry in batch:
                entry.fail(error)
        except DatabaseError as error:
            # Nobody's fault: to try each again would keep all of them waiting for nothing.
            for entry in (*batch, *self._queued.values()):
                entry.fail(error)
            self._queued.clear()
            self._turns.clear()
            self._lines.clear()
        except Exception as error:  # noqa: BLE001  (every waiter is told, whatever it is)
            if len(batch) == 1:
                batch[0].fail(error)
                return
            # One bad item must not fail its neighbours: it is found by halving.
            half = len(batch) // 2
            await self._settle(batch[:half])
            await self._settle(batch[half:])
        else:
            for entry, outcome in zip(batch, outcomes, strict=True):
                entry.end(outcome)
