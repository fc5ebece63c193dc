"""What a restored ledger is told of what was made since its backup.

A backup is older than what it is restored for. The platform holds the lists, batches and
distributions that were made since, and of each link its contact in a list, or its transaction, with
the reference that names the link. Of the event nothing is there, but its name: the random part of a
link's id is a keyed hash of it (`payload.link_id`). A link that is found is written down under that
hash, as `recovered:<hash>`, in the place that it has, so that nobody gets that place again. When
the event comes again, it is its link (`LinkStore.claim`).

Nothing of this is on the path of an event, unless `MILEPOST_RECOVER` is set,
or links were still lost when the process started.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
import psycopg
from msgspec import Struct
from sqlalchemy import and_, func, select, update
from sqlalchemy.dialects.postgresql import insert

from milepost.model import DriftKind, Route
from milepost.payload import moment, tag, token
from milepost.store import tables
from milepost.store.connections import Connections, Sacrificed, plain, statement
from milepost.store.drift import Flag, flag

RECOVERED: Final = "recovered:"
"""Before the hash of its event's name, what a link has for an event that has not come again."""

_HOLD: Final = statement("recovered_hold")
_TAKEN: Final = frozenset(
    {"links_event_id", "links_one_url", "links_one_per_distribution", "links_one_per_contact"}
)
"""What holds two links apart."""


def recovered_event(link: UUID) -> str:
    """The event of a link of which nothing but the id is known."""
    return f"{RECOVERED}{tag(link).hex()}"


class Standing(Struct, frozen=True, kw_only=True):
    """A distribution on a list or a batch, as far as links of it can be built."""

    id: int
    template: str
    expires_at: datetime
    since: datetime
    """It gives links from then on."""


class Place(Struct, frozen=True, kw_only=True):
    """A slot, and what stands on it."""

    slot_id: int
    milestone: str | None
    """None: it is a canary's."""
    survey_id: str
    route: Route
    number: int
    list_name: str
    list_id: str | None
    batch_id: str | None
    probe_lookup_id: str | None
    link_days: int | None
    unready: frozenset[str]
    """The platform's ids of distributions that are written down, and in the making."""
    ready: tuple[Standing, ...]
    """Oldest first."""

    def standing(self, at: datetime) -> Standing | None:
        """The distribution of which an event of a moment got its link."""
        before = [each for each in self.ready if each.since <= at] or self.ready[:1]
        return before[-1] if before else None


class FoundLink(Struct, frozen=True, kw_only=True):
    """A link as it was found at the platform."""

    id: UUID
    is_short: bool
    """Its caller was given a short URL before it was made."""
    milestone: str
    survey_id: str
    route: Route
    slot_id: int | None
    """Of route `list` alone: a place that is its contact's."""
    distribution_id: int | None
    ref: str
    contact_key: str | None
    lookup_id: str
    url: str
    expires_at: datetime
    steps: Mapping[str, str] | None = None


