"""Simulated days: a whole installation whose database and platform travel through time together.

::

    Town            an installation that lives through days, and all that its callers saw
        Platform    the simulator, a process; its clock is set
        Replica     `milepost serve --no-worker`, a process: events and clicks go there
        Milepost    two more, here: their schedulers take due times from each other
    verify()        the verdicts, from the simulator's journal, its pages and its lists of links

A day goes by in moments. At each of them the schedulers run whatever is due by then; nothing here
runs a job that has a due time. The budget, and all that a process measures by itself, go by the
real clock.
"""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
import logging
import random
import re
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
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import class_row
from tests.battery.load import BROWSER, SECRET, Connection, Platform, Replica, Response, variables
from tests.conftest import set_clock_ahead

from milepost import app
from milepost.app import Milepost
from milepost.model import Scope
from milepost.payload import unseal
from milepost.settings import load
from milepost.store.runs import RunRecord

log = logging.getLogger(__name__)

T = TypeVar("T")

DAY: Final = timedelta(days=1)

NIGHT: Final = (2, 4)
"""Hours of a day, in UTC, at which the schedulers look, and nobody lands. In Berlin job `sync` is
due before the first of them, summer and winter, and `canary` before the second."""

BEGINS: Final = datetime(2027, 3, 1, tzinfo=UTC)
"""Before a night that has no 02:30, at which `sync` is due."""

AT_ONCE: Final = 16
"""Callers, and people with a browser, at the same time."""

TRIES: Final = 3
"""How often somebody opens a short URL that leads to a page that waits."""

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
    occurred_at: datetime


