"""The demo: a day of real landings becomes personal survey links, and every claim is checked.

It runs what a user would run: an embedded Postgres (a database of its own, made anew each time),
the simulator and the service as processes, the service's REST API over HTTP. One link is opened and
answered as a customer's browser would do it. The same day comes again as a peak, which is answered
with short links at once; the calls follow.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from html.parser import HTMLParser
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec
import psycopg
import uvloop
from msgspec import Struct
from rich.console import Console
from rich.live import Live
from rich.table import Table

from milepost import app, personal_link, settings
from milepost.app import Milepost
from milepost.embedded import EmbeddedPostgres
from milepost.errors import ConfigurationError, MilepostError, UpstreamError
from milepost.local import free_port, local_simulator, process
from milepost.model import Scope
from milepost.replay import Tally, replay
from milepost.settings import Settings
from milepost.store import migrate

MILESTONE: Final = "landed"
PEAK: Final = "landed-peak"
PEAK_SECONDS: Final = 60
"""How long the links of the peak may take to be true at the platform; usually a few seconds."""
SLOTS: Final = 5  # the busiest aircraft of the day landed five times
FIELDS: Final = (
    {"name": "carrier", "required": True, "max_length": 2},
    {"name": "flight", "type": "integer", "required": True},
    {"name": "origin", "required": True, "max_length": 3},
    {"name": "destination", "required": True, "max_length": 3},
    {"name": "arrival_delay_minutes", "type": "integer"},
)
DATABASE: Final = "demo"
REPLAYED_AGAIN: Final = 100
ADD: Final = "list_contact.add"
JOURNAL_END: Final = 2**53
START_SECONDS: Final = 30

console = Console(highlight=False)


class Interrupted(MilepostError):
    """A part of the demo stopped answering before everything was checked."""


class Check(Struct, frozen=True):
    """Something the demo claims, and whether it is so."""

    claim: str
    holds: bool


class Demo(Struct, frozen=True, kw_only=True):
    """The demo while it is up."""

    milepost: Milepost
    """For its jobs; links are asked for at the service."""
    service: httpx.AsyncClient
    simulator: httpx.AsyncClient
    key: str
    admin_key: str

    @property
    def url(self) -> str:
        """The address of the service."""
        return str(self.service.base_url).rstrip("/")


def run_demo(*, stay: bool, port: int, simulator_port: int) -> int:
    """Run the demo.

    Args:
        stay: keep everything up until Ctrl-C, for the reader to try.
        port: where the service answers; another one that is free where it is taken.
        simulator_port: where the simulator does, unless one is there already.

    Returns:
        The exit code: 0 only if every claim was checked and holds.

    Raises:
        MilepostError: it could not be run to its end.
    """
    begun = time.monotonic()
    home = settings.HOME.absolute()
    with ExitStack() as parts:
        log_path = parts.enter_context(_only_one(home))
        state = home / "demo-simulator.state"
        state.unlink(missing_ok=True)  # the database is made anew, and the account with it
        await_simulator = parts.enter_context(local_simulator(state, simulator_port))
        database_url = _fresh_database(parts.enter_context(EmbeddedPostgres(home)))
        _step("Postgres is up", begun)
        _step(await_simulator(), begun)
        port = free_port(port)
        environment = {
            "MILEPOST_DATABASE_URL": database_url,
            "MILEPOST_UPSTREAM_URL": settings.simulator_url(simulator_port),
            "MILEPOST_UPSTREAM_TOKEN": settings.SIMULATOR_TOKEN,
            "MILEPOST_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "MILEPOST_SECRET": os.urandom(32).hex(),
            "MILEPOST_RATE_PER_MINUTE": str(settings.MAX_RATE_PER_MINUTE),  # as the simulator
            "MILEPOST_LIMITS": "none",
        }
        log = parts.enter_context(log_path.open("wb"))
        service = parts.enter_context(
            process("serve", "--port", str(port), environment=os.environ | environment, stderr=log)
        )
        given = settings.load(environment, home)
        try:
            holds = uvloop.run(_demo(given, service, port, begun, stay=stay))
        except (httpx.HTTPError, UpstreamError) as error:
            raise Interrupted(
                f"a part of the demo went away ({type(error).__name__}); {log_path} may say why"
            ) from error
        if not holds:
            raise Interrupted(f"not all of it holds; {log_path} may say why")
    return 0


async def _demo(
    given: Settings, service: subprocess.Popen[bytes], port: int, begun: float, *, stay: bool
) -> bool:
    async with _up(given, service, port, begun) as demo:
        events = _events()
        tally, adds = await _replay(demo, events)
        checks = _count_links(events, tally, adds)
        checks.append(await _send_again(demo, events, tally))
        for event in _two_of_one(events):
            checks.extend(await _answer(demo, event, tally.urls.get(event["event_id"])))
        checks.extend(await _peak(demo, events))
        console.print()
        for check in checks:
            mark = "[green]✓[/]" if check.holds else "[red]✗[/]"
            console.print(f"{mark} {check.claim}", soft_wrap=True)
        holds = all(check.holds for check in checks)
        if stay and holds:
            _invite(demo, events[0], tally)
            await _wait_for_the_end()
    return holds


# --- what the demo starts -------------------------------------------------------------------------


@contextmanager
def _only_one(home: Path) -> Iterator[Path]:
    """Keep others from making the database anew under a demo that runs; yields the log's path."""
    path = home / "demo.log"
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise ConfigurationError(
            f"the demo cannot write to {path} ({error.strerror}): run it in a folder of yours"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                "a demo runs in this folder already: end it (Ctrl-C where it runs), or wait for it"
            ) from error
        yield path