class RecoveredStore:
    """The verbs of a recovery; each is one transaction.

    Args:
        connections: to Postgres.
        naming_key: by which links are named.
        public_url: where short URLs lead.
    """

    def __init__(self, connections: Connections, naming_key: bytes, public_url: str) -> None:
        self._connections = connections
        self._naming_key = naming_key
        self._short = f"{public_url}/l/"

    # --- whether it is done -----------------------------------------------------------------------

    async def is_over(self) -> bool:
        """Whether the ledger knows by now what the platform knows."""
        async with self._connections.transaction() as connection:
            return await connection.scalar(select(tables.deployment.c.recovered_at)) is not None

    async def finish(self) -> None:
        """It does."""
        done = update(tables.deployment).values(recovered_at=func.milepost_now())
        async with self._connections.transaction() as connection:
            await connection.execute(done)

    async def forget(self) -> None:
        """Nobody recovers any more: what is restored from now on is to be recovered anew."""
        row = tables.deployment
        done = row.c.recovered_at.is_not(None)
        async with self._connections.transaction() as connection:
            await connection.execute(update(row).where(done).values(recovered_at=None))

    async def lost(self) -> int:
        """How many links are there whose events have not come again."""
        event = tables.links.c.event_id
        behind = f"{RECOVERED[:-1]};"  # the next letter
        query = select(func.count()).where(event >= RECOVERED, event < behind)
        async with self._connections.transaction() as connection:
            return await connection.scalar(query) or 0

    # --- what pools are made of -------------------------------------------------------------------

    async def latest(self) -> datetime | None:
        """When the last event came that the ledger knows; None: it knows none."""
        newest = select(tables.links.c.id).order_by(tables.links.c.id.desc()).limit(1)
        async with self._connections.transaction() as connection:
            found = await connection.scalar(newest)
        return None if found is None else datetime.fromtimestamp(moment(found) / 1_000, UTC)

    async def places(self) -> list[Place]:
        """All slots of pools, with what stands on each."""
        slots, distributions, milestones = tables.slots, tables.distributions, tables.milestones
        columns = (
            slots.c.id.label("slot_id"),
            *(slots.c.milestone, slots.c.survey_id, slots.c.route, slots.c.number),
            *(slots.c.list_name, slots.c.list_id, slots.c.batch_id, slots.c.probe_lookup_id),
            milestones.c.link_days,
        )
        query = select(*columns).outerjoin(milestones, milestones.c.key == slots.c.milestone)
        standing = select(
            distributions.c.slot_id,
            distributions.c.id,
            distributions.c.distribution_id,
            distributions.c.template,
            distributions.c.expires_at,
            func.coalesce(distributions.c.calibrated_at, distributions.c.made_at).label("since"),
            distributions.c.state,
        ).where(distributions.c.distribution_id.is_not(None))
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(query.order_by(slots.c.id))).mappings().all()
            stands = (await connection.execute(standing)).mappings().all()
        return [
            msgspec.convert(
                {
                    **plain(row),
                    "unready": {
                        each["distribution_id"]
                        for each in stands
                        if each["slot_id"] == row["slot_id"] and each["state"] == "making"
                    },
                    "ready": sorted(
                        (
                            plain(each)
                            for each in stands
                            if each["slot_id"] == row["slot_id"]
                            and each["state"] in {"ready", "draining"}
                        ),
                        key=lambda each: each["since"],
                    ),
                },
                Place,
            )
            for row in rows
        ]

    async def surveys(self) -> Mapping[str, Sequence[str]]:
        """The milestones of each survey whose links have a distribution each."""
        milestones = tables.milestones
        query = select(milestones.c.survey_id, func.array_agg(milestones.c.key)).where(
            milestones.c.route == Route.STEPWISE.value
        )
        async with self._connections.transaction() as connection:
            rows = await connection.execute(query.group_by(milestones.c.survey_id))
            return {row[0]: row[1] for row in rows}

    async def take_slot(
        self,
        *,
        name: str,
        milestone: str | None,
        survey_id: str,
        route: Route,
        number: int,
        list_id: str | None = None,
        batch_id: str | None = None,
        probe: tuple[str, str] | None = None,
    ) -> bool:
        """A list, or a batch, of a pool is there; returns whether that was not known.

        The slot is written down as `PoolStore.plan` does it, if it is not there.

        Args:
            name: under which it was made.
            milestone: its key; None: it is the canary's of the survey.
            survey_id: the survey.
            route: what it is for.
            number: of the slot.
            list_id: the list's id.
            batch_id: or the batch's.
            probe: our probe in it, as the ids of the contact and of its place.
        """
        slots, distributions, now = tables.slots, tables.distributions, func.milepost_now()
        contact_id, lookup_id = probe or (None, None)
        slot = insert(slots).values(
            milestone=milestone,
            survey_id=survey_id,
            route=route.value,
            number=number,
            list_name=name,
            created_at=now,
        )
        of_slot = and_(
            slots.c.milestone.is_not_distinct_from(milestone),
            slots.c.survey_id == survey_id,
            slots.c.route == route.value,
            slots.c.number == number,
        )
        async with self._connections.transaction() as connection:
            made = await connection.scalar(slot.on_conflict_do_nothing().returning(slots.c.id))
            if made is not None and milestone is not None:
                first = {"slot_id": made, "generation": 1, "description": f"{name} g1"}
                await connection.execute(
                    insert(distributions).values(**first, state="making", created_at=now)
                )
            taken = await connection.execute(
                update(slots)
                .where(of_slot, slots.c.list_id.is_(None), slots.c.batch_id.is_(None))
                .values(
                    list_id=list_id,
                    list_at=None,  # when it was made, and what stands on it, is not known
                    batch_id=batch_id,
                    probe_contact_id=contact_id,
                    probe_lookup_id=lookup_id,
                )
            )
        return taken.rowcount == 1

    async def note_probe(self, slot_id: int, contact_id: str, lookup_id: str) -> None:
        """Our probe is in the slot's list."""
        slots = tables.slots
        noted = update(slots).where(slots.c.id == slot_id, slots.c.probe_lookup_id.is_(None))
        async with self._connections.transaction() as connection:
            await connection.execute(
                noted.values(probe_contact_id=contact_id, probe_lookup_id=lookup_id)
            )

    async def take_distribution(
        self,
        slot_id: int,
        distribution_id: str,
        *,
        template: str,
        made_at: datetime,
        expires_at: datetime,
    ) -> None:
        """A distribution stands on the slot: as the one that is in the making, or the next."""
        slots, rows, now = tables.slots, tables.distributions, func.milepost_now()
        milestones = tables.milestones
        of_slot = select(slots.c.list_name, milestones.c.min_link_days).join(
            milestones, milestones.c.key == slots.c.milestone
        )
        making = select(rows.c.id).where(
            rows.c.slot_id == slot_id,
            rows.c.state == "making",
            func.coalesce(rows.c.distribution_id, distribution_id) == distribution_id,
        )
        last = select(func.coalesce(func.max(rows.c.generation), 0)).where(
            rows.c.slot_id == slot_id
        )
        async with self._connections.transaction() as connection:
            name, days = (await connection.execute(of_slot.where(slots.c.id == slot_id))).one()
            wanted = making.order_by(rows.c.distribution_id.is_(None), rows.c.generation).limit(1)
            found = await connection.scalar(wanted)
            if found is None:
                next_one = (await connection.scalar(last) or 0) + 1
                found = await connection.scalar(
                    insert(rows)
                    .values(
                        slot_id=slot_id,
                        generation=next_one,
                        description=f"{name} g{next_one}",
                        state="making",
                        created_at=now,
                    )
                    .returning(rows.c.id)
                )
            await connection.execute(
                update(rows)
                .where(rows.c.id == found)
                .values(
                    distribution_id=distribution_id,
                    state="ready",
                    template=template,
                    made_at=made_at,
                    calibrated_at=made_at,
                    expires_at=expires_at,
                    takes_until=expires_at - timedelta(days=days),
                    attempt=rows.c.attempt + 1,
                    lease_until=None,
                    last_error=None,
                )
            )

    # --- links ------------------------------------------------------------------------------------

    async def known(self, lookups: Collection[str], slot_id: int | None = None) -> set[str]:
        """Those of these lookup ids that a link has, or a membership ahead of events.

        Args:
            lookups: the ids.
            slot_id: on whose list they are. One there is for all distributions that stand on it
                one after the other: only a link of the newest tells that no later one is lost.
        """
        links, members = tables.links.c, tables.memberships
        rows = tables.distributions.c
        newest = (
            select(rows.id)
            .where(rows.slot_id == slot_id, rows.template.is_not(None))
            .order_by(rows.generation.desc())
            .limit(1)
            .scalar_subquery()
        )
        linked = select(links.lookup_id).where(links.lookup_id.in_(lookups))
        if slot_id is not None:
            linked = linked.where(links.distribution_id == newest)
        ahead = select(members.c.lookup_id).where(
            members.c.slot_id == slot_id, members.c.lookup_id.in_(lookups)
        )
        async with self._connections.transaction() as connection:
            found = await connection.execute(linked.union(ahead))
            return {row.lookup_id for row in found}

    async def is_issued(self, link: UUID) -> bool:
        """Whether the ledger's own link of this id has its URL."""
        query = select(tables.links.c.id).where(
            tables.links.c.id == link, tables.links.c.url.is_not(None)
        )
        async with self._connections.transaction() as connection:
            return await connection.scalar(query) is not None

    async def refs(self, contact_ids: Collection[str]) -> Mapping[str, str]:
        """Whose contacts these are, as far as that is known."""
        registrants = tables.registrants
        query = select(registrants.c.contact_id, registrants.c.ref).where(
            registrants.c.contact_id.in_(contact_ids)
        )
        async with self._connections.transaction() as connection:
            return {row.contact_id: row.ref for row in await connection.execute(query)}

    async def hold(self, found: FoundLink) -> bool | None:
        """Write a found link down, or settle the ledger's own.

        Returns:
            Whether the ledger did not know it; None: it is left to others, since another link is in
            its place, or its own has ended.
        """
        name = token(found.id, self._naming_key)
        given = {
            "id": found.id,
            "event_id": recovered_event(found.id),
            "milliseconds": moment(found.id),
            "milestone": found.milestone,
            "survey": found.survey_id,
            "route": found.route.value,
            "slot": found.slot_id,
            "distribution": found.distribution_id,
            "ref": found.ref,
            "contact": found.contact_key,
            "lookup": found.lookup_id,
            "url": found.url,
            "expires_at": found.expires_at,
            "steps": found.steps and msgspec.json.encode(found.steps).decode(),
            "token": name,
            "short": self._short,
            "is_short": found.is_short,
        }
        try:
            async with self._connections.path() as connection, connection.transaction():
                row = await (await connection.execute(_HOLD, given)).fetchone()
                if row is not None and row["is_new"]:
                    lost = Flag(
                        kind=DriftKind.LOST_EVENT,
                        subject=str(found.id),
                        milestone=found.milestone,
                        link_id=found.id,
                        survey_id=found.survey_id,
                        lookup_id=found.lookup_id,
                    )
                    await flag(connection, [lost])
        except (psycopg.errors.UniqueViolation, Sacrificed) as error:
            cause = error.__cause__ if isinstance(error, Sacrificed) else error
            if isinstance(cause, psycopg.Error) and cause.diag.constraint_name in _TAKEN:
                return None
            raise
        return None if row is None else bool(row["is_new"])
