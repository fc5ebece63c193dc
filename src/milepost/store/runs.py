"""Runs: which job was due when, who is at it, and how far it is.

A run moves through these states::

    due ───────────────────▶ running ──▶ done      all of it is done
                             ▲     │├──▶ failed    it cannot be done; to try again does not help
    asked for ──▶ waiting ───┘     │└──▶ stopped   a person must decide something first
                     ▲  (a pause)  │
                     └─────────────┘

One row stands for a job and a due time, or for somebody's asking. What was begun of a job is ended
before its next run begins, and a run that was asked for begins after it was asked for: whoever asks
knows that it sees what was there then.

Whoever runs it holds a lease and renews it. A run whose worker died is taken over when the lease
ends, with the next attempt number, and goes on from the `position` that was committed last; one
that met something that passes waits for a pause first. Whatever moves a run on is fenced by the
attempt: a worker that was frozen, and wakes up when somebody else is at the run, changes nothing.

Due times are a calendar's, computed by `scheduler.py` from the job's `accounted_until` on. Of
several that have passed (nobody was there), one run is made, for the latest; `coalesced` counts the
others, so that the due times of a job are its runs and what they coalesced, none twice and none
missing. Whoever makes or takes a run holds the job's row in `jobs`, and locks it before the run's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import DictRow
from sqlalchemy import Update, case, delete, func, select, true, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from milepost.errors import MilepostError
from milepost.model import MessageType
from milepost.store import tables
from milepost.store.connections import Connections, begun_again, columns, plain, statement
from milepost.store.messages import tell

LEASE_SECONDS: Final = 20
"""How long a run is its worker's without a word. It is renewed every few seconds, so that only who
is gone or frozen loses it; a takeover comes within 30 s."""

DEATH: Final = 2
"""What the loss of a worker adds to a run's failures. It counts double: a run of which processes
die takes everything along that these processes do."""

KEPT_DAYS: Final = 90
"""How long runs are remembered."""

FORGOTTEN_AT_ONCE: Final = 100
"""How many of a job's oldest runs are looked at, when one ends, for any that are older."""

SWEPT: Final = 10_000
"""Findings that are forgotten in one transaction: some 20 ms. A run can list ten times as many."""

LONGEST_TEXT: Final = 1_000
"""Characters of a finding's texts that are kept."""

_LOOK: Final = statement("run_look")
_TURN: Final = statement("run_turn")
_OLD: Final = b"""
    SELECT id
    FROM (SELECT id, ended_at FROM runs WHERE job = %(job)s ORDER BY id LIMIT %(runs)s) AS oldest
    WHERE ended_at < milepost_now() - make_interval(days => %(days)s)
"""
_SWEEP: Final = b"""
    DELETE FROM findings WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM findings WHERE run_id = ANY (%(old)s) LIMIT %(findings)s))
"""

RunState = Literal["waiting", "running", "done", "failed", "stopped"]


class TakenAway(MilepostError):
    """Somebody else has the run by now: what this attempt does must not count."""


class RunRecord(Struct, frozen=True, kw_only=True):
    """One execution of a job."""

    id: int
    job: str
    due_at: datetime
    coalesced: int
    """Due times before it that passed while nobody was there; this run stands for them, too. A
    calendar counts them up to `calendars.MOST_COUNTED`."""
    asked_by: str | None
    """Who asked for it; None: it was due."""
    options: Mapping[str, Any]
    state: RunState
    attempt: int
    failures: int
    """Tries in a row that broke off at the same place, each worker that was lost counted double."""
    paused_until: datetime | None
    """It was begun, and waits to be gone on with."""
    position: Any
    """Where it stands, in the job's own words."""
    stage: str | None
    """What it is at, or was."""
    done: int
    total: int | None
    """Of this stage, in what it works on; None: that is not known."""
    counts: Mapping[str, Any]
    error: str | None
    """Why it ended as it did, or what it met last."""
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class Finding(Struct, frozen=True, kw_only=True):
    """Something that a run lists one by one, such as a row that was left out."""

    reason: str
    source: str | None = None
    """The file or table that it stands in."""
    line: int | None = None
    ref: str | None = None


class NumberedFinding(Finding, frozen=True, kw_only=True):
    """A finding, and its place in the run's list."""

    number: int


