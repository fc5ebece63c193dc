"""Reminders of links that nobody has answered: which are due, and which were sent.

The platform refuses to remind people of personal links, so the app does, and is told of whom.

**What is noted.** A link that has come to its milestone's age for reminders is looked at once
(`reminders_gather.sql`), in the order in which links were created; `milestones.reminders_until`
says how far this is. One that may want a reminder gets a row, with the key that asked for it, so
that each key finds its own without those of others. So neither an event nor its settlement writes
anything, and a link can have one reminder at the most.

**Who may move it.** `due_at` is a lease as well: whoever is handed a reminder has it for
`LEASE_SECONDS`, and if they do not say by then that it was sent, it is handed to the next caller. A
reminder that was sent has no `due_at`. Whether the link is still to be answered is asked when it is
handed out, in the same statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from milepost.errors import UnknownReminder
from milepost.store.connections import Connections, begun_again, statement

LEASE_SECONDS: Final = 600
"""How long a reminder is its taker's: long enough for an app that sends hundreds one by one, and a
customer who is reminded ten minutes late, because a process died, does not mind."""

GATHERED_AT_ONCE: Final = 5_000
"""Links that a statement looks at, in some 50 ms."""

_GATHER: Final = statement("reminders_gather")
_DUE: Final = statement("reminders_due", whose="")
_DUE_OF_A_KEY: Final = statement("reminders_due", whose="AND r.asked_by = %(asked_by)s")
_SENT: Final = statement("reminder_sent")


class DueReminder(Struct, frozen=True, kw_only=True):
    """A link of which its registrant is to be reminded."""

    link_id: UUID
    event_id: str
    milestone: str
    registrant: str
    url: str
    """The one that was given out for the event, personal or short."""
    issued_at: datetime
    expires_at: datetime
    delivered_at: datetime | None
    clicked_at: datetime | None
    started_at: datetime | None
    """When the survey was begun that is not finished."""
    lease_until: datetime
    """Until then nobody else is handed it."""


class SentReminder(Struct, frozen=True, kw_only=True):
    """A reminder that was sent."""

    link_id: UUID
    sent_at: datetime


class ReminderStore:
    """The verbs of reminders; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    @begun_again
    async def gather(self, milestone: str, *, after_days: int, link_days: int) -> bool:
        """Note those of a milestone's links that may want a reminder by now, `GATHERED_AT_ONCE`.

        Args:
            milestone: its key.
            after_days: the age at which a link gets its reminder.
            link_days: who looks for the first time begins with links that old.

        Returns:
            Whether there may be more.
        """
        given = {
            "milestone": milestone,
            "days": after_days,
            "link_days": link_days,
            "limit": GATHERED_AT_ONCE,
        }
        async with self._connections.path() as connection:
            row = await (await connection.execute(_GATHER, given, prepare=True)).fetchone()
        return row is not None and row["is_more"]

    @begun_again
    async def due(
        self, after_days: Mapping[str, int], limit: int, *, asked_by: str | None = None
    ) -> tuple[list[DueReminder], int]:
        """Take reminders that are due, for `LEASE_SECONDS`.

        Args:
            after_days: the milestones that may remind now, and the age of a link at which they do.
            limit: how many are looked at.
            asked_by: only of links that the key of this name asked for.

        Returns:
            Those that are to be sent, and how many were looked at.
        """
        milestones = [{"key": key, "days": days} for key, days in after_days.items()]
        given = {
            "milestones": msgspec.json.encode(milestones).decode(),
            "asked_by": asked_by,
            "limit": limit,
            "lease": LEASE_SECONDS,
        }
        async with self._connections.path() as connection:
            text = _DUE if asked_by is None else _DUE_OF_A_KEY
            cursor = await connection.execute(text, given, prepare=True)
            rows = await cursor.fetchall()
        return [msgspec.convert(row, DueReminder) for row in rows if row["is_due"]], len(rows)

    async def sent(self, link_id: UUID, *, asked_by: str | None = None) -> SentReminder:
        """Note that a reminder was sent; again changes nothing.

        Raises:
            UnknownReminder: none was handed out for such a link.
        """
        given = {"link_id": link_id, "asked_by": asked_by}
        async with self._connections.path() as connection:
            row = await (await connection.execute(_SENT, given, prepare=True)).fetchone()
        if row is None:
            raise UnknownReminder
        return SentReminder(link_id=row["link_id"], sent_at=row["sent_at"])
