"""The data of ready links follow them, a part of job `drain`.

Such a link goes out before the platform has its event's data, and its customer may open it any
moment: so they follow with the highest share, those first that are due for the longest. One claim
at a time waits for its permit, so that a click stands behind one call of a process and no more.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from milepost.budget import Budget, Permit
from milepost.issuing import Issuing
from milepost.jobs.flow import Calls, Counts
from milepost.model import LateData, Purpose
from milepost.store.links import LinkStore, Telling

PATIENCE_SECONDS: Final = 2.0
"""How long a permit is waited for, of the 20 s for which a claim holds."""


class LateDataFlow:
    """Tells the platform the data of links that are out.

    Args:
        links: hands them out.
        issuing: tells them.
        budget: permits it.
        call_class: of the call that tells them.
    """

    def __init__(
        self, links: LinkStore, issuing: Issuing, budget: Budget, *, call_class: str
    ) -> None:
        self._links = links
        self._issuing = issuing
        self._budget = budget
        self._call_class = call_class

    async def run(self, stopping: asyncio.Event | None) -> Counts:
        """Tell all that are due, until none is, or the platform is away.

        Args:
            stopping: once it is set, none is begun. Those that are out end all the same.

        Raises:
            DatabaseError: Postgres is away.
        """
        stopping = stopping or asyncio.Event()
        counts = Counts()
        calls = Calls(counts)
        try:
            clock = asyncio.get_running_loop().time
            # The moment before the claim: what is begun too late after it is somebody else's.
            while (
                not stopping.is_set()
                and (claimed_at := clock())
                and (late := await self._links.claim_late_data())
            ):
                if late.ended is not None:
                    await self._leave(late, rule=late.ended)
                    counts.untold += 1
                    continue
                permit = await self._budget.grant(
                    self._call_class, Purpose.CLICK, patience=PATIENCE_SECONDS
                )
                if isinstance(permit, Permit):
                    tell = partial(self._tell, late, permit, claimed_at, counts)
                    await calls.begin(tell, permit, alone=late.alone)
                    continue
                await self._leave(late, pause=permit.retry_after)
                if permit.rule == "upstream-away":
                    break
        finally:
            await calls.end()
        return counts

    async def _tell(
        self, late: LateData, permit: Permit, claimed_at: float, counts: Counts
    ) -> None:
        telling = await self._issuing.tell(late, permit, claimed_at=claimed_at)
        if telling.is_told:
            counts.told += 1
        elif telling.pause:
            counts.waiting += 1
        else:
            counts.untold += 1

    async def _leave(self, late: LateData, *, rule: str | None = None, pause: float = 0) -> None:
        left = Telling(id=late.link_id, attempt=late.attempt, rule=rule, pause=pause)
        await self._links.settle_late_data(left)
