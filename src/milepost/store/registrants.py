"""Registrants: our source of truth about people, and whose contact is whose.

Under route `list` a contact belongs to one registrant. `contact_key` is what the directory would
recognise a contact by; the one registrant who holds it as `dedup_key` (unique) owns the contact,
the others with the same values share it and get no links of their own. Keys are given out by one
transaction at a time (an advisory lock that claims never touch), and rows are locked in `ref`
order, as claims do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import DictRow
from sqlalchemy import RowMapping, select

from milepost.model import Registrant, RegistrantDetails
from milepost.policy import contact_key
from milepost.store import tables
from milepost.store.connections import Connections, Row, statement

CHUNK: Final = 500
"""Rows written in one transaction at the most: a claim waits for one chunk, not for a file."""

LEASE_SECONDS: Final = 60
"""How long a registrant's contact is one worker's to make: longer than a page of calls takes."""

_KEYS_LOCK: Final = 0x6B657973  # "keys"

_LOCK: Final = statement("claim_lock")
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
        rows = [
            {
                "ref": ref,
                **msgspec.to_builtins(details),
                "contact_key": contact_key(ref, details, criteria),
            }
            for ref, details in given.items()
        ]
        refs = list(given)
        async with (
            self._connections.path() as connection,
            connection.transaction(force_rollback=dry_run),
        ):
            await _serialise(connection, refs)
            held = await _keys(connection, refs)
            cursor = await connection.execute(
                _PUT, {"given": msgspec.json.encode(rows).decode(), "change": change}
            )
            written = await cursor.fetchall()
            await connection.execute(_KEY, {"refs": refs})
            released = sorted(held - await _keys(connection, refs))
        if released and not dry_run:
            await self._pass_on(released)
        created = sum(row["is_first"] for row in written)
        return Counts(
            created=created,
            changed=len(written) - created,
            unchanged=len(rows) - len(written),
        )

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
        after = ""
        while page := await self._page(after):
            counts = await self.put({row.ref: row.details for row in page}, criteria, change=True)
            changed += counts.changed
            after = page[-1].ref
        return changed

    async def _page(self, after: str) -> Sequence[Registrant]:
        registrants = tables.registrants
        async with self._connections.transaction() as connection:
            result = await connection.execute(
                select(registrants)
                .where(registrants.c.ref > after)
                .order_by(registrants.c.ref)
                .limit(CHUNK)
            )
            return [_registrant(row) for row in result.mappings()]

    async def _pass_on(self, released: list[str]) -> None:
        """Give keys that their owners no longer have to whoever shares the values."""
        async with self._connections.path() as connection, connection.transaction():
            cursor = await connection.execute(
                b"SELECT ref FROM registrants WHERE contact_key = ANY (%(keys)s) ORDER BY ref",
                {"keys": released},
            )
            refs = [row["ref"] for row in await cursor.fetchall()]
            await _serialise(connection, refs)
            await connection.execute(_KEY, {"refs": refs})


async def _serialise(connection: psycopg.AsyncConnection[DictRow], refs: Sequence[str]) -> None:
    await connection.execute(b"SELECT pg_advisory_xact_lock(%(key)s)", {"key": _KEYS_LOCK})
    await connection.execute(_LOCK, {"refs": list(refs)})


async def _keys(connection: psycopg.AsyncConnection[DictRow], refs: Sequence[str]) -> set[str]:
    cursor = await connection.execute(
        b"SELECT dedup_key FROM registrants WHERE ref = ANY (%(refs)s) AND dedup_key IS NOT NULL",
        {"refs": list(refs)},
    )
    return {row["dedup_key"] for row in await cursor.fetchall()}


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
