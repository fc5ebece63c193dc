"""What comes in: rows are staged, held against the registrants, and applied.

An **intake** is what came in at one time, out of the configured source, a file or a request. All of
its rows are staged before any of them counts: only then is known who is new, who changed and who is
missing, and an intake that breaks off has done nothing. Good and bad rows stand in one table, in
the order in which they came; the last good row of a ref is the one that counts.

An intake belongs to a run, and what is done with it is fenced by the run's attempt, so that a
worker that was frozen and wakes up late neither stages a row twice nor writes what is out of date.
One that is still on its way into a request belongs to nobody yet; it is abandoned when nothing was
added for `ABANDONED_HOURS`.

A registrant is compared and written by two statements, in which others may come between: whoever
writes a registrant meanwhile is overwritten by the source, which is to say what holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Struct
from psycopg.types.json import Jsonb

from milepost.model import RegistrantDetails
from milepost.store import registrants
from milepost.store.connections import Connections, Row, begun_again, statement
from milepost.store.registrants import details_of
from milepost.store.runs import Finding, RunRecord, hold

ABANDONED_HOURS: Final = 24
"""A request may take its time, but it adds something every few seconds."""

QUIET_HOURS: Final = 1
"""Behind so long an intake that belongs to nobody is most likely one that its process has left
behind; those that are not are no more than a few an hour."""

_ARRIVALS_LOCK: Final = 0x61727276  # "arrv"

PIECE: Final = 10_000
"""Staged rows deleted by one statement: some 20 ms."""

_DIFFERENCES: Final = statement("staged_differences")
_MISSING: Final = statement("staged_missing")

_COPY: Final = (
    b"COPY staged (intake_id, number, ref, email, first_name, last_name, phone, language,"
    b" attributes, source, line, reason, is_guess) FROM STDIN"
)


class StagedRow(NamedTuple):
    """A row as it is staged; one with a reason is bad, and has no details."""

    ref: str | None
    email: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    phone: str | None = None
    language: str | None = None
    attributes: str | None = None
    """As JSON."""
    source: str | None = None
    line: int | None = None
    reason: str | None = None
    is_guess: bool = False
    """The ref of a bad row may as well be another value."""


class Staged(Struct, frozen=True):
    """An intake that is whole."""

    id: int
    rows: int
    bad: int
    read: Any
    """How it was read, as its reader told."""


class Difference(Struct, frozen=True):
    """A row that is to be written down."""

    ref: str
    details: RegistrantDetails
    change: Literal["created", "returned", "changed"] | None
    """None: it only becomes the source's."""
    fields: Sequence[str]
    """The names of what changed."""


class Differences(Struct, frozen=True):
    """A page of rows, held against the registrants."""

    last: tuple[str, int]
    """Ref and number of its last row."""
    rows: int
    superseded: int
    """Rows whose ref comes again."""
    given: Sequence[Difference]


class Missing(Struct, frozen=True):
    """A page of registrants, held against an intake."""

    last: str
    known: int
    """Those whom the source has listed until now."""
    refs: Sequence[str]
    """Those of them whom it does not list any more."""


class Watermark(Struct, frozen=True):
    """Up to where a source was read, as text, and what kind of value it is."""

    kind: str
    value: str


