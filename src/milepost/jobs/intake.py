"""Intakes: how rows become registrants. The first stage of `sync`, and all of job `import`.

::

    read ──▶ report ──▶ compare ──▶ write ──▶ remove ──▶ clean
                           │
                           └──▶ stopped: a source that would take away more than `REMOVES_AT_MOST`

**Read**: every row is staged, good or bad, in the order in which it came. **Report**: bad rows
become findings of the run. **Compare**: whom the source has listed and does not list any more is
counted; up to here nothing has changed. **Write**: rows that are new or say something else are
written, by the way on which all registrants are; unchanged ones cost no write. **Remove**, and
**clean**: the staged rows go, also where a run ends otherwise.

Only the configured source removes anybody, and only if it lists all: an import adds and changes.
A bad row keeps its registrant, if it tells whose it is. A `ref` that stands twice counts with its
last good row.

Whoever takes a run over goes on at the page behind the one that was committed last; a page that was
done and not committed is done again, which changes nothing. Counts are committed before the page is
written, so that it is not held against its own traces. A file that is not the same any more is read
anew, under an intake of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Sequence,
)
from concurrent.futures import Executor, Future
from contextlib import aclosing, suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Literal, ParamSpec, Self, TypeVar

import msgspec
from msgspec import Struct

from milepost.errors import (
    DatabaseError,
    ImportTooLarge,
    MilepostError,
    TooManyImports,
    UpstreamError,
)
from milepost.jobs.reading import BLOCK_BYTES, SAMPLE_BYTES, Kind, Reader
from milepost.jobs.rows import BadRow, Detected, Form, Row
from milepost.jobs.run import NeedsAPerson, Progress, Run
from milepost.jobs.sources import FileSource, Page, Place, Source, SourceAway
from milepost.store import Store
from milepost.store.registrants import CHUNK
from milepost.store.runs import Finding, TakenAway
from milepost.store.sources import Differences, Staged, StagedRow, Watermark

REMOVES_AT_MOST: Final = 0.10
"""Of the registrants whom the source has listed, a run removes so many by itself. More are rather a
file that broke off, or one of another kind, than customers who left in one night."""

CONFIGURED: Final = "configured"
"""What `registrants.source` says of whoever the configured source lists. It has no name of its own:
whatever it is tomorrow, a file or a query, it is to list the same people."""

PAGE: Final = 4 * CHUNK
"""Rows that are held against registrants by one statement: some 20 ms."""

MISSING_PAGE: Final = 5_000
"""Registrants that are held against an intake by one statement, which is the cheaper side."""

FINDINGS_PAGE: Final = 1_000

MOST_BYTES: Final = 1 << 30
MOST_ROWS: Final = 5_000_000
"""What one request may send. Staged rows take some three times the bytes that were sent, and more
where rows are short. Who has more has a file, which a worker can read where it lies."""

MOST_ARRIVALS: Final = 4
"""Imports that may arrive, or wait to be taken in, at a time: a run takes in one after the other.
With the bounds above it is about what whoever has a key can fill of the disk of Postgres."""

MOST_FIELDS: Final = 100
"""Names of changed fields that are counted one by one; attributes may have any name."""

MOST_READ: Final = 10
"""Files of a folder of which is told how they were read."""

SILENCE_SECONDS: Final = 900.0
"""A page of a source comes within moments, the first one of a large query within minutes; of a
folder whose network is away none may ever come. After so long its thread is left to itself, and the
run goes on after a pause. Longer than `sources.STATEMENT_SECONDS`, which tells more."""

P = ParamSpec("P")
T = TypeVar("T")

Step = Literal["read", "report", "compare", "write", "remove", "clean", "done"]

_STAGES: Final = {
    "read": "reading rows",
    "report": "listing bad rows",
    "compare": "looking who is missing",
    "write": "writing registrants",
    "remove": "removing registrants",
    "clean": "clearing up",
}
"""What a run that is at a step says of itself."""


class Counts(Struct, kw_only=True):
    """What an intake did, in rows; of a dry run, what it would do."""

    rows: int = 0
    created: int = 0
    changed: int = 0
    returned: int = 0
    """Who had been removed and is back."""
    unchanged: int = 0
    removed: int = 0
    repeated: int = 0
    """Rows whose ref comes again further down, which counts."""
    bad: int = 0
    fields: dict[str, int] = {}
    """Which fields changed, and of how many registrants."""
    read: list[Detected] = []
    """How the first files were read."""

    @property
    def good(self) -> int:
        """Rows that tell of a registrant."""
        return self.rows - self.bad


class _At(Struct, kw_only=True):
    """Where a run stands in its intake."""

    intake: int
    step: Step = "read"
    place: Place | None = None
    watermark: Watermark | None = None
    counts: Counts = msgspec.field(default_factory=Counts)
    number: int = 0
    """The row behind which a page begins."""
    after: str = ""
    """The ref behind which a page begins."""
    is_counted: bool = False
    """The page that begins there is in the counts."""
    known: int = 0
    missing: int = 0


class Intake:
    """Takes in what the configured source lists.

    Args:
        store: takes the registrants.
        source: lists them.
    """

    def __init__(self, store: Store, source: Source) -> None:
        self._store = store
        self._source = source

    async def run(self, run: Run) -> None:
        """Take in what the source lists, from where an earlier attempt stood.

        Where `run.stopping` is set, it may be a part. Options of the run: `accept_removals` removes
        however many are missing, `dry_run` only tells what would change.

        Args:
            run: under way; its position is the intake's.

        Raises:
            NeedsAPerson: the source cannot be read, lists nobody, or would remove too many; nothing
                has changed.
            SourceAway: the source cannot be reached at the moment, or says nothing.
            DatabaseBusy: Postgres is away.
        """
        await sweep(self._store)
        await _Course(self._store, run, self._source).follow(await self._at(run))

    async def _at(self, run: Run) -> _At:
        """Where to go on; what an earlier attempt staged counts only if it is of the same rows."""
        if run.position is None:
            return _At(intake=await self._store.sources.begin(run.record))
        at = msgspec.convert(run.position, _At)
        if at.step == "read":
            place = at.place
            is_same = place is not None and await _apart(partial(self._source.is_at, place))
        else:
            is_same = at.step in {"clean", "done"} or bool(
                await self._store.sources.take(at.intake, run.record)
            )
        if is_same:
            return at
        await self._store.sources.drop(at.intake, run.record)
        return _At(intake=await self._store.sources.begin(run.record))


class Import:
    """Job `import`: takes in what somebody has sent, which is staged already.

    Args:
        store: holds it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run_once(self, run: Run) -> Counts:
        """Write down the registrants of the intake that the run's options name.

        Options of the run: `intake`, its id; `dry_run` only tells what would change.

        Raises:
            MilepostError: there is no such intake.
            DatabaseBusy: Postgres is away.
        """
        await sweep(self._store)
        return await _Course(self._store, run, None).follow(await self._at(run))

    async def _at(self, run: Run) -> _At:
        at = msgspec.convert(run.position, _At) if run.position is not None else None
        if at is not None and at.step in {"clean", "done"}:
            return at
        intake = run.options.get("intake")
        staged = await self._store.sources.take(intake, run.record) if type(intake) is int else None
        if staged is None:
            raise MilepostError(
                "there is nothing to take in: an import begins with `milepost registrants import "
                "FILE` or POST /v1/registrants/import"
            )
        counts = Counts(
            rows=staged.rows,
            bad=staged.bad,
            read=msgspec.convert(staged.read, list[Detected]),
        )
        return at or _At(intake=staged.id, step="report", counts=counts)


