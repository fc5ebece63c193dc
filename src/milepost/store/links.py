"""Links: the ledger of events, the deepest part of the store.

**What a row is.** One event, for ever. `state` says what is true at the platform, `published` what
the caller was given, `lane` how. A row is written once by the first request for its event and
afterwards only moved along::

    claim       a new event, or one that waits ──▶ claimed, waiting, suppressed, issued (reused,
                or with a membership that was known beforehand: lane `ready`)
    settle      claimed ──▶ issued, waiting, unknown, failed
    hand over   an unsettled link at its caller's deadline gets its short URL

**What was given stays.** `published`, `lane` and the URL they name are written once, by whichever
of the three is first, and always before the answer leaves.

**Who may move it.** A claim is a lease by the database's clock: for `LEASE_SECONDS` the row is its
taker's. The lease carries an attempt number, and `settle` changes nothing under another one, so a
process that was frozen and wakes up late is harmless. Until `lease_until` nobody else takes the
row; on a row that is not claimed it is the pause that upstream asked for. A claim whose taker died
is counted (`lost`): an event that kills whoever takes it is parked at the `PARKED_AFTER`th time.

**What is never forgotten.** Exactly the unsettled rows have a `due_at`, when a job looks at them
next; a row past its `waiting_until` fails then. `due` hands such rows out, and the job claims each
by the same door as a request.

**What follows a ready link.** The platform learns of its data when it is out already: exactly the
links whose data are still to be told have a `data_due_at`. It is a lease as well: who claims one
has it for `LEASE_SECONDS`, by the same attempt number, and `lost` counts takers who died of it.

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

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec
import psycopg
from msgspec import Struct
from psycopg import AsyncRawCursor
from sqlalchemy import func, select, update

from milepost.errors import (
    EventMismatch,
    MilepostError,
    MilestonePaused,
    NothingGiven,
    UnknownLink,
    UnknownMilestone,
    UnknownRegistrant,
)
from milepost.model import (
    Claim,
    DriftKind,
    Event,
    Field,
    Lane,
    LateData,
    Link,
    LinkRecord,
    LinkState,
    Place,
    Purpose,
    Reason,
    RegistrantDetails,
    Route,
    Scalar,
)
from milepost.payload import (
    differing,
    fingerprint,
    link_id,
    naming_key,
    reference_beginning,
    seal,
    timeless,
    token,
)
from milepost.policy import EXPLANATIONS, REVOKED, sample_point
from milepost.store import tables
from milepost.store.connections import (
    Connections,
    Row,
    begun_again,
    columns,
    numbered,
    plain,
    statement,
    storable,
)
from milepost.store.drift import clear
from milepost.store.grouping import GroupCommit
from milepost.store.recovered import recovered_event
from milepost.store.registrants import details_of
from milepost.store.remembering import Remembered

LEASE_SECONDS: Final = 20
"""How long a claim is its taker's alone. Longer than the longest call (10 s) and the longest
deadline (8 s), so that only a process that is gone loses one; a takeover comes within 30 s."""

PARKED_AFTER: Final = 5
"""Claims that end with their taker's death before an event is parked. An innocent one may share a
crash with its batch, and with the next one: from the third time on a job takes it up alone."""

HOLD_SECONDS: Final = 8
"""How long a row that is handed to a job is not handed to another: the job claims it much sooner.
Should the job die before, the row comes back within the 30 s that a takeover may take."""

CONTACT: Final = "contact"
"""Among the steps of a link: whom they were made for, `CID_…`."""

GIVEN_UP: Final = "given_up"
"""Among the steps of a link: what was made on the way to it and is no part of it any more."""

IN_DOUBT: Final = "in_doubt"
"""Among the steps of a link that has ended: a call of its may have been accepted all the same."""

_MADE: Final = {
    "transaction": "transaction",
    "batch": "batch",
    "distribution": "distribution",
    "own_distribution": "distribution",
}
"""The steps that are things at the platform, and what each is."""

_ENDED: Final = frozenset({LinkState.SUPPRESSED, LinkState.FAILED})
_STATES: Final = {state.value: state for state in LinkState}
_LANES: Final = {lane.value: lane for lane in Lane}
_ROUTES: Final = {route.value: route for route in Route}

_MEMBERS: Final = (
    *("id", "event_id", "milestone", "ref", "state", "lane", "route", "published", "short_url"),
    *("url", "expires_at", "reuses", "rule", "rule_until", "rule_detail", "revoked_at"),
    *("upstream_calls", "created_at", "data_at", "steps"),
)
"""The columns of a link, and those that its record has besides."""
_MORE: Final = (
    *("occurred_at", "attempt", "lease_until", "waiting_until", "issued_at", "finished_at"),
    *("clicked_at", "data_due_at", "delivered_at", "opened_at", "started_at", "response_id"),
)

_CLAIM_LOCK: Final = statement("claim_lock")
_CLAIM: Final = numbered(
    statement("claim", members=columns("o", _MEMBERS)), "events", "lease", "tries", "short", "kept"
)
_NOTE: Final = statement("note")
_SETTLE: Final = numbered(
    statement("settle", members=columns("l", _MEMBERS)), "settlements", "short"
)
_HAND_OVER: Final = statement("hand_over")
_FIND: Final = statement("find", record=columns("l", (*_MEMBERS, *_MORE)))
_FIND_MANY: Final = statement("find_many", members=columns("l", _MEMBERS))
_RECORDS: Final = statement("find_many", members=columns("l", (*_MEMBERS, *_MORE)))
_OF_REFERENCE: Final = statement("of_reference", record=columns("l", (*_MEMBERS, *_MORE)))
_OF_HISTORY: Final = statement("of_history", record=columns("l", (*_MEMBERS, *_MORE)))
_DUE: Final = statement("due")
_LOOK: Final = statement("look")
_CLICK: Final = statement("click")
_DELIVERED: Final = statement("delivered")
_BACKLOG: Final = statement("backlog")
_GIVE_BACK: Final = statement("give_back")
_LATE_DATA_CLAIM: Final = statement("late_data_claim")
_LATE_DATA_SETTLE: Final = statement("late_data_settle")


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
    outcome_unknown: bool = False
    """A call went out that may have been accepted: looks are counted from it on."""
    leaves: bool = False
    """Nothing was made at the link's place: it is free for others, and the link for another."""
    pause: float = 0
    """Seconds for which nobody should try again."""


