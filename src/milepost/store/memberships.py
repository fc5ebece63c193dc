"""Memberships that are there ahead of events: where registrants stand in a slot's list.

A membership holds for as long as its registrant owns the contact under which it was made
(`contact_key`), and is written without a lock on anybody: whoever reads it looks at the key. Links
make memberships as well, since an event puts its registrant into the slot's list.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import DictRow
from sqlalchemy import func, select

from milepost.model import Route
from milepost.store import tables
from milepost.store.connections import Connections, plain, statement
from milepost.store.contacts import MOST, OWNER, STRETCH, Owner, of_owner
from milepost.store.runs import RunRecord, hold

_TIDY: Final = statement("memberships_tidy")
_KNOWN: Final = statement("memberships_known")
_LACKING: Final = statement("memberships_lacking")
_LISTED: Final = statement("memberships_listed") + (
    b"SELECT id AS registrant_id, dedup_key AS contact_key, contact_id, lookup_id FROM listed"
)
_MAKE_WAY: Final = statement("memberships_make_way")
_PUT: Final = statement("memberships_put")
_NOT_LISTED: Final = statement("memberships_not_listed")
_HELD_LIST: Final = b"SELECT FROM slots WHERE id = %(slot)s AND list_id = %(list)s FOR SHARE"


class AheadSlot(Struct, frozen=True, kw_only=True):
    """The slot of a milestone whose list is to hold everybody ahead of events."""

    milestone: str
    slot_id: int
    list_id: str


class Membership(Struct, frozen=True, kw_only=True):
    """A registrant's place in a slot's list."""

    registrant_id: int
    contact_key: str
    contact_id: str
    lookup_id: str


class MembershipStore:
    """The verbs of memberships; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def slots(self) -> list[AheadSlot]:
        """The first slot of each active milestone with membership `ahead`, if it takes links."""
        slots, distributions, milestones = tables.slots, tables.distributions, tables.milestones
        takes_links = (
            select(distributions.c.id)
            .where(distributions.c.slot_id == slots.c.id, distributions.c.state == "ready")
            .exists()
        )
        query = (
            select(slots.c.milestone, slots.c.id.label("slot_id"), slots.c.list_id)
            .join(milestones, milestones.c.key == slots.c.milestone)
            .where(
                milestones.c.membership == "ahead",
                milestones.c.state == "active",
                milestones.c.survey_id == slots.c.survey_id,
                slots.c.route == Route.LIST.value,
                slots.c.number == 1,
                slots.c.list_id.is_not(None),
                takes_links,
            )
            .order_by(slots.c.milestone)
        )
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(query)).mappings()
            return [msgspec.convert(plain(row), AheadSlot) for row in rows]

    async def now(self) -> datetime:
        """The database's time."""
        async with self._connections.transaction() as connection:
            now: datetime = (await connection.execute(select(func.milepost_now()))).scalar_one()
        return now

    async def tidy(self, slot_id: int, *, after: int) -> tuple[int, int, int | None]:
        """Bring the memberships of a stretch of registrants in line with what is known here.

        Those under contacts that their registrants do not have any more go; those that links have
        made come in.

        Args:
            slot_id: whose.
            after: the stretch begins behind this id of a registrant.

        Returns:
            How many are there, how many are lacking, and the last id of the stretch; None: there
            is nobody behind.
        """
        async with self._connections.path() as connection:
            upto = await _end(connection, after)
            if upto is None:
                return 0, 0, None
            given = {"slot": slot_id, "after": after, "upto": upto}
            async with connection.transaction():
                await connection.execute(_TIDY, given)
                await connection.execute(_KNOWN, given)
            there = await _count(
                connection,
                b"SELECT count(*) AS n FROM memberships WHERE slot_id = %(slot)s"
                b" AND registrant_id > %(after)s AND registrant_id <= %(upto)s",
                given,
            )
            lacking = await _count(connection, b"SELECT count(*) AS n FROM " + _LACKING, given)
            return there, lacking, upto

    async def lacking(
        self, slot_id: int, limit: int, *, after: int, upto: int | None = None
    ) -> tuple[list[Owner], int]:
        """Registrants who are to be in a slot's list and are not, in `id` order.

        Args:
            slot_id: whose list.
            limit: how many at the most.
            after: only those whose id is greater.
            upto: and those whose is not greater than this.

        Returns:
            They, and the id up to which there are no others.
        """
        found: list[Owner] = []
        while len(found) < limit:
            async with self._connections.path() as connection:
                end = await _end(connection, after, upto)
                if end is None:
                    return found, after
                cursor = await connection.execute(
                    b"SELECT "
                    + OWNER.encode()
                    + b" FROM "
                    + _LACKING
                    + b" ORDER BY r.id LIMIT %(limit)s",
                    {"slot": slot_id, "after": after, "upto": end, "limit": limit - len(found)},
                )
                rows = await cursor.fetchall()
            found += [Owner(**of_owner(row)) for row in rows]
            after = found[-1].id if len(found) == limit else end
        return found, after

    async def take_over(self, slot_id: int, list_id: str, refs: Sequence[str]) -> int:
        """Take over where registrants stand in a listing of a slot's list; returns how many.

        Args:
            slot_id: whose list.
            list_id: the list.
            refs: of the registrants.
        """
        given = {"slot": slot_id, "list": list_id, "refs": list(refs)}
        async with self._connections.path() as connection:
            cursor = await connection.execute(_LISTED, given)
            rows = await cursor.fetchall()
        members = [msgspec.convert(row, Membership) for row in rows]
        return await self.put(slot_id, list_id, members)

    async def put(self, slot_id: int, list_id: str, members: Sequence[Membership]) -> int:
        """Write memberships down; returns how many.

        A lookup id that was another registrant's is this one's from now on: a contact has passed
        from one to the other.

        Args:
            slot_id: whose.
            list_id: the list that they are of; where the slot has another one by now, they say
                nothing of it, and none is written.
            members: they.
        """
        if not members:
            return 0
        given = {
            "slot": slot_id,
            "list": list_id,
            "members": msgspec.json.encode(members).decode(),
        }
        async with self._connections.path() as connection, connection.transaction():
            if (await connection.execute(_HELD_LIST, given)).rowcount == 0:
                return 0
            await connection.execute(_MAKE_WAY, given)
            cursor = await connection.execute(_PUT, given)
            return cursor.rowcount

    async def forget_not_listed(self, slot_id: int, list_id: str, run: RunRecord | None) -> int:
        """Forget the memberships that a listing lacks; returns how many.

        Args:
            slot_id: whose.
            list_id: the list, of which there is a whole listing.
            run: whose listing it is; None: nobody's.

        Raises:
            TakenAway: the run is somebody else's by now, and the listing may be.
        """
        forgotten = 0
        after: int | None = 0
        while after is not None:
            async with self._connections.path() as connection, connection.transaction():
                await hold(connection, run)
                upto = await _end(connection, after)
                if upto is not None:
                    given = {"slot": slot_id, "list": list_id, "after": after, "upto": upto}
                    forgotten += (await connection.execute(_NOT_LISTED, given)).rowcount
                after = upto
        return forgotten


async def _end(
    connection: psycopg.AsyncConnection[DictRow], after: int, upto: int | None = None
) -> int | None:
    """The last id of the stretch of registrants behind one."""
    cursor = await connection.execute(
        b"SELECT max(id) AS upto FROM (SELECT id FROM registrants"
        b" WHERE id > %(after)s AND id <= %(upto)s ORDER BY id LIMIT %(limit)s) AS r",
        {"after": after, "upto": MOST if upto is None else upto, "limit": STRETCH},
    )
    (row,) = await cursor.fetchall()
    end: int | None = row["upto"]
    return end


async def _count(
    connection: psycopg.AsyncConnection[DictRow], query: bytes, given: dict[str, Any]
) -> int:
    (row,) = await (await connection.execute(query, given)).fetchall()
    return int(row["n"])
