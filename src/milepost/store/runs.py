"""Runs: which job was due when, who is at it, and how far it is.

A run moves through these states::

    due ─────▶ running ──▶ done         all of it is done
    asked for ─▶ waiting ──▶ running ──▶ failed    it cannot be done, and trying again does not help
                   ▲                └──▶ stopped   a person must decide something first
                   └ (pause) ┘

One row stands for a job and a due time, and one run of a job is under way at a time. Whoever runs
it holds a lease and renews it; a run whose worker died is taken over when the lease ends, with the
next attempt number, and goes on from the `position` that was committed last. A run that met
something that passes is left with a lease that ends after a pause: the same mechanism brings it
back.

Due times are a calendar's, computed by `scheduler.py` from the last one that is accounted for. Of
several that have passed (nobody was there), one run is made, for the latest; `coalesced` counts the
others, so that the due times of a job are its runs and what they coalesced, none twice and none
missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects import postgresql

from milepost.errors import MilepostError
from milepost.store import tables
from milepost.store.connections import Connections, begun_again, plain, statement

LEASE_SECONDS: Final = 20
"""How long a run is its worker's without a word. It is renewed every few seconds, so that only who
is gone or frozen loses it; a takeover comes within 30 s."""

KEPT_DAYS: Final = 90
"""How long runs are remembered."""

_TAKE: Final = statement("run_take")

RunState = Literal["waiting", "running", "done", "failed", "stopped"]


class TakenAway(MilepostError):
    """Somebody else has the run by now: what this attempt does must not count."""


class RunRecord(Struct, frozen=True, kw_only=True):
    """One execution of a job."""

    id: int
    job: str
    due_at: datetime
    coalesced: int
    """Due times before it that passed while nobody was there; this run stands for them, too."""
    asked_by: str | None
    """Who asked for it; None: it was due."""
    options: Mapping[str, Any]
    state: RunState
    attempt: int
    failures: int
    """Tries in a row that broke off at the same place."""
    position: Any
    """Where it stands, in the job's own words."""
    stage: str | None
    """What it is at, or was."""
    done: int
    total: int | None
    """Of this stage, in what it works on; None: that is not known."""
    counts: Mapping[str, Any]
    error: str | None
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


class Round(Struct, frozen=True, kw_only=True):
    """When a job that never ends was last at work."""

    job: str
    at: datetime
    error: str | None
    error_at: datetime | None


class Accounted(Struct, frozen=True, kw_only=True):
    """Up to when the due times of a job are accounted for."""

    since: datetime
    """Its last due time that has a run; where there is none, the beginning of the deployment."""
    now: datetime
    """By the database's clock."""
    is_running: bool
    """A worker is at it, and has not gone."""
    is_asked_for: bool
    """A run waits, or one has lost its worker."""


