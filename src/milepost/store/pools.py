"""Pools: a milestone's slots and the distributions on them.

A distribution moves through these states; only `ready` takes new links::

    making ──▶ ready ──▶ draining ──▶ retired
       │                    takes no more links, and those that it has are alive
       └─────▶ stopped    the platform's links are not such as may be built

Those of a slot are its generations: each stands on the slot's list, and the next one is made before
the last one takes no more links. Making one takes several calls to the platform. Each id is written
down before the next call, under a lease whose attempt number fences it: whoever takes a half-made
one over goes on where it stood, and asks before it repeats a call whose outcome nobody knows.

A slot without a milestone is a survey's canary list: see `store/canaries.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, and_, case, delete, func, or_, select, update

from milepost import policy
from milepost.errors import MilepostError, UnknownMilestone
from milepost.model import Demand, MessageType, PoolStanding, Route, SlotStanding
from milepost.store import tables
from milepost.store.connections import Connections, Row, plain, statement
from milepost.store.messages import tell

LEASE_SECONDS: Final = 120
"""How long a distribution is one worker's to make: its five calls and their looks, each of 10 s."""

NEWEST_LINKS: Final = 5_000
"""How many links are looked at for one in the highest slot, and for the people who need most: more
than come between two looks of `replenish` at 3,000 events a minute, and some 10 ms to read. Who
waits for a place is found among any number."""

BUSIEST: Final = 100
"""Of how many people it is counted what they hold: those with a link in a high slot come first."""

MOST_LINKS: Final = 1_000
"""How many links of one person are looked at; twice the slots that a pool can have."""

NOT_LISTED: Final = "the platform does not list the probe's link yet"
"""Why a distribution is not ready although nothing has failed: lists have been seen to lag."""

PAGE: Final = 10_000
"""Rows that are counted or forgotten in one transaction, where there may be millions."""

_NO_LIST: Final = {
    "list_id": None,
    "list_at": None,
    "batch_id": None,
    "probe_contact_id": None,
    "probe_lookup_id": None,
    "rests_until": None,
}

_STANDING: Final = statement("pool_standing")
_DEMAND: Final = statement("pool_demand")
_FULL: Final = statement("pool_full")
_PLAN: Final = statement("pool_plan")
_CLAIM: Final = statement("pool_claim")
_AGE: Final = statement("pool_age")


class Making(Struct, frozen=True, kw_only=True):
    """A distribution in the making: what is there of it and of its slot, and whose attempt."""

    id: int
    slot_id: int
    attempt: int
    generation: int
    milestone: str | None
    """None: it is a canary."""
    survey_id: str
    route: Route
    number: int
    list_name: str
    list_id: str | None
    batch_id: str | None
    probe_contact_id: str | None
    probe_lookup_id: str | None
    description: str
    distribution_id: str | None
    expires_at: datetime
    made_at: datetime | None
    """When the platform had made it."""
    is_filled: bool
    """Others than our probe are in the list, or may be: its links must not be listed."""
    inherited: str | None
    """The template of a distribution of the pool that is in use, of the same list if it has one."""
    known: frozenset[str]
    """The platform's ids of all distributions of the slot that were written down."""

    @property
    def name(self) -> str:
        """What it is called in logs and errors."""
        if self.milestone is None:
            return f"the canary of {self.survey_id}"
        return f"slot {self.number} of {self.milestone}"


class Belonging(Struct, frozen=True, kw_only=True):
    """A mailing list, or a batch of transactions, that is ours or is to be."""

    id: int
    """Of the slot."""
    survey_id: str
    list_name: str
    """Under which it is known here, and a list at the platform as well."""
    list_id: str | None
    batch_id: str | None
    distributions: tuple[str, ...]
    """The platform's ids of those that were made on it."""


class TakenOver(MilepostError):
    """Somebody else makes the distribution by now: what this attempt knows does not count."""


class PoolEntry(Struct, frozen=True, kw_only=True):
    """A distribution of a pool, as an admin sees it."""

    slot: int
    list_id: str | None
    """That it stands on, or is to; None: there is none yet, or it is gone."""
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
    """When its template was learnt."""

    def takes_links(self, now: datetime) -> bool:
        """Whether it does, at a moment of the database's clock."""
        return self.state == "ready" and self.takes_until is not None and self.takes_until > now


