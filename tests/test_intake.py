"""Intakes: what differs is written, who is missing removed, and a run that dies gone on with."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator
from functools import partial, wraps
from pathlib import Path
from threading import Event
from threading import enumerate as enumerate_threads
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.rows import dict_row

from milepost.jobs import intake, sources
from milepost.jobs.intake import Counts, Import, Intake, stage_files
from milepost.jobs.rows import Form
from milepost.jobs.run import Run
from milepost.jobs.sources import FileSource, Page, Place, QuerySource, Source
from milepost.model import RegistrantDetails
from milepost.scheduler import Scheduler
from milepost.store import Store
from milepost.store.connections import statement
from milepost.store.runs import RunRecord, TakenAway
from milepost.store.sources import SourceStore, Watermark

DIRECTORY = "POOL_000000000000001"

Sql = Callable[..., list[dict[str, Any]]]
Sync = Callable[..., Any]
Lists = Callable[[str | bytes | None], None]


class TakeIn:
    """A job that is an intake and nothing else."""

    def __init__(self, store: Store, source: Source) -> None:
        self._intake = Intake(store, source)

    async def run_once(self, run: Run) -> Counts:
        """Take in what the source lists."""
        await self._intake.run(run)
        known = {name: run.counts[name] for name in Counts.__struct_fields__ if run.counts}
        return msgspec.convert(known, Counts)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """An empty store, whose directory recognises people by their e-mail."""
    async with await Store.open(database_url) as store:
        await store.deployment.load()
        await store.registrants.rekey(DIRECTORY, frozenset({"email"}))
        yield store


@pytest.fixture
def sql(database_url: str) -> Sql:
    """Run a statement in a transaction of its own and return its rows."""

    def run(statement: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(database_url, row_factory=dict_row) as connection:
            cursor = connection.execute(statement, values)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    return run


def put(path: Path, content: str | bytes | None) -> None:
    """Write a file, or take it away."""
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file that the source is."""
    return tmp_path / "people.csv"


@pytest.fixture
def lists(path: Path) -> Lists:
    """Let the source list this; None: let it not be there."""
    return partial(put, path)


@pytest.fixture
def sync(store: Store, path: Path, sql: Sql) -> Sync:
    """Take in what a source lists, by default the file: a new run, or one that was left."""

    async def run(source: Source | None = None, **options: object) -> RunRecord:
        """Run it once."""
        job = TakeIn(store, source or FileSource(path, Form()))
        if not sql("SELECT 1 FROM runs WHERE state = 'running'"):
            await store.runs.ask("sync", asked_by="a test", options=options)
        done = await Scheduler(store.runs, {"sync": job}, {"sync": None}).run_due(
            "sync", asyncio.Event()
        )
        assert done is not None
        return done

    return run


def people(numbers: Iterable[int], *, tier: str = "gold") -> str:
    """A file of registrants with these numbers."""
    rows = (f"r{n:05},{n}@x.test,Ann,{tier}\n" for n in numbers)
    return "ref,email,first_name,tier\n" + "".join(rows)


def told(run: RunRecord) -> dict[str, Any]:
    """What a run counted, but what is nothing."""
    return {name: n for name, n in run.counts.items() if n and name not in {"read", "found"}}


def versions(sql: Sql) -> dict[str, str]:
    """Which transaction has written each registrant."""
    return {row["ref"]: row["version"] for row in sql(VERSIONS)}


VERSIONS = "SELECT ref, xmin::text AS version FROM registrants"
PRESENT = "SELECT ref FROM registrants WHERE removed_at IS NULL ORDER BY ref"
LEFT = "SELECT (SELECT count(*) FROM staged) + (SELECT count(*) FROM intakes) AS left"


def present(sql: Sql) -> set[str]:
    """Who is there and not removed."""
    return {row["ref"] for row in sql(PRESENT)}


# --- what is written ------------------------------------------------------------------------------