class _Course:
    """The steps of one run."""

    def __init__(self, store: Store, run: Run, source: Source | None) -> None:
        self._sources = store.sources
        self._run = run
        self._source = source
        self._listed_by = CONFIGURED if source is not None else None
        self._is_dry = bool(run.options.get("dry_run"))
        self._at = _At(intake=0)

    async def follow(self, at: _At) -> Counts:
        self._at = at
        steps: dict[Step, Callable[[], Awaitable[None]]] = {
            "read": self._read,
            "report": self._report,
            "compare": self._compare,
            "write": self._write,
            "remove": self._remove,
            "clean": self._clean,
        }
        try:
            while at.step != "done" and not self._run.stopping.is_set():
                await steps[at.step]()
        except (UpstreamError, DatabaseError, TakenAway):
            raise  # the run goes on from here, or somebody else does
        except MilepostError:
            await self._sources.drop(at.intake, self._run.record)
            raise
        return at.counts

    async def _read(self) -> None:
        source, at = self._source, self._at
        if source is None:  # pragma: no cover  (what was sent is staged)
            return
        since = source.watermark_of and await self._sources.watermark(source.watermark_of)
        done, total = 0, None
        async with aclosing(_read_ahead(_staged(source.pages(at.place, since or None)))) as pages:
            async for page, rows in pages:
                await self._sources.stage(
                    at.intake, rows, after=at.counts.rows, run=self._run.record
                )
                at.place, at.watermark = page.place, page.watermark
                _count_read(at.counts, page)
                done, total = page.done, page.total
                await self._commit(done=done, total=total)
                if rows and self._run.stopping.is_set():
                    return
        counts = at.counts
        await self._sources.complete(Staged(at.intake, counts.rows, counts.bad, counts.read))
        await self._go_on("report", done=done, total=total)

    async def _report(self) -> None:
        at = self._at
        listed = 0
        while found := await self._sources.bad(at.intake, after=at.number, limit=FINDINGS_PAGE):
            at.number = found[-1][0]
            listed += len(found)
            await self._commit(
                done=listed, total=at.counts.bad, findings=[finding for _, finding in found]
            )
            if self._run.stopping.is_set():
                return
        is_whole = self._source is not None and self._source.lists_all
        await self._go_on("compare" if is_whole else "write", done=listed)

    async def _compare(self) -> None:
        at = self._at
        if at.counts.good == 0:
            raise NeedsAPerson(
                f"the source lists nobody (it has {at.counts.bad} bad rows): nothing was changed. "
                "See what became of it, and run sync again"
            )
        while missing := await self._sources.missing(
            at.intake, CONFIGURED, after=at.after, limit=MISSING_PAGE
        ):
            at.after = missing.last
            at.known += missing.known
            at.missing += len(missing.refs)
            await self._commit(done=at.known)
            if self._run.stopping.is_set():
                return
        findings = []
        if at.missing > REMOVES_AT_MOST * at.known and not self._run.options.get("accept_removals"):
            found = (
                f"the source lists {at.counts.good} registrants and does not list {at.missing} of "
                f"the {at.known} that it listed before, more than {REMOVES_AT_MOST:.0%}"
            )
            if not self._is_dry:
                raise NeedsAPerson(
                    f"{found}: nothing was changed. If they are to go: milepost run sync "
                    "--accept-removals"
                )
            findings = [Finding(reason=f"a run would stop here and ask: {found}")]
        at.counts.removed = at.missing
        await self._go_on("write", done=at.known, findings=findings)

    async def _write(self) -> None:
        at = self._at
        while page := await self._sources.differences(
            at.intake, self._listed_by, after=(at.after, at.number), limit=PAGE
        ):
            if not at.is_counted:
                _count_written(at.counts, page)
                at.is_counted = True
                await self._commit(done=self._seen(), total=at.counts.good)
            for chunk in _chunks(() if self._is_dry else page.given):
                given = {row.ref: row.details for row in chunk}
                await self._sources.write(given, source=self._listed_by, run=self._run.record)
            (at.after, at.number), at.is_counted = page.last, False
            if self._run.stopping.is_set():
                break
        else:
            is_due = at.missing and not self._is_dry
            await self._go_on("remove" if is_due else "clean", done=at.counts.good)
            return
        await self._commit(done=self._seen(), total=at.counts.good)

    async def _remove(self) -> None:
        at = self._at
        removed = 0
        while missing := await self._sources.missing(
            at.intake, CONFIGURED, after=at.after, limit=MISSING_PAGE
        ):
            for chunk in _chunks(missing.refs):
                await self._sources.remove(chunk, source=CONFIGURED, run=self._run.record)
            at.after = missing.last
            removed += len(missing.refs)
            await self._commit(done=removed, total=at.missing)
            if self._run.stopping.is_set():
                return
        await self._go_on("clean", done=removed)

    async def _clean(self) -> None:
        at = self._at
        mark = self._source.watermark_of if self._source is not None else None
        if mark and at.watermark and not self._is_dry:
            await self._sources.advance(mark, at.watermark, self._run.record)
        await self._sources.drop(at.intake, self._run.record)
        at.step = "done"

    def _seen(self) -> int:
        """Rows that were held against registrants."""
        counts = self._at.counts
        return (
            counts.created + counts.changed + counts.returned + counts.unchanged + counts.repeated
        )

    async def _go_on(
        self,
        step: Step,
        *,
        done: int,
        total: int | None = None,
        findings: Sequence[Finding] = (),
    ) -> None:
        """Say that a step is done, and turn to the next one."""
        at = self._at
        stage = _STAGES[at.step]
        at.step, at.after, at.number = step, "", 0
        total = done if total is None else total
        await self._commit(stage=stage, done=done, total=total, findings=findings)

    async def _commit(
        self,
        *,
        done: int,
        total: int | None = None,
        stage: str | None = None,
        findings: Sequence[Finding] = (),
    ) -> None:
        await self._run.commit(
            msgspec.to_builtins(self._at),
            stage=stage or _STAGES[self._at.step],
            done=done,
            total=total,
            counts=self._at.counts,
            findings=findings,
        )


