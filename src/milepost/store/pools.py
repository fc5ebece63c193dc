"""Pools: a milestone's slots and the distributions on them.

A distribution moves through these states; only `ready` takes new links::

    making ──▶ ready ──▶ draining ──▶ retired
       └──────▶ stopped                 calibration found a link format that it does not trust

Making one takes several calls to the platform. Each id is written down before the next call, under
a lease whose attempt number fences it: whoever takes a half-made slot over goes on where it stood,
and asks before it repeats a call whose outcome nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import func, select, update

from milepost.errors import MilepostError
from milepost.store import tables
from milepost.store.connections import Connections, plain, statement

LEASE_SECONDS: Final = 120
"""How long a distribution is one worker's to make: its five calls and their looks, each of 10 s."""

NEWEST_LINKS: Final = 5_000
"""How many links are looked at for one in the highest slot: more than come between two looks of
`replenish` at 3,000 events a minute, and some 10 ms to read. Who waits for a place is found among
any number."""

PAUSE_SECONDS: Final = 5
"""After an error the distribution is left alone for so long: a run ends instead of insisting."""

NOT_LISTED: Final = "the platform does not list the probe's link yet"
"""Why a distribution is not ready although nothing has failed: lists have been seen to lag."""

_PLAN: Final = statement("pool_plan")
_CLAIM: Final = statement("pool_claim")


class Making(Struct, frozen=True, kw_only=True):
    """A distribution in the making: what is there of it and of its slot, and whose attempt."""

    id: int
    slot_id: int
    attempt: int
    generation: int
    milestone: str
    survey_id: str
    number: int
    list_name: str
    list_id: str | None
    probe_contact_id: str | None
    probe_lookup_id: str | None
    description: str
    distribution_id: str | None
    expires_at: datetime


class TakenOver(MilepostError):
    """Somebody else makes the distribution by now: what this attempt knows does not count."""


class PoolEntry(Struct, frozen=True, kw_only=True):
    """A distribution of a pool, as an admin sees it."""

    slot: int
    list_id: str | None
    list_name: str
    distribution_id: str | None
    generation: int
    state: Literal["making", "ready", "stopped", "draining", "retired"]
    stopped_because: str | None
    last_error: str | None
    template: str | None
    takes_until: datetime | None
    expires_at: datetime | None
    calibrated_at: datetime | None
    links: int
    """Links made on it so far, in flight ones included."""