def landings(folder: Path) -> list[list[Landing]]:
    """The landings of a folder's events, by day."""
    of_day: dict[date, list[Landing]] = defaultdict(list)
    decode = msgspec.json.Decoder(Landing).decode
    for line in (folder / "events.ndjson").read_bytes().splitlines():
        landing = decode(line)
        of_day[landing.occurred_at.date()].append(landing)
    return [of_day[day] for day in sorted(of_day)]


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
    """An installation, and all that happened in it. `day` is the number of the day that goes by."""

    database_url: str
    folder: Path
    platform: Platform
    mileposts: Sequence[Milepost]
    lines: asyncio.Queue[Connection]
    pages: asyncio.Queue[Connection]
    key: str
    dice: random.Random
    customers: Customers
    hours: Sequence[int]
    milestones: list[Milestone] = field(default_factory=list)
    day: int = 0
    told: dict[str, Told] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)
    runs: list[RunRecord] = field(default_factory=list)
    dry: list[Dry] = field(default_factory=list)
    _due: list[tuple[datetime, str]] = field(default_factory=list)

    # --- time -----------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The moment, as the platform's clock and the database's were set last."""
        return self._now

    _now: datetime = BEGINS

    def travel(self, to: datetime) -> None:
        """Let it be a moment, for the database and the platform alike."""
        assert to >= self._now, "time never goes back"
        self._now = to
        set_clocks(self.database_url, self.platform, to)

    async def live(
        self, day: Sequence[Landing], *, registrants: Sequence[Mapping[str, str]]
    ) -> None:
        """Live through a day.

        Args:
            day: who lands.
            registrants: who is known; of the others some come, with the next days.
        """
        self.write(registrants)
        await self.mileposts[0].import_file(self.source, asked_by="a test")
        begins = BEGINS + self.day * DAY
        for hour in NIGHT:
            self.travel(begins + timedelta(hours=hour))
            await self.work()
        for number, hour in enumerate(self.hours):
            self.travel(begins + timedelta(hours=hour))
            await self.work()
            await self.happen(day[number :: len(self.hours)])
            await self.open_due()
            await self.drain()
        self.day += 1

    async def work(self) -> None:
        """Let the schedulers run whatever is due, one process a job and the other the next."""
        for name in self.mileposts[0].scheduler.jobs:
            for milepost in itertools.islice(itertools.cycle(self.mileposts), self.day, None):
                run = await milepost.scheduler.run_due(name, asyncio.Event())
                if run is None:
                    break
                self.runs.append(run)
        self.dry += [Dry(self._now, *row) for row in self._read(_DRY)]

    async def drain(self) -> None:
        """What workers are always at."""
        for milepost in self.mileposts:
            await milepost.drain.run_once()
            await milepost.sweep.run_once()

    # --- registrants ----------------------------------------------------------------------------

    def write(self, registrants: Sequence[Mapping[str, str]]) -> None:
        """Let these be the registrants of the source, from the next run of `sync` on."""
        half = self.source.with_suffix(".half")
        with half.open("w", newline="", encoding="utf-8") as lines:
            rows = csv.DictWriter(lines, list(registrants[0]))
            rows.writeheader()
            rows.writerows(registrants)
        half.rename(self.source)

    @property
    def source(self) -> Path:
        """Where registrants come from."""
        return self.folder / "registrants.csv"

    # --- events ---------------------------------------------------------------------------------

    async def register(self, milestone: Milestone) -> None:
        """Have a milestone, from now on."""
        definition = {"survey_id": self.platform.survey_id, "fields": FIELDS}
        await self.call("PUT", f"/v1/milestones/{milestone.key}", definition | milestone.definition)
        self.milestones.append(milestone)

    async def happen(self, day: Sequence[Landing]) -> None:
        """Ask for the links of landings: of half of them one at a time, of the others together."""
        events = [
            (milestone.key, landing)
            for landing in day
            for milestone in self.milestones
            if milestone.is_passed(landing)
        ]
        singly, together = events[::2], events[1::2]
        await self._each(singly, self._ask)
        await self._each(
            [together[n : n + 100] for n in range(0, len(together), 100)], self._ask_all
        )

    async def _ask(self, event: tuple[str, Landing]) -> None:
        link = await self.call("POST", "/v1/links", self._event(*event))
        await self._hear(*event, link)

    async def _ask_all(self, events: Sequence[tuple[str, Landing]]) -> None:
        body = {"events": [self._event(*event) for event in events]}
        results = (await self.call("POST", "/v1/links/batch", body))["results"]
        for event, result in zip(events, results, strict=True):
            assert "link" in result, result
            await self._hear(*event, result["link"])

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
            at=self._now,
            id=UUID(link["id"]),
            state=link["state"],
            lane=link["lane"],
            url=link["url"],
            rule=link["reason"] and link["reason"]["rule"],
        )
        self.told[told.event_id] = told
        if told.url is None:
            return
        if told.rule == "registrant-unknown":
            # Whoever opens it before they are known is shown a page that waits, for seconds.
            self._due.append((self._now, told.event_id))
            return
        drawn = self.dice.random()
        if drawn < self.customers.at_once:
            await self._visit(told)
        elif drawn < self.customers.at_once + self.customers.later:
            (of,) = (one for one in self.milestones if one.key == milestone)
            lives = of.definition.get("link_days", 60)
            at = self._now + 1.5 * lives * self.dice.random() * DAY
            self._due.append((at, told.event_id))

    # --- customers ------------------------------------------------------------------------------

    async def open_due(self) -> None:
        """Let those open their URL whose time has come."""
        waiting = {event_id for (event_id,) in self._read(_WAITING)}
        due = [one for at, one in self._due if at <= self._now and one not in waiting]
        self._due = [(at, one) for at, one in self._due if at > self._now or one in waiting]
        await self._each(due, lambda event_id: self._visit(self.told[event_id]))

    async def _visit(self, told: Told) -> None:
        url: str | None = told.url or ""
        if urlsplit(url).path.startswith("/l/"):
            url, state = await self._led(urlsplit(url).path)
            if url is None:
                visit = Visit(
                    event_id=told.event_id, at=self._now, url=None, state=state, answered=False
                )
                self.visits.append(visit)
                return
        page = await self._page("GET", url or "")
        state = _state(page)
        answered = False
        if state == "open" and self.dice.random() < self.customers.answering:
            session = re.search(rb'name="session" value="(FS_\w{15})"', page.body)
            assert session is not None, page.body
            sent = await self._page("POST", url or "", b"session=" + session[1] + b"&QID1=5")
            assert "thanks" == _state(sent)
            answered = True
        self.visits.append(
            Visit(event_id=told.event_id, at=self._now, url=url, state=state, answered=answered)
        )

    async def _led(self, path: str) -> tuple[str | None, str]:
        """Where a short URL leads, and what was shown if nowhere."""
        for _ in range(TRIES):
            answer = await self._over(self.lines, "GET", path, BROWSER)
            if answer.status != httpx.codes.OK:
                break
        return answer.headers.get("location"), str(answer.status)

    async def _page(self, method: str, url: str, body: bytes = b"") -> Response:
        path = url.removeprefix(f"http://127.0.0.1:{self.platform.port}")
        return await self._over(self.pages, method, path, FORM if body else {}, body)

    # --- over the wire --------------------------------------------------------------------------

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """Call the REST API; the answer must be one of success."""
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        content = b"" if body is None else json.dumps(body).encode()
        answer = await self._over(self.lines, method, path, headers, content)
        assert answer.status < httpx.codes.BAD_REQUEST, (method, path, answer)
        return json.loads(answer.body)

    async def _over(
        self,
        lines: asyncio.Queue[Connection],
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> Response:
        line = await lines.get()
        try:
            return await line.send(method, path, headers, body)
        finally:
            lines.put_nowait(line)

    async def _each(self, of: Iterable[T], do: Callable[[T], Awaitable[None]]) -> None:
        """Do something with each, some of them at once."""
        waiting = iter(of)

        async def work() -> None:
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
        headers = {"x-api-token": "simulator"}
        with httpx.Client(headers=headers, trust_env=False, timeout=30) as web:
            for (distribution,) in self._read(_DISTRIBUTIONS):
                path = f"distributions/{distribution}/links?surveyId={self.platform.survey_id}"
                url: str | None = f"{self.platform.url}/{path}"
                while url is not None:
                    result = web.get(url).raise_for_status().json()["result"]
                    for element in result["elements"]:
                        lookup = re.search(r"CGC_\w{15}", element["link"])
                        found[distribution, lookup[0] if lookup else ""] = element["link"]
                    url = result["nextPage"]
        return found


def _state(page: Response) -> str:
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
    hours: Sequence[int] = (9, 17),
    seed: int = 0,
) -> AsyncIterator[Town]:
    """A town before its first day: nobody is known, and there is no milestone.

    Args:
        database_url: where Milepost lives.
        folder: for files and logs.
        customers: what they do with links.
        hours: of a day at which people land, in UTC, after the night.
        seed: of all that is drawn.
    """
    async with AsyncExitStack() as stack:
        platform = Platform(folder, "--limits", "none", "--seed", str(seed))
        stack.callback(platform.stop)
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
            }
        )
        settings = load(environment, folder)
        mileposts = [
            await stack.enter_async_context(app.opened(settings, database_url)) for _ in range(2)
        ]
        _, key = await mileposts[0].store.keys.create("days", [Scope.ADMIN])
        replica = Replica(folder / "serve.log", environment, "--no-worker")
        stack.callback(replica.stop)
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
            folder=folder,
            platform=platform,
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