class Arrival:
    """An intake that comes in with a request or a command, and belongs to no run yet.

    Args:
        store: stages it.
        intake: its id.
    """

    def __init__(self, store: Store, intake: int) -> None:
        self._store = store
        self._intake = intake
        self._counts = Counts()

    @property
    def rows(self) -> int:
        """How many have come."""
        return self._counts.rows

    @classmethod
    async def begin(cls, store: Store) -> Self:
        """Begin one."""
        return cls(store, await store.sources.begin())

    async def add(self, page: Page, rows: Sequence[StagedRow]) -> None:
        """Stage further rows."""
        await self._store.sources.stage(self._intake, rows, after=self._counts.rows)
        _count_read(self._counts, page)

    async def end(self) -> int:
        """Say that all has come; returns the intake, for the options of a run of `import`."""
        counts = self._counts
        await self._store.sources.complete(
            Staged(self._intake, counts.rows, counts.bad, counts.read)
        )
        return self._intake

    async def drop(self) -> None:
        """Forget what has come."""
        with suppress(DatabaseError):  # a later run sweeps it away
            await self._store.sources.drop(self._intake)


async def stage_files(
    store: Store, files: FileSource, progress: Callable[[Progress], None] = lambda _: None
) -> int:
    """Stage a file, or a folder of files, for a run of `import`.

    Args:
        store: takes it.
        files: the file.
        progress: is told how many bytes are read.

    Returns:
        The intake, for the options of the run.

    Raises:
        Unreadable: it is not there, or holds something else; nothing is left of it.
        DatabaseBusy: Postgres is away.
    """
    arrival = await Arrival.begin(store)
    try:
        async with aclosing(_read_ahead(_staged(files.pages(None, None)))) as pages:
            async for page, rows in pages:
                await arrival.add(page, rows)
                progress(Progress(_STAGES["read"], page.done, page.total))
        return await arrival.end()
    except BaseException:
        await arrival.drop()
        raise


