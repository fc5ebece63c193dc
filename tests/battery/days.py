"""Simulated days: a whole installation whose database and platform travel through time together.

::

    Town            an installation that lives through days, and all that its callers saw
        Platform    the simulator, a process; its clock is set
        Replica     `milepost serve --no-worker`, a process: events and clicks go there
        Milepost    two more, here: their schedulers take due times from each other

A day goes by in moments. At each of them the schedulers run whatever is due by then; nothing here
runs a job that has a due time. The budget, and all that a process measures by itself, go by the
real clock. What came of it is looked at in the end, in `days_verdicts.py`.
"""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
import logging
import random
import re
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import msgspec
import psycopg
from msgspec import Struct
from tests.battery.load import BROWSER, SECRET, Connection, Platform, Replica, Response, variables
from tests.conftest import set_clock_ahead

from milepost import app
from milepost.app import Milepost
from milepost.calendars import Every
from milepost.model import Scope
from milepost.scheduler import CADENCES
from milepost.settings import load
from milepost.store.runs import RunRecord

log = logging.getLogger(__name__)

T = TypeVar("T")

DAY: Final = timedelta(days=1)

NIGHT: Final = (2, 4)
"""Hours of a day, in UTC, at which the schedulers look, and nobody lands. In Berlin job `sync` is
due before the first of them, summer and winter, and `canary` before the second."""

BEGINS: Final = datetime(2027, 3, 22, tzinfo=UTC)
"""The sixth night from it has no 02:30 in Berlin, at which `sync` is due."""

DUE: Final = tuple(name for name, one in CADENCES.items() if isinstance(one.due, str | Every))
"""The jobs that have due times, in the order in which they are looked at."""

APART: Final = timedelta(minutes=40)
"""Between two landings of one person, at the least: planes fly. Job `replenish` looks meanwhile."""

AT_ONCE: Final = 16
"""Callers, and people with a browser, at the same time."""

TRIES: Final = 3
"""How often somebody opens a short URL that leads to a page that waits."""

LONG_WAITS: Final = ("registrant-unknown", "route-stopped", "pool-empty", "no-slot", "once")
"""What no click can end."""

FORM: Final = {"content-type": "application/x-www-form-urlencoded"}

FIELDS: Final = (
    {"name": "carrier"},
    {"name": "flight", "type": "integer"},
    {"name": "origin"},
    {"name": "destination"},
    {"name": "arrival_delay_minutes", "type": "integer"},
)


# --- what happens ---------------------------------------------------------------------------------


class Landing(Struct, frozen=True):
    """Something that happened to somebody, on one of the days that the file has."""

    event_id: str
    registrant: str
    data: dict[str, str | int | None]


def landings(folder: Path) -> list[list[Landing]]:
    """The landings of a folder's events, by day, as people there call it: ids begin with it."""
    of_day: dict[str, list[Landing]] = defaultdict(list)
    decode = msgspec.json.Decoder(Landing).decode
    for line in (folder / "events.ndjson").read_bytes().splitlines():
        landing = decode(line)
        of_day[landing.event_id[:8]].append(landing)
    return [of_day[day] for day in sorted(of_day)]


def waves(day: Iterable[Landing]) -> list[list[Landing]]:
    """Landings in their order, one of each person at a time."""
    found: list[list[Landing]] = []
    landed: Counter[str] = Counter()
    for landing in day:
        number = landed[landing.registrant]
        landed[landing.registrant] += 1
        if number == len(found):
            found.append([])
        found[number].append(landing)
    return found


def people(folder: Path) -> list[dict[str, str]]:
    """The registrants of a folder, as rows."""
    with (folder / "registrants.csv").open(newline="", encoding="utf-8") as rows:
        return list(csv.DictReader(rows))


class Milestone(Struct, frozen=True, kw_only=True):
    """A milestone, and how many of the landings pass it."""

    key: str
    percent: int
    definition: Mapping[str, Any]

    def is_passed(self, landing: Landing) -> bool:
        """Whether a landing does; always the same ones."""
        return zlib.crc32(f"{self.key} {landing.event_id}".encode()) % 100 < self.percent