class Step(Struct, frozen=True, kw_only=True):
    """What a call has made on the way to a link. It counts only while the claim is its taker's."""

    id: UUID
    attempt: int
    name: str
    value: str
    """The platform's id of it."""
    contact: str
    """The `CID_…` of whom it was made for: what was made for another before is given up."""


class Telling(Struct, frozen=True, kw_only=True):
    """What became of a ready link's data. It takes effect only while they are still its taker's."""

    id: UUID
    attempt: int
    is_told: bool = False
    """The platform has taken them."""
    pause: float = 0
    """Seconds after which they are to be tried again; 0: never."""
    rule: str | None = None
    detail: str | None = None
    leaves: bool = False
    """The platform knows of no such membership: it is forgotten."""
    calls: float = 0


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


class Due(Struct, frozen=True):
    """An unsettled link's event, for a job to take up."""

    event: Event
    route: Route
    """By which it is to be made."""
    alone: bool
    """Whoever took it died, three times: to be tried with nothing else of the job under way."""


class Opened(Struct, frozen=True, kw_only=True):
    """What stands behind a short URL."""

    event: Event
    route: Route
    """By which it is to be made."""
    url: str | None
    """The personal URL; None where there is none yet, or none any more."""
    gone: Literal["expired", "revoked", "erased", "withdrawn"] | None
    """Why there is no survey behind it any more; `withdrawn`: none could be made after all."""
    language: str | None
    """The registrant's."""


class Named(Struct, frozen=True, kw_only=True):
    """The link that a reference or a history names, with what a response is held against."""

    link: LinkRecord
    route: Route | None
    """By which it was made, or is being made."""
    survey_id: str
    url: str | None
    """Its personal URL, whatever its caller was given."""


class Backlog(Struct, frozen=True):
    """Unsettled links of one milestone in one state."""

    milestone: str
    route: Route
    """By which they are to be made."""
    state: LinkState
    links: int


class _Asking(Struct, frozen=True):
    """An event, what identifies its payload, and what can be done for it now."""

    event: Event
    fingerprint: Mapping[str, str]
    purpose: Purpose
    may_call: bool
    without: str | None


