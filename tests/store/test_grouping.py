"""Group commit, without a database."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from typing import Any

import pytest

from milepost.errors import DatabaseBusy
from milepost.store.connections import Sacrificed
from milepost.store.grouping import ENOUGH, GroupCommit


class Ledger:
    """Remembers the batches it was given; holds each until `open` is set."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun: asyncio.Queue[list[str]] = asyncio.Queue()
        self.open = asyncio.Event()
        self.open.set()
        self.busy = False

    async def write(self, items: Sequence[str]) -> list[str]:
        """Write items, unless one of them is `bad` or the database is away."""
        self.batches.append(list(items))
        self.begun.put_nowait(list(items))
        await self.open.wait()
        if self.busy:
            raise DatabaseBusy("away")
        if "!" in items:
            raise Sacrificed("for another one")
        if "bad" in items:
            raise ValueError("bad")
        return [item.upper() for item in items]

    def group(self, most: int = 100, writers: int = 1, **more: Any) -> GroupCommit[str, str]:
        """A group in which items that begin alike go into different batches."""
        return GroupCommit(
            self.write,
            apart=lambda item: (item[0],),
            same=lambda item: item,
            most=most,
            writers=writers,
            **more,
        )


async def test_what_arrives_together_is_written_together() -> None:
    """The first goes at once; the others share the next batch, up to its size."""
    ledger = Ledger()
    group = ledger.group(most=2)
    outcomes = await asyncio.gather(*(group.submit(item) for item in "abcd"))
    assert [("A", True), ("B", True), ("C", True), ("D", True)] == outcomes
    assert [["a", "b"], ["c", "d"]] == ledger.batches


async def test_what_must_be_apart_waits_its_turn() -> None:
    """An item that was left out is first in the next batch: later ones do not overtake it."""
    ledger = Ledger()
    group = ledger.group()
    await asyncio.gather(*(group.submit(item) for item in ("a1", "a2", "b1", "a3", "b2")))
    assert [["a1", "b1"], ["a2", "b2"], ["a3"]] == ledger.batches


async def test_a_batch_whose_window_is_open_is_waited_for() -> None:
    """Though it is written: until there is enough for another, or the window is over."""
    for window, more in ((60.0, "cd"), (0.05, "c")):
        ledger = Ledger()
        group = ledger.group(beside=lambda size: size, window=lambda _, window=window: window)
        await asyncio.gather(*map(group.submit, "ab"))
        began = asyncio.get_running_loop().time()
        first = asyncio.create_task(group.submit("c"))
        await asyncio.sleep(0)
        assert [["a", "b"]] == ledger.batches
        await asyncio.gather(first, *map(group.submit, more[1:]))
        assert ["ab", more] == ["".join(batch) for batch in ledger.batches]
        took = asyncio.get_running_loop().time() - began
        assert took < 30 if more[1:] else took > 0.04


async def test_a_batch_beside_another_is_as_large() -> None:
    """What is less waits for it to end."""
    ledger = Ledger()
    group = ledger.group(writers=2)
    ledger.open.clear()
    first = [asyncio.create_task(group.submit(item)) for item in "ab"]
    assert ["a", "b"] == await ledger.begun.get()
    second = [asyncio.create_task(group.submit(item)) for item in "cde"]
    assert ["c", "d", "e"] == await ledger.begun.get()
    third = asyncio.create_task(group.submit("f"))
    ledger.open.set()
    await asyncio.gather(*first, *second, third)
    assert [["a", "b"], ["c", "d", "e"], ["f"]] == ledger.batches


async def test_many_at_once_are_shared_out() -> None:
    """Among the writers that are idle, in pieces that may go out beside each other."""
    ledger = Ledger()
    group = ledger.group(writers=2)
    items = [chr(number) for number in range(0x4E00, 0x4E00 + 2 * ENOUGH + 2)]
    await asyncio.gather(*map(group.submit, items))
    assert [ENOUGH + 1, ENOUGH + 1] == [len(batch) for batch in ledger.batches]
    ledger.batches.clear()
    await asyncio.gather(*map(group.submit, items[: 2 * ENOUGH - 1]))
    assert [2 * ENOUGH - 1] == [len(batch) for batch in ledger.batches]


