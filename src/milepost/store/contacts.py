"""What the platform has of registrants: their contacts in the home list, and what a list says.

A registrant who owns a contact is in one of these states, as far as the home list is concerned::

    missing ──claim──▶ claimed ──settle──▶ known      one call each, under a lease
       │                  └──set back──▶ missing, in doubt or not
       ├──mark──▶ in doubt ──take over──▶ known       an import, and the listing that shows them
       ◀────────────────────forget────────  known     a listing does not show them any more

A claim is in doubt until it is settled or set back: a process that dies leaves the doubt behind,
and whoever comes next asks before it adds.

A **listing** is read page by page into a table of its own, without a lock on anybody, and then
compared with the registrants in stretches of at most `CHUNK`: read first, and only those who stand
otherwise are locked, in `ref` order, as by every writer of registrants.

There is one listing at a time, its run's: a worker that was frozen, and wakes up when somebody else
is at the run, must not put yesterday's page into today's listing, nor take one away amid it. So
what is written for a run is fenced by its attempt (`ContactStore.under`). Only how a claim ended is
fenced by the claim's own attempt: what a call made is worth knowing, whoever has the run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final, Self

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import DictRow

from milepost.model import RegistrantDetails
from milepost.policy import contact_key
from milepost.store.connections import Connections, Row, begun_again, columns, statement
from milepost.store.registrants import CHUNK, DETAILS, details_of
from milepost.store.runs import RunRecord, hold

LEASE_SECONDS: Final = 60
"""How long a registrant's contact is one worker's to make: longer than a page of calls takes."""

LOOKS: Final = 3
"""So many looks that found nothing, over so long, tell that an earlier call made nothing: a search
finds a contact late (inferred)."""

IMPORT_SECONDS: Final = 86_400
"""An import whose answer was lost may begin late: for so long no look tells that it made nothing.
One takes minutes (observed), and is waited for for an hour; a job that is due every night waits for
the next night anyway."""

STRETCH: Final = 5_000
"""Registrants gone through by one statement that reads: some 10 ms."""

SWEPT: Final = 20_000
"""Rows of a listing that are taken away by one statement: some 20 ms."""

MOST: Final = 2**63 - 1
"""No id is greater."""

LONGEST_REF: Final = 800
"""Bytes of a ref of ours; what is longer is somebody else's."""

OWNER: Final = columns("r", ("id", "ref", *DETAILS, "dedup_key", "contact_id", "updated_at"))
"""The columns that `of_owner` reads, of `registrants AS r`."""

_WITHOUT_CONTACT: Final = statement("registrants_without_contact", owner=OWNER)
_SET_BACK: Final = statement("registrants_set_back")
_TO_IMPORT: Final = statement("registrants_to_import", owner=OWNER)
_NOT_IMPORTED: Final = statement("registrants_not_imported")
_NOT_LISTED: Final = statement("registrants_not_listed")
_OPT_OUT: Final = statement("registrants_opt_out")
_TOLD: Final = statement("registrants_told")
_OUTLOOK: Final = statement("contacts_outlook").decode()
_WRITE: Final = statement("listing_write")
_REFS: Final = statement("listing_refs")
_CHANGES: Final = statement("listing_home") + statement("listing_changes")
_TAKE: Final = statement("listing_home") + statement("listing_take")
_LOSSES: Final = statement("listing_losses").decode()
_LOST: Final = statement("listing_lost")
_FORGET: Final = statement("listing_forget")

_LOCK: Final = b"SELECT FROM registrants WHERE ref = ANY (%(refs)s) ORDER BY ref FOR NO KEY UPDATE"
_MISSING: Final = b"home_lookup_id IS NULL AND dedup_key IS NOT NULL"
_STALE: Final = b"contact_stale AND home_lookup_id IS NOT NULL AND dedup_key IS NOT NULL"
_MAY_BE_TOLD: Final = b" AND opted_out_at IS NULL AND erased_at IS NULL AND removed_at IS NULL"


class Owner(Struct, frozen=True, kw_only=True):
    """A registrant who owns a contact, as they were read to be told to the platform."""

    id: int
    ref: str
    details: RegistrantDetails
    contact_key: str
    contact_id: str | None
    updated_at: datetime