class _Making(Struct, frozen=True):
    """What `claim.sql` says of a claim besides its link."""

    attempt: int
    route: Route
    in_doubt: bool
    may_add: bool
    looked_enough: bool
    place: Place | None
    steps: dict[str, str]
    survey_id: str
    link_days: int
    details: RegistrantDetails
    contact_key: str
    contact_id: str | None
    home_lookup_id: str | None
    lookups_before: frozenset[str]
    data: dict[str, Scalar]
    fields: tuple[Field, ...]


_MAKING: Final = msgspec.json.Decoder(_Making)


class LinkStore:
    """The verbs of the ledger; each is one transaction.

    Args:
        connections: to Postgres.
        fingerprint_key: keys the hashes that identify a payload.
        public_url: where short URLs lead, such as `https://milepost.example`.
        secret: signs the references that links of route `anonymous` carry, and names links.
        secret_before: has named some.
        recovers: the ledger was restored, and events come again that it does not know.
    """

    def __init__(
        self,
        connections: Connections,
        fingerprint_key: bytes,
        public_url: str,
        secret: bytes | None = None,
        *,
        secret_before: bytes | None = None,
        recovers: bool = False,
    ) -> None:
        self._connections = connections
        self._fingerprint_key = fingerprint_key
        self._secret = secret
        self._naming_key = naming_key(secret or b"", fingerprint_key)
        self._naming_keys = [self._naming_key]
        if secret_before is not None:
            self._naming_keys.append(naming_key(secret_before, fingerprint_key))
        self._recovers = recovers
        self._short = f"{public_url}/l/"
        self._claims = GroupCommit(
            self._write_claims,
            apart=lambda asking: (("ref", asking.event.ref), ("event", asking.event.event_id)),
            same=lambda asking: (
                asking.event.event_id,
                asking.purpose,
                asking.may_call,
                asking.without is None,
                frozenset(asking.fingerprint.items()),
            ),
            writers=2,
        )
        self._settlements = GroupCommit(
            self._write_settlements,
            apart=lambda settlement: (settlement.id,),
            same=lambda settlement: (settlement.id, settlement.attempt),
        )
        self._steps = GroupCommit(
            self._write_steps, apart=lambda step: (step.id,), same=lambda step: (step.id, step.name)
        )
        self._hand_overs = GroupCommit(
            self._write_hand_overs, apart=lambda link: (link,), same=lambda link: link
        )
        # Counting millions takes a second.
        self._backlog = Remembered(self._count_backlog)
        self._late_data = Remembered(self._count_late_data)

    async def claim(
        self, event: Event, *, purpose: Purpose = Purpose.DIRECT, without: str | None = None
    ) -> Asked:
        """Write the event down and decide it, or say what an earlier request made of it.

        Args:
            event: what happened.
            purpose: for whom; an app that asks again for a link whose short URL it has is told that
                URL, and only jobs and clicks take such a link up.
            without: the rule by which no call can be made at present, so that the link can only
                wait; None: one can.

        Raises:
            EventMismatch: the event was seen with another payload.
            MilestonePaused, UnknownMilestone, UnknownRegistrant: it is refused, nothing is written.
        """
        while True:
            row, own = await self._ask(event, purpose, may_call=without is None, without=without)
            if row["id"] is not None:
                return _asked(row, event, purpose, own=own)
            # Another request wrote or settled the row meanwhile: ask again.

    async def decide(self, event: Event) -> Asked | None:
        """Write the event down and decide it as `claim` does, if no call is needed for that.

        None: nothing was written; whoever has the right to a call is to `claim` it.

        Raises:
            As `claim`.
        """
        row, own = await self._ask(event, Purpose.DIRECT, may_call=False, without=None)
        if row["is_written"] or row["course"] == "seen":
            return _asked(row, event, Purpose.DIRECT, own=own)
        return None

    async def _ask(
        self, event: Event, purpose: Purpose, *, may_call: bool, without: str | None
    ) -> tuple[Row, bool]:
        """What `claim.sql` says of an event that it does not refuse, and whether to its asker."""
        given = fingerprint(event, self._fingerprint_key)
        if self._recovers:
            await self._give_back(event, given)
        row, own = await self._claims.submit(_Asking(event, given, purpose, may_call, without))
        match row["course"]:
            case "unknown-milestone":
                raise UnknownMilestone(event.milestone)
            case "milestone-paused":
                raise MilestonePaused(event.milestone)
            case "unknown-registrant":
                raise UnknownRegistrant(event.ref)
        if row["fingerprint"] is not None and given != row["fingerprint"]:
            raise EventMismatch(event.event_id, differing(given, row["fingerprint"]))
        return row, own

    @begun_again
    async def _give_back(self, event: Event, given: Mapping[str, str]) -> None:
        """Let a link that was found at the platform be this event's again, if it ever was.

        Raises:
            EventMismatch: it was this event's, but of another registrant or milestone.
        """
        names = [recovered_event(link_id(event.event_id, 0, key)) for key in self._naming_keys]
        wanted = {
            "recovered": names,
            "event_id": event.event_id,
            "milestone": event.milestone,
            "ref": event.ref,
            "occurred_at": event.occurred_at,
            "data": msgspec.json.encode(event.data).decode(),
            "fingerprint": msgspec.json.encode(given).decode(),
            "asked_by": event.asked_by,
        }
        async with self._connections.path() as connection, connection.transaction():
            row = await (await connection.execute(_GIVE_BACK, wanted)).fetchone()
            if row is not None and not row["differing"]:
                await clear(connection, [(DriftKind.LOST_EVENT, str(row["id"]))])
        if row is not None and row["differing"]:
            raise EventMismatch(event.event_id, row["differing"])

    async def note(self, step: Step) -> bool:
        """Write down what was made on the way to a link, before the next call goes out.

        Returns:
            False where the claim is somebody else's by now: nothing was written.
        """
        is_noted, _ = await self._steps.submit(step)
        return is_noted

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

    async def hand_over(self, link_id: UUID) -> Link:
        """Give an unsettled link its short URL, or a place in the queue; returns it as it is then.

        A link that was settled or handed over meanwhile is returned unchanged.
        """
        row, _ = await self._hand_overs.submit(link_id)
        return _link(row)

    async def due(self, state: LinkState, limit: int) -> list[Due]:
        """Take unsettled links that are due, for `HOLD_SECONDS`; those that were clicked first."""
        given = {"state": state.value, "limit": limit, "hold": HOLD_SECONDS}
        async with self._connections.path() as connection:
            cursor = await connection.execute(_DUE, given, prepare=True)
            rows = await cursor.fetchall()
        rows.sort(key=lambda row: (row["is_later"], row["created_at"]))
        return [Due(_event(row), _ROUTES[row["route"]], row["alone"]) for row in rows]

    async def claim_late_data(self) -> LateData | None:
        """Claim the ready link whose data have been due for the longest; None: none are due."""
        given = {"lease": LEASE_SECONDS, "tries": PARKED_AFTER}
        async with self._connections.path() as connection:
            cursor = await connection.execute(_LATE_DATA_CLAIM, given, prepare=True)
            row = await cursor.fetchone()
        if row is None:
            return None
        return msgspec.convert({**row, "details": details_of(row)}, LateData)

    @begun_again
    async def settle_late_data(self, telling: Telling) -> None:
        """Write down what became of a link's data, unless they are somebody else's by now."""
        detail = telling.detail and storable(telling.detail)
        given = msgspec.structs.asdict(telling) | {"detail": detail}
        async with self._connections.path() as connection:
            await connection.execute(_LATE_DATA_SETTLE, given, prepare=True)

    async def look(self, token: str) -> Opened:
        """What stands behind a short URL, without touching it.

        Raises:
            UnknownLink: there is no such token.
        """
        async with self._connections.readers() as connection:
            return _opened(await _row_of(connection, token))

    async def click(self, token: str) -> Opened:
        """Note that a person has opened a short URL, and say what stands behind it.

        Raises:
            UnknownLink: there is no such token.
        """
        async with self._connections.readers() as connection:
            row = await _row_of(connection, token)
            if row is not None and (row["clicked_at"] is None or row["url"] is None):
                await connection.execute(_CLICK, {"token": token}, prepare=True)
        return _opened(row)

    async def revoke(self, link_id: UUID, *, asked_by: str | None = None) -> LinkRecord:
        """End a link's short URL, and its making; a personal URL that is out goes on working.

        Args:
            link_id: the link's id.
            asked_by: only if the key of this name asked for it.

        Raises:
            UnknownLink: there is none.
        """
        links = tables.links
        wanted = [links.c.id == link_id, links.c.revoked_at.is_(None)]
        if asked_by is not None:
            wanted.append(links.c.asked_by == asked_by)
        async with self._connections.transaction() as connection:
            await connection.execute(
                update(links).where(*wanted).values(revoked_at=func.milepost_now())
            )
        link = await self.find(link_id, asked_by=asked_by)
        if link is None:
            raise UnknownLink
        return link

    async def deliver(self, link_id: UUID, *, asked_by: str | None = None) -> LinkRecord:
        """Note that the app has shown a customer their link; the first moment stays.

        Args:
            link_id: the link's id.
            asked_by: only if the key of this name asked for it.

        Raises:
            UnknownLink: there is none.
            NothingGiven: it has no URL that anybody could have been shown.
        """
        given = {"id": link_id, "asked_by": asked_by}
        async with self._connections.path() as connection:
            await connection.execute(_DELIVERED, given, prepare=True)
        link = await self.find(link_id, asked_by=asked_by)
        if link is None:
            raise UnknownLink
        if link.delivered_at is None:
            raise NothingGiven
        return link

    async def backlog(self) -> list[Backlog]:
        """The unsettled links, counted by milestone and state; remembered for some seconds."""
        return await self._backlog.get("unsettled")

    async def _count_backlog(self, _: str) -> list[Backlog]:
        async with self._connections.readers() as connection:
            cursor = await connection.execute(_BACKLOG, prepare=True)
            return [msgspec.convert(row, Backlog) for row in await cursor.fetchall()]

    async def late_data(self) -> int:
        """How many links' data the platform is still to be told; remembered for some seconds."""
        return await self._late_data.get("due")

    async def _count_late_data(self, _: str) -> int:
        due = select(func.count()).where(tables.links.c.data_due_at.is_not(None))
        async with self._connections.transaction() as connection:
            return await connection.scalar(due) or 0

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
        async with self._connections.readers() as connection:
            cursor = await connection.execute(_FIND, wanted, prepare=True)
            row = await cursor.fetchone()
        return _record(row) if row else None

    async def records(self, ids: Sequence[UUID]) -> dict[UUID, LinkRecord]:
        """The links with these ids, as far as there are such."""
        async with self._connections.path() as connection:
            cursor = await connection.execute(_RECORDS, {"ids": list(ids)}, prepare=True)
            return {row["id"]: _record(row) for row in await cursor.fetchall()}

    async def of_reference(self, reference: str, sealed: UUID) -> Named | None:
        """The link that a reference names; None: there is none.

        Args:
            reference: as it came back.
            sealed: what `payload.unseal` found in it.
        """
        return await self._named(_OF_REFERENCE, {"id": sealed, "reference": reference})

    async def of_history(self, distribution_id: str, lookup_id: str) -> Named | None:
        """The link that the platform's history names; None: there is none.

        Args:
            distribution_id: `EMD_…`.
            lookup_id: `CGC_…` or `CTR_…`.
        """
        wanted = {"distribution": distribution_id, "lookup": lookup_id}
        return await self._named(_OF_HISTORY, wanted)

    async def _named(self, query: bytes, wanted: Row) -> Named | None:
        async with self._connections.readers() as connection:
            row = await (await connection.execute(query, wanted, prepare=True)).fetchone()
        if row is None:
            return None
        return Named(
            link=_record(row),
            route=_ROUTES.get(row["route"]),
            survey_id=row["survey_id"],
            url=row["url"],
        )

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
        now, key, secret = time.time_ns() // 1_000_000, self._naming_key, self._secret
        ids = [link_id(asking.event.event_id, now, key) for asking in askings]
        batch = [
            {
                "link_id": link,
                "event_id": event.event_id,
                "milestone": event.milestone,
                "ref": event.ref,
                "occurred_at": event.occurred_at,
                "data": event.data,
                "fingerprint": asking.fingerprint,
                "sample_point": sample_point(event.event_id),
                "asked_by": event.asked_by,
                "brings_details": event.details is not None,
                "purpose": asking.purpose,
                "may_call": asking.may_call,
                "without": asking.without,
                "token": token(link, key),
                "reference": None if secret is None else seal(timeless(link), secret),
            }
            for link, asking in zip(ids, askings, strict=True)
            for event in (asking.event,)
        ]
        events = msgspec.json.encode(batch).decode()
        given = [events, LEASE_SECONDS, PARKED_AFTER, self._short, self._recovers]
        refs = msgspec.json.encode([asking.event.ref for asking in askings]).decode()
        # A pipeline in autocommit is one transaction; to begin and end it by statements would cost
        # this process half as much again (0.3 ms a batch, measured). Were it not one, the decision
        # would fail: who is locked is told to it by a setting that ends with the transaction.
        async with self._connections.path() as connection, connection.pipeline():
            await connection.execute(_CLAIM_LOCK, {"refs": refs}, prepare=True)
            cursor = AsyncRawCursor(connection)
            await cursor.execute(_CLAIM, given, prepare=True)
        rows = {row["asked"]: row for row in await cursor.fetchall()}
        return [rows[asking.event.event_id] for asking in askings]

    @begun_again
    async def _write_settlements(self, settlements: Sequence[Settlement]) -> Sequence[Row | None]:
        batch = [
            {
                **msgspec.structs.asdict(settlement),
                "detail": settlement.detail and storable(settlement.detail),
                "token": token(settlement.id, self._naming_key),
            }
            for settlement in settlements
        ]
        given = msgspec.json.encode(batch).decode()
        async with self._connections.path() as connection:
            cursor = AsyncRawCursor(connection)
            await cursor.execute(_SETTLE, [given, self._short], prepare=True)
            rows = {row["id"]: row for row in await cursor.fetchall()}
        return [rows.get(settlement.id) for settlement in settlements]

    @begun_again
    async def _write_steps(self, steps: Sequence[Step]) -> Sequence[bool]:
        given = msgspec.json.encode(steps).decode()
        async with self._connections.path() as connection:
            cursor = await connection.execute(_NOTE, {"steps": given}, prepare=True)
            noted = {row["id"] for row in await cursor.fetchall()}
        return [step.id in noted for step in steps]

    @begun_again
    async def _write_hand_overs(self, ids: Sequence[UUID]) -> Sequence[Row]:
        batch = msgspec.json.encode(
            [{"id": link, "token": token(link, self._naming_key)} for link in ids]
        )
        async with self._connections.path() as connection, connection.pipeline():
            await connection.execute(
                _HAND_OVER, {"links": batch.decode(), "short": self._short}, prepare=True
            )
            # A statement of its own sees what a settlement wrote while this one waited for it.
            cursor = await connection.execute(_FIND_MANY, {"ids": list(ids)}, prepare=True)
        rows = {row["id"]: row for row in await cursor.fetchall()}
        return [rows[link_id] for link_id in ids]


