"""Job `drain`: makes what the platform counts true.

It makes the links that wait, because the budget was spent, the platform slow or away, a pool empty,
a registrant unknown or without a free slot. Their callers have a short URL already, or wait for the
personal one. Those whose short URL somebody has opened come first.

And it tells the platform the data of the links that went out before it had them. The two go on side
by side: a backlog of the one takes hours, and the other's customers do not wait for it.
"""

from __future__ import annotations

import asyncio

from milepost.jobs.flow import Counts, Flow
from milepost.jobs.late_data import LateDataFlow
from milepost.model import LinkState


class Drain:
    """Makes links that wait, and tells the data of those that did not."""

    def __init__(self, flow: Flow, late_data: LateDataFlow) -> None:
        self._flow = flow
        self._late_data = late_data

    async def run_once(self, stopping: asyncio.Event | None = None) -> Counts:
        """Do both, until neither finds anything due."""
        try:
            async with asyncio.TaskGroup() as both:
                makes = both.create_task(self.make(stopping))
                tells = both.create_task(self.tell(stopping))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        made, told = makes.result(), tells.result()
        return Counts(
            **{name: getattr(made, name) + getattr(told, name) for name in Counts.__struct_fields__}
        )

    async def make(self, stopping: asyncio.Event | None = None) -> Counts:
        """Try every link that waits and is due; see `Flow.run`."""
        return await self._flow.run((LinkState.WAITING,), stopping)

    async def tell(self, stopping: asyncio.Event | None = None) -> Counts:
        """Tell the data of every link whose are due; see `LateDataFlow.run`."""
        return await self._late_data.run(stopping)
