"""Job `replenish`: brings the pool of every milestone to its target.

A pool starts with the milestone's `slots`, and grows up to `max_slots` before people run out of
places: as far as anybody needs at the pace of the last days, and by one slot while somebody holds a
link in the highest one, which is that of a person who has one in every slot. It never shrinks. A
slot on which no distribution takes links (they were stopped, or nothing ran for weeks) gets
another one. A pool that is low all the same is told to the endpoints that want to hear of it.

On an account that has been proved to make no distribution for a probe alone, no list is made, and
on one that makes none for a batch, no batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from milepost import policy
from milepost.jobs.provisioning import NOT_AHEAD, Counts, Provisioning
from milepost.model import Deployment, Fact, Route
from milepost.store import Store


class Replenish:
    """Makes what pools lack.

    Args:
        store: knows what is wanted.
        provisioning: makes it.
        deployment: whose pools they are.
    """

    def __init__(self, store: Store, provisioning: Provisioning, deployment: Deployment) -> None:
        self._store = store
        self._provisioning = provisioning
        self._deployment = deployment

    async def run_once(
        self,
        stopping: asyncio.Event | None = None,
        *,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Counts:
        """Make every slot that a milestone lacks, as far as the platform lets us.

        Args:
            stopping: once it is set, no further slot is begun.
            progress: is told after each slot how many were seen to.
        """
        stopping = stopping or asyncio.Event()
        counts = Counts()
        account = await self._store.capabilities.all()
        routes = policy.routes_made_ahead(account)
        if Route.LIST not in routes:
            counts.errors.append(NOT_AHEAD)
        making = timedelta(0) if account.holds(Fact.COMPLETE_LINKS) else policy.LISTED_LATE
        for milestone in await self._store.milestones.all():
            if milestone.definition.route not in routes:
                continue
            counts.planned += await self._store.pools.plan(
                milestone.key, self._deployment.id, making=making
            )
        await self._provisioning.make_all(account, counts, stopping, progress)
        for milestone in await self._store.milestones.all():
            standing = await self._store.pools.standing(milestone.key)
            if not standing.is_tended:
                continue
            headroom = policy.headroom_days(standing, await self._store.pools.demand(milestone.key))
            is_low = policy.is_low(standing, headroom)
            await self._store.pools.note_headroom(milestone.key, headroom, is_low=is_low)
        return counts