class Marked(Owner, frozen=True, kw_only=True):
    """A registrant whose contact is to be made, and the attempt that it is."""

    attempt: int
    in_doubt: bool
    """An earlier attempt may have made the contact."""


class WithoutContact(Marked, frozen=True, kw_only=True):
    """A registrant who is claimed, to be added by a call of their own."""

    looked_enough: bool
    """`LOOKS` looks, as far apart as a search may be late, found nothing of it."""


class Outlook(Struct, frozen=True, kw_only=True):
    """How a mailing list of ours stands, in registrants."""

    missing: int
    """Those who are to be in it and are not."""
    addable: int
    """Those of them who may be added without a look."""
    listed: int
    """Those who are in it."""
    since_listed: timedelta | None = None
    """When it was last read to its end, ago; None: never, or it is to be read now."""
    now: datetime
    """By the database's clock."""


class ListedMember(Struct, frozen=True, kw_only=True):
    """A contact as a listing shows them."""

    contact_id: str
    lookup_id: str
    number: int
    """Their place in the listing."""
    ref: str | None
    contact_key: str | None
    """That of a registrant with the listed values."""


class ListedRef(Struct, frozen=True):
    """A ref that a listing shows."""

    ref: str
    is_double: bool
    """Two contacts of the same values have it."""


class Taken(Struct, frozen=True):
    """What taking over a stretch of a listing did, in registrants."""

    made: int
    """They were not known to be in the list."""
    moved: int
    """They have another contact there than was known."""


