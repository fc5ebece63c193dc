"""What a job is given to run with: where it stands, and how it says how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from milepost.errors import MilepostError
from milepost.store.runs import Finding, RunRecord, RunStore

MOST_FINDINGS: Final = 100_000
"""A run lists so many one by one; it counts all of them. More have one cause, and need one look."""


class NeedsAPerson(MilepostError):
    """A run stops: what it would do next, a person must want."""


class NotNow(MilepostError):
    """A run cannot go on at present: it is taken up again after a pause."""


class Progress(Struct, frozen=True):
    """How far a run is."""

    stage: str | None
    done: int
    total: int | None


class Run:
    """A run under way.

    A job commits after each page; what it said last is where whoever takes it over goes on.

    Attributes:
        record: As it was taken.
        options: What was asked for with it.
        stopping: Once it is set, nothing further is begun: the run is left as it was committed
            last, and somebody goes on from there.
        position: Where an earlier attempt stood, in the job's own words; None at the beginning.
        counts: What was counted so far, in all attempts.
        failures: How often in a row it broke off where it stands now.
    """

    def __init__(
        self,
        runs: RunStore,
        record: RunRecord,
        stopping: asyncio.Event,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self.record = record
        self.options: Mapping[str, Any] = record.options
        self.stopping = stopping
        self.position: Any = record.position
        self.counts: Mapping[str, Any] = record.counts
        self.failures = record.failures
        self._runs = runs
        self._progress = progress
        self._frame: Callable[[object], object] = lambda position: position
        self._at = Progress(record.stage, record.done, record.total)
        self._found = int(record.counts.get("found", 0))

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._at

    def advance(self, done: int) -> None:
        """Show that so much more is done, without writing it down."""
        self._at = Progress(self._at.stage, self._at.done + done, self._at.total)
        self._progress(self._at)

    @contextmanager
    def part(self, position: object, frame: Callable[[object], object]) -> Iterator[None]:
        """While the block runs, a part of the job has the run, with positions of its own.

        Args:
            position: where the part stood; None: at its beginning.
            frame: makes a position of the whole job out of one of the part.
        """
        outer, self._frame = self._frame, frame
        self.position = position
        try:
            yield
        finally:
            self._frame = outer

    async def commit(
        self,
        position: object,
        *,
        stage: str,
        done: int,
        counts: Struct,
        total: int | UnsetType | None = UNSET,
        findings: Sequence[Finding] = (),
    ) -> None:
        """Write down how far it is.

        Args:
            position: where to go on, as JSON types.
            stage: what it is at, in a word or two.
            done: how much of it.
            counts: what was done so far. What they do not name stays as it was counted: parts of a
                job count different things.
            total: how much there is of it; the one that was said last, unless it is given.
            findings: what is to be listed one by one, further to what was; numbered as they come.

        Raises:
            TakenAway: somebody else has the run by now.
            DatabaseBusy: Postgres is away; nothing was written.
        """
        known = self._at.total if stage == self._at.stage else None
        at = Progress(stage, done, known if isinstance(total, UnsetType) else total)
        listed = findings[: max(0, MOST_FINDINGS - self._found)]
        found = self._found + len(findings)
        told = {**self.counts, **msgspec.to_builtins(counts), "found": found}
        await self._runs.commit(
            self.record,
            position=self._frame(position),
            stage=at.stage,
            done=at.done,
            total=at.total,
            counts=told,
            findings=listed,
            first_finding=self._found,
        )
        self.position, self.counts, self.failures = position, told, 0
        self._found, self._at = found, at
        self._progress(at)

    def in_all(self, counts: Struct) -> dict[str, Any]:
        """What was done in all, of which a job that ends tells the last."""
        return {**self.counts, **msgspec.to_builtins(counts)}


class Job(Protocol):
    """Periodic work; all of it that can be done now is one run."""

    async def run_once(self, run: Run) -> Struct:
        """Do it, from `run.position` on; returns what was done, in all attempts.

        Raises:
            NeedsAPerson: it stops here until somebody has decided.
            UpstreamError, DatabaseBusy: it breaks off, and is taken up again after a pause.
            MilepostError: it cannot be done.
        """
        ...


class Whole(Struct, frozen=True):
    """A job that needs no position: what is still to be done stands in the store by itself."""

    work: Callable[[asyncio.Event, Callable[[int], None]], Awaitable[Struct]]
    """Does it, until the event is set; may call the second with how much was done since."""

    async def run_once(self, run: Run) -> Struct:
        """See `Job`."""
        return await self.work(run.stopping, run.advance)