class SourceStore:
    """The verbs of intakes; each is one transaction, or a few that may be done again.

    Those that are given a run raise `TakenAway` if it is somebody else's by now.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def begin(self, run: RunRecord | None = None) -> int:
        """Begin an intake; returns its id.

        Args:
            run: whose it is; None: it belongs to nobody yet.
        """
        async with self._connections.path() as connection:
            cursor = await connection.execute(
                b"INSERT INTO intakes (run_id, touched_at) VALUES (%(run)s, milepost_now())"
                b" RETURNING id",
                {"run": run and run.id},
            )
            (row,) = await cursor.fetchall()
            return int(row["id"])

    async def begin_arrival(self, most: int) -> int | None:
        """Begin an intake that belongs to nobody yet; returns its id.

        Args:
            most: so many may be on their way, out of requests and commands; None is returned if
                they are. Those are the ones that belong to nobody, unless nothing was added for
                `QUIET_HOURS`, and those that a run of `import` waits for or is at.
        """
        async with self._connections.path() as connection, connection.transaction():
            # Of those who come at once each is to count the others.
            await connection.execute(
                b"SELECT pg_advisory_xact_lock(%(key)s)", {"key": _ARRIVALS_LOCK}
            )
            cursor = await connection.execute(
                b"INSERT INTO intakes (touched_at) SELECT milepost_now() WHERE %(most)s > ("
                b" SELECT count(*) FROM intakes AS i WHERE (i.run_id IS NULL"
                b" AND i.touched_at > milepost_now() - make_interval(hours => %(hours)s))"
                b" OR EXISTS (SELECT FROM runs AS r WHERE r.job = 'import' AND r.ended_at IS NULL"
                b" AND (r.id = i.run_id OR r.options @> jsonb_build_object('intake', i.id))))"
                b" RETURNING id",
                {"most": most, "hours": QUIET_HOURS},
            )
            row = await cursor.fetchone()
            return int(row["id"]) if row else None

    async def stage(
        self,
        intake: int,
        rows: Sequence[StagedRow],
        *,
        after: int,
        run: RunRecord | None = None,
    ) -> None:
        """Stage further rows of an intake.

        Args:
            intake: its id.
            rows: in the order in which they came.
            after: how many were staged before; rows beyond that are of an attempt that died before
                it could say so, and make room for these.
            run: whose it is.
        """
        async with self._connections.path() as connection, connection.transaction():
            await hold(connection, run)
            await connection.execute(
                b"UPDATE intakes SET touched_at = milepost_now() WHERE id = %(intake)s",
                {"intake": intake},
            )
            await connection.execute(
                b"DELETE FROM staged WHERE intake_id = %(intake)s AND number > %(after)s",
                {"intake": intake, "after": after},
            )
            async with connection.cursor().copy(_COPY) as copy:
                for number, row in enumerate(rows, after + 1):
                    await copy.write_row((intake, number, *row))

    async def complete(self, staged: Staged) -> None:
        """Note that all of an intake has come."""
        async with self._connections.path() as connection:
            # Postgres is to know of a million rows before it plans how they are read.
            await connection.execute(b"ANALYZE staged (intake_id, ref, number)")
            await connection.execute(
                b"UPDATE intakes SET rows = %(rows)s, bad = %(bad)s, read = %(read)s,"
                b" touched_at = milepost_now() WHERE id = %(intake)s",
                {
                    "intake": staged.id,
                    "rows": staged.rows,
                    "bad": staged.bad,
                    "read": Jsonb(msgspec.to_builtins(staged.read)),
                },
            )

    async def take(self, intake: int, run: RunRecord) -> Staged | None:
        """Make a whole intake the run's; None: there is none."""
        async with self._connections.path() as connection, connection.transaction():
            await hold(connection, run)
            cursor = await connection.execute(
                b"UPDATE intakes SET run_id = %(run)s WHERE id = %(intake)s"
                b" AND coalesce(run_id, %(run)s) = %(run)s AND rows IS NOT NULL"
                b" RETURNING id, rows, bad, read",
                {"intake": intake, "run": run.id},
            )
            row = await cursor.fetchone()
        return Staged(**row) if row else None

    async def bad(self, intake: int, *, after: int, limit: int) -> list[tuple[int, Finding]]:
        """The bad rows of an intake, each with its number, from behind `after` on."""
        async with self._connections.path() as connection:
            cursor = await connection.execute(
                b"SELECT number, source, line, CASE WHEN NOT is_guess THEN ref END AS ref, reason"
                b" FROM staged"
                b" WHERE intake_id = %(intake)s AND number > %(after)s AND reason IS NOT NULL"
                b" ORDER BY number LIMIT %(limit)s",
                {"intake": intake, "after": after, "limit": limit},
            )
            return [(row.pop("number"), Finding(**row)) for row in await cursor.fetchall()]

    async def differences(
        self, intake: int, source: str | None, *, after: tuple[str, int], limit: int
    ) -> Differences | None:
        """Hold a page of an intake against the registrants; None: there is no further row.

        Args:
            intake: its id.
            source: whose rows they are; None: they come in by another way.
            after: ref and number of the row behind which the page begins.
            limit: rows of the page.
        """
        given = {
            "intake": intake,
            "source": source,
            "after": after[0],
            "number": after[1],
            "limit": limit,
        }
        async with self._connections.path() as connection:
            cursor = await connection.execute(_DIFFERENCES, given)
            rows = await cursor.fetchall()
        if not rows:
            return None
        last = rows[-1]
        return Differences(
            last=(last["ref"], last["number"]),
            rows=last["rows"],
            superseded=last["superseded"],
            given=[_difference(row) for row in rows if row["is_to_write"]],
        )

    @begun_again
    async def write(
        self, given: Mapping[str, RegistrantDetails], *, source: str | None, run: RunRecord
    ) -> None:
        """Write down at most `registrants.CHUNK` registrants of an intake.

        Args:
            given: what its rows tell of them, by ref.
            source: lists them; None: they come in by another way.
            run: whose the intake is.
        """
        async with self._connections.path() as connection, connection.transaction():
            await hold(connection, run)
            await registrants.write(connection, given, source=source)

    async def missing(self, intake: int, source: str, *, after: str, limit: int) -> Missing | None:
        """Hold a page of registrants against an intake; None: there is none further.

        Args:
            intake: its id.
            source: whose registrants are looked at.
            after: the ref behind which the page begins.
            limit: registrants of the page.
        """
        given = {"intake": intake, "source": source, "after": after, "limit": limit}
        async with self._connections.path() as connection:
            cursor = await connection.execute(_MISSING, given)
            (row,) = await cursor.fetchall()
        if row["last"] is None:
            return None
        return Missing(last=row["last"], known=row["known"], refs=row["missing"])

    @begun_again
    async def remove(self, refs: Sequence[str], *, source: str, run: RunRecord) -> None:
        """Remove at most `registrants.CHUNK` registrants whom a source does not list any more."""
        async with self._connections.path() as connection, connection.transaction():
            await hold(connection, run)
            await registrants.remove(connection, refs, source)

    async def watermark(self, source: str) -> Watermark | None:
        """Up to where a source was applied."""
        async with self._connections.path() as connection:
            cursor = await connection.execute(
                b"SELECT kind, value FROM watermarks WHERE source = %(source)s",
                {"source": source},
            )
            row = await cursor.fetchone()
        return Watermark(**row) if row else None

    async def advance(self, source: str, watermark: Watermark, run: RunRecord) -> None:
        """Note up to where a source is applied."""
        async with self._connections.path() as connection, connection.transaction():
            await hold(connection, run)
            await connection.execute(
                b"INSERT INTO watermarks VALUES (%(source)s, %(kind)s, %(value)s)"
                b" ON CONFLICT (source) DO UPDATE"
                b" SET kind = excluded.kind, value = excluded.value",
                {"source": source, "kind": watermark.kind, "value": watermark.value},
            )

    async def drop(self, intake: int, run: RunRecord | None = None) -> None:
        """Delete an intake with its rows.

        Args:
            intake: its id.
            run: whose it is; None: nobody works at it.
        """
        async with self._connections.path() as connection:
            cursor = await connection.execute(
                b"SELECT max(number) AS last FROM staged WHERE intake_id = %(intake)s",
                {"intake": intake},
            )
            (row,) = await cursor.fetchall()
            for start in range(0, row["last"] or 0, PIECE):
                async with connection.transaction():
                    await hold(connection, run)
                    await connection.execute(
                        b"DELETE FROM staged WHERE intake_id = %(intake)s"
                        b" AND number > %(start)s AND number <= %(end)s",
                        {"intake": intake, "start": start, "end": start + PIECE},
                    )
            async with connection.transaction():
                await hold(connection, run)
                await connection.execute(
                    b"DELETE FROM intakes WHERE id = %(intake)s", {"intake": intake}
                )

    async def abandoned(self) -> list[int]:
        """Intakes that nobody will go on with: their run has ended, or no run was asked for."""
        async with self._connections.path() as connection:
            cursor = await connection.execute(
                b"SELECT i.id FROM intakes AS i LEFT JOIN runs AS r ON r.id = i.run_id"
                b" WHERE r.ended_at IS NOT NULL"
                b" OR (i.run_id IS NULL"
                b" AND i.touched_at < milepost_now() - make_interval(hours => %(hours)s)"
                b" AND NOT EXISTS ("
                b"SELECT FROM runs AS w WHERE w.ended_at IS NULL"
                b" AND w.options @> jsonb_build_object('intake', i.id)))"
                b" ORDER BY i.id LIMIT 100",
                {"hours": ABANDONED_HOURS},
            )
            return [row["id"] for row in await cursor.fetchall()]


def _difference(row: Row) -> Difference:
    return Difference(
        ref=row["ref"],
        details=details_of(row),
        change=row["change"],
        fields=row["fields"] or (),
    )