# --- the witness ----------------------------------------------------------------------------------


class _Body(Struct, rename="camel"):
    expiration_date: datetime | None = None
    private_embedded_data: dict[str, str] = {}


class _Entry(Struct):
    at: datetime
    operation: str
    ids: dict[str, str] = {}
    body: msgspec.Raw = msgspec.Raw(b"{}")


class Written(Struct, frozen=True):
    """A link's data came to the platform."""

    at: datetime
    link: UUID
    data: Mapping[str, str]


class Witness(Struct, frozen=True):
    """What the platform's journal holds."""

    expires: dict[str, datetime]
    """When links of a distribution expire, by its id."""
    deleted: set[str]
    """Distributions that were deleted."""
    writes: dict[str, list[Written]]
    """By lookup id, in order."""
    opened: dict[tuple[str, str], tuple[datetime, Written | None]]
    """When a link was opened first, and what the survey saw then, by distribution and lookup id."""
    completed: dict[tuple[str, str], datetime]
    """When the survey was answered, likewise."""

    @classmethod
    def read(cls, path: Path) -> Witness:
        """The journal of a simulator, up to now."""
        found = cls({}, set(), defaultdict(list), {}, {})
        decode = msgspec.json.Decoder(_Entry).decode
        for line in path.read_bytes().splitlines():
            entry = decode(line)
            place = (entry.ids.get("distribution", ""), entry.ids.get("lookup", ""))
            match entry.operation:
                case "distribution.create":
                    body = msgspec.json.decode(entry.body, type=_Body)
                    assert body.expiration_date is not None, line
                    found.expires[place[0]] = body.expiration_date
                case "distribution.delete":
                    found.deleted.add(place[0])
                case "list_contact.add" | "list_contact.update":
                    data = msgspec.json.decode(entry.body, type=_Body).private_embedded_data
                    sealed = data.get("milepost_ref")
                    link = unseal(sealed, SECRET.encode()) if sealed else None
                    if link is not None:
                        found.writes[place[1]].append(Written(entry.at, link, data))
                case "session.start":
                    written = found.writes.get(place[1])
                    found.opened[place] = (entry.at, written[-1] if written else None)
                case "response.complete":
                    found.completed[place] = entry.at
                case _:
                    pass
        return found


