"""Job `drain`: makes the links that wait, so that what the platform counts becomes true.

They wait because the budget was spent, the platform slow or away, a pool empty, a registrant
unknown or without a free slot. Their callers have a short URL already, or wait for the personal
one. Those whose short URL somebody has opened come first.
"""

from __future__ import annotations

import asyncio

from milepost.jobs.flow import Counts, Flow
from milepost.model import LinkState


class Drain:
    """Makes links that wait."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    async def run_once(self, stopping: asyncio.Event | None = None) -> Counts:
        """Try every link that waits and is due; see `Flow.run`."""
        return await self._flow.run((LinkState.WAITING,), stopping)
