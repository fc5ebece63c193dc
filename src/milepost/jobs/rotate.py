"""Job `rotate`: a successor is ready before a distribution takes no more links.

It stands on the same list as its predecessor: people keep their lookup ids there, and get fresh
URLs. From the moment it is ready, new links are made on it alone. The predecessor takes none any
more when its time comes (`draining`), and is `retired` when its last link has expired. Nothing is
deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from milepost import policy
from milepost.jobs import provisioning
from milepost.jobs.provisioning import NOT_AHEAD, Provisioning
from milepost.model import Deployment, Fact, Route
from milepost.store import Store


class Counts(provisioning.Counts, kw_only=True):
    """What a run did, in distributions."""

    draining: int = 0
    """They take no more links."""
    retired: int = 0
    """Their last link has expired."""


class Rotate:
    """Replaces distributions in time.

    Args:
        store: knows when that is.
        provisioning: makes their successors.
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
        """Make the successors that are due, as far as the platform lets us.

        Args:
            stopping: once it is set, no further one is begun.
            progress: is told after each how many were seen to.
        """
        stopping = stopping or asyncio.Event()
        counts = Counts()
        aged = await self._store.pools.age()
        counts.draining, counts.retired = aged["draining"], aged["retired"]
        account = await self._store.capabilities.all()
        routes = policy.routes_made_ahead(account)
        if Route.LIST not in routes:
            counts.errors.append(NOT_AHEAD)
        for milestone in await self._store.milestones.all():
            if milestone.definition.route not in routes:
                continue
            lead = policy.rotation_lead(
                milestone.definition.link_days,
                milestone.definition.min_link_days,
                listed_late=not account.holds(Fact.COMPLETE_LINKS),
            )
            counts.planned += await self._store.pools.plan(
                milestone.key, self._deployment.id, lead=lead
            )
        await self._provisioning.make_all(account, counts, stopping, progress)
        return counts
