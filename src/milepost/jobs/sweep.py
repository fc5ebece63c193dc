"""Job `sweep`: finishes what a process left behind when it died, and asks what became of calls.

A link that is `claimed` past its lease belonged to a process that is gone. One that is `unknown`
had a call whose outcome nobody knows. Both are taken up by the door that every event comes in by,
which asks the platform before anything is added. A link of which processes die again and again is
parked by its claim, which counts them.

What the way to a link has left at the platform that is no part of it is counted and logged, and
named in the link's record; also what a link may have left that ends before anybody has asked.
"""

from __future__ import annotations

import asyncio

from milepost.jobs.flow import Counts, Flow
from milepost.model import LinkState


class Sweep:
    """Finishes links whose calls nobody waits for any more."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    async def run_once(self, stopping: asyncio.Event | None = None) -> Counts:
        """Try every link whose lease or pause is over; see `Flow.run`."""
        return await self._flow.run((LinkState.CLAIMED, LinkState.UNKNOWN), stopping)