class Customers(Struct, frozen=True, kw_only=True):
    """What part of those who were given a URL open it when; the rest never do."""

    at_once: float
    later: float
    """At a moment within half as long again as links live, so that some are too late."""
    answering: float
    """What part of them answer the survey."""


NOBODY: Final = Customers(at_once=0, later=0, answering=0)


# --- what was seen --------------------------------------------------------------------------------


class Told(Struct, kw_only=True):
    """An event, and what its caller was told first."""

    event_id: str
    milestone: str
    ref: str
    data: Mapping[str, str | int | None]
    day: int
    at: datetime
    id: UUID
    state: str
    lane: str | None
    url: str | None
    rule: str | None


class Visit(Struct, frozen=True, kw_only=True):
    """Somebody opened what an event's caller was given."""

    event_id: str
    at: datetime
    """When it was begun."""
    by: datetime
    """When the page was there."""
    url: str | None
    """Of the survey; None: the short URL did not lead there."""
    state: str
    """Of the page, as it says by itself; a status where it is none of the platform's."""
    answered: bool


class Dry(Struct, frozen=True):
    """A slot that had been ready took no links, at a moment after the jobs had run."""

    at: datetime
    milestone: str
    slot: int


Listing = Mapping[tuple[str, str], str]
"""What the platform lists: a link, by its distribution and lookup id."""


# --- the town -------------------------------------------------------------------------------------