async def test_only_what_differs_is_written(sync: Sync, lists: Lists, sql: Sql) -> None:
    """The same file again writes no row; 1 % that changed, those alone, and says which fields."""
    lists(people(range(1_000)))
    first = await sync()
    assert ("done", {"rows": 1_000, "created": 1_000}) == (first.state, told(first))
    before = versions(sql)
    assert {"rows": 1_000, "unchanged": 1_000} == told(await sync())
    assert before == versions(sql)
    changed = {f"r{n:05}" for n in range(0, 1_000, 100)}
    rows = [
        row.replace("gold", "blue") if row[:6] in changed else row
        for row in people(range(1_001)).splitlines(keepends=True)
    ]
    lists("".join(rows))
    fields = {"attributes.tier": 10}
    counts = {"rows": 1_001, "created": 1, "changed": 10, "unchanged": 990, "fields": fields}
    assert counts == told(await sync())
    after = versions(sql)
    assert changed | {"r01000"} == {ref for ref in after if after[ref] != before.get(ref)}
    assert [{"left": 0}] == sql(LEFT)


async def test_the_last_good_row_of_a_ref_counts(sync: Sync, lists: Lists, store: Store) -> None:
    """Wherever the rows stand; those before it are repeated, and a bad one behind it is bad."""
    rows = "a,first\nb,b\n" + "".join(f"x{n},x\n" for n in range(2_500)) + "a,last\na,\x00\n"
    lists("ref,first_name\n" + rows)
    run = await sync()
    assert {"rows": 2_504, "created": 2_502, "repeated": 1, "bad": 1} == told(run)
    known = await store.registrants.get("a")
    assert "last" == (known and known.details.first_name)


