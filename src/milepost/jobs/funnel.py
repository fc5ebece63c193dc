"""Job `funnel`: counts how far links have come, the newest ones and those that have changed.

Which hours are to be counted stands in the store, and so does what a run has not come to: whoever
takes it over goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct

from milepost.store.funnel import BEGINNING, FunnelStore, Hour


class Counts(Struct, kw_only=True):
    """What a run did."""

    hours: int = 0
    """Of milestones, that were counted."""


class Funnel:
    """Keeps the summary of links."""

    def __init__(self, store: FunnelStore) -> None:
        self._store = store

    async def run_once(
        self,
        stopping: asyncio.Event | None = None,
        *,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Counts:
        """Count each hour once that is to be counted.

        Hours that change behind the run's back are for the next one: there is always one that has.

        Args:
            stopping: once it is set, no further hour is begun.
            progress: is told after each.
        """
        counts = Counts()
        await self._store.mark()
        hour: Hour | None = BEGINNING
        while hour is not None:
            if stopping is not None and stopping.is_set():
                return counts
            hour = await self._store.count_next(hour)
            if hour is not None:
                counts.hours += 1
                progress(1)
        await self._store.complete()
        return counts
