"""Outcomes: what the platform says became of links, and which distributions are still to be asked.

A *look* is at one distribution: at those of pools, until some days behind their end, whenever job
`reconcile` comes round; at the own distribution of each link of route `stepwise`, a quarter of an
hour behind its issue for the first time, and then at growing distances until the link is finished.
What a history tells is written page by page. It may be told again, by anybody: `outcomes.sql` never
moves a moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import DictRow
from sqlalchemy import func, update

from milepost.model import DriftKind, Outcome
from milepost.store import tables
from milepost.store.connections import Connections, begun_again, statement
from milepost.store.drift import Flag, clear, flag

LATE_DAYS: Final = 14
"""So long behind the end of its links a distribution is looked at: who has started before the end
may finish after it, by default within a week (second-hand)."""

LISTED_HOURS: Final = 72
"""A link that is younger may be missing from what the platform lists: lists have been seen to lag
for more than 48 h (observed)."""

SOONEST_LOOK: Final = 900.0
LATEST_LOOK: Final = 86_400.0
LOOKS_AT_AN_AGE: Final = 24
"""Seconds between looks at a link's own distribution, and what part of its age they are between
these: who answers, mostly does so in the first hours."""

LINKS_AT_ONCE: Final = 1_000

_OUTCOMES: Final = statement("outcomes")
_HISTORY_LINKS: Final = statement("history_links")
_STRANGERS: Final = statement("history_strangers")
_LACKING: Final = statement("history_lacking")
_HEARD: Final = statement("responses_heard")
_DUE: Final = statement("reconcile_due")
_STEPWISE: Final = statement("stepwise_due")
_LOOK_AGAIN: Final = statement("stepwise_again")


class Look(Struct, frozen=True, kw_only=True):
    """A distribution of a pool whose links may have become something."""

    id: int
    distribution_id: str
    """The platform's, `EMD_…`."""
    slot_id: int
    survey_id: str
    milestone: str
    probe_lookup_id: str | None
    opened: int | None
    started: int | None
    finished: int | None
    """What the platform counted at the last look; None: there was none."""
    is_ahead: bool
    """Its list holds everybody ahead of events."""
    is_over: bool
    """Its links have ended."""
    is_last: bool
    """It is not looked at again."""


class StepwiseLook(Struct, frozen=True, kw_only=True):
    """A link with a distribution of its own."""

    link_id: UUID
    lookup_id: str
    survey_id: str
    milestone: str
    distribution_id: str | None
    is_opened: bool
    is_started: bool
    is_finished: bool
    age: float
    """Seconds since it was issued."""
    is_last: bool


class Entry(Struct, frozen=True, kw_only=True):
    """What a history tells of one member of a distribution."""

    lookup_id: str
    contact_id: str | None = None
    opened_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    response_id: str | None = None
    """Of a completed response."""


class _Known(Struct, frozen=True, kw_only=True):
    """The link of a member, and what is known to have become of it."""

    lookup_id: str
    link_id: UUID
    is_opened: bool
    is_started: bool
    is_finished: bool
    has_response: bool

    def lacks(self, entry: Entry) -> bool:
        """Whether an entry tells more: only then the link is locked and written."""
        return bool(
            (entry.opened_at and not self.is_opened)
            or (entry.started_at and not self.is_started)
            or (entry.finished_at and not self.is_finished)
            or (entry.response_id and not self.has_response)
        )


class Changed(Struct, frozen=True, kw_only=True):
    """A link as `outcomes.sql` has changed it."""

    link_id: UUID
    event_id: str
    milestone: str
    survey_id: str
    ref: str
    opened_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    response_id: str | None
    is_opened: bool
    is_started: bool
    is_finished: bool
    """Which of the moments were not known before."""


class Told(Struct, frozen=True, kw_only=True):
    """What a page of a history was good for."""

    changed: Sequence[Changed]
    links: int
    """Members that have a link of the distribution."""
    responses: int
    """That are to be read."""
    drift: int
    """Facts that were not known."""