# --- the ledger -----------------------------------------------------------------------------------


class Row(Struct, frozen=True):
    """A link as the ledger holds it."""

    id: UUID
    event_id: str
    milestone: str
    ref: str
    state: str
    rule: str | None
    lane: str | None
    published: str | None
    url: str | None
    short_url: str | None
    lookup_id: str | None
    reuses: UUID | None
    created_at: datetime
    issued_at: datetime | None
    expires_at: datetime | None
    data_at: datetime | None
    distribution_id: str | None
    min_link_days: int

    @property
    def answered(self) -> str | None:
        """The URL that callers are given."""
        return {"short": self.short_url, "personal": self.url, None: None}[self.published]

    @property
    def place(self) -> tuple[str, str]:
        """What its URL names."""
        return (self.distribution_id or "", self.lookup_id or "")

    @property
    def is_own(self) -> bool:
        """It has a place of its own at the platform."""
        return self.state == "issued" and self.reuses is None


class Generation(Struct, frozen=True):
    """A distribution of a pool."""

    milestone: str
    number: int
    generation: int
    state: str
    distribution_id: str | None
    calibrated_at: datetime | None
    takes_until: datetime
    expires_at: datetime


_LEDGER: Final = """
    SELECT l.id, l.event_id, l.milestone, l.ref, l.state, l.rule, l.lane, l.published,
        coalesce(l.url, original.url) AS url, l.short_url, l.lookup_id, l.reuses,
        l.created_at, l.issued_at, l.expires_at, l.data_at, d.distribution_id, m.min_link_days
    FROM links AS l
    JOIN milestones AS m ON m.key = l.milestone
    LEFT JOIN links AS original ON original.id = l.reuses
    LEFT JOIN distributions AS d ON d.id = l.distribution_id
    ORDER BY l.id"""

_GENERATIONS: Final = """
    SELECT s.milestone, s.number, d.generation, d.state, d.distribution_id, d.calibrated_at,
        d.takes_until, d.expires_at
    FROM distributions AS d JOIN slots AS s ON s.id = d.slot_id
    WHERE s.milestone IS NOT NULL
    ORDER BY s.milestone, s.number, d.generation"""


def _rows(database_url: str, statement: str, kind: type[T]) -> list[T]:
    with (
        psycopg.connect(database_url) as connection,
        connection.cursor(row_factory=class_row(kind)) as cursor,
    ):
        return cursor.execute(statement.encode()).fetchall()


# --- the verdict ----------------------------------------------------------------------------------

CLOCKS: Final = timedelta(seconds=2)
"""By which the clocks of the database and the platform may differ, and a call be out."""

EXAMPLES: Final = 3


class Verdict(Struct, frozen=True, kw_only=True):
    """What the days came to, in numbers."""

    days: int
    events: int
    links: int
    lanes: dict[str, int]
    rules: dict[str, int]
    visits: dict[str, int]
    distributions: int
    generations: int
    """Of the slot that has most."""
    slots: dict[str, int]
    shortest_days: float
    """That a link had left when it was made."""
    calls: int
    runs: dict[str, int]


def verify(
    town: Town,
    *,
    warm: int,
    listed: Sequence[tuple[datetime, Listing]] = (),
    stops: bool = False,
) -> Verdict:
    """Hold what came against what is promised, and tell all that differs.

    Args:
        town: as it is after its days.
        warm: days in which an event may find no place, until pools know what people need.
        listed: what the platform listed, up to a moment each; what it lists now holds for the rest.
        stops: whether milestones were stopped, so that events had to wait and runs asked for
            somebody.

    Raises:
        AssertionError: with all that differs.
    """
    calls = town.platform.calls()["calls"]
    rows = _rows(town.database_url, _LEDGER, Row)
    pools = _rows(town.database_url, _GENERATIONS, Generation)
    witness = Witness.read(town.platform.journal)
    own = [row for row in rows if row.is_own]
    differing = [
        *_as_told(town, rows),
        *_settled(rows),
        *_long_enough(own, witness),
        *_in_place(own, witness),
        *_with_their_data(town, own, witness),
        *_pages(town, rows),
        *_listed(own, [*listed, (datetime.max.replace(tzinfo=UTC), town.listing())]),
        *_renewed(town, pools, witness),
        *([] if stops else _never_dry(town, warm)),
        *_run_once(town, stops=stops),
    ]
    assert not differing, "\n".join(differing)
    latest = {(one.milestone, one.number): one.generation for one in pools}
    verdict = Verdict(
        days=town.day,
        events=len(rows),
        links=len(own),
        lanes=Counter(str(row.lane) for row in own),
        rules=Counter(f"{row.state}/{row.rule}" for row in rows),
        visits=Counter(visit.state for visit in town.visits),
        distributions=len(pools),
        generations=max(latest.values()),
        slots=Counter(milestone for milestone, _ in latest),
        shortest_days=min(_left(row, witness) / DAY for row in own),
        calls=calls,
        runs=Counter(run.job for run in town.runs),
    )
    log.info("%s", verdict)
    return verdict


