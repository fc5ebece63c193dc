"""Links: the ledger of events, the deepest part of the store.

**What a row is.** One event, for ever. `state` says what is true at the platform, `published` what
the caller was given. A row is written once by the first request for its event and afterwards only
moved along::

    claim     a new event, or one that waits ──▶ claimed, waiting, suppressed, issued (reused)
    settle    claimed ──▶ issued, waiting, unknown, failed

**Who may move it.** A claim is a lease by the database's clock: for `LEASE_SECONDS` the row is its
taker's. The lease carries an attempt number, and `settle` changes nothing under another one, so a
process that was frozen and wakes up late is harmless. Until `lease_until` nobody else takes the
row; on a row that is not claimed it is the pause that upstream asked for.

**What is locked, and why in two statements.** A claim decides about a person (one live link per
list, `once`, cooldown, quiet), so it locks the person: the registrants of a batch, in `ref` order,
as every writer of registrants does. The decision is a statement of its own, because its snapshot
must be newer than those locks. Both go out in one round trip (a pipeline) and in one transaction,
which is over before any call to the platform begins.

**What the tables hold by themselves.** One row per event (`links_event_id`), one URL per row
(`links_one_url`), one link per distribution and registrant (`links_one_per_distribution`), and a
URL exactly when a link is issued (`links_url`). A second live link of a registrant in one list
cannot be a constraint, since links expire without anybody writing: there the lock is the guard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

import msgspec
import psycopg
import uuid_utils.compat as uuid_utils
from msgspec import Struct
from sqlalchemy import select

from milepost.errors import (
    EventMismatch,
    MilepostError,
    MilestonePaused,
    UnknownMilestone,
    UnknownRegistrant,
)
from milepost.model import (
    Claim,
    Event,
    Field,
    Lane,
    Link,
    LinkRecord,
    LinkState,
    Place,
    Route,
)
from milepost.payload import differing, fingerprint
from milepost.policy import EXPLANATIONS, sample_point
from milepost.store import tables
from milepost.store.connections import Connections, Row, begun_again, plain, statement
from milepost.store.grouping import GroupCommit
from milepost.store.registrants import details_of

Shape = TypeVar("Shape", bound=Link)

LEASE_SECONDS: Final = 20
"""How long a claim is its taker's alone. Longer than the longest call (10 s) and the longest
deadline (8 s), so that only a process that is gone loses one; a takeover comes within 30 s."""

_CLAIM_LOCK: Final = statement("claim_lock")
_CLAIM: Final = statement("claim")
_SETTLE: Final = statement("settle")
_FIND: Final = statement("find")


class LookupTaken(MilepostError):
    """Two links would have one URL: the platform gave one lookup id to two people."""


class Settlement(Struct, frozen=True, kw_only=True):
    """How a claim ended. It takes effect only while the claim is still its taker's."""

    id: UUID
    attempt: int
    state: LinkState
    rule: str | None = None
    detail: str | None = None
    route: Route | None = None
    lane: Lane | None = None
    lookup_id: str | None = None
    url: str | None = None
    expires_at: datetime | None = None
    calls: float = 0
    looked: bool = False
    """A look for the outcome of an earlier call found nothing."""
    leaves: bool = False
    """Nothing was made at the link's place: it is free for others, and the link for another."""
    pause: float = 0
    """Seconds for which nobody should try again."""


class Asked(Struct, frozen=True, kw_only=True):
    """What the ledger says of an event: its link, and the claim if it is the asker's to make."""

    link: Link
    is_first: bool
    """No earlier request has written this event's row."""
    claim: Claim | None = None
    pause_until: datetime | None = None
    """Until then nobody takes an unsettled link up."""
    at: datetime
    """The database's time of this answer."""


class _Asking(Struct, frozen=True):
    """An event, and what identifies its payload."""

    event: Event
    fingerprint: Mapping[str, str]