async def stage_body(store: Store, pieces: AsyncIterator[bytes], kind: Kind, form: Form) -> int:
    """Stage what a request sends, for a run of `import`.

    Args:
        store: takes it.
        pieces: the body; it raises if it breaks off.
        kind: what it is.
        form: what is said of it.

    Returns:
        The intake, for the options of the run.

    Raises:
        Unreadable: it is empty, or holds something else; nothing is left of it.
        ImportTooLarge: it has too many bytes or rows; nothing is left of it.
        TooManyImports: others come first.
        DatabaseBusy: Postgres is away.
    """
    intake = await store.sources.begin_arrival(MOST_ARRIVALS)
    if intake is None:
        raise TooManyImports(MOST_ARRIVALS)
    arrival = Arrival(store, intake)
    try:
        blocks = _blocks(_bounded(pieces))
        head, is_last = await anext(blocks)
        reader = Reader(kind, form, "the body", head, is_whole=is_last)
        data = head[reader.offset :]
        while True:
            rows = await asyncio.to_thread(reader.read, data, is_last=is_last)
            page = Page(
                source="the body",
                rows=rows,
                detected=reader.detected,
                done=reader.offset,
                total=None,
            )
            await arrival.add(page, [_as_staged(row, page.source) for row in rows])
            check_size(rows=arrival.rows)
            if is_last:
                return await arrival.end()
            data, is_last = await anext(blocks)
    except BaseException:
        await arrival.drop()
        raise


def check_size(*, size: int = 0, rows: int = 0) -> None:
    """Refuse a body of more bytes or rows than one request may send.

    Raises:
        ImportTooLarge: it has more.
    """
    if size > MOST_BYTES:
        raise ImportTooLarge(f"{MOST_BYTES >> 20:,} MiB")
    if rows > MOST_ROWS:
        raise ImportTooLarge(f"{MOST_ROWS:,} rows")