class PoolStore:
    """The verbs of pools; each is one transaction.

    Those that move a `Making` on raise `TakenOver` when its attempt is not the latest any more.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def plan(self, milestone: str, deployment: str) -> int:
        """Write down the slots that a milestone lacks; returns how many.

        It lacks those that it starts with, and one above the highest that somebody has a live link
        in, until it has `max_slots`: a person who holds a link in every slot has no place for the
        next event. Links in the highest slot are looked for among the newest `NEWEST_LINKS`, those
        that wait for a place among all.
        """
        async with self._connections.path() as connection:
            cursor = await connection.execute(
                _PLAN, {"milestone": milestone, "deployment": deployment, "newest": NEWEST_LINKS}
            )
            return cursor.rowcount

    async def claim(self, limit: int) -> list[Making]:
        """Claim distributions that are to be made, of whatever milestone."""
        async with self._connections.path() as connection:
            cursor = await connection.execute(_CLAIM, {"limit": limit, "lease": LEASE_SECONDS})
            return [msgspec.convert(row, Making) for row in await cursor.fetchall()]

    async def unfinished(self) -> int:
        """How many distributions of the milestones' present surveys are in the making."""
        slots, distributions, milestones = tables.slots, tables.distributions, tables.milestones
        query = (
            select(func.count())
            .select_from(distributions)
            .join(slots, slots.c.id == distributions.c.slot_id)
            .join(milestones, milestones.c.key == slots.c.milestone)
            .where(distributions.c.state == "making", slots.c.survey_id == milestones.c.survey_id)
        )
        async with self._connections.transaction() as connection:
            count: int = await connection.scalar(query) or 0
        return count

    async def note_list(self, making: Making, list_id: str) -> Making:
        """The slot's mailing list is there."""
        await self._slot(making, list_id=list_id)
        return msgspec.structs.replace(making, list_id=list_id)

    async def note_probe(self, making: Making, contact_id: str, lookup_id: str) -> Making:
        """The probe is in the slot's list."""
        await self._slot(making, probe_contact_id=contact_id, probe_lookup_id=lookup_id)
        return msgspec.structs.replace(
            making, probe_contact_id=contact_id, probe_lookup_id=lookup_id
        )

    async def note_distribution(self, making: Making, distribution_id: str) -> Making:
        """The distribution is there; its links are still to be calibrated."""
        await self._distribution(making, distribution_id=distribution_id)
        return msgspec.structs.replace(making, distribution_id=distribution_id)

    async def ready(self, making: Making, template: str) -> None:
        """The distribution is calibrated and takes links from now on."""
        await self._distribution(
            making,
            state="ready",
            template=template,
            calibrated_at=func.milepost_now(),
            lease_until=None,
            last_error=None,
        )

    async def stop(self, making: Making, because: str) -> None:
        """The distribution must not take links, and why."""
        await self._distribution(making, state="stopped", stopped_because=because, lease_until=None)

    async def release(self, making: Making, error: str, pause: float = PAUSE_SECONDS) -> None:
        """Give the claim back after an error: a later run goes on from what is there.

        For `pause` seconds it is left alone.
        """
        pause_until = func.milepost_now() + timedelta(seconds=pause)
        await self._distribution(making, last_error=error, lease_until=pause_until)

    async def rest(self, slot_id: int, seconds: float, error: str) -> None:
        """Give a slot no links for a while: the platform does not know its list any more."""
        slots, distributions = tables.slots, tables.distributions
        until = func.milepost_now() + timedelta(seconds=seconds)
        async with self._connections.transaction() as connection:
            await connection.execute(
                update(slots).where(slots.c.id == slot_id).values(rests_until=until)
            )
            await connection.execute(
                update(distributions)
                .where(distributions.c.slot_id == slot_id, distributions.c.state == "ready")
                .values(last_error=error)
            )

    async def entries(self, milestone: str, survey_id: str) -> Sequence[PoolEntry]:
        """The pool of a milestone's present survey, by slot and generation."""
        slots, distributions, links = tables.slots, tables.distributions, tables.links
        count = (
            select(func.count())
            .where(links.c.distribution_id == distributions.c.id)
            .scalar_subquery()
        )
        query = (
            select(distributions, slots.c.list_id, slots.c.list_name, count.label("links"))
            .add_columns(slots.c.number.label("slot"))
            .join(slots, slots.c.id == distributions.c.slot_id)
            .where(slots.c.milestone == milestone, slots.c.survey_id == survey_id)
            .order_by(slots.c.number, distributions.c.generation)
        )
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(query)).mappings()
            return [msgspec.convert(plain(row), PoolEntry) for row in rows]

    async def _slot(self, making: Making, **values: object) -> None:
        slots, distributions = tables.slots, tables.distributions
        held = select(distributions.c.id).where(
            distributions.c.id == making.id, distributions.c.attempt == making.attempt
        )
        async with self._connections.transaction() as connection:
            changed = await connection.execute(
                update(slots).where(slots.c.id == making.slot_id, held.exists()).values(**values)
            )
        if changed.rowcount == 0:
            raise TakenOver(f"slot {making.number} of {making.milestone} was taken over")

    async def _distribution(self, making: Making, **values: object) -> None:
        distributions = tables.distributions
        async with self._connections.transaction() as connection:
            changed = await connection.execute(
                update(distributions)
                .where(
                    distributions.c.id == making.id,
                    distributions.c.attempt == making.attempt,
                    distributions.c.state == "making",
                )
                .values(**values)
            )
        if changed.rowcount == 0:
            raise TakenOver(f"slot {making.number} of {making.milestone} was taken over")
