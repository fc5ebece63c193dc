"""Registrants: our source of truth about people, and whose contact is whose.

Under route `list` a contact belongs to one registrant. `contact_key` is what the directory would
recognise a contact by; the one registrant who holds it as `dedup_key` (unique) owns the contact,
the others with the same values share it and get no links of their own. Keys are given out by one
transaction at a time (an advisory lock that claims never touch), and rows are locked in `ref`
order, as claims do. A registrant whose key changes has another contact from then on, so the old
one's ids are forgotten, and a key that they leave goes to the next who has the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import DictRow
from sqlalchemy import RowMapping, select

from milepost.model import Registrant, RegistrantDetails
from milepost.policy import contact_key
from milepost.store import tables
from milepost.store.connections import Connections, Row, begun_again, statement

CHUNK: Final = 500
"""Rows written in one transaction at the most: a claim waits for one chunk, not for a file."""

LEASE_SECONDS: Final = 60
"""How long a registrant's contact is one worker's to make: longer than a page of calls takes."""

_KEYS_LOCK: Final = 0x6B657973  # "keys"

_LOCK: Final = statement("registrants_lock")
_PUT: Final = statement("registrants_put")
_KEY: Final = statement("registrants_key")
_WITHOUT_CONTACT: Final = statement("registrants_without_contact")


class Counts(Struct, frozen=True, kw_only=True):
    """What writing registrants did, in rows."""

    created: int = 0
    changed: int = 0
    unchanged: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            created=self.created + other.created,
            changed=self.changed + other.changed,
            unchanged=self.unchanged + other.unchanged,
        )


class WithoutContact(Struct, frozen=True, kw_only=True):
    """A registrant whose contact is to be made, and the attempt that it is."""

    ref: str
    details: RegistrantDetails
    contact_id: str | None
    attempt: int


class RegistrantStore:
    """The verbs of registrants; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    @begun_again
    async def put(
        self,
        given: Mapping[str, RegistrantDetails],
        criteria: frozenset[str],
        *,
        change: bool = True,
        dry_run: bool = False,
    ) -> Counts:
        """Write down at most `CHUNK` registrants, by ref.

        Args:
            given: what is known of each.
            criteria: by which fields the directory recognises a contact.
            change: whether those who are known already may be changed.
            dry_run: only count, and change nothing.
        """
        async with (
            self._connections.path() as connection,
            connection.transaction(force_rollback=dry_run),
        ):
            await _be_the_key_giver(connection)
            return await _write(connection, given, criteria, change=change)

    async def get(self, ref: str) -> Registrant | None:
        """The registrant with this ref."""
        registrants = tables.registrants
        async with self._connections.transaction() as connection:
            result = await connection.execute(select(registrants).where(registrants.c.ref == ref))
            row = result.mappings().one_or_none()
        return _registrant(row) if row else None

    async def claim_without_contact(self, limit: int) -> list[WithoutContact]:
        """Claim registrants who own a contact that is not in the home list yet."""
        async with self._connections.path() as connection:
            cursor = await connection.execute(
                _WITHOUT_CONTACT, {"limit": limit, "lease": LEASE_SECONDS}
            )
            return [
                WithoutContact(
                    ref=row["ref"],
                    details=_details(row),
                    contact_id=row["contact_id"],
                    attempt=row["contact_attempt"],
                )
                for row in await cursor.fetchall()
            ]

    async def settle_contact(
        self, ref: str, attempt: int, contact_id: str, home_lookup_id: str
    ) -> bool:
        """Remember a registrant's contact and its place in the home list.

        Returns:
            False when the claim was taken over by another attempt and nothing was changed.
        """
        async with self._connections.path() as connection:
            cursor = await connection.execute(
                b"UPDATE registrants SET contact_id = %(contact)s, home_lookup_id = %(lookup)s,"
                b" contact_at = milepost_now(), contact_lease_until = NULL"
                b" WHERE ref = %(ref)s AND contact_attempt = %(attempt)s",
                {"ref": ref, "attempt": attempt, "contact": contact_id, "lookup": home_lookup_id},
            )
            return cursor.rowcount == 1

    async def note_contact(self, ref: str, contact_id: str) -> None:
        """Remember the contact that a registrant's first link made."""
        async with self._connections.path() as connection:
            await connection.execute(
                b"UPDATE registrants SET contact_id = %(contact)s"
                b" WHERE ref = %(ref)s AND contact_id IS NULL",
                {"ref": ref, "contact": contact_id},
            )

    async def rekey(self, criteria: frozenset[str]) -> int:
        """Compute every contact key anew, under other criteria; returns how many changed."""
        changed = 0
        after: str | None = ""
        while after is not None:
            count, after = await self._rekey_chunk(after, criteria)
            changed += count
        return changed

    @begun_again
    async def _rekey_chunk(self, after: str, criteria: frozenset[str]) -> tuple[int, str | None]:
        async with self._connections.path() as connection, connection.transaction():
            # Read behind the lock that all who change details take, or a change would be undone.
            await _be_the_key_giver(connection)
            cursor = await connection.execute(
                b"SELECT * FROM registrants WHERE ref > %(after)s ORDER BY ref LIMIT %(limit)s",
                {"after": after, "limit": CHUNK},
            )
            given = {row["ref"]: _details(row) for row in await cursor.fetchall()}
            if not given:
                return 0, None
            counts = await _write(connection, given, criteria, change=True)
            return counts.changed, max(given)


async def _be_the_key_giver(connection: psycopg.AsyncConnection[DictRow]) -> None:
    await connection.execute(b"SELECT pg_advisory_xact_lock(%(key)s)", {"key": _KEYS_LOCK})


async def _write(
    connection: psycopg.AsyncConnection[DictRow],
    given: Mapping[str, RegistrantDetails],
    criteria: frozenset[str],
    *,
    change: bool,
) -> Counts:
    rows = [
        {
            "ref": ref,
            **msgspec.to_builtins(details),
            "contact_key": contact_key(ref, details, criteria),
        }
        for ref, details in given.items()
    ]
    cursor = await connection.execute(_LOCK, {"refs": list(given)})
    locked = {row["ref"] for row in await cursor.fetchall()}
    cursor = await connection.execute(
        _PUT, {"given": msgspec.json.encode(rows).decode(), "change": change}
    )
    written = await cursor.fetchall()
    await connection.execute(_KEY, {"refs": sorted(locked | given.keys())})
    created = sum(row["is_first"] for row in written)
    return Counts(
        created=created, changed=len(written) - created, unchanged=len(rows) - len(written)
    )


def _details(row: Row | RowMapping) -> RegistrantDetails:
    return RegistrantDetails(
        email=row["email"],
        first_name=row["first_name"],
        last_name=row["last_name"],
        phone=row["phone"],
        language=row["language"],
        attributes=row["attributes"],
    )


def _registrant(row: RowMapping) -> Registrant:
    return Registrant(
        ref=row["ref"],
        details=_details(row),
        contact="own"
        if row["dedup_key"] is not None
        else "incomplete"
        if row["contact_key"] is None
        else "shared",
        contact_id=row["contact_id"],
        opted_out_at=row["opted_out_at"],
        erased_at=row["erased_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
