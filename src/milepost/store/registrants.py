"""Registrants: our source of truth about people, and whose contact is whose.

Under route `list` a contact belongs to one registrant. `contact_key` is what the directory would
recognise a contact by; the one registrant who holds it as `dedup_key` (unique) owns the contact,
the others with the same values share it and get no links of their own. Keys are given out by one
transaction at a time (an advisory lock that claims never touch), and rows are locked in `ref`
order, as claims do. A registrant whose key changes has another contact from then on, so the old
one's ids are forgotten, and a key that they leave goes to the next who has the values. By which
criteria a key is made is read behind that same lock, so nobody goes by criteria that have changed.

A registrant whom their source does not list any more is removed: to events they are unknown, and
their contact's key goes to the next who has the values. Whoever writes them down again, by whatever
way, brings them back; they get the key again if nobody has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import DictRow
from sqlalchemy import RowMapping, select

from milepost.model import Registrant, RegistrantDetails
from milepost.policy import contact_key
from milepost.store import tables
from milepost.store.connections import Connections, Row, begun_again, columns, statement
from milepost.store.grouping import GroupCommit

CHUNK: Final = 500
"""Rows written in one transaction at the most: a claim waits for one chunk, not for a file."""

DETAILS: Final = ("email", "first_name", "last_name", "phone", "language", "attributes")
"""The columns that `details_of` reads."""

_KEYS_LOCK: Final = 0x6B657973  # "keys"

_TOLD: Final = columns("registrants", ("ref", *DETAILS)).encode()
_LOCK: Final = statement("registrants_lock")
_PUT: Final = statement("registrants_put")
_KEY: Final = statement("registrants_key")
_REMOVE: Final = statement("registrants_remove")
_CONTACTS: Final = statement("registrants_contacts")
_ARRIVED: Final = statement("registrants_arrived")


class Counts(Struct, frozen=True, kw_only=True):
    """What writing registrants did, in rows."""

    created: int = 0
    changed: int = 0
    unchanged: int = 0


class RegistrantStore:
    """The verbs of registrants; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        # Noted one by one, a thousand first links a second would take the path's connections.
        self._contacts = GroupCommit[Row, None](
            self._write_contacts,
            apart=lambda contact: (contact["ref"],),
            same=lambda contact: tuple(contact.values()),
        )
        # Keys are given out by one at a time: one by one, a peak of people whom only events have
        # told of would stand in line for seconds.
        self._introductions = GroupCommit[tuple[str, RegistrantDetails], None](
            self._write_introductions,
            apart=lambda introduced: (introduced[0],),
            same=lambda introduced: (introduced[0], msgspec.json.encode(introduced[1])),
        )

    @begun_again
    async def put(
        self,
        given: Mapping[str, RegistrantDetails],
        *,
        change: bool = True,
    ) -> Counts:
        """Write down at most `CHUNK` registrants, by ref.

        Args:
            given: what is known of each.
            change: whether those who are known already may be changed; who was removed is not.
        """
        async with self._connections.path() as connection, connection.transaction():
            return await write(connection, given, change=change)

    async def introduce(self, ref: str, details: RegistrantDetails) -> None:
        """Write down what an event tells of a registrant; one who is known is left alone.

        Those who come at once are written together.

        Args:
            ref: of the registrant.
            details: what the event tells of them.

        Raises:
            DatabaseBusy: nothing was written.
        """
        await self._introductions.submit((ref, details))

    async def _write_introductions(
        self, introduced: Sequence[tuple[str, RegistrantDetails]]
    ) -> Sequence[None]:
        await self.put(dict(introduced), change=False)
        return [None] * len(introduced)

    async def get(self, ref: str) -> Registrant | None:
        """The registrant with this ref."""
        registrants = tables.registrants
        async with self._connections.transaction() as connection:
            result = await connection.execute(select(registrants).where(registrants.c.ref == ref))
            row = result.mappings().one_or_none()
        return _registrant(row) if row else None

    async def note_contact(self, ref: str, contact_id: str, contact_key: str | None) -> None:
        """Remember the contact that a registrant's first link made.

        Args:
            ref: of the registrant.
            contact_id: the platform's `CID_…`.
            contact_key: the registrant's when the link was claimed; under another one they have
                another contact, and nothing is changed.
        """
        await self._contacts.submit(
            {"ref": ref, "contact_id": contact_id, "contact_key": contact_key}
        )

    @begun_again
    async def _write_contacts(self, contacts: Sequence[Row]) -> Sequence[None]:
        given = msgspec.json.encode(contacts).decode()
        async with self._connections.path() as connection:
            await connection.execute(_CONTACTS, {"contacts": given}, prepare=True)
        return [None] * len(contacts)

    async def rekey(self, directory_id: str, criteria: frozenset[str]) -> int:
        """Compute every contact key anew, as this directory tells contacts apart.

        The directory and its criteria are the deployment's when it returns.

        Until then `put` goes by the old ones, so all are gone through until a pass meets only what
        `put` wrote meanwhile; what was written since that pass began is done in the transaction
        that changes the criteria. Where this breaks off the criteria are still the old ones, and
        whoever compares them does it again.

        Returns:
            How many keys changed.
        """
        changed = 0
        while True:
            began = await self._now()
            count = await self._rekey_all(criteria)
            changed += count
            if count <= CHUNK:
                return changed + await self._put_in_force(directory_id, criteria, began)

    async def _now(self) -> datetime:
        async with self._connections.path() as connection:
            cursor = await connection.execute(b"SELECT milepost_now() AS now")
            (row,) = await cursor.fetchall()
            now: datetime = row["now"]
            return now

    async def _rekey_all(self, criteria: frozenset[str]) -> int:
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
                b"SELECT " + _TOLD + b" FROM registrants"
                b" WHERE ref > %(after)s AND removed_at IS NULL"
                b" ORDER BY ref LIMIT %(limit)s",
                {"after": after, "limit": CHUNK},
            )
            given = {row["ref"]: details_of(row) for row in await cursor.fetchall()}
            if not given:
                return 0, None
            counts = await _write(connection, given, criteria, change=True)
            return counts.changed, max(given)

    @begun_again
    async def _put_in_force(
        self, directory_id: str, criteria: frozenset[str], began: datetime
    ) -> int:
        async with self._connections.path() as connection, connection.transaction():
            await _be_the_key_giver(connection)
            cursor = await connection.execute(
                b"SELECT " + _TOLD + b" FROM registrants"
                b" WHERE updated_at >= %(began)s AND removed_at IS NULL",
                {"began": began},
            )
            given = {row["ref"]: details_of(row) for row in await cursor.fetchall()}
            counts = await _write(connection, given, criteria, change=True)
            await connection.execute(
                b"UPDATE deployment"
                b" SET directory_id = %(directory)s, dedup_criteria = %(criteria)s",
                {"directory": directory_id, "criteria": sorted(criteria)},
            )
            return counts.changed