def _asked(row: Row, event: Event, purpose: Purpose, *, own: bool) -> Asked:
    link = _link(row)
    claim = None
    if own and row["making"] is not None:
        making = _MAKING.decode(row["making"])
        claim = Claim(
            link=link,
            claimed_at=row["at"],
            attempt=making.attempt,
            route=making.route,
            purpose=purpose,
            at=event.occurred_at or link.created_at,
            in_doubt=making.in_doubt,
            may_add=making.may_add,
            looked_enough=making.looked_enough,
            place=making.place,
            steps=making.steps,
            survey_id=making.survey_id,
            link_days=making.link_days,
            ref=event.ref,
            details=making.details,
            contact_key=making.contact_key,
            contact_id=making.contact_id,
            home_lookup_id=making.home_lookup_id,
            lookups_before=making.lookups_before,
            data=making.data,
            fields=making.fields,
        )
    return Asked(
        link=link,
        is_first=own and row["is_first"],
        claim=claim,
        at=row["at"],
        pause_until=row["lease_until"] if link.unsettled else None,
    )


def _link(row: Row) -> Link:
    return Link(**_told(row))


def _record(row: Row) -> LinkRecord:
    short = row["published"] == "short"
    return LinkRecord(
        **_told(row),
        occurred_at=row["occurred_at"],
        attempt=row["attempt"],
        lease_until=row["lease_until"],
        waiting_until=row["waiting_until"],
        issued_at=row["issued_at"],
        finished_at=row["finished_at"],
        clicked_at=row["clicked_at"],
        revoked_at=row["revoked_at"],
        data_due_at=row["data_due_at"],
        delivered_at=row["delivered_at"],
        opened_at=row["opened_at"],
        started_at=row["started_at"],
        response_id=row["response_id"],
        other_url=(row["url"] or row["reused_url"]) if short else None,
    )