async def test_a_hundred_rows_of_one_ref_are_one_registrant(
    sync: Sync, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are more than a page."""
    monkeypatch.setattr(intake, "PAGE", 7)
    lists("ref,first_name\n" + "".join(f"a,{n}\n" for n in range(100)) + "b,b\n")
    assert {"rows": 101, "created": 2, "repeated": 99} == told(await sync())


async def test_bad_rows_are_listed_one_by_one(sync: Sync, lists: Lists, store: Store) -> None:
    """With the file, the line, the reason, and whose they are; good rows go in."""
    lists("ref,email\na,a@x.test\nb," + "x" * 300 + "\nc,c,c\n,d@x.test\ne,nomail\n")
    run = await sync()
    assert ("done", {"rows": 5, "created": 1, "bad": 4}) == (run.state, told(run))
    assert [
        (3, "email: more than 254 characters", "b"),
        (4, "3 values under 2 columns", None),
        (5, "ref: it is missing", None),
        (6, "email: not an address such as ann@example.com", "e"),
    ] == [(bad.line, bad.reason, bad.ref) for bad in await store.runs.findings(run.id)]
    assert {"people.csv"} == {bad.source for bad in await store.runs.findings(run.id)}
    assert 4 == run.counts["found"]


async def test_how_it_was_read_is_told(sync: Sync, path: Path, lists: Lists) -> None:
    """Encoding, delimiter, and whose column is whose."""
    lists("Id;Nachname\n1;Müller\n".encode("cp1252"))
    form = Form.of(columns={"ref": "Id", "last_name": "Nachname"})
    run = await sync(FileSource(path, form))
    (read,) = run.counts["read"]
    assert ("people.csv", "cp1252", ";") == (read["source"], read["encoding"], read["delimiter"])
    assert {"ref": "Id", "last_name": "Nachname"} == read["columns"]


async def test_a_dry_run_tells_the_difference_and_changes_nothing(
    sync: Sync, lists: Lists, sql: Sql, store: Store
) -> None:
    """Counted as the run that does it; that one would stop at so many removals is told."""
    lists(people(range(100)))
    await sync()
    lists(people(range(40, 110), tier="blue") + "r00041,41@x.test,Eve,blue\nbad\n")
    before = versions(sql)
    dry = await sync(dry_run=True)
    assert ("done", before) == (dry.state, versions(sql))
    (_, would_stop) = await store.runs.findings(dry.id)
    assert would_stop.reason.startswith("a run would stop here and ask: the source lists 71 regis")
    assert would_stop.reason.endswith(
        "does not list 40 of the 100 that it listed before, more than 10%"
    )
    counts = {"rows": 72, "created": 10, "changed": 60, "removed": 40, "repeated": 1, "bad": 1}
    fields = {"attributes.tier": 60, "first_name": 1}
    assert counts | {"fields": fields} == told(dry)
    assert told(dry) == told(await sync(accept_removals=True))
    assert {f"r{n:05}" for n in range(40, 110)} == present(sql)


async def test_a_dry_run_of_nothing_counts_all_as_created(
    sync: Sync, lists: Lists, sql: Sql
) -> None:
    """And nobody is known afterwards."""
    lists(people(range(3)))
    for _ in range(2):
        assert {"rows": 3, "created": 3} == told(await sync(dry_run=True))
    assert set() == present(sql)


# --- who is missing -------------------------------------------------------------------------------


async def test_a_source_that_would_remove_many_stops_and_asks(
    sync: Sync, lists: Lists, sql: Sql
) -> None:
    """At 15 % nothing of it is applied, until somebody wants it; 10 % go by themselves."""
    lists(people(range(100)))
    await sync()
    lists(people(range(15, 101), tier="blue"))
    before = versions(sql)
    stopped = await sync()
    assert ("stopped", before) == (stopped.state, versions(sql))
    assert "lists 86 registrants" in (stopped.error or "")
    assert "does not list 15 of the 100" in (stopped.error or "")
    assert "milepost run sync --accept-removals" in (stopped.error or "")
    assert [{"left": 0}] == sql(LEFT)
    assert "done" == (await sync(accept_removals=True)).state
    assert {f"r{n:05}" for n in range(15, 101)} == present(sql)
    lists(people(range(23, 101), tier="blue"))
    run = await sync()
    assert ("done", 8) == (run.state, run.counts["removed"])


@pytest.mark.parametrize(
    "content",
    [None, b"", b"ref,email\n", b"ref,email\na,b,c\n"],
    ids=["missing", "empty", "", "bad"],
)
async def test_a_source_that_lists_nobody_never_removes_all(
    sync: Sync, lists: Lists, sql: Sql, content: bytes | None
) -> None:
    """Not even if somebody accepts it: it is rather a file that was not written."""
    lists(people(range(3)))
    await sync()
    lists(content)
    for options in ({}, {"accept_removals": True}):
        run = await sync(**options)
        assert "stopped" == run.state
        assert run.error
    assert 3 == len(present(sql))
    assert [{"left": 0}] == sql(LEFT)


async def test_only_whom_the_source_listed_is_removed(
    sync: Sync, store: Store, lists: Lists, sql: Sql
) -> None:
    """Who came by another way stays; once it lists somebody they are its own."""
    await store.registrants.put({ref: RegistrantDetails() for ref in ("app", "r00000")})
    lists(people(range(20)))
    run = await sync()
    assert (19, 1) == (run.counts["created"], run.counts["changed"])
    lists(people(range(1, 20)))
    assert 1 == (await sync()).counts["removed"]
    assert {"app", *(f"r{n:05}" for n in range(1, 20))} == present(sql)


async def test_a_row_that_only_becomes_the_sources_is_unchanged(
    sync: Sync, store: Store, lists: Lists, sql: Sql
) -> None:
    """To whoever reads the counts; and it is written once."""
    await store.registrants.put({ref: RegistrantDetails() for ref in "abc"})
    lists("ref\na\nb\nc\n")
    assert {"rows": 3, "unchanged": 3} == told(await sync())
    before = versions(sql)
    await sync()
    assert before == versions(sql)
    lists("ref\nc\n")
    assert 2 == (await sync(accept_removals=True)).counts["removed"]


async def test_a_bad_row_keeps_its_registrant(sync: Sync, lists: Lists, sql: Sql) -> None:
    """Their source lists them, whatever else it says."""
    lists("ref,email\na,a@x.test\nb,b@x.test\n")
    await sync()
    lists("ref,email\na,a@x.test\nb,b@x.test,more\n")
    run = await sync()
    assert ("done", {"rows": 2, "unchanged": 1, "bad": 1}) == (run.state, told(run))
    assert {"a", "b"} == present(sql)


async def test_whoever_is_listed_again_comes_back(sync: Sync, lists: Lists, sql: Sql) -> None:
    """They are counted as returned, and nobody is left removed."""
    lists(people(range(5)))
    await sync()
    lists(people(range(4)))
    await sync(accept_removals=True)
    lists(people(range(5)))
    assert {"rows": 5, "returned": 1, "unchanged": 4} == told(await sync())
    assert 5 == len(present(sql))


# --- watermarks -----------------------------------------------------------------------------------


async def test_a_source_with_a_watermark_removes_nobody(
    sync: Sync, sql: Sql, database_url: str
) -> None:
    """It tells of changes alone, and is asked for what came since it was applied last."""
    sql("CREATE TABLE crm (ref text, version integer)")
    sql("INSERT INTO crm VALUES ('a', 1), ('b', 2)")
    query = "SELECT ref, version FROM crm WHERE version > :watermark"
    source = QuerySource(database_url, query, {}, watermark="version", start=0)
    assert {"rows": 2, "created": 2} == told(await sync(source, dry_run=True))
    assert {"rows": 2, "created": 2} == told(await sync(source))
    assert {} == told(await sync(source))
    sql("DELETE FROM crm WHERE ref = 'a'")
    sql("INSERT INTO crm VALUES ('c', 3)")
    assert {"rows": 1, "created": 1} == told(await sync(source))
    assert {"a", "b", "c"} == present(sql)
    assert [{"value": "3"}] == sql("SELECT value FROM watermarks")


async def test_the_watermark_is_advanced_when_the_rows_are_applied(
    sync: Sync, sql: Sql, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that breaks off before that leaves it, and its rows are asked for again."""

    async def fail(*_: object, **__: object) -> None:
        """End before anything is written."""
        raise TakenAway("somebody else has it")

    source = QuerySource(
        database_url,
        "SELECT 'a' AS ref, 7 AS version WHERE 7 > :watermark",
        {},
        watermark="version",
        start=0,
    )
    with monkeypatch.context() as patch:
        patch.setattr(SourceStore, "write", fail)
        await sync(source)
    assert [] == sql("SELECT value FROM watermarks")
    sql("UPDATE runs SET lease_until = now()")
    await sync(source)
    assert [{"value": "7"}] == sql("SELECT value FROM watermarks")


async def test_a_database_that_is_away_is_asked_after_a_pause(sync: Sync) -> None:
    """Nothing is stopped, and nobody has to be asked."""
    run = await sync(QuerySource("postgresql://u@127.0.0.1:1/db", "SELECT 1 AS ref", {}))
    assert ("waiting", 1) == (run.state, run.failures)
    assert "the database of the source cannot be reached" in (run.error or "")


# --- runs that die --------------------------------------------------------------------------------


class Died(BaseException):
    """The process is gone."""


VERBS = ("stage", "complete", "bad", "missing", "differences", "write", "remove", "drop")


class Hanging(FileSource):
    """A folder whose network goes away: behind the first page, or before anything."""

    def __init__(self, path: Path, over: Event, hang: Callable[[], object]) -> None:
        super().__init__(path, Form())
        self._over = over
        self._hang = hang

    def is_at(self, place: Place) -> bool:
        """Say nothing."""
        self._say_nothing()
        return super().is_at(place)

    def pages(self, place: Place | None, watermark: Watermark | None) -> Iterator[Page]:
        """Tell of one page, and then of none."""
        yield from super().pages(place, watermark)
        self._say_nothing()

    def _say_nothing(self) -> None:
        self._hang()
        self._over.wait()


async def test_a_source_that_says_nothing_is_left_and_asked_again(
    sync: Sync,
    path: Path,
    lists: Lists,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its run waits for a pause, where it stands, and its thread keeps no process from ending."""
    lists(people(range(3)))
    over = Event()
    silent = asyncio.Event()
    loop = asyncio.get_running_loop()
    in_time = intake._in_time  # noqa: SLF001  (no other place knows that a page is waited for)

    async def hardly(reading: asyncio.Future[Any], seconds: float | None = None) -> Any:
        """What comes may take its time; what does not come is not waited for."""
        del seconds
        hanging = asyncio.ensure_future(silent.wait())
        await asyncio.wait({reading, hanging}, return_when=asyncio.FIRST_COMPLETED)
        hanging.cancel()
        return await in_time(reading, 0.01)

    with monkeypatch.context() as patch:
        patch.setattr(intake, "_in_time", hardly)
        for _ in range(2):  # amid its pages, and when it is gone on with
            source = Hanging(path, over, partial(loop.call_soon_threadsafe, silent.set))
            run = await sync(source)
            assert ("waiting", 3) == (run.state, run.counts["rows"])
            assert "the source has said nothing" in (run.error or "")
            assert run.position is not None
    threads = [thread for thread in enumerate_threads() if thread.name == "source"]
    assert threads
    assert all(thread.daemon for thread in threads)
    over.set()
    assert ("done", 3) == ((run := await sync()).state, run.counts["created"])


def dying(monkeypatch: pytest.MonkeyPatch, deaths: Container[tuple[str, int, str]]) -> None:
    """Let whoever is at an intake die at the n-th use of a verb, before or after it is done."""
    uses: Counter[str] = Counter()
    for name in VERBS:
        verb = getattr(SourceStore, name)

        @wraps(verb)
        async def mortal(*args: Any, name: str = name, verb: Any = verb, **kwargs: Any) -> Any:
            """The verb, unless the process dies of it."""
            uses[name] += 1
            nth = uses[name]
            if (name, nth, "before") in deaths:
                raise Died
            done = await verb(*args, **kwargs)
            if (name, nth, "after") in deaths:
                raise Died
            return done

        monkeypatch.setattr(SourceStore, name, mortal)


@pytest.fixture
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of so few rows that even a short file has many."""
    monkeypatch.setattr(intake, "PAGE", 60)
    monkeypatch.setattr(intake, "CHUNK", 25)
    monkeypatch.setattr(intake, "MISSING_PAGE", 90)
    monkeypatch.setattr(intake, "FINDINGS_PAGE", 4)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1_500)


@pytest.mark.usefixtures("_small_pages")
async def test_a_run_that_dies_again_and_again_ends_complete(
    sync: Sync,
    store: Store,
    lists: Lists,
    sql: Sql,
    *,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At a random use of each verb; nobody is lost, and each bad row is counted and listed once."""
    lists(people(range(200)))
    await sync()
    bad = "".join(f"bad{n}\n" for n in range(20))
    lists(people(range(15, 220), tier="blue") + bad + "r00200,200@x.test,Ann,red\n")
    dry = await sync(dry_run=True)
    dice = random.Random(7)  # noqa: S311  (no secret)
    once = {"complete", "remove", "drop"}
    deaths = {
        (name, 1 if name in once else dice.randint(1, 2), dice.choice(("before", "after")))
        for name in VERBS
    } | {("write", 4, "before"), ("write", 7, "after")}
    dying(monkeypatch, deaths)
    died, run = 0, None
    while run is None:
        try:
            run = await sync()
        except Died:
            died += 1
            sql("UPDATE runs SET lease_until = now() WHERE state = 'running'")
    assert (10, "done", died + 1) == (died, run.state, run.attempt)
    assert told(dry) == told(run)
    assert {f"r{n:05}" for n in range(15, 220)} == present(sql)
    (red,) = sql("SELECT attributes ->> 'tier' AS tier FROM registrants WHERE ref = 'r00200'")
    assert "red" == red["tier"]
    listed = [finding.line for finding in await store.runs.findings(run.id)]
    assert [*range(207, 227)] == listed
    await sync(dry_run=True)  # which clears away what a death before the first page left
    assert [{"left": 0}] == sql(LEFT)


@pytest.mark.usefixtures("_small_pages")
async def test_a_file_that_was_replaced_meanwhile_is_read_anew(
    sync: Sync, lists: Lists, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was staged of the old one counts for nothing."""
    lists(people(range(100)))
    with monkeypatch.context() as patch:
        dying(patch, {("stage", 2, "after")})
        with pytest.raises(Died):
            await sync()
    assert sql("SELECT 1 FROM staged LIMIT 1")
    lists(people(range(1_000, 1_010)))
    sql("UPDATE runs SET lease_until = now()")
    assert {"rows": 10, "created": 10} == told(await sync())
    assert 10 == len(present(sql))


@pytest.mark.usefixtures("_small_pages")
async def test_a_run_that_is_told_to_stop_is_left_where_it_stands(
    store: Store, path: Path, lists: Lists, sql: Sql
) -> None:
    """At each of its steps; and it is gone on with until it is done."""
    lists(people(range(200)) + "bad\n")
    scheduler = Scheduler(
        store.runs, {"sync": TakeIn(store, FileSource(path, Form()))}, {"sync": None}
    )
    asked = await store.runs.ask("sync", asked_by="a test")
    stages = []
    while asked.ended_at is None:
        stopping = asyncio.Event()
        ran = await scheduler.run_due(
            "sync", stopping, run_id=asked.id, progress=lambda _, stop=stopping: stop.set()
        )
        assert ran is not None
        asked = ran
        stages.append(asked.stage)
    assert ("done", 201, 200) == (asked.state, asked.counts["rows"], asked.counts["created"])
    assert {"reading rows", "listing bad rows", "writing registrants"} < {*stages}
    assert 200 == len(present(sql))


async def test_a_worker_that_was_frozen_changes_nothing(
    store: Store, lists: Lists, sql: Sql
) -> None:
    """Its verbs are refused once somebody else has the run."""
    lists(people(range(3)))
    asked = await store.runs.ask("sync", asked_by="a test")
    frozen = await store.runs.take("sync", run_id=asked.id)
    assert frozen is not None
    taken = await store.sources.begin(frozen)
    sql("UPDATE runs SET lease_until = now()")
    assert await store.runs.take("sync", run_id=asked.id)
    late = {"source": "configured", "run": frozen}
    for verb in (
        store.sources.stage(taken, [], after=0, run=frozen),
        store.sources.take(taken, frozen),
        store.sources.write({"a": RegistrantDetails()}, **late),  # type: ignore[arg-type]
        store.sources.remove(["a"], **late),  # type: ignore[arg-type]
        store.sources.drop(taken, frozen),
    ):
        with pytest.raises(TakenAway):
            await verb
    assert set() == present(sql)


async def test_what_others_left_is_swept_away(
    sync: Sync, store: Store, path: Path, lists: Lists, sql: Sql
) -> None:
    """What a run that ended or a request that broke off left; not what a run still waits for."""
    lists(people(range(3)))
    files = FileSource(path, Form())
    waiting, broken, fresh = [await stage_files(store, files) for _ in range(3)]
    await store.runs.ask("import", asked_by="a test", options={"intake": waiting})
    sql("UPDATE intakes SET touched_at = now() - interval '2 days' WHERE id <> %s", fresh)
    run = await sync()
    orphan = await store.sources.begin(run)
    await sync()
    left = {row["id"] for row in sql("SELECT id FROM intakes")}
    assert ({waiting, fresh}, True) == (left, {broken, orphan}.isdisjoint(left))
    assert [{"rows": 6}] == sql("SELECT count(*) AS rows FROM staged")


# --- imports --------------------------------------------------------------------------------------


async def test_an_import_adds_and_changes_and_removes_nobody(
    sync: Sync, store: Store, path: Path, lists: Lists, sql: Sql
) -> None:
    """Who comes in by one is no source's; who is the source's stays so."""
    lists(people(range(10)))
    await sync()
    lists(people([0], tier="blue") + "r90000,x@x.test,Ann,gold\n")
    scheduler = Scheduler(store.runs, {"import": Import(store)}, {"import": None})
    options = {"intake": await stage_files(store, FileSource(path, Form()))}
    asked = await store.runs.ask("import", asked_by="a test", options=options)
    run = await scheduler.run_due("import", asyncio.Event(), run_id=asked.id)
    assert run is not None
    counts = {"rows": 2, "created": 1, "changed": 1, "fields": {"attributes.tier": 1}}
    assert ("done", counts) == (run.state, told(run))
    assert 11 == len(present(sql))
    assert {"configured": 10, None: 1} == {
        row["source"]: row["n"]
        for row in sql("SELECT source, count(*) AS n FROM registrants GROUP BY source")
    }
    again = await store.runs.ask("import", asked_by="a test", options=options | {"dry_run": False})
    failed = await scheduler.run_due("import", asyncio.Event(), run_id=again.id)
    assert failed is not None
    assert ("failed", True) == (failed.state, "there is nothing to take in" in (failed.error or ""))


async def test_a_file_that_cannot_be_staged_leaves_nothing(
    store: Store, path: Path, lists: Lists, sql: Sql
) -> None:
    """Also where that shows late."""
    lists(people(range(3)))
    put(path.with_name("z.csv"), "email\nno ref\n")
    with pytest.raises(sources.Unreadable, match=r"z\.csv: there is no column ref"):
        await stage_files(store, FileSource(path.parent, Form()))
    assert [{"left": 0}] == sql(LEFT)


async def test_statements_of_an_intake_go_by_its_index(
    store: Store, sql: Sql, path: Path, lists: Lists
) -> None:
    """However much of others is staged beside it, and whatever Postgres knew of it before."""
    sql("ANALYZE staged")
    lists(people(range(5_000)))
    taken = await stage_files(store, FileSource(path, Form()))
    async with store.connections.path() as connection:
        for name, given in (
            ("staged_differences", {"after": "", "number": 0, "limit": 100, "source": None}),
            ("staged_missing", {"after": "", "limit": 100, "source": "configured"}),
        ):
            cursor = await connection.execute(
                b"EXPLAIN " + statement(name), {"intake": taken, **given}
            )
            plan = "\n".join(row["QUERY PLAN"] for row in await cursor.fetchall())
            assert "staged_by_ref" in plan
            assert "staged_pkey" not in plan
