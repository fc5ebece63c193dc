"""The demo: a day of real landings becomes personal survey links, and every claim is checked.

It runs what a user would run: an embedded Postgres (a database of its own, made anew each time),
the simulator and the service as processes, the service's REST API over HTTP. One link is opened and
answered as a customer's browser would do it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from html.parser import HTMLParser
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from typing import Any, Final

import httpx
import msgspec
import psycopg
import uvloop
from msgspec import Struct
from rich.console import Console
from rich.live import Live
from rich.table import Table

from milepost import app, personal_link, settings
from milepost.embedded import EmbeddedPostgres
from milepost.jobs.registrants_file import import_file
from milepost.local import free_port, local_simulator
from milepost.model import Scope
from milepost.replay import Tally, replay
from milepost.settings import Settings
from milepost.store import migrate
from milepost.upstream import Upstream

MILESTONE: Final = "landed"
SLOTS: Final = 5  # the busiest aircraft of the day landed five times
FIELDS: Final = (
    {"name": "carrier", "required": True, "max_length": 2},
    {"name": "flight", "type": "integer", "required": True},
    {"name": "origin", "required": True, "max_length": 3},
    {"name": "destination", "required": True, "max_length": 3},
    {"name": "arrival_delay_minutes", "type": "integer"},
)
PORT: Final = 8700
DATABASE: Final = "demo"
REPLAYED_AGAIN: Final = 100
ADD: Final = "list_contact.add"
JOURNAL_END: Final = 2**53
START_SECONDS: Final = 30

console = Console(highlight=False)


class Check(Struct, frozen=True):
    """Something the demo claims, and whether it is so."""

    claim: str
    holds: bool


def run_demo(*, stay: bool) -> int:
    """Run the demo.

    Args:
        stay: keep everything up until Ctrl-C, for the reader to try.

    Returns:
        The exit code: 0 only if every claim was checked and holds.
    """
    begun = time.monotonic()
    home = settings.HOME.absolute()
    port = free_port(PORT)
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as running:
        server = running.enter_context(EmbeddedPostgres(home))
        database_url = _fresh_database(server)
        given = settings.load(
            {
                "MILEPOST_DATABASE_URL": database_url,
                "MILEPOST_UPSTREAM_URL": settings.SIMULATOR,
                "MILEPOST_SECRET": os.urandom(32).hex(),
            },
            home,
        )
        migrate.upgrade(database_url)
        _step("Postgres is up", begun)
        running.enter_context(local_simulator(given))
        _step("the simulator stands in for the survey platform", begun)
        survey_id = uvloop.run(_survey_id(given))
        key, admin_key = uvloop.run(_keys(given))
        running.enter_context(_service(given, port, url))
        _step(f"Milepost answers at {url}", begun)
        uvloop.run(_set_up(given, url, admin_key, survey_id, begun))
        events = _events()
        tally, adds = uvloop.run(_replay(given, events, url, key))
        checks = _count_links(events, tally, adds)
        checks.append(uvloop.run(_send_again(given, events, tally, url, key)))
        for event in _two_of_one(events):
            checks.extend(uvloop.run(_answer(given, event, tally.urls[event["event_id"]])))
        _tell(checks)
        holds = all(check.holds for check in checks)
        if holds:
            _invite(url, key, admin_key, events[0], tally)
        if stay:
            _wait_for_the_end()
    return 0 if holds else 1


# --- what the demo starts -------------------------------------------------------------------------


def _fresh_database(server_url: str) -> str:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {DATABASE}".encode())
    parts = psycopg.conninfo.conninfo_to_dict(server_url)
    return f"postgresql://{parts['user']}:{parts['password']}@/{DATABASE}?host={parts['host']}" + (
        f"&port={parts['port']}" if "port" in parts else ""
    )


@contextmanager
def _service(given: Settings, port: int, url: str) -> Iterator[None]:
    environment = os.environ | {
        "MILEPOST_DATABASE_URL": given.database_url or "",
        "MILEPOST_UPSTREAM_URL": settings.SIMULATOR,
        "MILEPOST_SECRET": given.secret.decode(),
    }
    process = subprocess.Popen(  # noqa: S603  (our own command)
        [sys.executable, "-m", "milepost", "serve", "--port", str(port)],
        env=environment,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_health(process, url)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _await_health(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx.get(f"{url}/health/ready", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.05)  # a process that is starting has nothing to be awaited by
    raise RuntimeError(f"milepost serve does not answer at {url}")


async def _keys(given: Settings) -> tuple[str, str]:
    async with app.opened(given, given.database_url or "") as milepost:
        _, key = await milepost.store.keys.create("demo-app", [Scope.ISSUE])
        _, admin_key = await milepost.store.keys.create("demo-admin", [Scope.ADMIN])
    return key, admin_key


async def _survey_id(given: Settings) -> str:
    """The one active survey that the simulator has; a user reads it off the platform's pages."""
    headers = {"X-API-TOKEN": given.upstream_token}
    async with httpx.AsyncClient(headers=headers, trust_env=False) as client:
        answer = (await client.get(f"{given.upstream_url}/surveys")).raise_for_status().json()
    return str(next(s["id"] for s in answer["result"]["elements"] if s["isActive"]))


# --- the main job ---------------------------------------------------------------------------------


