"""The funnel: how far links have come, counted by the hour of their creation.

A link counts for the hour in which its event was first told of, by the database's clock, whatever
becomes of it when: so a share is one of the same links. Counts are never moved by steps, they are
made anew from the ledger, an hour of a milestone at a time, which is right after anything.

**Which hours.** The newest are counted each time (`funnel_mark.sql`), so that events and their
settlements write nothing for it. Whatever changes a link that is older than an hour (a late
settlement, a click, a response) names its hour in `funnel_changes`, in the transaction of the
change.

**Nothing is lost between.** An hour is taken, which deletes the rows that name it, and then counted
by a later statement of the same transaction. Under READ COMMITTED that statement has a snapshot of
its own, newer than the one in which the rows were seen, and so sees the changes that came with
them. A row that is committed later is not deleted, and has the hour counted once more.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import func, select

from milepost.store import tables
from milepost.store.connections import Connections, statement
from milepost.store.outcomes import LATEST_LOOK, LOOKS_AT_AN_AGE, SOONEST_LOOK

_MARK: Final = statement("funnel_mark")
_TAKE: Final = statement("funnel_take")
_COUNT: Final = statement("funnel_count")
_DAYS: Final = statement("funnel_days")

_ONE_AT_A_TIME: Final = 0x66756E6E656C  # "funnel"
"""The lock under which hours are counted: of two counts of one hour the older must not be the last
to be written. A run has one worker, but one that was frozen may wake up beside its successor."""


class Hour(Struct, frozen=True):
    """An hour of a milestone's links."""

    milestone: str
    hour: datetime
    """When it begins."""


BEGINNING: Final = Hour("", datetime(1970, 1, 1, tzinfo=UTC))
"""Before every hour that there is."""


class Day(Struct, frozen=True, kw_only=True):
    """How far the links have come that were created on one day, UTC."""

    day: date
    requested: int
    reused: int
    suppressed: int
    failed: int
    issued: int
    delivered: int
    clicked: int
    started: int
    finished: int
    looked_at: int
    """Of those that were issued, so many stand on distributions whose history was read since."""
    looked_at_until: datetime | None
    """Of which moment that history is, at the least."""


class FunnelStore:
    """The verbs of the funnel; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def mark(self) -> None:
        """Put the newest hours of every milestone among those that are to be counted."""
        async with self._connections.path() as connection:
            await connection.execute(_MARK)

    async def count_next(self, after: Hour = BEGINNING) -> Hour | None:
        """Count the next hour of those that are to be counted; None: there is none after this one.

        Raises:
            DatabaseBusy: somebody else is at it.
        """
        given = msgspec.structs.asdict(after)
        async with self._connections.path() as connection, connection.transaction():
            await connection.execute(
                b"SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": _ONE_AT_A_TIME}
            )
            row = await (await connection.execute(_TAKE, given, prepare=True)).fetchone()
            if row is None:
                return None
            hour = Hour(row["milestone"], row["hour"])
            counted = msgspec.structs.asdict(hour)
            await connection.execute(
                b"DELETE FROM funnel WHERE milestone = %(milestone)s AND hour = %(hour)s", counted
            )
            await connection.execute(_COUNT, counted, prepare=True)
        return hour

    async def complete(self) -> None:
        """Note that all hours have been counted that were to be when `mark` was called last."""
        folds = tables.funnel_folds
        async with self._connections.transaction() as connection:
            await connection.execute(folds.update().values(as_of=folds.c.marked_until))

    async def days(self, milestone: str, first: date, last: date) -> list[Day]:
        """A milestone's days from the first to the last; those without links are left out."""
        begin = datetime.combine(first, datetime.min.time(), UTC)
        end = datetime.combine(last, datetime.min.time(), UTC) + timedelta(days=1)
        given = {
            "milestone": milestone,
            "begin": begin,
            "end": end,
            "soonest": SOONEST_LOOK,
            "latest": LATEST_LOOK,
            "at_an_age": LOOKS_AT_AN_AGE,
        }
        async with self._connections.readers() as connection:
            cursor = await connection.execute(_DAYS, given, prepare=True)
            return [msgspec.convert(row, Day) for row in await cursor.fetchall()]

    async def standing(self, milestone: str) -> tuple[datetime, datetime | None]:
        """The database's time, and of which moment a milestone's counts are; None: never made."""
        folds = tables.funnel_folds
        as_of = select(folds.c.as_of).where(folds.c.milestone == milestone).scalar_subquery()
        async with self._connections.transaction() as connection:
            row = (await connection.execute(select(func.milepost_now(), as_of))).one()
        return row[0], row[1]