class Outlook(Struct, frozen=True, kw_only=True):
    """What there is to know of a job to say what comes next of it."""

    job: str
    accounted_until: datetime
    """Up to here every due time has its run."""
    now: datetime
    """By the database's clock."""
    is_held: bool
    """A run is under way, or pauses; none begins before it has ended."""
    is_wanted: bool
    """A run waits to be begun or to be gone on with, or has lost its worker."""
    failed_at: datetime | None
    """When the last run failed or stopped; None: it did neither."""


class JobRecord(Struct, frozen=True, kw_only=True):
    """How a job stands."""

    name: str
    now: datetime
    """By the database's clock."""
    done_until: datetime
    """Up to here every due time is done; of a job that never ends, when somebody was last at it."""
    error: str | None
    """What a job that never ends met last."""
    error_at: datetime | None
    run: RunRecord | None
    """The one that was begun last."""


_TAKE: Final = statement("run_take", run=columns("r", RunRecord.__struct_fields__))


class RunStore:
    """The verbs of runs; each is one transaction.

    Those that move a run on are fenced by its attempt, and raise `TakenAway` under another one.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    # --- taking ---------------------------------------------------------------------------------

    async def look(self, jobs: Collection[str]) -> list[Outlook]:
        """What comes next of these jobs. One that was never looked at is known from now on."""
        found = await self._look(jobs)
        if unknown := set(jobs) - {outlook.job for outlook in found}:
            async with self._connections.transaction() as connection:
                await _know(connection, sorted(unknown))
            found = await self._look(jobs)
        return found

    async def _look(self, jobs: Collection[str]) -> list[Outlook]:
        async with self._connections.path() as connection:
            cursor = await connection.execute(_LOOK, {"jobs": list(jobs)})
            return [msgspec.convert(row, Outlook) for row in await cursor.fetchall()]

    @begun_again
    async def take(
        self,
        job: str,
        *,
        since: datetime | None = None,
        due_at: datetime | None = None,
        coalesced: int = 0,
        run_id: int | None = None,
    ) -> RunRecord | None:
        """Take a run of a job, under a lease; None: there is none, or somebody is at it.

        Args:
            job: its name; `look` knows of it.
            since: up to where its due times are accounted for, as `look` told.
            due_at: the latest that has come since, if there is one.
            coalesced: how many lie between the two.
            run_id: only up to this run of those that were asked for.
        """
        given = {
            "job": job,
            "since": since,
            "due_at": due_at,
            "coalesced": coalesced,
            "run": run_id,
            "lease": LEASE_SECONDS,
            "death": DEATH,
        }
        async with self._connections.path() as connection, connection.transaction():
            if await (await connection.execute(_TURN, {"job": job})).fetchone() is None:
                return None
            row = await (await connection.execute(_TAKE, given)).fetchone()
        return _record(row) if row else None

    async def ask(
        self, job: str, *, asked_by: str, options: Mapping[str, Any] | None = None
    ) -> RunRecord:
        """Ask for a run of a job, now.

        Where one waits that was asked for with the same options, and is not begun, it is that one.
        A run that pauses is gone on with at once, since it comes before.
        """
        runs, now = tables.runs, func.milepost_now()
        asked = postgresql.insert(runs).values(
            job=job,
            due_at=now,
            asked_by=asked_by,
            options=dict(options or {}),
            state="waiting",
            counts={},
            created_at=now,
        )
        async with self._connections.transaction() as connection:
            await _know(connection, [job])
            await connection.execute(
                update(runs)
                .where(runs.c.job == job, runs.c.paused_until > now)
                .values(paused_until=now)
            )
            row = await connection.execute(
                asked.on_conflict_do_update(
                    index_elements=["job", "options"],
                    index_where=runs.c.started_at.is_(None),
                    set_={"asked_by": runs.c.asked_by},  # so that the row is returned
                ).returning(runs)
            )
            return _record(plain(row.mappings().one()))

    # --- running --------------------------------------------------------------------------------

    async def renew(self, run: RunRecord) -> None:
        """Keep the run for another while."""
        async with self._connections.transaction() as connection:
            await _move(connection, run, lease_until=_in(LEASE_SECONDS))

    async def commit(
        self,
        run: RunRecord,
        *,
        position: object,
        stage: str | None,
        done: int,
        total: int | None,
        counts: Mapping[str, Any],
        findings: Sequence[Finding] = (),
        first_finding: int = 0,
    ) -> None:
        """Write down how far the run is: whoever takes it over goes on from here.

        Args:
            run: as it was taken.
            position: where it stands, in the job's own words, as JSON types.
            stage: what it is at.
            done: of the stage.
            total: of the stage.
            counts: what was done so far.
            findings: further ones.
            first_finding: the number of the first of these.
        """
        runs = tables.runs
        # Only who comes further has got over what it met there.
        is_where_it_was = runs.c.stage.is_not_distinct_from(stage) & (runs.c.done >= done)
        async with self._connections.transaction() as connection:
            await _move(
                connection,
                run,
                position=position,
                stage=stage,
                done=done,
                total=total,
                counts=dict(counts),
                failures=case((is_where_it_was, runs.c.failures), else_=0),
                error=None,
                lease_until=_in(LEASE_SECONDS),
            )
            if findings:
                await connection.execute(
                    postgresql.insert(tables.findings),
                    [
                        {"run_id": run.id, "number": number, **_shortened(finding)}
                        for number, finding in enumerate(findings, first_finding)
                    ],
                )

    async def set_back(self, run: RunRecord, *, error: str, pause: float) -> None:
        """Leave a run that met something that passes; it is taken up after so many seconds."""
        await self._leave(
            run, error=error, failures=tables.runs.c.failures + 1, paused_until=_in(pause)
        )

    async def leave(self, run: RunRecord) -> None:
        """Leave a run because its process ends; somebody else goes on at once."""
        await self._leave(run, paused_until=func.milepost_now())

    async def _leave(self, run: RunRecord, **values: object) -> None:
        async with self._connections.transaction() as connection:
            await _move(connection, run, state="waiting", lease_until=None, **values)

    async def end(
        self,
        run: RunRecord,
        state: Literal["done", "failed", "stopped"],
        *,
        counts: Mapping[str, Any],
        error: str | None = None,
        idle: bool = False,
    ) -> None:
        """Finish the run.

        Args:
            run: as it was taken.
            state: how it ended.
            counts: what it did.
            error: why it did not do all.
            idle: it found nothing to do. Of such runs of a job only the last is remembered.
        """
        jobs, runs, now = tables.jobs, tables.runs, func.milepost_now()
        async with self._connections.transaction() as connection:
            # What only says what it would do has done no due time's work.
            if state == "done" and not run.options.get("dry_run"):
                await connection.execute(
                    update(jobs)
                    .where(jobs.c.name == run.job)
                    .values(done_until=func.greatest(jobs.c.done_until, run.started_at))
                )
            if idle:
                await connection.execute(delete(runs).where(runs.c.job == run.job, runs.c.idle))
            await _move(
                connection,
                run,
                state=state,
                counts=dict(counts),
                error=error,
                idle=idle,
                lease_until=None,
                position=None,
                ended_at=now,
            )
            if state != "done":
                told = {"job": run.job, "run_id": run.id, "state": state, "error": error}
                await tell(connection, MessageType.JOB_FAILED, told)

    async def forget_some(self, job: str) -> bool:
        """Forget runs of a job that ended more than `KEPT_DAYS` ago, and what they list.

        Returns:
            Whether there may be more of them.
        """
        given = {"job": job, "runs": FORGOTTEN_AT_ONCE, "findings": SWEPT, "days": KEPT_DAYS}
        async with self._connections.path() as connection, connection.transaction():
            cursor = await connection.execute(_OLD, given)
            old = [row["id"] for row in await cursor.fetchall()]
            if not old:
                return False
            swept = (await connection.execute(_SWEEP, given | {"old": old})).rowcount
            if swept < SWEPT:
                await connection.execute(b"DELETE FROM runs WHERE id = ANY (%(old)s)", {"old": old})
        return swept == SWEPT or len(old) == FORGOTTEN_AT_ONCE

    async def note_round(self, job: str, error: str | None = None) -> None:
        """Somebody is at a job that never ends; `error` is what was met."""
        now = func.milepost_now()
        noted = {"done_until": now} | ({"error": error, "error_at": now} if error else {})
        note = postgresql.insert(tables.jobs).values(name=job, accounted_until=now, **noted)
        async with self._connections.transaction() as connection:
            await connection.execute(
                note.on_conflict_do_update(index_elements=["name"], set_=noted)
            )

    # --- looking --------------------------------------------------------------------------------

    async def get(self, run_id: int) -> RunRecord | None:
        """The run with this id."""
        runs = tables.runs
        async with self._connections.transaction() as connection:
            row = (await connection.execute(select(runs).where(runs.c.id == run_id))).mappings()
            found = row.one_or_none()
        return _record(plain(found)) if found else None

    async def page(
        self, job: str, *, before: int | None = None, limit: int = 100
    ) -> list[RunRecord]:
        """Runs of a job, the newest first; those with ids below `before`."""
        runs = tables.runs
        query = select(runs).where(runs.c.job == job).order_by(runs.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(runs.c.id < before)
        async with self._connections.transaction() as connection:
            return [_record(plain(row)) for row in (await connection.execute(query)).mappings()]

    async def records(self, jobs: Collection[str]) -> dict[str, JobRecord]:
        """How these jobs stand; one that no scheduler has looked at is not there."""
        job, runs = tables.jobs, tables.runs
        latest = (
            select(runs)
            .where(
                runs.c.job == job.c.name,
                runs.c.started_at.is_not(None),
                # One that only looks says nothing of how the job stands.
                func.coalesce(runs.c.options["dry_run"].astext, "false") != "true",
            )
            .order_by(runs.c.id.desc())
            .limit(1)
            .lateral()
        )
        query = (
            select(
                job, func.milepost_now().label("now"), *(c.label(f"run_{c.name}") for c in latest.c)
            )
            .outerjoin(latest, true())
            .where(job.c.name.in_(jobs))
        )
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return {row["name"]: _job(plain(row)) for row in rows}

    async def now(self) -> datetime:
        """The database's time."""
        async with self._connections.transaction() as connection:
            now: datetime = (await connection.execute(select(func.milepost_now()))).scalar_one()
        return now

    async def findings(
        self, run_id: int, *, after: int = -1, limit: int = 1_000
    ) -> list[NumberedFinding]:
        """What a run lists one by one, by number, from behind `after` on."""
        table = tables.findings
        query = (
            select(table)
            .where(table.c.run_id == run_id, table.c.number > after)
            .order_by(table.c.number)
            .limit(limit)
        )
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(query)).mappings()
            return [msgspec.convert(plain(row), NumberedFinding) for row in rows]