def _told(row: Row) -> Row:
    """The members of a link, from its row."""
    match row["published"]:
        case "personal":
            url = row["url"] or row["reused_url"]
        case "short":
            url = row["short_url"]
        case _:
            url = None
    left_behind = _left_behind(row) if row["steps"] else None
    return {
        "id": row["id"],
        "event_id": row["event_id"],
        "milestone": row["milestone"],
        "registrant": row["ref"],
        "state": _STATES[row["state"]],
        "lane": _LANES.get(row["lane"]),
        # Of a claim it is known beforehand; to a caller it says how a URL came about.
        "route": _ROUTES.get(row["route"]) if row["lane"] else None,
        "url": url,
        "expires_at": row["expires_at"],
        "reused": row["reuses"] is not None,
        "reason": _reason(row, left_behind),
        "upstream_calls": row["upstream_calls"],
        "created_at": row["created_at"],
        "data_at": row["data_at"],
        "left_behind": left_behind,
    }


def _reason(row: Row, left_behind: str | None) -> Reason | None:
    state, rule = row["state"], row["rule"]
    if row["revoked_at"] is not None and state != LinkState.SUPPRESSED:
        return Reason("revoked", None, REVOKED)
    if rule is None:
        return None
    detail = row["rule_detail"] or EXPLANATIONS.get(f"{state}/{rule}")
    if left_behind is not None and state in _ENDED:
        detail = f"{detail or rule} Left at the platform, unfinished: {left_behind}."
    return Reason(rule, row["rule_until"], detail)