async def _bounded(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    size = 0
    async for piece in pieces:
        size += len(piece)
        check_size(size=size)
        yield piece


async def _blocks(pieces: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
    """A body in blocks that are worth a statement, the first of them as large as a sample.

    With each is told whether it is the last.
    """
    held = bytearray()
    wanted = SAMPLE_BYTES
    async for piece in pieces:
        held += piece
        if len(held) > wanted:
            yield bytes(held), False
            held.clear()
            wanted = BLOCK_BYTES
    yield bytes(held), True


def _staged(pages: Iterator[Page]) -> Generator[tuple[Page, list[StagedRow]]]:
    for page in pages:
        yield page, [_as_staged(row, page.source) for row in page.rows]


def _as_staged(row: Row | BadRow, source: str) -> StagedRow:
    if isinstance(row, BadRow):
        return StagedRow(
            ref=row.ref,
            source=source,
            line=row.line,
            reason=row.reason,
            is_guess=row.is_guess,
        )
    return StagedRow(
        row.ref,
        row.email,
        row.first_name,
        row.last_name,
        row.phone,
        row.language,
        _ENCODE(row.attributes).decode(),
    )


_ENCODE: Final = msgspec.json.Encoder().encode


async def _read_ahead(pages: Generator[T]) -> AsyncGenerator[T]:
    """The pages of a source, read in a thread of their own, one ahead of whoever takes them.

    Raises:
        SourceAway: none comes.
    """
    loop = asyncio.get_running_loop()
    thread = _ThreadApart()

    def following() -> T | None:
        return next(pages, None)

    upcoming = loop.run_in_executor(thread, following)
    try:
        while (page := await _in_time(upcoming)) is not None:
            upcoming = loop.run_in_executor(thread, following)
            yield page
    finally:
        upcoming.cancel()
        thread.submit(pages.close)  # when the one under way is read
        thread.shutdown(wait=False)


async def check(source: Source, seconds: float) -> None:
    """See whether a source is there.

    Args:
        source: is looked at, and not read.
        seconds: so long it may take.

    Raises:
        Unreadable, SourceAway: it is not.
    """
    await _apart(source.check, seconds)


async def _apart(ask: Callable[[], T], seconds: float | None = None) -> T:
    """Ask a source something, in a thread of its own."""
    thread = _ThreadApart()
    try:
        return await _in_time(asyncio.get_running_loop().run_in_executor(thread, ask), seconds)
    finally:
        thread.shutdown(wait=False)


async def _in_time(reading: Awaitable[T], seconds: float | None = None) -> T:
    seconds = SILENCE_SECONDS if seconds is None else seconds
    try:
        async with asyncio.timeout(seconds):
            return await reading
    except TimeoutError as error:
        raise SourceAway(
            f"the source has said nothing for {seconds:.0f} s: see whether somebody holds a lock "
            "there, or whether its folder can be reached"
        ) from error


class _ThreadApart(Executor):
    """One thread, for what may hang: Python ends without waiting for it, as it would for a pool."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        Thread(target=self._do, name="source", daemon=True).start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Executor`."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  (whoever waits is told)
                future.set_exception(error)

        self._work.put(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002  (as `Executor` has it; nobody waits)
        """See `Executor`; what was submitted is still done."""
        self._work.put(None)

    def _do(self) -> None:
        while (work := self._work.get()) is not None:
            work()


async def sweep(store: Store) -> None:
    """Delete what earlier runs and requests left when they ended otherwise."""
    for intake in await store.sources.abandoned():
        await store.sources.drop(intake)


def _count_read(counts: Counts, page: Page) -> None:
    counts.rows += len(page.rows)
    counts.bad += sum(isinstance(row, BadRow) for row in page.rows)
    if len(counts.read) < MOST_READ and page.detected not in counts.read:
        counts.read.append(page.detected)


def _count_written(counts: Counts, page: Differences) -> None:
    seen = {"created": 0, "changed": 0, "returned": 0}
    for row in page.given:
        if row.change is not None:
            seen[row.change] += 1
        for name in row.fields:
            if name in counts.fields or len(counts.fields) < MOST_FIELDS:
                counts.fields[name] = counts.fields.get(name, 0) + 1
    counts.created += seen["created"]
    counts.changed += seen["changed"]
    counts.returned += seen["returned"]
    counts.repeated += page.superseded
    counts.unchanged += page.rows - page.superseded - sum(seen.values())


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