class LinkStore:
    """The verbs of the ledger; each is one transaction."""

    def __init__(self, connections: Connections, fingerprint_key: bytes) -> None:
        self._connections = connections
        self._fingerprint_key = fingerprint_key
        self._claims = GroupCommit(
            self._write_claims,
            apart=lambda asking: (("ref", asking.event.ref), ("event", asking.event.event_id)),
            same=lambda asking: (asking.event.event_id, frozenset(asking.fingerprint.items())),
        )
        self._settlements = GroupCommit(
            self._write_settlements,
            apart=lambda settlement: (settlement.id,),
            same=lambda settlement: (settlement.id, settlement.attempt),
        )

    async def claim(self, event: Event) -> Asked:
        """Write the event down and decide it, or say what an earlier request made of it.

        Raises:
            EventMismatch: the event was seen with another payload.
            MilestonePaused, UnknownMilestone, UnknownRegistrant: it is refused, nothing is written.
        """
        asking = _Asking(event, fingerprint(event, self._fingerprint_key))
        while True:
            row, own = await self._claims.submit(asking)
            match row["course"]:
                case "unknown-milestone":
                    raise UnknownMilestone(event.milestone)
                case "milestone-paused":
                    raise MilestonePaused(event.milestone)
                case "unknown-registrant":
                    raise UnknownRegistrant(event.ref)
            if row["id"] is None:
                continue  # another request wrote or settled the row meanwhile: ask again
            if asking.fingerprint != row["fingerprint"]:
                fields = differing(asking.fingerprint, row["fingerprint"])
                raise EventMismatch(event.event_id, fields)
            return _asked(row, own=own)

    async def settle(self, settlement: Settlement) -> Link | None:
        """Finish a claim; None when it is not its taker's any more, and nothing was changed.

        Raises:
            LookupTaken: another link has the same URL; nothing was changed.
        """
        try:
            row, _ = await self._settlements.submit(settlement)
        except psycopg.errors.UniqueViolation as error:
            if error.diag.constraint_name != "links_one_url":
                raise
            raise LookupTaken("another link has the same URL") from error
        return _link(row) if row else None

    async def find(
        self,
        link_id: UUID | None = None,
        *,
        event_id: str | None = None,
        asked_by: str | None = None,
    ) -> LinkRecord | None:
        """The link with this id or of this event, without touching it.

        Args:
            link_id: the link's id, or None.
            event_id: its event's id, or None.
            asked_by: only a link that the key of this name asked for.
        """
        wanted = {"id": link_id, "event_id": event_id, "asked_by": asked_by}
        async with self._connections.path() as connection:
            cursor = await connection.execute(_FIND, wanted, prepare=True)
            row = await cursor.fetchone()
        return _shaped(row, LinkRecord) if row else None

    async def page(
        self,
        *,
        milestone: str | None = None,
        ref: str | None = None,
        event_id: str | None = None,
        state: LinkState | None = None,
        asked_by: str | None = None,
        after: UUID | None = None,
        limit: int = 100,
    ) -> list[Link]:
        """Links by id, oldest first, from behind `after` on."""
        links = tables.links
        original = links.alias("original")
        wanted = [
            column == value
            for column, value in (
                (links.c.milestone, milestone),
                (links.c.ref, ref),
                (links.c.event_id, event_id),
                (links.c.state, state.value if state else None),
                (links.c.asked_by, asked_by),
            )
            if value is not None
        ]
        if after is not None:
            wanted.append(links.c.id > after)
        query = (
            select(links, original.c.url.label("reused_url"))
            .outerjoin(original, original.c.id == links.c.reuses)
            .where(*wanted)
            .order_by(links.c.id)
            .limit(limit)
        )
        async with self._connections.transaction() as connection:
            return [_link(plain(row)) for row in (await connection.execute(query)).mappings()]

    @begun_again
    async def _write_claims(self, askings: Sequence[_Asking]) -> Sequence[Row]:
        batch = [
            {
                "link_id": uuid_utils.uuid7(),
                "event_id": event.event_id,
                "milestone": event.milestone,
                "ref": event.ref,
                "occurred_at": event.occurred_at,
                "data": event.data,
                "fingerprint": asking.fingerprint,
                "sample_point": sample_point(event.event_id),
                "asked_by": event.asked_by,
            }
            for asking in askings
            for event in (asking.event,)
        ]
        async with (
            self._connections.path() as connection,
            connection.pipeline(),
            connection.transaction(),
        ):
            await connection.execute(
                _CLAIM_LOCK, {"refs": [asking.event.ref for asking in askings]}, prepare=True
            )
            cursor = await connection.execute(
                _CLAIM,
                {"events": msgspec.json.encode(batch).decode(), "lease": LEASE_SECONDS},
                prepare=True,
            )
        rows = {row["asked"]: row for row in await cursor.fetchall()}
        return [rows[asking.event.event_id] for asking in askings]

    @begun_again
    async def _write_settlements(self, settlements: Sequence[Settlement]) -> Sequence[Row | None]:
        # What upstream said may hold a NUL, which Postgres cannot store; nothing else here can.
        given = msgspec.json.encode(settlements).replace(rb"\u0000", rb"\ufffd").decode()
        async with self._connections.path() as connection:
            cursor = await connection.execute(_SETTLE, {"settlements": given}, prepare=True)
            rows = {row["id"]: row for row in await cursor.fetchall()}
        return [rows.get(settlement.id) for settlement in settlements]


def _asked(row: Row, *, own: bool) -> Asked:
    link = _link(row)
    claim = None
    if own and row["is_written"] and link.state is LinkState.CLAIMED:
        claim = Claim(
            link=link,
            attempt=row["attempt"],
            route=Route(row["claim_route"]),
            in_doubt=row["in_doubt"],
            may_add=row["may_add"],
            looked_enough=row["looked_enough"],
            place=Place(
                slot_id=row["slot_id"],
                list_id=row["list_id"],
                distribution_id=row["distribution_id"],
                template=row["template"],
                expires_at=row["place_expires_at"],
            ),
            ref=row["ref"],
            details=details_of(row),
            contact_key=row["contact_key"],
            contact_id=row["contact_id"],
            lookups_before=frozenset(row["lookups_before"]),
            data=row["data"],
            fields=msgspec.convert(row["fields"], tuple[Field, ...]),
        )
    return Asked(
        link=link,
        is_first=own and row["is_first"],
        claim=claim,
        at=row["at"],
        pause_until=row["lease_until"] if link.unsettled else None,
    )


def _link(row: Row) -> Link:
    return _shaped(row, Link)


def _shaped(row: Row, shape: type[Shape]) -> Shape:
    return msgspec.convert(
        {
            **row,
            "registrant": row["ref"],
            "url": (row["url"] or row["reused_url"]) if row["published"] == "personal" else None,
            "reused": row["reuses"] is not None,
            "reason": _reason(row) if row["rule"] else None,
        },
        shape,
    )


def _reason(row: Row) -> Row:
    return {
        "rule": row["rule"],
        "until": row["rule_until"],
        "detail": row["rule_detail"] or EXPLANATIONS.get(f"{row['state']}/{row['rule']}"),
    }
