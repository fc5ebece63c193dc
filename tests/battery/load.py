"""The load of the battery: the processes it falls on, and callers that measure what they get.

::

    Installation        a database, a Platform, and any number of Replicas
        Platform        `milepost simulate --journal`: frozen, killed, brought back
        Replica         `milepost serve` that leads its process group: frozen, killed, brought back
    pour()              events over keep-alive connections, each answer timed at the caller
    Connection          one such connection; a person's click uses one, too

Milepost is known from outside alone, but for its set-up, which goes through the composition root
because four commands would take longer than a short scenario.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import logging
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx
import msgspec
import pytest
import uvloop
from msgspec import Struct

from milepost import app
from milepost.jobs.directory import home_list
from milepost.local import process
from milepost.model import Fact, Field, MilestoneDefinition, RegistrantDetails, Route, Scope
from milepost.policy import pool_size
from milepost.settings import PREFIX, load
from milepost.store.registrants import CHUNK

log = logging.getLogger(__name__)

SECRET: Final = "a secret of at least sixteen bytes"
MILESTONE: Final = "landed"
PUBLIC_URL: Final = "https://go.example.com"
"""Short URLs begin with it, whichever replica made them; a click is sent to one of the replicas."""

MARKER: Final = "xanthippe"
"""Stands in every ref, address, name and field: where it turns up in a log, a person would have."""

LONG: Final = (pytest.mark.battery, pytest.mark.timeout(1_800))
"""Marks the long form of a scenario; its short form runs with all other tests."""

START_SECONDS: Final = 60.0
"""Far more than a start takes, on two cores that do other things as well."""

PATIENCE_SECONDS: Final = 30.0
"""After this long without an answer a caller hangs up."""

AGAIN_SECONDS: Final = 0.2
INSIST_SECONDS: Final = 60.0
"""Before a caller that insists asks again, and when it gives up."""


# --- processes ------------------------------------------------------------------------------------


class _Process:
    """A `milepost` command that leads a process group of its own.

    A change of its `environment` holds from the next start on.
    """

    def __init__(self, log_file: Path, environment: Mapping[str, str]) -> None:
        self.log = log_file
        self.port = 0
        self.environment = os.environ | environment
        self._exit = ExitStack()
        self._running: subprocess.Popen[bytes] | None = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group."""
        if self._running is not None and self._running.poll() is None:
            os.killpg(self._running.pid, number)

    def freeze(self) -> None:
        """Let it do nothing more, without its knowing; its connections stay."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut would; its port refuses connections afterwards."""
        self.signal(signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """End it as an operator would, and wait until it has gone."""
        self.thaw()
        self._exit.close()
        self._running = None

    def wait(self, event: int = os.WEXITED) -> int:
        """Wait until it has ended, or with WSTOPPED was frozen; returns the signal that did it."""
        assert self._running is not None, "it was not started"
        told = os.waitid(os.P_PID, self._running.pid, event | os.WNOWAIT)
        return told.si_status if told else 0

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._running is not None, "it was not started"
        return self._running.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended, by itself or otherwise."""
        return self._running is not None and self._running.poll() is None

    @property
    def peak_kb(self) -> int:
        """The most memory that it has held."""
        assert self._running is not None, "it was not started"
        return peak_kb(self._running.pid)

    def _start(self, *arguments: str, until: bytes) -> bytes:
        """Start it; returns the first line that begins so. All that it says goes to its log.

        Raises:
            RuntimeError: it ended before it said so.
            queue.Empty: it said nothing for a long time.
        """
        said: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        mine, its = os.pipe()

        def listen() -> None:
            with os.fdopen(mine, "rb") as lines, self.log.open("ab", buffering=0) as log_file:
                for line in lines:
                    log_file.write(line)
                    said.put(line)
            said.put(b"")

        try:
            self._running = self._exit.enter_context(
                process(*arguments, environment=self.environment, stdout=its, stderr=its)
            )
        finally:
            os.close(its)
        threading.Thread(target=listen, daemon=True).start()
        while not (line := said.get(timeout=START_SECONDS)).startswith(until):
            if not line:
                raise RuntimeError(f"{arguments[0]} has ended:\n{self.log.read_text()[-2000:]}")
        return line


def peak_kb(process_id: int) -> int:
    """The most memory that a process has held (`VmHWM`)."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


class Platform(_Process):
    """The simulator in a process of its own, with its journal.

    Args:
        folder: holds its journal, its state and what it says.
        options: of `milepost simulate`.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder / "simulate.log", {})
        self.journal = folder / "journal"
        self._state = folder / "state"
        self._options = options
        self.survey_id = ""

    @property
    def url(self) -> str:
        """What Milepost is given as its upstream."""
        return f"http://127.0.0.1:{self.port}/API/v3"

    def start(self) -> None:
        """Start, and return when it answers: on the port that it had, with all that it knew."""
        files = ("--journal", str(self.journal), "--state", str(self._state))
        line = self._start("simulate", "--port", str(self.port), *files, *self._options, until=b"{")
        ready = json.loads(line)
        self.port = urlsplit(ready["url"]).port or 0
        self.survey_id = ready["survey_id"]

    def control(self, method: str, path: str, body: object = None) -> Any:
        """Ask the control API."""
        url = f"http://127.0.0.1:{self.port}/control/{path}"
        answer = httpx.request(method, url, json=body, timeout=10, trust_env=False)
        return answer.raise_for_status().json()

    def calls(self, call_class: str = "brand") -> dict[str, int]:
        """What was counted of a call class since the last count began; see `docs/simulator.md`."""
        stats = self.control("GET", "stats")
        nothing = {"calls": 0, "throttled": 0, "refused": 0, "accepted": 0, "busiest_minute": 0}
        found = stats["brand"] if call_class == "brand" else stats["classes"].get(call_class)
        return found or nothing


class Replica(_Process):
    """`milepost serve`, worker and all.

    Args:
        log_file: takes what it says, restarts included.
        environment: its settings.
        options: of `milepost serve`.
    """

    def __init__(self, log_file: Path, environment: Mapping[str, str], *options: str) -> None:
        super().__init__(log_file, environment)
        self._options = options

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and return when it answers; a second start is on the same port."""
        line = self._start("serve", "--port", str(self.port), *self._options, until=b"Milepost on ")
        self.port = urlsplit(line.decode().split()[2]).port or 0


@dataclass
class Installation:
    """A Milepost with all that it needs, set up and running."""

    turn: Path
    """A file that whoever pours events holds: one scenario of a run does at a time."""
    database_url: str
    platform: Platform
    environment: dict[str, str]
    key: str
    replicas: list[Replica] = field(default_factory=list)

    @property
    def addresses(self) -> list[str]:
        """Where the replicas answer."""
        return [replica.address for replica in self.replicas]

    def pour(self, events: Iterable[Event], **options: Any) -> list[Answer]:
        """`pour` to the replicas, for a caller that has nothing else to do meanwhile.

        It waits for its turn; what comes after it may overlap with other scenarios.
        """
        with self.turn.open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            return uvloop.run(pour(events, addresses=self.addresses, key=self.key, **options))

    def click(self, urls: Iterable[str]) -> dict[str, Response]:
        """`click` at the replicas, likewise."""
        return uvloop.run(click(urls, addresses=self.addresses))

    def answer(self, urls: Iterable[str]) -> dict[str, str]:
        """`answer` the surveys of personal links; returns the seat that each response shows."""
        before = self.platform.control("GET", "sessions?limit=0")["last"]
        begun = uvloop.run(answer(urls))
        told = self.platform.control("GET", f"sessions?after={before}&limit={len(begun)}")
        ended = {one["id"]: one["data"] for one in told["sessions"] if one["response"]}
        return {url: ended.get(session, {}).get("seat", "") for url, session in begun.items()}


def variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings of Milepost, named without their prefix, as environment variables."""
    return {f"{PREFIX}{name}": value for name, value in settings.items()}


async def found(
    environment: Mapping[str, str],
    home: Path,
    *,
    survey_id: str,
    people: int,
    at_home: bool = True,
    lacking: Iterable[Fact] = (),
    **definition: Any,
) -> str:
    """Write down registrants and a milestone, fill its pool; returns a key that may issue.

    Args:
        environment: the settings.
        home: a folder for what an installation keeps.
        survey_id: the platform's survey.
        people: how many registrants; they are `ref_of(0)` and following.
        at_home: they are in the home list, where the milestone's route needs that.
        lacking: what the account is known not to accept.
        definition: members of the milestone's definition that differ from the usual.
    """
    settings = load(environment, home)
    async with app.opened(settings, settings.database_url or "") as milepost:
        for first in range(0, people, CHUNK):
            numbers = range(first, min(first + CHUNK, people))
            given = {
                ref_of(n): RegistrantDetails(email=f"{ref_of(n)}@example.com") for n in numbers
            }
            await milepost.store.registrants.put(given)
        for fact in lacking:
            await milepost.store.capabilities.note(fact, holds=False, evidence="tried")
        wanted = MilestoneDefinition(
            **{"survey_id": survey_id, "fields": (Field(name="seat"),), **definition}
        )
        await milepost.store.milestones.put(MILESTONE, wanted)
        report = await milepost.replenish.run_once()
        slots, _ = pool_size(wanted)
        assert slots <= report.ready, f"of {slots} slots only these are: {report}"
        if wanted.membership == "ahead":
            run = await milepost.run("sync", asked_by="battery")
            assert people == run.counts["memberships"], f"of {people} registrants: {run.counts}"
        if wanted.route in {Route.TRANSACTION, Route.STEPWISE} and at_home:
            run = await milepost.run("sync", asked_by="battery")
            assert people == run.counts["made"], f"of {people} registrants: {run.counts}"
        elif wanted.route == Route.STEPWISE:
            await home_list(milepost.store, milepost.upstream)
        _, key = await milepost.store.keys.create("battery", [Scope.ISSUE])
        return key


async def register(
    on: Installation,
    home: Path,
    milestones: Mapping[str, Mapping[str, Any]],
    *,
    at_home: bool = True,
) -> Mapping[str, int]:
    """Write down further milestones and fill their pools; returns what job `sync` counted.

    Args:
        on: where.
        home: the folder that the installation was given.
        milestones: what of their definitions differs from the usual, by key.
        at_home: everybody is brought into the home list, and where members are wanted ahead.
    """
    usual = {"survey_id": on.platform.survey_id, "fields": (Field(name="seat"),)}
    async with app.opened(load(on.environment, home), on.database_url) as milepost:
        for key, wanted in milestones.items():
            await milepost.store.milestones.put(key, MilestoneDefinition(**usual, **wanted))
        await milepost.replenish.run_once()
        if at_home:
            return (await milepost.run("sync", asked_by="battery")).counts
        await home_list(milepost.store, milepost.upstream)
        return {}


# --- events ---------------------------------------------------------------------------------------


class Event(Struct, frozen=True):
    """An event as its caller sends it."""

    event_id: str
    body: bytes


def ref_of(number: int) -> str:
    """The ref of a registrant by number."""
    return f"{MARKER}-{number}"


def seat_of(event_id: str) -> str:
    """The data of an event, which no other event has."""
    return f"{MARKER} {event_id}"


def events(count: int, *, people: int, prefix: str = "e", **more: object) -> list[Event]:
    """So many different events, which the registrants have in turn.

    Args:
        count: how many.
        people: how many registrants there are.
        prefix: of the event ids: another one, other events.
        more: further members of the request, such as `deadline_ms`.
    """
    return [
        Event(
            event_id=f"{prefix}{number}",
            body=msgspec.json.encode(
                {
                    "event_id": f"{prefix}{number}",
                    "milestone": MILESTONE,
                    "registrant": ref_of(number % people),
                    "data": {"seat": seat_of(f"{prefix}{number}")},
                    **more,
                }
            ),
        )
        for number in range(count)
    ]


# --- callers --------------------------------------------------------------------------------------


class Response(Struct, frozen=True):
    """What came back over a connection. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A keep-alive connection, opened again when it has ended.

    A client with all that clients have takes a millisecond of a core for each request, more than
    the service itself, with which the load shares two cores.
    """

    def __init__(self, address: str) -> None:
        split = urlsplit(address)
        self._host, self._port = split.hostname or "", split.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Be connected.

        Raises:
            OSError: nobody answers.
        """
        if self._streams is not None and self._streams[0].at_eof():
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        return self._streams

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        """Send a request and wait for its answer.

        Raises:
            OSError, EOFError: the connection broke; what became of the request is unknown.
        """
        reader, writer = await self.open()
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        named = (line.partition(":") for line in head[1:] if line)
        answered = {name.lower(): value.strip() for name, _, value in named}
        content = await reader.readexactly(int(answered.get("content-length", "0")))
        if answered.get("connection") == "close":
            self.close()
        return Response(int(head[0].split()[1]), answered, content)

    def close(self) -> None:
        """End the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class _Link(Struct):
    """What of a link's JSON the battery looks at."""

    id: str | None = None
    state: str | None = None
    lane: str | None = None
    url: str | None = None


class Answer(Struct, frozen=True):
    """What the caller of an event got.

    Attributes:
        event_id: Of which event.
        begun: When it was asked for, in seconds of the monotonic clock.
        seconds: Until the answer was there, or the caller hung up.
        status: Of HTTP; 0 where the connection broke or there was no answer.
        link: What the answer holds of the link.
        retry_after: Whether the answer says when to come back.
        problem: The body of a status from 400 on, or what became of the connection.
    """

    event_id: str
    begun: float
    seconds: float
    status: int
    link: _Link
    retry_after: bool = False
    problem: str = ""

    @property
    def is_acknowledged(self) -> bool:
        """Whether Milepost has promised a link."""
        return self.status in _ACKNOWLEDGED


_ACKNOWLEDGED = frozenset({HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED})


async def pour(
    events: Iterable[Event],
    *,
    addresses: Sequence[str],
    key: str,
    connections: int = 100,
    per_minute: float | None = None,
    patience: float = PATIENCE_SECONDS,
    insist: bool = False,
) -> list[Answer]:
    """Send events; returns the answers in the order in which they came.

    Args:
        events: what to send.
        addresses: where to; the connections are spread over them.
        key: an API key with the scope `issue`.
        connections: how many, and so how many events are out at the same time at the most.
        per_minute: events a minute, evenly; None: as fast as they are answered.
        patience: seconds after which a caller hangs up.
        insist: ask again, the next address each time, while there is no answer or a 5xx; every try
            counts as an answer.
    """
    answers: list[Answer] = []
    turns = range(len(addresses) if insist else 1)
    callers = [
        [Connection(addresses[(number + turn) % len(addresses)]) for turn in turns]
        for number in range(connections)
    ]
    await asyncio.gather(*(lines[0].open() for lines in callers), return_exceptions=True)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    waiting = _paced(events, per_minute)

    async def call(lines: Sequence[Connection]) -> None:
        """Send one event after the other, as long as there are some."""
        for due, event in waiting:
            if (ahead := due - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            begun = time.monotonic()
            for line in itertools.cycle(lines):
                answer = await _ask(line, event, headers, patience)
                answers.append(answer)
                if 0 < answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    break
                if not insist or time.monotonic() > begun + INSIST_SECONDS:
                    break
                await asyncio.sleep(AGAIN_SECONDS)
        for line in lines:
            line.close()

    async with asyncio.TaskGroup() as group:
        for lines in callers:
            group.create_task(call(lines))
    return answers


async def _ask(
    line: Connection, event: Event, headers: Mapping[str, str], patience: float
) -> Answer:
    begun = time.monotonic()
    problem = ""
    response = Response(0, {}, b"")
    try:
        async with asyncio.timeout(patience):
            response = await line.send("POST", "/v1/links", headers, event.body)
    except (OSError, EOFError) as error:  # a timeout is one of the first
        line.close()
        problem = f"{type(error).__name__} {error}"
    else:
        if response.status >= HTTPStatus.BAD_REQUEST:
            problem = response.body.decode(errors="replace")
    seconds = time.monotonic() - begun
    is_link = response.status in _ACKNOWLEDGED
    return Answer(
        event_id=event.event_id,
        begun=begun,
        seconds=seconds,
        status=response.status,
        link=msgspec.json.decode(response.body, type=_Link) if is_link else _Link(),
        retry_after="retry-after" in response.headers,
        problem=problem,
    )


def _paced(events: Iterable[Event], per_minute: float | None) -> Iterator[tuple[float, Event]]:
    """Each event with the moment at which it is due."""
    start = time.monotonic()
    for number, event in enumerate(events):
        yield start + number * 60 / per_minute if per_minute else 0.0, event


BROWSER: Final = {
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "accept-language": "en",
    "sec-fetch-mode": "navigate",
    "sec-fetch-dest": "document",
    "sec-fetch-site": "none",
}
"""What a person's browser says of itself when it opens a link."""


_SESSION: Final = re.compile(rb'name="session" value="(FS_\w{15})"')
_FORM: Final = {"content-type": "application/x-www-form-urlencoded"}


async def click(
    urls: Iterable[str], *, addresses: Sequence[str], at_once: int = 20
) -> dict[str, Response]:
    """Open short URLs as people do; returns what each was answered.

    Raises:
        OSError, EOFError: the service is not there.
    """
    answers: dict[str, Response] = {}
    waiting = iter(urls)

    async def person(number: int) -> None:
        """Open one after the other, as long as there are some."""
        line = Connection(addresses[number % len(addresses)])
        for url in waiting:
            answers[url] = await line.send("GET", urlsplit(url).path, BROWSER)
        line.close()

    async with asyncio.TaskGroup() as group:
        for number in range(at_once):
            group.create_task(person(number))
    return answers


async def answer(urls: Iterable[str], *, at_once: int = 20) -> dict[str, str]:
    """Open personal links as people do, and send the survey off; returns the session of each.

    Raises:
        OSError, EOFError: the platform is not there.
        AssertionError: a survey does not open, or is not taken.
    """
    sessions: dict[str, str] = {}
    waiting = iter(urls)

    async def person() -> None:
        """Answer one after the other, as long as there are some."""
        for url in waiting:
            parts = urlsplit(url)
            path = f"{parts.path}?{parts.query}"
            with closing(Connection(f"{parts.scheme}://{parts.netloc}")) as line:
                opened = _SESSION.search((await line.send("GET", path, BROWSER)).body)
                assert opened is not None, url
                sessions[url] = opened[1].decode()
                form = urlencode({"session": sessions[url], "QID1": "5"}).encode()
                taken = await line.send("POST", path, BROWSER | _FORM, form)
                assert HTTPStatus.OK == taken.status, url

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(person())
    return sessions