def _fresh_database(server_url: str) -> str:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {DATABASE}".encode())
    url = urlsplit(server_url)._replace(path=f"/{DATABASE}").geturl()
    migrate.upgrade(url)
    return url


@asynccontextmanager
async def _up(
    given: Settings, process: subprocess.Popen[bytes], port: int, begun: float
) -> AsyncIterator[Demo]:
    """The demo with registrants, a milestone and its pool; the service starts meanwhile."""
    async with (
        app.opened(given, given.database_url or "") as milepost,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as service,
        httpx.AsyncClient(
            base_url=given.upstream_url.removesuffix("/API/v3"),
            headers={"X-API-TOKEN": settings.SIMULATOR_TOKEN},
            trust_env=False,
        ) as simulator,
    ):
        with as_file(_data("registrants.csv")) as path:
            imported = await milepost.import_file(path, asked_by="demo")
        _step(f"{imported.counts['created']} registrants are imported", begun)
        synced = await milepost.run("sync", asked_by="demo")
        _step(f"{synced.counts['made']} of them have a contact at the platform", begun)
        _, key = await milepost.store.keys.create("demo-app", [Scope.ISSUE])
        _, admin_key = await milepost.store.keys.create("demo-admin", [Scope.ADMIN])
        demo = Demo(
            milepost=milepost,
            service=service,
            simulator=simulator,
            key=key,
            admin_key=admin_key,
        )
        await _await_health(demo, process)
        _step(f"Milepost answers at {demo.url}", begun)
        survey_id = await _survey_id(demo)
        definition = {
            "survey_id": survey_id,
            "slots": SLOTS,
            "max_slots": SLOTS,
            "fields": FIELDS,
            "deadline_ms": 8000,  # so that also a slow machine shows what a call gives
        }
        for key, lanes in ((MILESTONE, ["direct", "deferred"]), (PEAK, ["deferred"])):
            answer = await service.put(
                f"/v1/milestones/{key}",
                json=definition | {"lanes": lanes},
                headers={"Authorization": f"Bearer {admin_key}"},
            )
            answer.raise_for_status()
        _step(f"milestone {MILESTONE!r} is registered for survey {survey_id}", begun)
        await milepost.replenish.run_once()
        pool = await milepost.store.pools.entries(MILESTONE, survey_id)
        ready = sum(entry.state == "ready" for entry in pool)
        _step(f"its pool has {ready} slots, each calibrated", begun)
        yield demo