def _left_behind(row: Row) -> str | None:
    """What the way to a link has left at the platform that is no part of it; None: nothing."""
    steps: Mapping[str, str] = row["steps"]
    left = [steps[GIVEN_UP]] if GIVEN_UP in steps else []
    if row["state"] in {*_ENDED, LinkState.ISSUED}:
        own = _own(row)
        left += [
            f"{what} {steps[name]}"
            for name, what in _MADE.items()
            if name in steps and name not in own
        ]
    if IN_DOUBT in steps and (perhaps := _in_doubt(row)):
        left.append(f"perhaps {perhaps}")
    return ", ".join(left) or None


def _own(row: Row) -> Collection[str]:
    """The steps on which an issued link stands: it may be of another route than its first ones."""
    transaction, url = row["steps"].get("transaction"), row["url"]
    if url is None:
        return ()
    if transaction is not None and transaction in url:
        is_alone = row["route"] == Route.STEPWISE
        return ("transaction", "batch", "distribution") if is_alone else ("transaction",)
    return ("own_distribution",) if row["route"] == Route.STEPWISE else ()


def _in_doubt(row: Row) -> str | None:
    """What the call may have made whose outcome nobody has asked for; None: nothing untold."""
    steps = row["steps"]
    sign = f"with a milepost_ref that begins with {reference_beginning(row['id'])}"
    if row["route"] == Route.LIST:
        return f"a member of a list of the milestone {sign}"
    if "end" in steps:
        is_made = "distribution" in steps or "own_distribution" in steps
        return None if is_made else f"a distribution whose description ends in link {row['id']}"
    if "transaction" not in steps:
        return f"a transaction {sign}"
    if row["route"] == Route.STEPWISE and "batch" not in steps:
        return "a batch with that transaction alone"
    return None


def _event(row: Row) -> Event:
    return Event(
        event_id=row["event_id"],
        milestone=row["milestone"],
        ref=row["ref"],
        data=row["data"],
        occurred_at=row["occurred_at"],
        asked_by=row["asked_by"],
    )


async def _row_of(connection: psycopg.AsyncConnection[Row], token: str) -> Row | None:
    cursor = await connection.execute(_LOOK, {"token": token}, prepare=True)
    return await cursor.fetchone()


def _opened(row: Row | None) -> Opened:
    if row is None:
        raise UnknownLink
    gone: Literal["expired", "revoked", "erased", "withdrawn"] | None = None
    if row["revoked_at"] is not None:
        gone = "revoked"
    elif row["erased_at"] is not None:
        gone = "erased"
    elif row["is_expired"]:
        gone = "expired"
    elif row["state"] in {LinkState.SUPPRESSED, LinkState.FAILED}:
        gone = "withdrawn"
    return Opened(
        event=_event(row),
        route=_ROUTES[row["route"]],
        url=row["url"] if gone is None else None,
        gone=gone,
        language=row["language"],
    )