def _differ(expected: str, of: Sequence[str], count: int) -> Iterator[str]:
    if of:
        yield f"expected: {expected}; came: {len(of)} of {count} others, such as {of[:EXAMPLES]}"


def _as_told(town: Town, rows: Sequence[Row]) -> Iterator[str]:
    by_event = {row.event_id: row for row in rows}
    lost = [event_id for event_id in town.told if event_id not in by_event]
    yield from _differ("a row for each event", lost, len(town.told))
    extra = [event_id for event_id in by_event if event_id not in town.told]
    yield from _differ("no row but for an event", extra, len(rows))
    other = [
        told.event_id
        for told in town.told.values()
        if told.url is not None and told.url != by_event[told.event_id].answered
    ]
    yield from _differ("what was told first is what is told for ever", other, len(town.told))


def _settled(rows: Sequence[Row]) -> Iterator[str]:
    fine = {
        ("issued", None),
        ("issued", "once"),
        ("suppressed", "once"),
        ("suppressed", "cooldown"),
    }
    other = [
        f"{row.event_id}: {row.state}/{row.rule}"
        for row in rows
        if (row.state, row.rule) not in fine
    ]
    yield from _differ("every event issued, or left out by its milestone's rule", other, len(rows))


def _made_at(row: Row, witness: Witness) -> datetime:
    """When a link was made at the platform, or given out if that was before."""
    written = (one.at for one in witness.writes.get(row.place[1], ()) if one.link == row.id)
    return min(filter(None, (next(written, None), row.issued_at)))


def _left(row: Row, witness: Witness) -> timedelta:
    return witness.expires[row.place[0]] - _made_at(row, witness)


def _long_enough(own: Sequence[Row], witness: Witness) -> Iterator[str]:
    short = [
        f"{row.event_id}: {_left(row, witness)}"
        for row in own
        if _left(row, witness) < row.min_link_days * DAY - CLOCKS
    ]
    yield from _differ("each link lives for `min_link_days` when it is made", short, len(own))
    untrue = [row.event_id for row in own if row.expires_at != witness.expires[row.place[0]]]
    yield from _differ("each link expires when the platform says", untrue, len(own))


def _in_place(own: Sequence[Row], witness: Witness) -> Iterator[str]:
    """The two rules of a slot, by the journal."""
    of_place = Counter(row.place for row in own)
    of_person = Counter((row.place[0], row.ref) for row in own)
    twice = [
        row.event_id
        for row in own
        if of_place[row.place] > 1 or of_person[row.place[0], row.ref] > 1
    ]
    yield from _differ("one link for each distribution and registrant", twice, len(own))
    by_lookup: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(own, key=lambda row: _made_at(row, witness)):
        by_lookup[row.place[1]].append(row)
    overlapping = []
    for rows in by_lookup.values():
        for earlier, later in itertools.pairwise(rows):
            ended = min(
                witness.expires[earlier.place[0]],
                witness.completed.get(earlier.place, datetime.max.replace(tzinfo=UTC)),
            )
            if _made_at(later, witness) < ended - CLOCKS:
                overlapping.append(f"{earlier.event_id} and {later.event_id}")
    yield from _differ("one live link for each list and registrant", overlapping, len(own))


def _with_their_data(town: Town, own: Sequence[Row], witness: Witness) -> Iterator[str]:
    by_id = {row.id: row for row in own}
    strange, wrong = [], []
    for lookup, writes in witness.writes.items():
        for written in writes:
            row = by_id.get(written.link)
            if row is None or row.lookup_id != lookup:
                strange.append(str(written.link))
            elif any(
                written.data.get(name) != (None if value is None else str(value))
                for name, value in town.told[row.event_id].data.items()
            ):
                wrong.append(row.event_id)
    yield from _differ("no data but of a link that was issued there", strange, len(own))
    yield from _differ("each link's data are its event's", wrong, len(own))
    unwritten = [
        row.event_id
        for row in own
        if not any(one.link == row.id for one in witness.writes.get(row.place[1], ()))
    ]
    yield from _differ("each link's data are at the platform", unwritten, len(own))
    mixed = []
    by_place = {row.place: row for row in own}
    for place, (at, written) in witness.opened.items():
        row = by_place[place]
        is_late = row.lane == "ready" and (row.data_at is None or row.data_at > at - CLOCKS)
        if (written is None or written.link != row.id) and not is_late:
            mixed.append(row.event_id)
    yield from _differ("a survey that is opened shows its own event's data", mixed, len(own))