class ContactStore:
    """The verbs of contacts and listings; each is one transaction.

    Under a run, those that write raise `TakenAway` if it is somebody else's by now.

    Args:
        connections: to the database.
        run: for which they write; None: for nobody's.
    """

    def __init__(self, connections: Connections, run: RunRecord | None = None) -> None:
        self._connections = connections
        self._run = run

    def under(self, run: RunRecord) -> Self:
        """The same verbs, fenced by the attempt of a run."""
        return type(self)(self._connections, run)

    @asynccontextmanager
    async def _fenced(self) -> AsyncIterator[psycopg.AsyncConnection[DictRow]]:
        async with self._connections.path() as connection, connection.transaction():
            await hold(connection, self._run)
            yield connection

    # --- one by one -----------------------------------------------------------------------------

    async def claim(
        self,
        limit: int,
        *,
        after: int = 0,
        upto: int = MOST,
        anybody: bool = False,
    ) -> list[WithoutContact]:
        """Claim registrants who own a contact that is not in the home list yet, in `id` order.

        Args:
            limit: how many at the most.
            after: only those whose `id` is greater; a run that pages so meets nobody twice.
            upto: and those whose is not greater than this.
            anybody: also those whom somebody has claimed, who is known to be gone.
        """
        given = {
            "limit": limit,
            "after": after,
            "upto": upto,
            "anybody": anybody,
            "lease": LEASE_SECONDS,
            "looks": LOOKS,
        }
        async with self._fenced() as connection:
            cursor = await connection.execute(_WITHOUT_CONTACT, given)
            rows = await cursor.fetchall()
        return [_claimed(row) for row in sorted(rows, key=lambda row: row["id"])]

    async def claim_one(self, ref: str, *, lease: int) -> WithoutContact | tuple[str, str] | None:
        """Claim one registrant, as `claim` does, unless that is not needed any more.

        Args:
            ref: of the registrant.
            lease: seconds for which they are the claimer's alone.

        Returns:
            The claim; the contact of one who is in the home list by now, and its lookup id there;
            None: somebody else has the claim, or they are to have no contact.
        """
        async with self._connections.path() as connection, connection.transaction():
            # Whoever has locked them has them for a moment, and is not to be passed over here.
            cursor = await connection.execute(
                b"SELECT id, contact_id, home_lookup_id FROM registrants WHERE ref = %(ref)s"
                b" FOR NO KEY UPDATE",
                {"ref": ref},
            )
            known = await cursor.fetchone()
            if known is None:
                return None
            if known["home_lookup_id"] is not None:
                return str(known["contact_id"]), str(known["home_lookup_id"])
            given = {
                "limit": 1,
                "after": known["id"] - 1,
                "upto": known["id"],
                "anybody": False,
                "lease": lease,
                "looks": LOOKS,
            }
            cursor = await connection.execute(_WITHOUT_CONTACT, given)
            row = await cursor.fetchone()
        return None if row is None else _claimed(row)

    async def miss(self, ref: str, home_lookup_id: str) -> None:
        """The platform does not know this place of a registrant in the home list: forget it.

        What became of their contact is not known, so that whoever makes one asks first.
        """
        async with self._connections.path() as connection:
            await connection.execute(
                b"UPDATE registrants SET contact_id = NULL, home_lookup_id = NULL,"
                b" contact_at = NULL, contact_attempt = contact_attempt + 1,"
                b" contact_lease_until = NULL, contact_in_doubt = true, contact_stale = false"
                b" WHERE ref = %(ref)s AND home_lookup_id = %(lookup)s",
                {"ref": ref, "lookup": home_lookup_id},
            )

    async def settle(self, claimed: WithoutContact, contact_id: str, home_lookup_id: str) -> bool:
        """Remember a registrant's contact and its place in the home list.

        What has changed since the claim, the platform was not told: the contact is stale then.

        Returns:
            False when the claim was taken over by another attempt and nothing was changed.
        """
        async with self._connections.path() as connection:
            cursor = await connection.execute(
                b"UPDATE registrants SET contact_id = %(contact)s, home_lookup_id = %(lookup)s,"
                b" contact_at = milepost_now(), contact_lease_until = NULL,"
                b" contact_in_doubt = false, contact_looks = 0, contact_first_look_at = NULL,"
                b" contact_stale = updated_at <> %(updated_at)s"
                b" WHERE ref = %(ref)s AND contact_attempt = %(attempt)s",
                {
                    "ref": claimed.ref,
                    "attempt": claimed.attempt,
                    "updated_at": claimed.updated_at,
                    "contact": contact_id,
                    "lookup": home_lookup_id,
                },
            )
            return cursor.rowcount == 1

    async def set_back(
        self,
        claimed: WithoutContact,
        *,
        outcome_unknown: bool,
        looked: bool,
        rests: bool = True,
    ) -> bool:
        """Write down that a claim did not end well.

        Args:
            claimed: the claim.
            outcome_unknown: a call went out, and may have made the contact. Otherwise the claim is
                in doubt only if it was so before.
            looked: the platform was asked for the contact and knew of none. Looks are counted from
                the last unknown outcome on.
            rests: the lease stays, as a pause.

        Returns:
            False when the claim was taken over by another attempt and nothing was changed.
        """
        async with self._connections.path() as connection:
            cursor = await connection.execute(
                _SET_BACK,
                {
                    "ref": claimed.ref,
                    "attempt": claimed.attempt,
                    "in_doubt": outcome_unknown or claimed.in_doubt,
                    "unknown": outcome_unknown,
                    "looked": looked,
                    "rests": rests,
                },
            )
            return cursor.rowcount == 1

    # --- many at once ---------------------------------------------------------------------------

    async def outlook(self, *, merges: bool) -> Outlook:
        """How the home list stands.

        Args:
            merges: whether the platform knows a contact again that is added a second time.
        """
        given = {"merges": merges, "looks": LOOKS}
        async with self._connections.transaction() as connection:
            row = (await connection.exec_driver_sql(_OUTLOOK, given)).mappings().one()
            return Outlook(**{str(name): value for name, value in row.items()})

    async def to_import(self, *, after: int, merges: bool) -> list[Marked]:
        """Mark registrants who have no contact in the home list as in doubt, in `id` order.

        At most `CHUNK` of them.

        Args:
            after: only those whose `id` is greater.
            merges: whether the platform knows a contact again that is added a second time.
                Otherwise who is in doubt already is left out.
        """
        given = {
            "limit": CHUNK,
            "after": after,
            "merges": merges,
            "looks": LOOKS,
            "late": IMPORT_SECONDS,
        }
        async with self._fenced() as connection:
            cursor = await connection.execute(_TO_IMPORT, given)
            rows = await cursor.fetchall()
        return [
            Marked(**of_owner(row), attempt=row["contact_attempt"], in_doubt=row["in_doubt"])
            for row in sorted(rows, key=lambda row: row["id"])
        ]

    @begun_again
    async def note_not_imported(self, marked: Sequence[Marked]) -> None:
        """The import of these, whom `to_import` marked, was refused: it made nobody's contact.

        Who was in doubt before is so still, and whom another attempt has by now is left to it.
        """
        given = [
            {"ref": one.ref, "attempt": one.attempt, "in_doubt": one.in_doubt} for one in marked
        ]
        async with self._fenced() as connection:
            marks = {"marked": msgspec.json.encode(given).decode()}
            await connection.execute(_NOT_IMPORTED, marks)

    async def missing(self, *, after: int) -> list[Owner]:
        """At most `CHUNK` registrants who are to be in the home list and are not, by `id`."""
        return await self._owners(_MISSING, CHUNK, after=after)

    async def stale(self, limit: int, *, after: int) -> list[Owner]:
        """Registrants of whose contact the platform was told otherwise, by `id`."""
        return await self._owners(_STALE, limit, after=after)

    async def _owners(self, which: bytes, limit: int, *, after: int) -> list[Owner]:
        async with self._connections.path() as connection:
            cursor = await connection.execute(
                b"SELECT "
                + OWNER.encode()
                + b" FROM registrants AS r WHERE id > %(after)s AND "
                + which
                + _MAY_BE_TOLD
                + b" ORDER BY id LIMIT %(limit)s",
                {"after": after, "limit": limit},
            )
            return [Owner(**of_owner(row)) for row in await cursor.fetchall()]

    async def count_stale(self) -> int:
        """How many `stale` has."""
        async with self._connections.path() as connection:
            cursor = await connection.execute(
                b"SELECT count(*) AS n FROM registrants WHERE " + _STALE + _MAY_BE_TOLD
            )
            (row,) = await cursor.fetchall()
            return int(row["n"])

    @begun_again
    async def note_told(self, told: Sequence[Owner]) -> int:
        """The platform was told these; returns how many have not changed since they were read."""
        given = [{"ref": owner.ref, "updated_at": owner.updated_at} for owner in told]
        async with self._fenced() as connection:
            cursor = await connection.execute(_TOLD, {"told": msgspec.json.encode(given).decode()})
            return cursor.rowcount

    @begun_again
    async def opt_out(self, contacts: Collection[str], refs: Collection[str]) -> int:
        """Whoever has one of these contacts or refs opted out; returns who had not before."""
        async with self._fenced() as connection:
            given = {"contacts": list(contacts), "refs": list(refs)}
            cursor = await connection.execute(_OPT_OUT, given)
            return cursor.rowcount

    # --- a listing ------------------------------------------------------------------------------

    async def begin_listing(self) -> datetime:
        """Begin a listing, without anything of the one before; returns the moment."""
        await self.end_listing()
        async with self._connections.path() as connection:
            cursor = await connection.execute(b"SELECT milepost_now() AS now")
            (row,) = await cursor.fetchall()
            now: datetime = row["now"]
            return now

    async def end_listing(self) -> None:
        """Forget what was listed, some rows at a time."""
        swept = SWEPT
        while swept == SWEPT:
            async with self._fenced() as connection:
                cursor = await connection.execute(
                    b"DELETE FROM listed_members WHERE ctid IN ("
                    b" SELECT ctid FROM listed_members LIMIT %(limit)s)",
                    {"limit": SWEPT},
                )
                swept = cursor.rowcount

    async def write_page(self, list_id: str, members: Sequence[ListedMember]) -> None:
        """Write down a page of a listing; one that was written before stays as it is."""
        given = {"list": list_id, "members": msgspec.json.encode(members).decode()}
        async with self._fenced() as connection:
            await connection.execute(_WRITE, given)

    async def listed_refs(self, list_id: str, *, after: str) -> list[ListedRef]:
        """The next `CHUNK` refs of a listing, in order, behind `after`."""
        given = {"list": list_id, "after": after, "limit": CHUNK}
        async with self._connections.path() as connection:
            cursor = await connection.execute(_REFS, given)
            return [ListedRef(**row) for row in await cursor.fetchall()]

    @begun_again
    async def take_over(
        self, list_id: str, refs: Sequence[str], *, merges: bool, told_at: datetime | None
    ) -> Taken:
        """Take over how registrants stand in a listing of the home list.

        Args:
            list_id: the home list.
            refs: of at most `CHUNK` registrants.
            merges: whether the platform knows a contact again by the values of its criteria.
            told_at: when this run began to tell the platform of them; None: it has not.
        """
        given: dict[str, Any] = {"list": list_id, "refs": list(refs), "merges": merges}
        async with self._connections.path() as connection:
            cursor = await connection.execute(_CHANGES, given)
            changed = [row["ref"] for row in await cursor.fetchall()]
        if not changed:
            return Taken(0, 0)
        async with self._fenced() as connection:
            await connection.execute(_LOCK, {"refs": changed})
            given |= {"refs": changed, "told_at": told_at}
            cursor = await connection.execute(_TAKE, given)
            rows = await cursor.fetchall()
        return Taken(sum(row["is_made"] for row in rows), sum(row["is_moved"] for row in rows))

    async def note_not_listed(self, *, refused: bool) -> None:
        """A whole listing was looked through for who is in doubt, in vain.

        Args:
            refused: an import has told that so many were not taken, so that nobody is in doubt.
        """
        given = {"after": 0, "limit": CHUNK, "refused": refused, "lease": LEASE_SECONDS}
        while True:
            async with self._fenced() as connection:
                cursor = await connection.execute(_NOT_LISTED, given)
                rows = await cursor.fetchall()
            if not rows:
                return
            given["after"] = max(row["id"] for row in rows)

    async def count_losses(self, list_id: str, before: datetime) -> tuple[int, int]:
        """How many are known to be in the home list, and how many of them a listing lacks.

        Args:
            list_id: the home list.
            before: the listing's beginning; who came into the list later counts for neither.
        """
        given = {"list": list_id, "before": before}
        async with self._connections.transaction() as connection:
            row = (await connection.exec_driver_sql(_LOSSES, given)).one()
            return int(row.known), int(row.lost)

    async def lost(
        self, list_id: str, before: datetime, *, after: str, limit: int
    ) -> tuple[dict[str, str], str | None]:
        """Whom of a stretch of registrants a listing lacks.

        Args:
            list_id: the home list.
            before: the listing's beginning.
            after: the stretch begins behind this ref.
            limit: how many at the most; the stretch ends with the last of them.

        Returns:
            The contact of each, by ref, in its order, and the last ref of the stretch; None: there
            is none behind.
        """
        given = {"list": list_id, "before": before, "after": after, "limit": STRETCH}
        async with self._connections.path() as connection:
            cursor = await connection.execute(_LOST, given)
            (row,) = await cursor.fetchall()
        lost = sorted(row["lost"].items())
        last = row["last"] if len(lost) <= limit else lost[limit - 1][0]
        return dict(lost[:limit]), last

    @begun_again
    async def forget(self, list_id: str, before: datetime, refs: Sequence[str]) -> int:
        """Forget the contacts of those of at most `CHUNK` registrants whom a listing lacks.

        Returns:
            How many.
        """
        given = {"list": list_id, "before": before, "refs": refs}
        async with self._fenced() as connection:
            cursor = await connection.execute(_FORGET, given)
            return cursor.rowcount

    async def note_listed(self, at: datetime | None) -> None:
        """The home list was read to its end at that moment; None: it is to be read soon."""
        async with self._fenced() as connection:
            await connection.execute(b"UPDATE deployment SET home_listed_at = %(at)s", {"at": at})


def listed_key(
    ref: str | None, details: RegistrantDetails, criteria: Collection[str]
) -> tuple[str | None, str | None]:
    """The ref under which a listed contact could be a registrant's, and the contact key."""
    if ref is not None and not 0 < len(ref.encode()) <= LONGEST_REF:
        ref = None
    return ref, None if ref is None else contact_key(ref, details, criteria)


def _claimed(row: Row) -> WithoutContact:
    return WithoutContact(
        **of_owner(row),
        attempt=row["contact_attempt"],
        in_doubt=row["in_doubt"],
        looked_enough=row["looked_enough"],
    )


def of_owner(row: Row) -> dict[str, Any]:
    """The members of an owner, from a row with the columns of `OWNER`."""
    return {
        "id": row["id"],
        "ref": row["ref"],
        "details": details_of(row),
        "contact_key": row["dedup_key"],
        "contact_id": row["contact_id"],
        "updated_at": row["updated_at"],
    }