class OutcomeStore:
    """The verbs of outcomes; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def due(self, *, after: int, limit: int) -> list[Look]:
        """The next distributions of pools to look at, behind this one."""
        given = {"after": after, "days": LATE_DAYS, "limit": limit}
        async with self._connections.path() as connection:
            cursor = await connection.execute(_DUE, given)
            return [msgspec.convert(row, Look) for row in await cursor.fetchall()]

    async def stepwise_due(self, limit: int) -> list[StepwiseLook]:
        """Links whose own distributions are to be looked at, due for the longest first."""
        async with self._connections.path() as connection:
            cursor = await connection.execute(_STEPWISE, {"days": LATE_DAYS, "limit": limit})
            return [msgspec.convert(row, StepwiseLook) for row in await cursor.fetchall()]

    async def looked(self, distribution: int, *, opened: int, started: int, finished: int) -> None:
        """Write down what the platform counts, once its history is written as far."""
        await self._distribution(
            distribution,
            opened=opened,
            started=started,
            finished=finished,
            reconciled_at=func.milepost_now(),
        )

    async def give_up(self, distribution: int) -> None:
        """Look at one no more that is over: the platform has refused to tell what became of it."""
        await self._distribution(distribution, given_up_at=func.milepost_now())

    async def _distribution(self, distribution: int, **values: object) -> None:
        table = tables.distributions
        async with self._connections.transaction() as connection:
            await connection.execute(
                update(table).where(table.c.id == distribution).values(**values)
            )

    async def look_again(self, link_id: UUID, pause: float | None, *, is_told: bool = True) -> None:
        """Look at a link's own distribution after so many seconds; None: never.

        Args:
            link_id: which.
            pause: how many.
            is_told: the platform did not refuse the look that was made now.
        """
        given = {"link": link_id, "pause": pause, "is_refused": not is_told}
        async with self._connections.path() as connection:
            await connection.execute(_LOOK_AGAIN, given)

    @begun_again
    async def tell(self, look: Look | StepwiseLook, entries: Sequence[Entry]) -> Told:
        """Write a page of a distribution's history down.

        Links get their moments, responses are noted to be read, and members that no link explains
        are flagged; what explains a flag of before settles it.

        Args:
            look: at which distribution.
            entries: the page.
        """
        async with self._connections.path() as connection, connection.transaction():
            links = await _links(connection, look, entries)
            responses = await _note(connection, look, entries, links)
            told = ((links[e.lookup_id], e) for e in entries if e.lookup_id in links)
            changed = await write(
                connection, [_outcome(link, e) for link, e in told if link.lacks(e)]
            )
            drift = 0
            if isinstance(look, Look):
                await clear(
                    connection,
                    (
                        (DriftKind.LINK_WITHOUT_MEMBERSHIP, str(link.link_id))
                        for link in links.values()
                    ),
                )
                drift = await _flag_strangers(connection, look, entries, links)
        return Told(changed=changed, links=len(links), responses=responses, drift=drift)

    async def flag_lacking(self, look: Look, members: frozenset[str]) -> int:
        """Flag the links of a distribution that the platform does not know; returns how many.

        Args:
            look: at which distribution.
            members: the lookup ids of all that its history has told of.
        """
        flagged, after, page = 0, None, LINKS_AT_ONCE
        while page == LINKS_AT_ONCE:
            given = {
                "distribution": look.id,
                "after": after,
                "hours": LISTED_HOURS,
                "limit": LINKS_AT_ONCE,
            }
            async with self._connections.path() as connection, connection.transaction():
                rows = await (await connection.execute(_LACKING, given)).fetchall()
                flagged += await flag(
                    connection,
                    [
                        Flag(
                            kind=DriftKind.LINK_WITHOUT_MEMBERSHIP,
                            subject=str(row["link_id"]),
                            milestone=look.milestone,
                            link_id=row["link_id"],
                            survey_id=look.survey_id,
                            distribution_id=look.distribution_id,
                            lookup_id=row["lookup_id"],
                        )
                        for row in rows
                        if row["is_old"] and row["lookup_id"] not in members
                    ],
                )
            page = len(rows)
            after = rows[-1]["link_id"] if rows else None
        return flagged


async def write(
    connection: psycopg.AsyncConnection[DictRow], outcomes: Sequence[Outcome]
) -> list[Changed]:
    """Write outcomes down in the caller's transaction, no link twice; returns what has changed."""
    if not outcomes:
        return []
    given = {"outcomes": msgspec.json.encode(outcomes).decode()}
    rows = await (await connection.execute(_OUTCOMES, given)).fetchall()
    return [msgspec.convert(row, Changed) for row in rows]