async def hold(connection: psycopg.AsyncConnection[DictRow], run: RunRecord | None) -> None:
    """Keep a run from being taken over until the caller's transaction ends.

    Args:
        connection: in a transaction.
        run: as it was taken; None: what is done is no run's.

    Raises:
        TakenAway: somebody else has the run by now.
    """
    if run is None:
        return
    cursor = await connection.execute(
        b"SELECT FROM runs WHERE id = %(run)s AND attempt = %(attempt)s AND state = 'running'"
        b" FOR SHARE",
        {"run": run.id, "attempt": run.attempt},
    )
    if cursor.rowcount == 0:
        raise _taken_away(run)


async def _know(connection: AsyncConnection, jobs: Iterable[str]) -> None:
    now = func.milepost_now()
    first = postgresql.insert(tables.jobs).on_conflict_do_nothing()
    for name in jobs:
        await connection.execute(first.values(name=name, accounted_until=now, done_until=now))


async def _move(connection: AsyncConnection, run: RunRecord, **values: object) -> None:
    changed = await connection.execute(_of(run).values(**values))
    if changed.rowcount == 0:
        raise _taken_away(run)


def _taken_away(run: RunRecord) -> TakenAway:
    return TakenAway(f"{run.job}: somebody else goes on with run {run.id}")


def _shortened(finding: Finding) -> dict[str, object]:
    """A finding's members; its texts come out of files, and may be as long as these."""
    return {
        name: value[:LONGEST_TEXT] if isinstance(value, str) else value
        for name, value in msgspec.structs.asdict(finding).items()
    }


def _of(run: RunRecord) -> Update:
    runs = tables.runs
    return update(runs).where(
        runs.c.id == run.id, runs.c.attempt == run.attempt, runs.c.state == "running"
    )


def _in(seconds: float) -> Any:
    return func.milepost_now() + timedelta(seconds=seconds)


def _record(row: Mapping[str, Any]) -> RunRecord:
    return msgspec.convert(dict(row), RunRecord)


def _job(row: Mapping[str, Any]) -> JobRecord:
    run = {
        name.removeprefix("run_"): value for name, value in row.items() if name.startswith("run_")
    }
    return msgspec.convert({**row, "run": run if run["id"] is not None else None}, JobRecord)