class RunStore:
    """The verbs of runs; each is one transaction.

    Those that move a run on are fenced by its attempt, and raise `TakenAway` under another one.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def accounted(self, job: str) -> Accounted:
        """Up to when a job's due times are accounted for, and whether a run of it is under way."""
        runs, now = tables.runs, func.milepost_now()
        of_job = runs.c.job == job
        last = select(func.max(runs.c.due_at)).where(of_job, runs.c.asked_by.is_(None))
        begun = select(func.min(tables.deployment.c.created_at))
        running = select(runs.c.id).where(of_job, runs.c.state == "running")
        waiting = select(runs.c.id).where(of_job, runs.c.state == "waiting")
        query = select(
            func.coalesce(last.scalar_subquery(), begun.scalar_subquery(), now).label("since"),
            now.label("now"),
            running.where(runs.c.lease_until > now).exists().label("is_running"),
            (waiting.exists() | running.where(runs.c.lease_until <= now).exists()).label(
                "is_asked_for"
            ),
        )
        async with self._connections.transaction() as connection:
            row = (await connection.execute(query)).mappings().one()
        return msgspec.convert(plain(row), Accounted)

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
        """Take a run of a job, under a lease; None: there is nothing to do, or somebody is at it.

        Args:
            job: its name.
            since: as `accounted` told.
            due_at: its latest due time that has come, if one has since.
            coalesced: due times between the two.
            run_id: only this run.
        """
        given = {
            "job": job,
            "since": since,
            "due_at": due_at,
            "coalesced": coalesced,
            "run": run_id,
            "lease": LEASE_SECONDS,
        }
        async with self._connections.path() as connection, connection.transaction():
            await connection.execute(
                b"SELECT pg_advisory_xact_lock(hashtextextended('milepost job ' || %(job)s, 0))",
                {"job": job},
            )
            cursor = await connection.execute(_TAKE, given)
            row = await cursor.fetchone()
        return _record(row) if row else None

    async def ask(
        self, job: str, *, asked_by: str, options: Mapping[str, Any] | None = None
    ) -> RunRecord:
        """Ask for a run of a job, now; where one waits with the same options, it is that one."""
        runs, now = tables.runs, func.milepost_now()
        wanted = dict(options or {})
        async with self._connections.transaction() as connection:
            waiting = select(runs).where(
                runs.c.job == job, runs.c.state == "waiting", runs.c.options == wanted
            )
            row = (await connection.execute(waiting.limit(1))).mappings().one_or_none()
            while row is None:
                asked = (
                    postgresql.insert(runs)
                    .values(
                        job=job,
                        due_at=func.clock_timestamp() - func.statement_timestamp() + now,
                        asked_by=asked_by,
                        options=wanted,
                        state="waiting",
                        created_at=now,
                    )
                    .on_conflict_do_nothing()
                    .returning(runs)
                )
                row = (await connection.execute(asked)).mappings().one_or_none()
            return _record(plain(row))

    async def renew(self, run: RunRecord) -> None:
        """Keep the run for another while."""
        await self._update(run, lease_until=_in(LEASE_SECONDS))

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
            first_finding: the number of the first of these; one that is there stays.
        """
        async with self._connections.transaction() as connection:
            if findings:
                listed = postgresql.insert(tables.findings).on_conflict_do_nothing()
                await connection.execute(
                    listed,
                    [
                        {
                            "run_id": run.id,
                            "number": number,
                            **msgspec.structs.asdict(finding),
                        }
                        for number, finding in enumerate(findings, first_finding)
                    ],
                )
            changed = await connection.execute(
                self._of(run).values(
                    position=position,
                    stage=stage,
                    done=done,
                    total=total,
                    counts=dict(counts),
                    failures=0,
                    error=None,
                    lease_until=_in(LEASE_SECONDS),
                )
            )
            if changed.rowcount == 0:
                raise _taken_away(run)

    async def end(
        self,
        run: RunRecord,
        state: Literal["done", "failed", "stopped"],
        *,
        counts: Mapping[str, Any],
        error: str | None = None,
        is_idle: bool = False,
    ) -> None:
        """Finish the run.

        Args:
            run: as it was taken.
            state: how it ended.
            counts: what it did.
            error: why it did not do all.
            is_idle: it found nothing to do. Of such runs of a job only the last is remembered, or
                they would hide those that did something.
        """
        runs = tables.runs
        async with self._connections.transaction() as connection:
            changed = await connection.execute(
                self._of(run).values(
                    state=state,
                    counts=dict(counts),
                    error=error,
                    lease_until=None,
                    position=None,
                    ended_at=func.milepost_now(),
                    stage=None if is_idle else runs.c.stage,
                )
            )
            if changed.rowcount == 0:
                raise _taken_away(run)
            old = runs.c.ended_at < func.milepost_now() - timedelta(days=KEPT_DAYS)
            idle = (
                (runs.c.state == "done")
                & runs.c.stage.is_(None)
                & runs.c.asked_by.is_(None)
                & (runs.c.coalesced == 0)
            )
            await connection.execute(
                delete(runs).where(
                    runs.c.job == run.job, runs.c.id != run.id, old | (idle if is_idle else False)
                )
            )

    async def set_back(self, run: RunRecord, *, error: str, pause: float) -> None:
        """Leave a run that met something that passes; after the pause it is taken up again."""
        await self._update(
            run, error=error, failures=tables.runs.c.failures + 1, lease_until=_in(pause)
        )

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
        """Runs of a job, the latest first."""
        runs = tables.runs
        query = select(runs).where(runs.c.job == job).order_by(runs.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(runs.c.id < before)
        async with self._connections.transaction() as connection:
            return [_record(plain(row)) for row in (await connection.execute(query)).mappings()]

    async def latest(self) -> dict[str, RunRecord]:
        """The latest run of each job."""
        runs = tables.runs
        query = select(runs).distinct(runs.c.job).order_by(runs.c.job, runs.c.id.desc())
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(query)).mappings()
            return {row["job"]: _record(plain(row)) for row in rows}

    async def last_done(self) -> dict[str, datetime]:
        """When each job was last done to the end."""
        runs = tables.runs
        query = (
            select(runs.c.job, func.max(runs.c.ended_at).label("at"))
            .where(runs.c.state == "done")
            .group_by(runs.c.job)
        )
        async with self._connections.transaction() as connection:
            return {row.job: row.at for row in await connection.execute(query)}

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

    async def note_round(self, job: str, error: str | None) -> None:
        """A job that never ends was at work."""
        rounds, now = tables.rounds, func.milepost_now()
        values = {"at": now} | ({"error": error, "error_at": now} if error else {})
        async with self._connections.transaction() as connection:
            await connection.execute(
                postgresql.insert(rounds)
                .values(job=job, **values)
                .on_conflict_do_update(index_elements=["job"], set_=values)
            )

    async def rounds(self) -> dict[str, Round]:
        """When each job that never ends was last at work."""
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(select(tables.rounds))).mappings()
            return {row["job"]: msgspec.convert(plain(row), Round) for row in rows}

    async def now(self) -> datetime:
        """The database's time."""
        async with self._connections.transaction() as connection:
            now: datetime = (await connection.execute(select(func.milepost_now()))).scalar_one()
        return now

    def _of(self, run: RunRecord) -> Any:
        runs = tables.runs
        return update(runs).where(
            runs.c.id == run.id, runs.c.attempt == run.attempt, runs.c.state == "running"
        )

    async def _update(self, run: RunRecord, **values: object) -> None:
        async with self._connections.transaction() as connection:
            changed = await connection.execute(self._of(run).values(**values))
        if changed.rowcount == 0:
            raise _taken_away(run)


def _in(seconds: float) -> Any:
    return func.milepost_now() + timedelta(seconds=seconds)


def _taken_away(run: RunRecord) -> TakenAway:
    return TakenAway(f"{run.job}: somebody else goes on with run {run.id}")


def _record(row: Mapping[str, Any]) -> RunRecord:
    return msgspec.convert(dict(row), RunRecord)