_STANDS_ON_IT: Final = func.coalesce(tables.links.c.route, "").not_in(
    (Route.ANONYMOUS.value, Route.STEPWISE.value)
)
"""Whether a link that is issued dies with its pool. The plain link of a survey does not, nor one
that has a distribution of its own."""


class PoolStore:
    """The verbs of pools; each is one transaction.

    Those that move a `Making` on raise `TakenOver` when its attempt is not the latest any more.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def standing(self, milestone: str) -> PoolStanding:
        """How a milestone's slots stand.

        Raises:
            UnknownMilestone: there is none.
        """
        async with self._connections.path() as connection:
            given = {
                "milestone": milestone,
                "newest": policy.BATCH_LINKS,
                "lately": policy.REPLENISH_SECONDS,
            }
            cursor = await connection.execute(_STANDING, given)
            row = await cursor.fetchone()
        if row is None:
            raise UnknownMilestone(milestone)
        return msgspec.convert(row, PoolStanding)

    async def demand(self, milestone: str) -> list[Demand]:
        """What the people need who need most of a milestone's places.

        They are looked for among those with the milestone's newest `NEWEST_LINKS`.
        """
        given = {
            "milestone": milestone,
            "newest": NEWEST_LINKS,
            "people": BUSIEST,
            "links": MOST_LINKS,
            "recent": policy.RECENT_DAYS,
        }
        async with self._connections.path() as connection:
            cursor = await connection.execute(_DEMAND, given)
            return [msgspec.convert(row, Demand) for row in await cursor.fetchall()]

    async def plan(
        self,
        milestone: str,
        deployment: str,
        *,
        lead: timedelta = timedelta(0),
        making: timedelta = timedelta(0),
    ) -> int:
        """Write down the distributions that a milestone lacks; returns how many.

        It lacks slots (`policy.slots_wanted`), each with its first distribution, and further ones
        on the lists of those that it has (`policy.needs_successor`). For one that is paused or
        stopped nothing is made.

        Args:
            milestone: its key.
            deployment: the deployment's id: every name at the platform carries it.
            lead: how long distributions that take links must go on doing so.
            making: how long making a slot takes.
        """
        pool = await self.standing(milestone)
        if not pool.is_tended:
            return 0
        wanted, rotated = 0, list[SlotStanding]()
        match pool.route:
            case Route.LIST:
                people, is_full = await self.demand(milestone), await self._is_full(milestone, pool)
                wanted = policy.slots_wanted(pool, people, making, is_full=is_full)
            case Route.TRANSACTION:
                wanted = policy.batches_wanted(pool, lead)
            case Route.ANONYMOUS:
                wanted = 1
            case Route.STEPWISE:
                return 0
        if pool.route is not Route.TRANSACTION:
            rotated = [slot for slot in pool.slots if policy.needs_successor(slot, pool.now, lead)]
        if wanted == len(pool.slots) and not rotated:
            return 0
        given = {
            "milestone": milestone,
            "survey": pool.survey_id,
            "route": pool.route.value,
            "deployment": deployment,
            "slots": wanted,
            "rotated": [slot.slot_id for slot in rotated],
            "generations": [slot.generation + 1 for slot in rotated],
        }
        async with self._connections.path() as connection:
            cursor = await connection.execute(_PLAN, given)
            return cursor.rowcount

    async def _is_full(self, milestone: str, pool: PoolStanding) -> bool:
        top = policy.highest(pool)
        if top is None or top.ready_at is None:
            return False
        given = {
            "milestone": milestone,
            "survey": pool.survey_id,
            "slot": top.slot_id,
            "ready_at": top.ready_at,
            "newest": NEWEST_LINKS,
        }
        async with self._connections.path() as connection:
            row = await (await connection.execute(_FULL, given)).fetchone()
        return bool(row and row["is_full"])

    async def note_headroom(self, milestone: str, headroom: float | None, *, is_low: bool) -> None:
        """Remember whether a milestone's pool is low, and tell it when it has come to be so.

        Args:
            milestone: its key.
            headroom: as `policy.headroom_days`.
            is_low: as `policy.is_low`.
        """
        milestones, now = tables.milestones, func.milepost_now()
        changed = update(milestones).where(
            milestones.c.key == milestone, milestones.c.pool_low_at.is_(None) == is_low
        )
        async with self._connections.transaction() as connection:
            noted = await connection.execute(changed.values(pool_low_at=now if is_low else None))
            if is_low and noted.rowcount:
                told = {"milestone": milestone, "headroom_days": headroom}
                await tell(connection, MessageType.POOL_LOW, told)

    async def age(self) -> Mapping[str, int]:
        """Move distributions on as time goes by; returns how many came into which state."""
        async with self._connections.path() as connection:
            rows = await (await connection.execute(_AGE)).fetchall()
        states = [row["state"] for row in rows]
        return {state: states.count(state) for state in ("draining", "retired")}

    async def claim(
        self, limit: int, *, without: Collection[int] = (), routes: Collection[Route] = tuple(Route)
    ) -> list[Making]:
        """Claim distributions that are to be made, of milestones of these routes, but for some."""
        given = {
            "limit": limit,
            "lease": LEASE_SECONDS,
            "without": list(without),
            "routes": [route.value for route in routes],
        }
        async with self._connections.path() as connection:
            cursor = await connection.execute(_CLAIM, given)
            return [msgspec.convert(row, Making) for row in await cursor.fetchall()]

    async def unfinished(self) -> int:
        """How many distributions are in the making, of milestones that are tended."""
        slots, distributions, milestones = tables.slots, tables.distributions, tables.milestones
        query = (
            select(func.count())
            .select_from(distributions)
            .join(slots, slots.c.id == distributions.c.slot_id)
            .join(milestones, milestones.c.key == slots.c.milestone)
            .where(
                distributions.c.state == "making",
                slots.c.survey_id == milestones.c.survey_id,
                slots.c.route == milestones.c.route,
                milestones.c.state == "active",
                milestones.c.stopped_at.is_(None),
            )
        )
        async with self._connections.transaction() as connection:
            count: int = await connection.scalar(query) or 0
        return count

    async def note_list(self, making: Making, list_id: str) -> Making:
        """The slot's mailing list is there."""
        await self._slot(making, list_id=list_id, list_at=func.milepost_now())
        return msgspec.structs.replace(making, list_id=list_id)

    async def note_probe(self, making: Making, contact_id: str, lookup_id: str) -> Making:
        """The probe is in the slot's list."""
        await self._slot(making, probe_contact_id=contact_id, probe_lookup_id=lookup_id)
        return msgspec.structs.replace(
            making, probe_contact_id=contact_id, probe_lookup_id=lookup_id
        )

    async def note_batch(self, making: Making, batch_id: str) -> Making:
        """The slot's batch is there, with the probe's transaction in it."""
        await self._slot(making, batch_id=batch_id)
        return msgspec.structs.replace(making, batch_id=batch_id)

    async def known_distributions(self, distribution_ids: Collection[str]) -> set[str]:
        """Those of these that are written down, of whatever slot."""
        known = tables.distributions.c.distribution_id
        query = select(known).where(known.in_(distribution_ids))
        async with self._connections.transaction() as connection:
            return {row.distribution_id for row in await connection.execute(query)}

    async def note_distribution(self, making: Making, distribution_id: str) -> Making:
        """The distribution is there; that its links may be built is still to be seen."""
        noted = await self._distribution(
            making, distribution_id=distribution_id, made_at=func.milepost_now()
        )
        return msgspec.structs.replace(
            making, distribution_id=distribution_id, made_at=noted["made_at"]
        )

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

    async def release(
        self, making: Making, error: str, pause: timedelta = policy.FIRST_PAUSE
    ) -> None:
        """Give the claim back after an error: a later run goes on from what is there.

        Until the pause is over it is left alone.
        """
        await self._distribution(making, last_error=error, lease_until=func.milepost_now() + pause)

    async def note_list_look(self, making: Making, *, is_there: bool) -> int:
        """A look for the slot's list was answered; returns how many in a row found none."""
        misses = 0 if is_there else tables.distributions.c.list_misses + 1
        noted = await self._distribution(making, list_misses=misses)
        return int(noted["list_misses"])

    async def leave_list(self, making: Making, because: str) -> Making:
        """The slot's list is gone: what stands on it ends, and the slot is to get another list."""
        slots, distributions = tables.slots, tables.distributions
        await self._forget_members(making.slot_id)
        async with self._connections.transaction() as connection:
            left = await connection.execute(update(slots).where(*_held(making)).values(**_NO_LIST))
            if left.rowcount == 0:
                raise _taken_over(making)
            # Who came in since: the slot is locked now, and nobody is put into its former list.
            members = tables.memberships
            await connection.execute(delete(members).where(members.c.slot_id == making.slot_id))
            await connection.execute(
                update(distributions)
                .where(
                    distributions.c.slot_id == making.slot_id,
                    distributions.c.state.in_(("ready", "draining")),
                )
                .values(state="stopped", stopped_because=because)
            )
            await connection.execute(
                update(distributions).where(distributions.c.id == making.id).values(list_misses=0)
            )
        nothing = {"list_id": None, "probe_contact_id": None, "probe_lookup_id": None}
        return msgspec.structs.replace(making, **nothing, is_filled=False)

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

    async def found(self, slot_id: int) -> None:
        """The platform has taken a call for the list of a slot that had to rest."""
        slots, distributions = tables.slots, tables.distributions
        async with self._connections.transaction() as connection:
            await connection.execute(
                update(slots).where(slots.c.id == slot_id).values(rests_until=None)
            )
            await connection.execute(
                update(distributions)
                .where(distributions.c.slot_id == slot_id, distributions.c.state == "ready")
                .values(last_error=None)
            )

    async def entries(self, milestone: str, survey_id: str) -> Sequence[PoolEntry]:
        """The pool of a milestone's present survey and route, by slot and generation."""
        slots, distributions, milestones = tables.slots, tables.distributions, tables.milestones
        # A slot gets another list where its own is gone, which is nothing to those of before.
        is_on_it = func.coalesce(
            distributions.c.made_at >= slots.c.list_at,
            distributions.c.state.in_(("making", "ready", "draining")),
        )
        query = (
            select(distributions, case((is_on_it, slots.c.list_id)).label("list_id"))
            .add_columns(slots.c.list_name, slots.c.number.label("slot"))
            .join(slots, slots.c.id == distributions.c.slot_id)
            .join(milestones, milestones.c.key == slots.c.milestone)
            .where(
                slots.c.milestone == milestone,
                slots.c.survey_id == survey_id,
                slots.c.route == milestones.c.route,
            )
            .order_by(slots.c.number, distributions.c.generation)
        )
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(query)).mappings()
            return [msgspec.convert(plain(row), PoolEntry) for row in rows]

    # --- teardown -------------------------------------------------------------------------------

    async def living(self, milestone: str, *, after: UUID | None = None) -> tuple[int, UUID | None]:
        """How many of a milestone's next `PAGE` links somebody holds and has not used up.

        Those that are alive, and those that are still to be made.

        Returns:
            The number, and the id of the page's last link; None: it was the last page.
        """
        links = tables.links
        page = select(
            links.c.id,
            or_(
                links.c.state.in_(("claimed", "waiting", "unknown")),
                and_(
                    links.c.state == "issued",
                    _STANDS_ON_IT,
                    links.c.reuses.is_(None),
                    links.c.finished_at.is_(None),
                    links.c.revoked_at.is_(None),
                    links.c.expires_at > func.milepost_now(),
                ),
            ).label("is_alive"),
        ).where(links.c.milestone == milestone)
        if after is not None:
            page = page.where(links.c.id > after)
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(page.order_by(links.c.id).limit(PAGE))).all()
        last = rows[-1].id if len(rows) == PAGE else None
        return sum(row.is_alive for row in rows), last

    async def expire(self, milestone: str, *, after: UUID | None = None) -> UUID | None:
        """End the next `PAGE` links of a milestone that are alive: what they led to is gone.

        Returns:
            The id of the page's last link; None: it was the last page.
        """
        links, now = tables.links, func.milepost_now()
        page = select(links.c.id).where(links.c.milestone == milestone)
        if after is not None:
            page = page.where(links.c.id > after)
        async with self._connections.transaction() as connection:
            # Settlements lock their links in this order, too.
            rows = await connection.execute(
                page.order_by(links.c.id).limit(PAGE).with_for_update(key_share=True)
            )
            ids = [row.id for row in rows]
            await connection.execute(
                update(links)
                .where(
                    links.c.id.in_(ids),
                    links.c.state == "issued",
                    _STANDS_ON_IT,
                    links.c.expires_at > now,
                )
                .values(expires_at=now)
            )
        return ids[-1] if len(ids) == PAGE else None

    async def belongings(self, milestone: str) -> list[Belonging]:
        """The lists and batches of a milestone's pool, those of surveys that it had before, too.

        The canaries' of surveys that no other milestone has a pool for are the last.
        """
        slots, distributions = tables.slots, tables.distributions
        others = slots.alias("others")
        surveys = select(slots.c.survey_id).where(slots.c.milestone == milestone)
        shared = select(others.c.id).where(
            others.c.survey_id == slots.c.survey_id,
            others.c.milestone.is_not(None),
            others.c.milestone != milestone,
            or_(others.c.list_id.is_not(None), others.c.batch_id.is_not(None)),
        )
        made = (
            select(func.coalesce(func.array_agg(distributions.c.distribution_id), []))
            .where(
                distributions.c.slot_id == slots.c.id,
                distributions.c.distribution_id.is_not(None),
            )
            .scalar_subquery()
        )
        query = (
            select(slots.c.id, slots.c.survey_id, slots.c.list_name, slots.c.list_id)
            .add_columns(slots.c.batch_id, made.label("distributions"))
            .where(
                or_(
                    slots.c.milestone == milestone,
                    and_(
                        slots.c.milestone.is_(None),
                        slots.c.survey_id.in_(surveys),
                        ~shared.exists(),
                    ),
                )
            )
            .order_by(slots.c.milestone.is_(None), slots.c.survey_id, slots.c.number)
        )
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(query)).mappings()
            return [msgspec.convert(plain(row), Belonging) for row in rows]

    async def end(self, slot_id: int) -> None:
        """Give no more links on a slot, and let nobody go on making something for it."""
        distributions = tables.distributions
        async with self._connections.transaction() as connection:
            await connection.execute(
                update(distributions)
                .where(
                    distributions.c.slot_id == slot_id,
                    distributions.c.state.in_(("making", "ready", "draining")),
                )
                .values(state="retired", lease_until=None)
            )

    async def forget_list(self, slot_id: int) -> None:
        """The platform does not have a slot's list or batch any more, nor what stood on it.

        A canary list is forgotten as a whole: no link names it.
        """
        slots, distributions = tables.slots, tables.distributions
        of_slot = and_(slots.c.id == slot_id, slots.c.milestone.is_(None))
        await self._forget_members(slot_id)
        async with self._connections.transaction() as connection:
            await connection.execute(update(slots).where(slots.c.id == slot_id).values(**_NO_LIST))
            canaries = select(slots.c.id).where(of_slot)
            await connection.execute(
                delete(distributions).where(distributions.c.slot_id.in_(canaries))
            )
            await connection.execute(delete(slots).where(of_slot))

    async def _forget_members(self, slot_id: int) -> None:
        """Forget who was in a slot's list ahead of events, page by page."""
        members = tables.memberships
        page = (
            select(members.c.lookup_id)
            .where(members.c.slot_id == slot_id)
            .order_by(members.c.lookup_id)
            .limit(PAGE)
        )
        forget = delete(members).where(members.c.slot_id == slot_id, members.c.lookup_id.in_(page))
        forgotten = PAGE
        while forgotten == PAGE:
            async with self._connections.transaction() as connection:
                forgotten = (await connection.execute(forget)).rowcount

    async def _slot(self, making: Making, **values: object) -> None:
        async with self._connections.transaction() as connection:
            changed = await connection.execute(
                update(tables.slots).where(*_held(making)).values(**values)
            )
        if changed.rowcount == 0:
            raise _taken_over(making)

    async def _distribution(self, making: Making, **values: object) -> Row:
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
                .returning(distributions)
            )
            row = changed.mappings().one_or_none()
        if row is None:
            raise _taken_over(making)
        return plain(row)


def _held(making: Making) -> tuple[ColumnElement[bool], ...]:
    """That the slot is a claim's, as long as nobody has taken it over."""
    slots, distributions = tables.slots, tables.distributions
    held = select(distributions.c.id).where(
        distributions.c.id == making.id,
        distributions.c.attempt == making.attempt,
        distributions.c.state == "making",
    )
    return slots.c.id == making.slot_id, held.exists()


def _taken_over(making: Making) -> TakenOver:
    return TakenOver(f"{making.name} was taken over")