async def _set_up(given: Settings, url: str, key: str, survey_id: str, begun: float) -> None:
    definition = {"survey_id": survey_id, "slots": SLOTS, "fields": FIELDS}
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        answer = await client.put(
            f"/v1/milestones/{MILESTONE}",
            json=definition,
            headers={"Authorization": f"Bearer {key}"},
        )
        answer.raise_for_status()
    _step(f"milestone {MILESTONE!r} is registered for survey {survey_id}", begun)
    async with app.opened(given, given.database_url or "") as milepost:
        with as_file(_data("registrants.csv")) as path:
            report = await import_file(milepost.store, path)
        _step(f"{report.created} registrants are imported", begun)
        made = await milepost.sync.run_once()
        _step(f"{made.made} of them have a contact at the platform", begun)
        pool = await milepost.replenish.run_once()
        _step(f"the pool has {pool.ready} slots, each calibrated", begun)


async def _replay(given: Settings, events: list[bytes], url: str, key: str) -> tuple[Tally, int]:
    """Send the day's events; returns what came back and what the simulator's journal took down."""
    console.print()
    _, last = await _journal(given, after=JOURNAL_END)
    with Live(console=console, refresh_per_second=10) as live:
        tally = await replay(
            events, url=url, key=key, progress=lambda tally: live.update(_table(tally, len(events)))
        )
        live.update(_table(tally, len(events)), refresh=True)
    taken_down, _ = await _journal(given, after=last)
    return tally, taken_down[ADD]


async def _journal(given: Settings, after: int) -> tuple[Counter[str], int]:
    """What the simulator's journal took down behind an entry, by operation, and its last entry."""
    origin = given.upstream_url.removesuffix("/API/v3")
    operations: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=origin, trust_env=False) as client:
        while True:
            answer = await client.get("/control/journal", params={"after": after})
            page = answer.raise_for_status().json()
            if not page["entries"]:
                return operations, page["last"]
            operations.update(entry["operation"] for entry in page["entries"])
            after = page["entries"][-1]["seq"]


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
        table.add_column(name, justify="right", min_width=12)
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


async def _send_again(
    given: Settings, events: list[bytes], tally: Tally, url: str, key: str
) -> Check:
    _, last = await _journal(given, after=JOURNAL_END)
    again = await replay(events[:REPLAYED_AGAIN], url=url, key=key)
    unchanged = all(tally.urls[event_id] == link for event_id, link in again.urls.items())
    taken_down, _ = await _journal(given, after=last)
    return Check(
        f"{REPLAYED_AGAIN} events sent again: the same links, and no call",
        again.seen == REPLAYED_AGAIN and unchanged and not taken_down,
    )


async def _answer(given: Settings, event: dict[str, Any], link: str) -> list[Check]:
    """Open a link as the customer would, answer it, and look at the response of the platform."""
    async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as browser:
        page = await browser.get(link)
        form = _Form.in_page(page.text)
        sent = await browser.post(
            str(page.url.join(form.action)) if form.action else link, data=form.answers
        )
        second = await browser.get(link)
    values = await _response_values(given, link)
    expected = {name: str(value) for name, value in event["data"].items() if value is not None}
    recorded = {name: str(values.get(name)) for name in expected}
    flight = f"{event['data']['carrier']} {event['data']['flight']}"
    return [
        Check(
            f"{event['registrant']} answers the survey of flight {flight}, once",
            page.is_success and sent.is_success and not second.is_success,
        ),
        Check(
            f"  the response carries that flight's data: {_in_words(recorded)}",
            recorded == expected,
        ),
        Check("  and the reference of its link", str(values.get("milepost_ref", "")) != ""),
    ]


async def _response_values(given: Settings, link: str) -> dict[str, object]:
    """The values of the response that a link was answered with, as the platform recorded them."""
    parts = personal_link.parse(link)
    async with Upstream(given.upstream_url, given.upstream_token) as upstream:
        history = [entry async for entry in upstream.history(parts.distribution_id)]
        answered = [e.response_id for e in history if e.lookup_id == parts.lookup_id]
        if answered != [answered[0]] or answered[0] is None:
            return {}
        return (await upstream.response(parts.survey_id, answered[0])).values


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
    console.print(f"[green]✓[/] {done} [dim]{time.monotonic() - begun:5.1f} s[/]")


def _tell(checks: list[Check]) -> None:
    console.print()
    for check in checks:
        console.print(f"[green]✓[/] {check.claim}" if check.holds else f"[red]✗ {check.claim}[/]")


def _invite(url: str, key: str, admin_key: str, event: bytes, tally: Tally) -> None:
    asked = msgspec.json.decode(event, type=dict[str, Any])
    body = {"event_id": "my-first-event", "milestone": MILESTONE, "registrant": asked["registrant"]}
    body["data"] = {"carrier": "MP", "flight": 1, "origin": "JFK", "destination": "SFO"}
    console.print(
        f"\nOne of the links:      {next(reversed(tally.urls.values()))}"
        f"\nThe API, documented:   {url}/schema/docs"
        f"\nA key for an app:      {key}"
        f"\nA key for an admin:    {admin_key}"
        f"\n\nAsk for a link yourself:\n"
        f"\n  curl {url}/v1/links -H 'Authorization: Bearer {key}' \\"
        f"\n    -H 'Content-Type: application/json' \\"
        f"\n    -d '{msgspec.json.encode(body).decode()}'\n",
        soft_wrap=True,
    )


def _wait_for_the_end() -> None:
    console.print("Up until Ctrl-C.")
    try:
        asyncio.run(asyncio.Event().wait())
    except KeyboardInterrupt:
        console.print("Ending.")


def _in_words(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _events() -> list[bytes]:
    return _data("events.ndjson").read_bytes().splitlines()


def _data(name: str) -> Traversable:
    return files("milepost").joinpath("demo_data", name)