async def test_a_batch_that_takes_long_holds_nobody_up() -> None:
    """After a while less goes beside it, too."""
    ledger = Ledger()
    group = ledger.group(writers=2)
    ledger.open.clear()
    slow = [asyncio.create_task(group.submit(item)) for item in "abc"]
    begun = [await asyncio.wait_for(ledger.begun.get(), 10)]
    late = asyncio.create_task(group.submit("d"))
    begun.append(await asyncio.wait_for(ledger.begun.get(), 10))
    ledger.open.set()
    await asyncio.gather(*slow, late)
    assert [["a", "b", "c"], ["d"]] == begun


async def test_how_many_go_beside_a_batch_is_said() -> None:
    """Until it ends, or after a while: less waits for company."""
    ledger = Ledger()
    group = ledger.group(writers=4, beside=lambda _: 3, patience=0.05)
    ledger.open.clear()
    first = asyncio.create_task(group.submit("a"))
    begun = [await asyncio.wait_for(ledger.begun.get(), 10)]
    others = [asyncio.create_task(group.submit(item)) for item in "bcdefg"]
    group.most = 3
    begun += [await asyncio.wait_for(ledger.begun.get(), 10) for _ in range(2)]
    last = asyncio.create_task(group.submit("h"))
    await asyncio.sleep(0)
    assert ledger.begun.empty()
    begun.append(await asyncio.wait_for(ledger.begun.get(), 10))
    ledger.open.set()
    await asyncio.gather(first, *others, last)
    assert [["a"], ["b", "c", "d"], ["e", "f", "g"], ["h"]] == begun


async def test_a_batch_is_nobodys_own() -> None:
    """What the context of whoever came first says is not said to the others' writing."""
    whose = contextvars.ContextVar("whose", default="nobody's")

    async def write(items: Sequence[str]) -> list[str]:
        """Say what the context says."""
        return [whose.get() for _ in items]

    group = GroupCommit(write, apart=lambda item: (item,), same=lambda item: item)
    whose.set("mine")
    assert ("nobody's", True) == await group.submit("a")


async def test_equal_items_are_written_once() -> None:
    """All who submitted it get the outcome, one of them as their own."""
    ledger = Ledger()
    group = ledger.group()
    ledger.open.clear()
    first = asyncio.create_task(group.submit("z"))
    equal = [asyncio.create_task(group.submit("a")) for _ in range(3)]
    await asyncio.sleep(0)
    ledger.open.set()
    await first
    assert [("A", True), ("A", False), ("A", False)] == await asyncio.gather(*equal)
    assert 1 == sum(batch.count("a") for batch in ledger.batches)


async def test_a_bad_item_fails_alone() -> None:
    """Its neighbours are written, in few more batches."""
    ledger = Ledger()
    group = ledger.group()
    items = [*"acdefghi", "bad"]
    outcomes = await asyncio.gather(*map(group.submit, items), return_exceptions=True)
    assert [(item.upper(), True) for item in "acdefghi"] == outcomes[:-1]
    assert isinstance(outcomes[-1], ValueError)
    assert len(ledger.batches) <= 9


async def test_a_lost_database_fails_everybody_at_once() -> None:
    """One try for all who wait, in the batch and in the queue; the next one is tried again."""
    ledger = Ledger()
    group = ledger.group(most=3)
    ledger.busy = True
    outcomes = await asyncio.gather(*map(group.submit, "abcdefgh"), return_exceptions=True)
    assert [DatabaseBusy] * 8 == [type(outcome) for outcome in outcomes]
    assert 1 == len(ledger.batches)
    ledger.busy = False
    assert ("A", True) == await group.submit("a")


async def test_a_sacrificed_batch_fails_by_itself() -> None:
    """Those in the queue have met nobody, and are tried."""
    group = Ledger().group(most=2)
    outcomes = await asyncio.gather(*map(group.submit, "a!cd"), return_exceptions=True)
    assert [Sacrificed, Sacrificed] == [type(outcome) for outcome in outcomes[:2]]
    assert [("C", True), ("D", True)] == outcomes[2:]


async def test_one_who_gives_up_takes_nobody_along() -> None:
    """The outcome goes to those who are still there, the next of them has it as their own."""
    ledger = Ledger()
    group = ledger.group()
    ledger.open.clear()
    tasks = [asyncio.create_task(group.submit(item)) for item in ("a", "b", "b", "c")]
    await asyncio.sleep(0)
    tasks[1].cancel()
    ledger.open.set()
    assert [("A", True), ("B", True), ("C", True)] == await asyncio.gather(
        tasks[0], tasks[2], tasks[3]
    )
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