def _pages(town: Town, rows: Sequence[Row]) -> Iterator[str]:
    """What people saw: the survey while their link lives, and once."""
    by_event = {row.event_id: row for row in rows}
    seen: set[str] = set()
    wrong = []
    for visit in town.visits:
        row = by_event[visit.event_id]
        url = visit.url or ""
        if url in seen:
            expected = "taken"
        elif row.expires_at is not None and visit.at < row.expires_at:
            expected = "open"
        else:
            expected = "410" if visit.url is None else "expired"
        if visit.answered:
            seen.add(url)
        if visit.state != expected or (visit.url is not None and visit.url != row.url):
            wrong.append(f"{visit.event_id}: {visit.state}, not {expected}, at {visit.at}")
    yield from _differ("links open while they live, once", wrong, len(town.visits))


def _listed(own: Sequence[Row], listed: Sequence[tuple[datetime, Listing]]) -> Iterator[str]:
    wrong = []
    for row in own:
        assert row.issued_at is not None
        listing = next(listing for until, listing in listed if row.issued_at < until)
        if listing.get(row.place) != row.url:
            wrong.append(f"{row.event_id}: {row.url}, not {listing.get(row.place)}")
    yield from _differ("each link is the one that the platform lists", wrong, len(own))


def _renewed(town: Town, pools: Sequence[Generation], witness: Witness) -> Iterator[str]:
    of_slot: dict[tuple[str, int], list[Generation]] = defaultdict(list)
    for one in pools:
        of_slot[one.milestone, one.number].append(one)
    wrong = []
    for slot, generations in of_slot.items():
        first = generations[0]
        assert first.calibrated_at is not None, slot
        age, takes = town.now - first.calibrated_at, first.takes_until - first.calibrated_at
        least, most = age // takes + 1, age // (takes * 3 / 4) + 1
        if not least <= len(generations) <= most:
            wrong.append(f"{slot}: {len(generations)}, not {least} to {most}")
        wrong += [
            f"{slot} g{one.generation}: {one.state}"
            for one in generations
            if one.state
            not in (
                {"ready"}
                if one.takes_until > town.now
                else {"draining", "retired"}
                if one.expires_at > town.now
                else {"retired"}
            )
        ]
    yield from _differ("each slot renewed in time, and what is old let go", wrong, len(of_slot))
    deleted = [one.distribution_id for one in pools if one.distribution_id in witness.deleted]
    yield from _differ(
        "no distribution of a pool deleted", [str(one) for one in deleted], len(pools)
    )


def _never_dry(town: Town, warm: int) -> Iterator[str]:
    yield from _differ(
        "a distribution on each slot", [str(one) for one in town.dry], len(town.runs)
    )
    without = [
        f"{told.event_id}: {told.rule}"
        for told in town.told.values()
        if told.day >= warm and told.rule in ("no-slot", "pool-empty")
    ]
    yield from _differ(f"a place for every event from day {warm} on", without, len(town.told))


def _run_once(town: Town, *, stops: bool) -> Iterator[str]:
    """Every due time had its run, and one run."""
    fine = {"done", "stopped"} if stops else {"done"}
    broken = [f"{run.job} {run.due_at}: {run.error}" for run in town.runs if run.state not in fine]
    yield from _differ("every run done", broken, len(town.runs))
    for job, every in (("sync", DAY), ("canary", DAY), ("rotate", timedelta(hours=1))):
        due = [run for run in town.runs if run.job == job and run.asked_by is None]
        passed = sum(1 + run.coalesced for run in due[1:])
        expected = round((due[-1].due_at - due[0].due_at) / every) if due else -1
        if passed != expected or len({run.due_at for run in due}) != len(due):
            yield f"expected: {expected} due times of {job} after the first; came: {passed}"
        if every == DAY and (len(due) != town.day or any(run.coalesced for run in due)):
            yield f"expected: {job} once a day; came: {len(due)} times in {town.day} days"