async def write(
    connection: psycopg.AsyncConnection[DictRow],
    given: Mapping[str, RegistrantDetails],
    *,
    change: bool = True,
    source: str | None = None,
) -> Counts:
    """Write down at most `CHUNK` registrants, in the caller's transaction.

    Args:
        connection: in a transaction.
        given: what is known of each, by ref.
        change: whether those who are known already may be changed; who was removed is not.
        source: lists them; None: nobody does, or whoever did before.
    """
    await _be_the_key_giver(connection)
    return await _write(
        connection, given, await _criteria(connection), change=change, source=source
    )


async def remove(
    connection: psycopg.AsyncConnection[DictRow], refs: Sequence[str], source: str
) -> None:
    """Remove at most `CHUNK` registrants whom a source lists no more, in the caller's transaction.

    Args:
        connection: in a transaction.
        refs: of the registrants; who is not the source's stays.
        source: does not list them.
    """
    await _be_the_key_giver(connection)
    cursor = await connection.execute(_LOCK, {"refs": refs})
    locked = sorted(row["ref"] for row in await cursor.fetchall())
    await connection.execute(_REMOVE, {"refs": refs, "source": source})
    await connection.execute(_KEY, {"refs": locked})


async def _be_the_key_giver(connection: psycopg.AsyncConnection[DictRow]) -> None:
    await connection.execute(b"SELECT pg_advisory_xact_lock(%(key)s)", {"key": _KEYS_LOCK})


async def _criteria(connection: psycopg.AsyncConnection[DictRow]) -> frozenset[str]:
    """By which fields the directory recognises a contact; to be read by the key giver."""
    cursor = await connection.execute(b"SELECT dedup_criteria FROM deployment")
    row = await cursor.fetchone()
    return frozenset((row and row["dedup_criteria"]) or ())


async def _write(
    connection: psycopg.AsyncConnection[DictRow],
    given: Mapping[str, RegistrantDetails],
    criteria: frozenset[str],
    *,
    change: bool,
    source: str | None = None,
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
    locked = {row["ref"]: row["removed_at"] for row in await cursor.fetchall()}
    cursor = await connection.execute(
        _PUT,
        {"given": msgspec.json.encode(rows).decode(), "change": change, "source": source},
    )
    written = await cursor.fetchall()
    await connection.execute(_KEY, {"refs": sorted(locked.keys() | given.keys())})
    arrived = [row["ref"] for row in written if row["is_first"] or locked.get(row["ref"])]
    if arrived:
        await connection.execute(_ARRIVED, {"refs": arrived})
    created = [row["ref"] for row in written if row["is_first"]]
    return Counts(
        created=len(created),
        changed=len(written) - len(created),
        unchanged=len(rows) - len(written),
    )


def details_of(row: Row | RowMapping) -> RegistrantDetails:
    """What a row with a registrant's columns tells of them."""
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
        details=details_of(row),
        contact="own"
        if row["dedup_key"] is not None
        else "incomplete"
        if row["contact_key"] is None
        else "shared",
        contact_id=row["contact_id"],
        removed_at=row["removed_at"],
        opted_out_at=row["opted_out_at"],
        erased_at=row["erased_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