async def _links(
    connection: psycopg.AsyncConnection[DictRow],
    look: Look | StepwiseLook,
    entries: Sequence[Entry],
) -> Mapping[str, _Known]:
    """The links of a page's members, by lookup id."""
    if isinstance(look, StepwiseLook):
        known = _Known(
            lookup_id=look.lookup_id,
            link_id=look.link_id,
            is_opened=look.is_opened,
            is_started=look.is_started,
            is_finished=look.is_finished,
            has_response=False,
        )
        return {look.lookup_id: known}
    lookups = msgspec.json.encode([entry.lookup_id for entry in entries]).decode()
    given = {"lookups": lookups, "distribution": look.id}
    rows = await (await connection.execute(_HISTORY_LINKS, given)).fetchall()
    return {row["lookup_id"]: msgspec.convert(row, _Known) for row in rows}


def _outcome(link: _Known, entry: Entry) -> Outcome:
    return Outcome(
        link_id=link.link_id,
        opened_at=entry.opened_at,
        started_at=entry.started_at,
        finished_at=entry.finished_at,
        response_id=entry.response_id,
    )


async def _note(
    connection: psycopg.AsyncConnection[DictRow],
    look: Look | StepwiseLook,
    entries: Sequence[Entry],
    links: Mapping[str, _Known],
) -> int:
    """Note the responses that a page tells of; returns how many are to be read."""
    heard = {
        entry.response_id: {
            "response_id": entry.response_id,
            "lookup_id": entry.lookup_id,
            "link_id": links[entry.lookup_id].link_id if entry.lookup_id in links else None,
        }
        for entry in entries
        if entry.response_id is not None
    }
    if not heard:
        return 0
    given = {
        "heard": msgspec.json.encode(list(heard.values())).decode(),
        "survey": look.survey_id,
        "distribution": look.distribution_id,
    }
    rows = await (await connection.execute(_HEARD, given)).fetchall()
    return sum(row["is_unread"] for row in rows)


async def _flag_strangers(
    connection: psycopg.AsyncConnection[DictRow],
    look: Look,
    entries: Sequence[Entry],
    links: Mapping[str, _Known],
) -> int:
    """Flag the members that no link explains; those that one explains by now are settled."""
    if look.is_ahead:
        return 0
    members = [entry for entry in entries if entry.lookup_id != look.probe_lookup_id]
    unknown = [
        {"lookup_id": entry.lookup_id, "contact_id": entry.contact_id}
        for entry in members
        if entry.lookup_id not in links
    ]
    strangers: set[str] = set()
    if unknown:
        given = {
            "members": msgspec.json.encode(unknown).decode(),
            "distribution": look.id,
            "slot": look.slot_id,
        }
        rows = await (await connection.execute(_STRANGERS, given)).fetchall()
        strangers = {row["lookup_id"] for row in rows}
    kind = DriftKind.MEMBERSHIP_WITHOUT_LINK
    await clear(
        connection,
        ((kind, entry.lookup_id) for entry in members if entry.lookup_id not in strangers),
    )
    return await flag(
        connection,
        [
            Flag(
                kind=kind,
                subject=lookup_id,
                milestone=look.milestone,
                survey_id=look.survey_id,
                distribution_id=look.distribution_id,
                lookup_id=lookup_id,
            )
            for lookup_id in sorted(strangers)
        ],
    )