async def _await_health(demo: Demo, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            if (await demo.service.get("/health/ready")).is_success:
                return
        except httpx.TransportError:
            await asyncio.sleep(0.05)  # a process that is starting has nothing to be awaited by
    raise Interrupted(f"milepost serve does not start; see {settings.HOME.absolute()}/demo.log")


async def _survey_id(demo: Demo) -> str:
    """The one active survey that the simulator has; a user reads it off the platform's pages."""
    answer = (await demo.simulator.get("/API/v3/surveys")).raise_for_status().json()
    return str(next(s["id"] for s in answer["result"]["elements"] if s["isActive"]))


# --- the main job ---------------------------------------------------------------------------------


async def _replay(demo: Demo, events: list[bytes]) -> tuple[Tally, int]:
    """Send the day's events; returns what came back, and the adds in the simulator's journal."""
    console.print()
    before = await _journal_end(demo)
    shown = Tally()

    def show(tally: Tally) -> None:
        nonlocal shown
        shown = tally

    with Live(console=console, get_renderable=lambda: _table(shown, len(events))):
        tally = await replay(events, url=demo.url, key=demo.key, progress=show)
    return tally, await _adds(demo, after=before)


async def _journal_end(demo: Demo) -> int:
    answer = await demo.simulator.get("/control/journal", params={"after": JOURNAL_END})
    return int(answer.raise_for_status().json()["last"])


async def _adds(demo: Demo, after: int, milestone: str = MILESTONE) -> int:
    """Contacts added to a milestone's lists behind an entry of the simulator's journal.

    The simulator may serve others too, so only our lists count.
    """
    survey_id = (await demo.milepost.store.milestones.get(milestone)).definition.survey_id
    pool = await demo.milepost.store.pools.entries(milestone, survey_id)
    ours = {entry.list_id for entry in pool}
    adds = 0
    while True:
        answer = await demo.simulator.get("/control/journal", params={"after": after})
        entries = answer.raise_for_status().json()["entries"]
        if not entries:
            return adds
        adds += sum(e["operation"] == ADD and e["ids"]["mailing_list"] in ours for e in entries)
        after = entries[-1]["seq"]


def _table(tally: Tally, total: int) -> Table:
    table = Table(show_edge=False, pad_edge=False, box=None)
    row = {
        "events": f"{tally.events} of {total}",
        "links": str(tally.links),
        "calls per link": f"{tally.calls_per_link:.2f}",
        "median": f"{tally.median_ms:.0f} ms",
        "p99": f"{tally.p99_ms:.0f} ms",
    }
    for name in row:
        table.add_column(name, justify="right", min_width=11)
    table.add_row(*row.values())
    return table


# --- checking what was claimed --------------------------------------------------------------------


def _count_links(events: list[bytes], tally: Tally, adds: int) -> list[Check]:
    return [
        Check(
            f"each of the {len(events)} events has a link of its own",
            tally.links == len(events) == len(set(tally.urls.values())) and tally.seen == 0,
        ),
        Check(
            f"one call to the platform for each link: {adds} by its own journal",
            adds == len(events) == tally.upstream_calls,
        ),
    ]


async def _send_again(demo: Demo, events: list[bytes], tally: Tally) -> Check:
    before = await _journal_end(demo)
    again = await replay(events[:REPLAYED_AGAIN], url=demo.url, key=demo.key)
    unchanged = all(tally.urls.get(event_id) == link for event_id, link in again.urls.items())
    adds = await _adds(demo, after=before)
    return Check(
        f"{REPLAYED_AGAIN} events sent again: the same links, and no call",
        again.seen == REPLAYED_AGAIN and unchanged and adds == 0,
    )


async def _peak(demo: Demo, events: list[bytes]) -> list[Check]:
    """Send the day once more, as events that are answered before any call, and let them be made."""
    before = await _journal_end(demo)
    begun = time.monotonic()
    tally = await replay(map(_of_the_peak, events), url=demo.url, key=demo.key)
    answered = time.monotonic() - begun
    short = {url for url in tally.urls.values() if url.startswith(f"{demo.url}/l/")}
    backlog = demo.milepost.store.links.backlog
    while await backlog() and time.monotonic() < begun + PEAK_SECONDS:  # noqa: ASYNC110  (the service's worker is another process)
        await asyncio.sleep(0.2)
    made = time.monotonic() - begun - answered
    adds = await _adds(demo, after=before, milestone=PEAK)
    async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as browser:
        page = await browser.get(next(iter(short), demo.url))
    is_survey = bool(_Form.in_page(page.text).answers)
    return [
        Check(
            f"a peak of {len(events)} events is answered in {answered:.1f} s, with short links",
            len(short) == len(events),
        ),
        Check(
            f"  {made:.1f} s later the platform has them all: {adds} by its own journal",
            adds == len(events) and not await backlog() and is_survey,
        ),
    ]


def _of_the_peak(event: bytes) -> bytes:
    asked = msgspec.json.decode(event, type=dict[str, Any])
    return msgspec.json.encode(asked | {"milestone": PEAK, "event_id": f"peak-{asked['event_id']}"})


async def _answer(demo: Demo, event: dict[str, Any], link: str | None) -> list[Check]:
    """Open a link as the customer would, answer it, and look at the response of the platform."""
    flight = f"{event['data']['carrier']} {event['data']['flight']}"
    claim = f"{event['registrant']} answers the survey of flight {flight}, once"
    if link is None:
        return [Check(claim, holds=False)]
    async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as browser:
        page = await browser.get(link)
        form = _Form.in_page(page.text)
        target = str(page.url.join(form.action)) if form.action else link
        sent = await browser.post(target, data=form.answers)
        second = await browser.get(link)
    values = await _response_values(demo, link)
    expected = {name: str(value) for name, value in event["data"].items() if value is not None}
    recorded = {name: str(values.get(name)) for name in expected}
    return [
        Check(claim, page.is_success and sent.is_success and not second.is_success),
        Check(
            f"  its response holds {' '.join(recorded.values())} and the link's reference",
            recorded == expected and bool(values.get("milepost_ref")),
        ),
    ]


async def _response_values(demo: Demo, link: str) -> Mapping[str, object]:
    """The values of the response that a link was answered with, as the platform recorded them."""
    parts = personal_link.parse(link)
    upstream = demo.milepost.upstream
    async for entry in upstream.history(parts.distribution_id):
        if entry.lookup_id == parts.lookup_id and entry.response_id is not None:
            return (await upstream.response(parts.survey_id, entry.response_id)).values
    return {}


def _two_of_one(events: list[bytes]) -> list[dict[str, Any]]:
    """Two events of one registrant."""
    decoded = [msgspec.json.decode(event, type=dict[str, Any]) for event in events]
    busiest = Counter(event["registrant"] for event in decoded).most_common(1)[0][0]
    return [event for event in decoded if event["registrant"] == busiest][:2]


class _Form(HTMLParser):
    """A survey's form, filled in: the last choice of each question, and a sentence in each text."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.answers: dict[str, str] = {}

    @classmethod
    def in_page(cls, page: str) -> _Form:
        form = cls()
        form.feed(page)
        return form

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        name = named.get("name")
        if tag == "form":
            self.action = named.get("action") or ""
        elif tag == "textarea" and name:
            self.answers[name] = "A smooth landing."
        elif tag == "input" and name and named.get("type") != "submit":
            self.answers[name] = named.get("value") or "A smooth landing."


# --- what the reader sees -------------------------------------------------------------------------


def _step(done: str, begun: float) -> None:
    console.print(f"[green]✓[/] {done:64} [dim]{time.monotonic() - begun:5.1f} s[/]")


def _invite(demo: Demo, event: bytes, tally: Tally) -> None:
    asked = msgspec.json.decode(event, type=dict[str, Any])
    body = {"event_id": "my-first-event", "milestone": MILESTONE, "registrant": asked["registrant"]}
    body["data"] = {"carrier": "MP", "flight": 1, "origin": "JFK", "destination": "SFO"}
    unanswered = next(reversed(tally.urls.values()))
    console.print(
        "\nOpen one of the links in a browser:"
        f"\n\n{unanswered}"
        f"\n\nThe API's documentation: {demo.url}/schema/docs"
        f"\n\nThe page for those who run milestones: {demo.url}/admin"
        f"\n\nThe admin's key, which opens the page: {demo.admin_key}"
        f"\nThe app's key, which asks for links:     {demo.key}"
        "\n\nAsk for a link yourself:"
        f"\n\ncurl {demo.url}/v1/links -H 'Content-Type: application/json' \\"
        f"\n  -H 'Authorization: Bearer {demo.key}' \\"
        f"\n  -d '{msgspec.json.encode(body).decode()}'\n",
        soft_wrap=True,  # so that what is copied is whole
    )


async def _wait_for_the_end() -> None:
    console.print("Up until Ctrl-C.")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        console.print("\nEnding.")


def _events() -> list[bytes]:
    return _data("events.ndjson").read_bytes().splitlines()


def _data(name: str) -> Traversable:
    return files("milepost").joinpath("demo_data", name)