@dataclass
class Town:
    """An installation, and all that happened in it.

    Attributes:
        source: The file that registrants come from.
        registrants: Who is in it.
        now: The moment, as the clocks were set last; they go on by themselves.
        day: The number of the day that goes by.
        told: By event id.
        dry: Slots that took no links at some moment.
        headroom: Days for which pools could have gone on by themselves, at the end of each day.
    """

    database_url: str
    source: Path
    platform: Platform
    replica: Replica
    mileposts: list[Milepost]
    lines: asyncio.Queue[Connection]
    pages: asyncio.Queue[Connection]
    key: str
    dice: random.Random
    customers: Customers
    hours: Sequence[int]
    milestones: list[Milestone] = field(default_factory=list)
    registrants: Sequence[Mapping[str, str]] = ()
    now: datetime = BEGINS
    day: int = 0
    told: dict[str, Told] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)
    runs: list[RunRecord] = field(default_factory=list)
    dry: list[Dry] = field(default_factory=list)
    headroom: list[tuple[int, str, float]] = field(default_factory=list)
    _since: float = 0.0
    _due: list[tuple[datetime, str]] = field(default_factory=list)

    # --- time -----------------------------------------------------------------------------------

    def travel(self, to: datetime) -> None:
        """Let it be a moment, for the database and the platform alike."""
        assert to >= self.now, "time never goes back"
        self.now = to
        set_clocks(self.database_url, self.platform, to)
        self._since = time.monotonic()

    @property
    def moment(self) -> datetime:
        """What the clocks show by now."""
        return self.now + timedelta(seconds=time.monotonic() - self._since)

    async def live(
        self, day: Sequence[Landing], *, registrants: Sequence[Mapping[str, str]]
    ) -> None:
        """Live through a day.

        Args:
            day: who lands.
            registrants: who is in the source from this night on.
        """
        self.write(registrants)
        begins = BEGINS + self.day * DAY
        for hour in NIGHT:
            self.travel(begins + timedelta(hours=hour))
            await self.work()
        parts = len(self.hours)
        for number, hour in enumerate(self.hours):
            self.travel(begins + timedelta(hours=hour))
            part = day[len(day) * number // parts : len(day) * (number + 1) // parts]
            for wave in waves(part):
                await self.work()
                await self.happen(wave)
                await self.open_due()
                await self.drain()
                self.travel(self.now + APART)
        for milestone in self.milestones:
            pool = await self.call("GET", f"/v1/milestones/{milestone.key}/pool")
            if pool["is_tended"]:
                self.headroom.append((self.day, milestone.key, pool["headroom_days"]))
        self.day += 1

    async def rest(self) -> None:
        """Let time go by until all that waits has been looked at once more."""
        self.travel(self.now + APART)
        await self.work()
        await self.drain()

    async def work(self) -> None:
        """Let the schedulers run whatever is due, one process a job and the other the next."""
        turns = itertools.cycle(self.mileposts[self.day % 2 :] + self.mileposts[: self.day % 2])
        for name in DUE:
            run = await next(turns).scheduler.run_due(name, asyncio.Event())
            if run is not None:
                self.runs.append(run)
        self.dry += [Dry(self.now, *row) for row in self._read(_DRY)]

    async def drain(self) -> None:
        """What workers are always at."""
        for milepost in self.mileposts:
            await milepost.drain.run_once()
            await milepost.sweep.run_once()
            await milepost.responses.run_once()

    # --- registrants ----------------------------------------------------------------------------

    def write(self, registrants: Sequence[Mapping[str, str]]) -> None:
        """Let these be the registrants of the source, from the next run of `sync` on."""
        self.registrants = registrants
        half = self.source.with_suffix(".half")
        with half.open("w", newline="", encoding="utf-8") as lines:
            rows = csv.DictWriter(lines, list(registrants[0]))
            rows.writeheader()
            rows.writerows(registrants)
        half.rename(self.source)

    def contacts(self) -> dict[str, str]:
        """The first names that the platform has of people, by ref."""
        with self.browser() as web:
            (directory,) = elements(web, "directories")
            contacts = elements(web, f"directories/{directory['directoryId']}/contacts")
            return {one["extRef"]: one["firstName"] for one in contacts if one["extRef"]}

    # --- events ---------------------------------------------------------------------------------

    async def register(self, milestone: Milestone) -> None:
        """Have a milestone, from now on; one of the same key is replaced."""
        definition = {"survey_id": self.platform.survey_id, "fields": FIELDS}
        await self.call("PUT", f"/v1/milestones/{milestone.key}", definition | milestone.definition)
        self.milestones = [one for one in self.milestones if one.key != milestone.key]
        self.milestones.append(milestone)

    async def happen(self, day: Sequence[Landing]) -> None:
        """Ask for the links of landings: of a quarter one at a time, of the others together."""
        events = [
            (milestone.key, landing)
            for landing in day
            for milestone in self.milestones
            if milestone.is_passed(landing)
        ]
        singly = events[::4]
        together = [event for number, event in enumerate(events) if number % 4]
        await self.each(singly, self._ask)
        await self.each(
            [together[n : n + 100] for n in range(0, len(together), 100)], self._ask_all
        )

    async def _ask(self, event: tuple[str, Landing]) -> None:
        link = await self.call("POST", "/v1/links", self._event(*event))
        await self._hear(*event, link)

    async def _ask_all(self, events: Sequence[tuple[str, Landing]]) -> None:
        body = {"events": [self._event(*event) for event in events]}
        results = (await self.call("POST", "/v1/links/batch", body))["results"]
        for event, result in zip(events, results, strict=True):
            if "link" in result:
                await self._hear(*event, result["link"])
            else:  # the database was busy for it, as it may be for one that is asked for alone
                await self._ask(event)

    def _event(self, milestone: str, landing: Landing) -> dict[str, Any]:
        return {
            "event_id": f"{self.day} {milestone} {landing.event_id}",
            "milestone": milestone,
            "registrant": landing.registrant,
            "data": landing.data,
        }

    async def _hear(self, milestone: str, landing: Landing, link: Mapping[str, Any]) -> None:
        told = Told(
            event_id=link["event_id"],
            milestone=milestone,
            ref=landing.registrant,
            data=landing.data,
            day=self.day,
            at=self.now,
            id=UUID(link["id"]),
            state=link["state"],
            lane=link["lane"],
            url=link["url"],
            rule=link["reason"] and link["reason"]["rule"],
        )
        self.told[told.event_id] = told
        if told.url is None:
            return
        if told.state == "waiting" and told.rule in LONG_WAITS:
            # Whoever opens it before it can be made is shown a page that waits, for seconds.
            self._due.append((self.now, told.event_id))
            return
        drawn = self.dice.random()
        if drawn < self.customers.at_once:
            await self._visit(told)
        elif drawn < self.customers.at_once + self.customers.later:
            (of,) = (one for one in self.milestones if one.key == milestone)
            lives = of.definition.get("link_days", 60)
            at = self.now + 1.5 * lives * self.dice.random() * DAY
            self._due.append((at, told.event_id))

    # --- customers ------------------------------------------------------------------------------

    async def open_due(self) -> None:
        """Let those open their URL whose time has come."""
        waiting = {event_id for (event_id,) in self._read(_WAITING)}
        due = [one for at, one in self._due if at <= self.now and one not in waiting]
        self._due = [(at, one) for at, one in self._due if at > self.now or one in waiting]
        await self.each(due, lambda event_id: self._visit(self.told[event_id]))

    async def _visit(self, told: Told) -> None:
        at, url, answered = self.moment, told.url, False
        if urlsplit(url or "").path.startswith("/l/"):
            url, state = await self.led(urlsplit(url or "").path)
        if url is not None:
            page = await self.page("GET", url)
            state = state_of(page)
            if state == "open" and self.dice.random() < self.customers.answering:
                answered = await self._answer(url, page)
        visit = Visit(
            event_id=told.event_id, at=at, by=self.moment, url=url, state=state, answered=answered
        )
        self.visits.append(visit)

    async def _answer(self, url: str, page: Response) -> bool:
        session = re.search(rb'name="session" value="(FS_\w{15})"', page.body)
        assert session is not None, page.body
        sent = await self.page("POST", url, b"session=" + session[1] + b"&QID1=5")
        # Somebody else may have been given the same link, and be at it as well.
        assert state_of(sent) in ("thanks", "taken"), sent
        return state_of(sent) == "thanks"

    async def led(self, path: str) -> tuple[str | None, str]:
        """Where a short URL leads, and what was shown if nowhere."""
        for _ in range(TRIES):
            answer = await self.over(self.lines, "GET", path, BROWSER)
            if answer.status != httpx.codes.OK:
                break
        return answer.headers.get("location"), str(answer.status)

    async def page(self, method: str, url: str, body: bytes = b"") -> Response:
        """Have a page of the survey: open it, or send its form off."""
        path = url.removeprefix(f"http://127.0.0.1:{self.platform.port}")
        return await self.over(self.pages, method, path, FORM if body else {}, body)

    # --- over the wire --------------------------------------------------------------------------

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """Call the REST API; the answer must be one of success."""
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        content = b"" if body is None else json.dumps(body).encode()
        answer = await self.over(self.lines, method, path, headers, content)
        while answer.status == httpx.codes.SERVICE_UNAVAILABLE:
            await asyncio.sleep(float(answer.headers["retry-after"]))
            answer = await self.over(self.lines, method, path, headers, content)
        assert answer.status < httpx.codes.BAD_REQUEST, (method, path, answer)
        return json.loads(answer.body)

    async def over(
        self,
        lines: asyncio.Queue[Connection],
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> Response:
        """Send a request over the first of these connections that is free."""
        line = await lines.get()
        try:
            return await line.send(method, path, headers, body)
        finally:
            lines.put_nowait(line)

    async def each(self, of: Iterable[T], do: Callable[[T], Awaitable[None]]) -> None:
        """Do something with each, some of them at once."""
        waiting = iter(of)

        async def work() -> None:
            """Do it with one after the other."""
            for one in waiting:
                await do(one)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())

    # --- looking --------------------------------------------------------------------------------

    def _read(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(statement.encode()).fetchall()

    def listing(self) -> Listing:
        """All links that the platform lists of our distributions, now."""
        found = {}
        with self.browser() as web:
            for (distribution,) in self._read(_DISTRIBUTIONS):
                path = f"distributions/{distribution}/links?surveyId={self.platform.survey_id}"
                for element in elements(web, path):
                    lookup = re.search(r"CGC_\w{15}", element["link"])
                    found[distribution, lookup[0] if lookup else ""] = element["link"]
        return found

    def browser(self) -> httpx.Client:
        """The platform's API, as its own people use it."""
        return httpx.Client(
            base_url=self.platform.url,
            headers={"x-api-token": "simulator"},
            timeout=30,
            trust_env=False,
        )


def elements(web: httpx.Client, path: str) -> Iterator[Any]:
    """All elements of a paged answer of the platform."""
    url: str | None = path
    while url is not None:
        result = web.get(url).raise_for_status().json()["result"]
        yield from result["elements"]
        url = result["nextPage"]


def state_of(page: Response) -> str:
    """What a page says of itself; its status, where it is none of the platform's."""
    found = re.search(rb'data-state="(\w+)"', page.body)
    return found[1].decode() if found else str(page.status)


def set_clocks(database_url: str, platform: Platform, to: datetime) -> None:
    """Let it be a moment, for the database and the platform alike."""
    set_clock_ahead(database_url, to - datetime.now(UTC))
    platform.control("PUT", "clock", {"now": to.strftime("%Y-%m-%dT%H:%M:%SZ")})


@asynccontextmanager
async def town(
    database_url: str,
    folder: Path,
    *,
    customers: Customers,
    hours: Sequence[int] = (12,),
    seed: int = 0,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Town]:
    """A town before its first day: nobody is known, and there is no milestone.

    Args:
        database_url: where Milepost lives.
        folder: for files and logs.
        customers: what they do with links.
        hours: of a day at which people land, in UTC, after the night.
        seed: of all that is drawn.
        settings: of Milepost, without their prefix, beside those that a town has anyway.
    """
    async with AsyncExitStack() as stack:
        source = folder / "registrants.csv"
        source.write_text("ref,email\n")
        platform = Platform(folder, "--limits", "none", "--seed", str(seed))
        # In a thread: while it ends, connections to it must go on closing.
        stack.push_async_callback(asyncio.to_thread, platform.stop)
        platform.start()
        set_clocks(database_url, platform, BEGINS)
        environment = variables(
            {
                "DATABASE_URL": database_url,
                "UPSTREAM_URL": platform.url,
                "UPSTREAM_TOKEN": "simulator",
                "SECRET": SECRET,
                "PUBLIC_URL": "https://go.example.com",
                "RATE_PER_MINUTE": "1000000",
                "LIMITS": "none",
                "TIME_ZONE": "Europe/Berlin",
                "REGISTRANTS_SOURCE": str(source),
                **(settings or {}),
            }
        )
        loaded = load(environment, folder)
        mileposts = [
            await stack.enter_async_context(app.opened(loaded, database_url)) for _ in range(2)
        ]
        _, key = await mileposts[0].store.keys.create("days", [Scope.ADMIN])
        replica = Replica(folder / "serve.log", environment, "--no-worker")
        stack.push_async_callback(asyncio.to_thread, replica.stop)
        replica.start()
        lines: asyncio.Queue[Connection] = asyncio.Queue()
        pages: asyncio.Queue[Connection] = asyncio.Queue()
        for _ in range(AT_ONCE):
            for queue, address in ((lines, replica.address), (pages, platform.url)):
                line = Connection(address)
                stack.callback(line.close)
                queue.put_nowait(line)
        made = Town(
            database_url=database_url,
            source=source,
            platform=platform,
            replica=replica,
            mileposts=mileposts,
            lines=lines,
            pages=pages,
            key=key,
            dice=random.Random(seed),  # noqa: S311  (the same days each time)
            customers=customers,
            hours=hours,
        )
        await made.work()  # due times are those after somebody has looked first
        yield made


_WAITING: Final = "SELECT event_id FROM links WHERE due_at IS NOT NULL"

_DRY: Final = """
    SELECT s.milestone, s.number
    FROM slots AS s
    JOIN milestones AS m ON m.key = s.milestone AND m.survey_id = s.survey_id
    JOIN distributions AS d ON d.slot_id = s.id
    WHERE d.calibrated_at IS NOT NULL AND m.stopped_at IS NULL
    GROUP BY s.milestone, s.number
    HAVING NOT bool_or(d.state = 'ready' AND d.takes_until > milepost_now())"""

_DISTRIBUTIONS: Final = """
    SELECT DISTINCT d.distribution_id
    FROM distributions AS d JOIN links AS l ON l.distribution_id = d.id
    WHERE d.distribution_id IS NOT NULL"""
