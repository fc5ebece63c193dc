"""After a restore: what the platform knows and the ledger does not is found before it is made."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psycopg
import pytest
from psycopg import sql
from tests.conftest import set_clock_ahead
from tests.path.conftest import Platform

from milepost import app
from milepost.app import Milepost
from milepost.errors import DatabaseBusy, EventMismatch, Recovering
from milepost.issuing import Answer
from milepost.model import (
    DriftKind,
    Event,
    Field,
    Lane,
    MilestoneDefinition,
    RegistrantDetails,
    Reminders,
    Route,
)
from milepost.payload import REFERENCE_FIELD
from milepost.settings import Settings
from milepost.store.recovered import RecoveredStore
from milepost.upstream import Forbidden, Upstream

PEOPLE = tuple(f"p{number}" for number in range(6))


class World:
    """An installation that is backed up, lost, and restored.

    Its database is copied while nobody is connected; the platform goes on as it is.
    """

    def __init__(self, settings: Settings, database_url: str, server: str) -> None:
        self.settings = settings
        self.url = database_url
        self._server = server
        self._numbers = itertools.count()
        self.databases: list[sql.Identifier] = []

    @asynccontextmanager
    async def opened(self, **changes: object) -> AsyncIterator[Milepost]:
        """A process of it; a setting may be another one."""
        settings = msgspec.structs.replace(self.settings, **changes)
        async with app.opened(settings, self.url) as milepost:
            yield milepost

    @asynccontextmanager
    async def recovered(self) -> AsyncIterator[Milepost]:
        """A process that was told that the database is restored, when job `recover` has ended."""
        async with self.opened(recover=True) as milepost:
            run = await milepost.run("recover", asked_by="test")
            assert (None, "done") == (run.error, run.state)
            await asyncio.wait_for(milepost.recovery.over(), 10)
            yield milepost

    def back_up(self) -> str:
        """Copy the database as it is now; returns the URL of the copy."""
        name = f"{urlsplit(self.url).path[1:]}_{next(self._numbers)}"
        copied = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
            sql.Identifier(name), sql.Identifier(urlsplit(self.url).path[1:])
        )
        with psycopg.connect(self._server, autocommit=True) as server:
            server.execute(copied)
        self.databases.append(sql.Identifier(name))
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process hears at once that it is over; no event goes without calls on a busy machine."""
    monkeypatch.setattr("milepost.jobs.recover.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("milepost.issuing.GRANT_SECONDS", 8.0)


@pytest.fixture
def world(settings: Settings, database_url: str, postgres_url: str) -> Iterator[World]:
    """An installation."""
    world = World(settings, database_url, postgres_url)
    yield world
    with psycopg.connect(postgres_url, autocommit=True) as server:
        for database in world.databases:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


def event(number: int, **changes: object) -> Event:
    """An event of one of the people."""
    usual = Event(
        event_id=f"e{number}",
        milestone="landed",
        ref=PEOPLE[number % len(PEOPLE)],
        data={"gate": f"gate {number}"},
        occurred_at=None,
        asked_by="app",
    )
    return msgspec.structs.replace(usual, **changes)


async def register(milepost: Milepost, platform: Platform, **definition: object) -> None:
    """Write down the people and milestone `landed`; nothing is made of its pool."""
    people = {ref: RegistrantDetails(email=f"{ref}@example.com") for ref in PEOPLE}
    await milepost.store.registrants.put(people)
    wanted = {"survey_id": platform.ready.survey_id, "fields": (Field(name="gate"),), **definition}
    await milepost.store.milestones.put("landed", MilestoneDefinition(**wanted))


async def issue(milepost: Milepost, numbers: range) -> list[Answer]:
    """Issue events, one after the other."""
    return [await milepost.issuing.issue(event(number)) for number in numbers]


def urls(answers: list[Answer]) -> dict[str, str | None]:
    """What was answered to which event."""
    return {answer.link.event_id: answer.link.url for answer in answers}


async def made(platform: Platform) -> Counter[str]:
    """How many places in a list, or transactions, the platform has accepted of each event."""
    places = set()
    for entry in await platform.entries():
        ids, body = entry.get("ids", {}), entry.get("body", {})
        if entry["operation"] in ("list_contact.add", "list_contact.update"):
            data = body.get("privateEmbeddedData", {})
            places.add((data.get("gate"), ids["lookup"]))
        if entry["operation"] == "transaction.create":
            for key, each in body.items():
                places.add((each["data"].get("gate"), ids[f"transaction.{key}"]))
    return Counter(gate for gate, _ in places if gate is not None)


@pytest.mark.parametrize("route", list(Route))
async def test_a_replay_after_a_restore_gets_the_same_links(
    world: World, platform: Platform, route: Route
) -> None:
    """The backup is older than the pool: its lists, batches and distributions are found as well."""
    async with world.opened() as milepost:
        await register(milepost, platform, route=route)
        if route in (Route.TRANSACTION, Route.STEPWISE):
            await milepost.run("sync", asked_by="test")
    backup = world.back_up()
    async with world.opened() as milepost:
        await milepost.replenish.run_once()
        before = urls(await issue(milepost, range(8)))
    assert None not in before.values()
    world.url = backup

    async with world.recovered() as milepost:
        lost = await milepost.store.recovered.lost()
        if route is Route.ANONYMOUS:
            await milepost.replenish.run_once()
        again = await issue(milepost, range(8))
        assert before == urls(again)
        assert 0 == await milepost.store.recovered.lost()
        fresh = (await milepost.issuing.issue(event(8))).link.url
        assert fresh is not None
        assert fresh not in before.values()
    assert (0 if route is Route.ANONYMOUS else 8) == lost
    expected = {} if route is Route.ANONYMOUS else {f"gate {number}": 1 for number in range(9)}
    assert expected == await made(platform)


async def test_other_events_take_nobodys_place_and_nobodys_name(
    world: World, platform: Platform
) -> None:
    """They come before those that were lost come again; of these the registrants are known."""
    async with world.opened() as milepost:
        await register(milepost, platform)
        await milepost.replenish.run_once()
    backup = world.back_up()
    async with world.opened() as milepost:
        before = urls(await issue(milepost, range(8)))
    world.url = backup
    async with world.recovered() as milepost:
        lost = await milepost.store.drift.page(kind=DriftKind.LOST_EVENT)
        assert 8 == len(lost)
        fresh = urls(await issue(milepost, range(20, 24)))
        assert not {*fresh.values()} & {*before.values()}
        with pytest.raises(EventMismatch) as refused:
            await milepost.issuing.issue(event(0, ref="p5"))
        assert ("registrant",) == refused.value.fields
        again = await issue(milepost, range(8))
        assert before == urls(again)
        assert {flag.link_id for flag in lost} == {answer.link.id for answer in again}
        assert [] == await milepost.store.drift.page(kind=DriftKind.LOST_EVENT)
    assert {f"gate {n}": 1 for n in (*range(8), *range(20, 24))} == await made(platform)


DEFERRED = (Lane.READY, Lane.DEFERRED)
"""No call is made at the time of the event."""


def token(url: str | None) -> str:
    """What a short URL ends with."""
    assert url is not None
    return url.rpartition("/l/")[2]


async def test_until_it_is_over_only_what_the_ledger_knows_is_told(
    world: World, platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """Other events are asked to come back, no job begins, and no link is made for anybody."""
    async with world.opened() as milepost:
        await register(milepost, platform, lanes=DEFERRED)
        await milepost.replenish.run_once()
        before = urls(await issue(milepost, range(2)))
    await platform.forget()
    async with world.opened(recover=True) as milepost:
        assert before == urls(await issue(milepost, range(2)))
        with pytest.raises(Recovering):
            await milepost.issuing.issue(event(2))
        assert await milepost.scheduler.run_due("sync", asyncio.Event()) is None
        assert 2 == (await milepost.drain.run_once()).broken_off
        opened = await milepost.issuing.click(token(before["e0"]))
        assert (None, None) == (opened.url, opened.gone)
    assert [] == await platform.writes()
    assert 1 == caplog.text.count("until job recover has ended, new events are answered")


async def test_short_urls_are_the_same_and_open(world: World, platform: Platform) -> None:
    """Those whose links were made open before their events come again, the others after that."""
    async with world.opened() as milepost:
        await register(milepost, platform, lanes=DEFERRED)
        await milepost.replenish.run_once()
    backup = world.back_up()
    async with world.opened() as milepost:
        before = urls(await issue(milepost, range(4)))
        await milepost.drain.run_once()
        before |= urls(await issue(milepost, range(4, 5)))
        unmade = token(urls(await issue(milepost, range(5, 6)))["e5"])
    world.url = backup
    async with world.recovered() as milepost:
        assert 4 == await milepost.store.recovered.lost()
        assert (await milepost.store.links.look(token(before["e0"]))).url is not None
        assert before == urls(await issue(milepost, range(5)))
        # By now calls are made for events: that this one was not called for, nobody can tell.
        await register(milepost, platform, lanes=(Lane.DIRECT, Lane.DEFERRED))
    async with world.opened(recover=True) as milepost:
        await asyncio.wait_for(milepost.recovery.over(), 10)
        now = (await milepost.issuing.issue(event(5), deadline_ms=8_000)).link.url
        assert now == (await milepost.store.links.look(unmade)).url
        await milepost.drain.run_once()
    assert {f"gate {number}": 1 for number in range(6)} == await made(platform)


async def test_a_link_that_waited_at_the_backup_is_found(world: World, platform: Platform) -> None:
    """It was made since, and is not made again; endpoints are told as of any other."""
    async with world.opened() as milepost:
        await register(milepost, platform, lanes=DEFERRED)
        await milepost.replenish.run_once()
        answers = await issue(milepost, range(4))
        before, waiting = urls(answers), {answer.link.id for answer in answers}
        endpoint, _ = await milepost.store.messages.create("http://127.0.0.1:9/", (), "")
    backup = world.back_up()
    async with world.opened() as milepost:
        await milepost.drain.run_once()
    await platform.forget()
    world.url = backup
    async with world.recovered() as milepost:
        told = await milepost.store.messages.page(endpoint.id)
        assert {(answer, "link.issued") for answer in waiting} == {
            (message.link_id, message.type) for message in told
        }
        *_, run = await milepost.store.runs.page("recover")
        assert (4, 0) == (run.counts["settled"], run.counts["links"])
        assert 0 == (await milepost.drain.run_once()).issued
        assert before == urls(await issue(milepost, range(4)))
    assert {} == await made(platform)


async def test_it_is_done_once_for_each_restore(world: World) -> None:
    """Started again it is over at once; but not when somebody has served without it in between."""
    async with world.recovered():
        pass
    async with world.opened(recover=True) as milepost:
        await asyncio.wait_for(milepost.recovery.over(), 10)
        await milepost.store.recovered.forget()
    async with world.opened(recover=True) as milepost:
        await milepost.scheduler.standings(["recover"])
        assert milepost.recovery.is_under_way()


async def test_an_event_that_comes_late_gets_its_link(world: World, platform: Platform) -> None:
    """Nobody recovers any more; its link, found at the platform, still holds its place and name."""
    async with world.opened() as milepost:
        await register(milepost, platform, lanes=DEFERRED)
        await milepost.replenish.run_once()
    backup = world.back_up()
    async with world.opened() as milepost:
        before = urls(await issue(milepost, range(2)))
        await milepost.drain.run_once()
    world.url = backup
    async with world.recovered() as milepost:
        assert 2 == await milepost.store.recovered.lost()
    async with world.opened() as milepost:
        outcomes = await milepost.issuing.issue_all([event(number) for number in range(3)])
        answers = [each for each in outcomes if isinstance(each, Answer)]
        assert before == urls(answers[:2])
        assert 3 == len(answers)
        assert 0 == await milepost.store.recovered.lost()
    assert {"gate 0": 1, "gate 1": 1} == await made(platform)


async def chained(world: World, platform: Platform) -> dict[str, str | None]:
    """Two links of route `stepwise` and then one of a list, all since the backup restored now."""
    async with world.opened() as milepost:
        await register(milepost, platform)
        chain = MilestoneDefinition(
            survey_id=platform.ready.survey_id, fields=(Field(name="gate"),), route=Route.STEPWISE
        )
        await milepost.store.milestones.put("chain", chain)
        await milepost.run("sync", asked_by="test")
        await milepost.replenish.run_once()
    backup = world.back_up()
    async with world.opened() as milepost:
        before = urls(await chains(milepost))
        await asyncio.sleep(1.1)  # batches tell their time in whole seconds
        await issue(milepost, range(10, 11))
    world.url = backup
    return before


async def chains(milepost: Milepost) -> list[Answer]:
    """Issue the two events of route `stepwise`."""
    return [await milepost.issuing.issue(event(number, milestone="chain")) for number in range(2)]


async def test_an_attempt_that_breaks_off_is_followed_by_a_whole_one(
    world: World, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first has brought in is later than batches that it has not got to."""
    monkeypatch.setattr("milepost.jobs.recover.MARGIN", timedelta(0))
    monkeypatch.setattr("milepost.scheduler.FIRST_PAUSE_SECONDS", 0.1)
    before = await chained(world, platform)
    whole, broken = Upstream.distribution_links, asyncio.Event()

    def breaks_off_once(self: Upstream, *given: str) -> AsyncIterator[Any]:
        """Postgres is away at the first chain."""
        if not broken.is_set():
            broken.set()
            raise DatabaseBusy("away")
        return whole(self, *given)

    monkeypatch.setattr(Upstream, "distribution_links", breaks_off_once)
    async with world.opened(recover=True) as milepost:
        for _ in range(2):  # the one that was begun is ended before another is
            await milepost.run("recover", asked_by="test")
        *_, run = await milepost.store.runs.page("recover")
        assert ("done", 3) == (run.state, run.counts["links"])
        await asyncio.wait_for(milepost.recovery.over(), 10)
        assert before == urls(await chains(milepost))
    assert {"gate 0": 1, "gate 1": 1, "gate 10": 1} == await made(platform)


async def test_what_cannot_be_read_is_a_finding(
    world: World, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's batch is in nobody's way, nor is a survey that no milestone names now.

    A later run looks from the same moment as the first, and so finds what can be read by then.
    """
    before = await chained(world, platform)
    whole, refused = Upstream.batch_pages, set[str]()

    def refuses_one(self: Upstream, directory_id: str, batch_id: str, **given: Any) -> Any:
        """The first batch that is read is somebody else's."""
        if not refused:
            refused.add(batch_id)
            raise Forbidden("batch_pages", "not yours")
        return whole(self, directory_id, batch_id, **given)

    async def none(_: object) -> dict[str, list[str]]:
        """No milestone of route `stepwise` has a survey."""
        return {}

    monkeypatch.setattr("milepost.jobs.recover.MARGIN", timedelta(0))
    with monkeypatch.context() as unreadable:
        unreadable.setattr(Upstream, "batch_pages", refuses_one)
        unreadable.setattr("milepost.store.recovered.RecoveredStore.surveys", none)
        async with world.recovered() as milepost:
            *_, run = await milepost.store.runs.page("recover")
            assert ("done", 1, 2) == (run.state, run.counts["links"], run.counts["found"])
    async with world.opened(recover=True) as milepost:
        for _ in range(2):  # the first may be one that was asked for in vain before
            await milepost.run("recover", asked_by="test")
        assert 3 == await milepost.store.recovered.lost()
        assert before == urls(await chains(milepost))


async def test_what_was_noted_of_a_link_goes_with_it_to_its_event(
    world: World, platform: Platform
) -> None:
    """Its reminder reaches the key that asks for it, and drift is its milestone's.

    Of two milestones with one survey it was found as a link of the other one.
    """
    async with world.opened() as milepost:
        usual = {"route": Route.STEPWISE, "reminders": Reminders(after_days=0)}
        await register(milepost, platform, **usual)
        known = await milepost.store.milestones.get("landed")
        await milepost.store.milestones.put("boarded", known.definition)
        await milepost.run("sync", asked_by="test")
    backup = world.back_up()
    async with world.opened() as milepost:
        own = [event(n, milestone=key) for n, key in enumerate(("landed", "boarded"))]
        before = {(await milepost.issuing.issue(each)).link.id: each.milestone for each in own}
    world.url = backup
    async with world.recovered() as milepost:
        set_clock_ahead(world.url, timedelta(minutes=2))
        reminders = milepost.store.reminders
        for key in before.values():
            await reminders.gather(key, after_days=0, link_days=60)
        for each in own:
            await milepost.issuing.issue(each)
        with psycopg.connect(world.url) as database:
            flagged = dict(database.execute("SELECT link_id, milestone FROM drift").fetchall())
        assert before == flagged
        for key in before.values():
            due, _ = await reminders.due({key: 0}, 9, asked_by="app")
            assert [key] == [before[reminder.link_id] for reminder in due]


@pytest.mark.parametrize("route", [Route.LIST, Route.ANONYMOUS])
async def test_what_was_answered_since_the_backup_is_brought_in_again(
    world: World, platform: Platform, route: Route
) -> None:
    """By the history. None tells of plain links: somebody must say which responses there are."""
    async with world.opened() as milepost:
        await register(milepost, platform, route=route)
        await milepost.replenish.run_once()
    await platform.switch(declared_fields=["gate", REFERENCE_FIELD])
    backup = world.back_up()
    async with world.opened() as milepost:
        (answer,) = await issue(milepost, range(1))
    response_id = await platform.answer(str(answer.link.url))
    world.url = backup
    async with world.recovered() as milepost:
        await milepost.replenish.run_once()
        await issue(milepost, range(1))
        if route is Route.ANONYMOUS:
            await milepost.store.responses.note(platform.ready.survey_id, response_id)
        run = await milepost.run("reconcile", asked_by="test", options={"thorough": True})
        assert ("done", 1) == (run.state, run.counts["finished"])
        link = await milepost.store.links.find(event_id="e0")
        assert link is not None
        assert response_id == link.response_id


async def test_a_run_by_hand_stands_in_no_backup(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever serves and recovers nothing forgets again and again that somebody has."""
    forget, forgotten = RecoveredStore.forget, asyncio.Event()

    async def tells(self: RecoveredStore) -> None:
        """Forget, and say so."""
        await forget(self)
        forgotten.set()

    monkeypatch.setattr(RecoveredStore, "forget", tells)
    async with world.opened() as milepost:
        async with world.opened(recover=True) as command:
            assert "done" == (await command.run("recover", asked_by="test")).state
        assert await milepost.store.recovered.is_over()
        stopping = asyncio.Event()
        work = asyncio.create_task(milepost.worker.run(stopping))
        await asyncio.wait_for(forgotten.wait(), 10)
        stopping.set()
        await work
        assert not await milepost.store.recovered.is_over()


async def test_a_person_of_an_earlier_distribution_is_looked_at(
    world: World, platform: Platform
) -> None:
    """Their place in the list is the same one; a link that is known already is no finding."""
    async with world.opened() as milepost:
        await register(milepost, platform)
        await milepost.replenish.run_once()
        before = urls(await issue(milepost, range(1)))
    with psycopg.connect(world.url) as database:
        (lookup, slot), *_ = database.execute(
            "SELECT lookup_id, slot_id FROM links WHERE lookup_id IS NOT NULL"
        ).fetchall()
    async with world.opened(recover=True) as milepost:
        assert {lookup} == await milepost.store.recovered.known([lookup], slot)
        with psycopg.connect(world.url) as database:
            database.execute(_SUCCESSOR, [slot])
        assert set() == await milepost.store.recovered.known([lookup], slot)
        run = await milepost.run("recover", asked_by="test")
        assert ("done", 0, 0) == (run.state, run.counts["links"], run.counts["found"])
        assert before == urls(await issue(milepost, range(1)))


async def test_a_link_that_was_made_late_stands_on_what_took_links_then(
    world: World, platform: Platform
) -> None:
    """Its distribution was chosen at its call; that of a link made at once, when its event came."""
    async with world.opened() as milepost:
        await register(milepost, platform, lanes=DEFERRED)
        await milepost.replenish.run_once()
    backup = world.back_up()
    async with world.opened() as milepost:
        await issue(milepost, range(1))
        await milepost.drain.run_once()
        await register(milepost, platform, lanes=(Lane.DIRECT, Lane.DEFERRED))
    async with world.opened() as milepost:
        await issue(milepost, range(1, 2))
    world.url = backup
    with psycopg.connect(world.url) as database:
        (slot,) = database.execute(
            "SELECT id FROM slots WHERE milestone IS NOT NULL AND number = 1"
        ).fetchall()
        database.execute(_SUCCESSOR, slot)
    async with world.recovered():
        pass
    with psycopg.connect(world.url) as database:
        found = database.execute(
            "SELECT lane, generation FROM links AS l JOIN distributions AS d"
            " ON d.id = l.distribution_id"
        ).fetchall()
    assert {("deferred", 2), ("direct", 1)} == {*found}


async def test_a_finding_holds_no_half_of_a_link(world: World, platform: Platform) -> None:
    """Who may read findings may see distributions: with a lookup id they would make the link."""
    async with world.opened() as milepost:
        await register(milepost, platform, lanes=DEFERRED)
        await milepost.replenish.run_once()
        await issue(milepost, range(1))
    backup = world.back_up()
    async with world.opened() as milepost:
        await milepost.drain.run_once()
    with psycopg.connect(world.url) as database:
        ((lookup,),) = database.execute("SELECT lookup_id FROM links").fetchall()
    world.url = backup
    with psycopg.connect(world.url) as database:
        database.execute("UPDATE links SET state = 'failed', rule = 'no-slot', due_at = NULL")
    async with world.recovered() as milepost:
        *_, run = await milepost.store.runs.page("recover")
        (finding,) = await milepost.store.runs.findings(run.id)
    assert "has ended, or another one is in its place" in finding.reason
    assert "list" == finding.source
    assert lookup not in str(finding)


_SUCCESSOR = """
    INSERT INTO distributions (
        slot_id, generation, description, state, distribution_id, template, made_at, calibrated_at,
        expires_at, takes_until, created_at)
    SELECT slot_id, generation + 1, description || ' next', 'ready', 'EMD_000000000000000',
        template, milepost_now(), milepost_now(), expires_at, takes_until, milepost_now()
    FROM distributions WHERE slot_id = %s
"""
