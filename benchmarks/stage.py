"""What rows have in common: a database, a simulator, a milestone, people, and `milepost serve`."""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from os import environ
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import msgspec
import psycopg
from msgspec import Struct
from psycopg import sql

from benchmarks.filling import MEMBERSHIPS, PEOPLE, STRANGERS
from milepost import app
from milepost.jobs.directory import home_list
from milepost.local import free_port, process
from milepost.local import simulator as simulator_process
from milepost.model import Lane, MilestoneDefinition, Scope
from milepost.settings import MAX_RATE_PER_MINUTE, SIMULATOR_TOKEN, load
from milepost.store import migrate

MILESTONE = "landed"
AHEAD = "boarded"
"""A milestone whose registrants are in its first list ahead of events."""

START_SECONDS = 30
LOOK_SECONDS = 0.02
"""Between looks at the memory of a process."""

WARM_UP_SECONDS = 2.0
"""Before rounds are counted: connections are opened, statements prepared."""

READY = (Lane.READY, Lane.DIRECT, Lane.DEFERRED)
DEFERRED = (Lane.DEFERRED,)
DIRECT = (Lane.DIRECT, Lane.DEFERRED)


class Size(Struct, frozen=True, kw_only=True):
    """How much is measured."""

    rounds: int = 5
    seconds: float = 10
    """Of each round."""
    minute: float = 60
    """How long rows run whose subject is a limit by the minute."""
    people: int = 200_000
    known: int = 20_000
    """People whom the platform has to know beforehand, where that matters."""
    batch: int = 1_000
    """Events in one request, where they come in bulk."""
    waiting: int = 1_000_000
    """Links that wait, where a process's memory is measured."""
    newcomers: int = 100_000
    """People whom job `sync` has to make known to the platform."""
    links: int = 10_000_000
    """In the large ledger; it has a tenth as many registrants."""
    few_links: int = 10_000
    """In the small ledger."""
    seed: int = 1
    """Of the simulator's ids, and of the order in which the large ledger is asked."""


SHORT = Size(
    rounds=1,
    seconds=0.5,
    minute=0.5,
    people=2_000,
    known=200,
    batch=50,
    waiting=2_000,
    newcomers=1_000,
    links=5_000,
    few_links=2_000,
)
"""Enough to see that everything still runs; the figures mean nothing."""


class Service(Struct, frozen=True, kw_only=True):
    """A `milepost serve` that answers."""

    port: int
    pid: int

    def memory(self, what: str = "VmRSS") -> float:
        """Its resident memory in MB; `VmHWM` is the most that it ever was. Linux only."""
        return _memory(self.pid, what)


class Stage(Struct, frozen=True, kw_only=True):
    """A Milepost that is set up; `service()` starts its processes."""

    database_url: str
    key: str
    home: Path
    environment: dict[str, str]
    platform: str
    """The simulator's API."""
    directory_id: str
    survey_id: str
    people: int
    """Registrants `r0000000` and so on."""

    def calls(self, call_class: str = "brand") -> dict[str, int]:
        """What the simulator counted of a call class since `forget`; nothing: no calls."""
        stats = self._control("GET", "stats")
        found = {"brand": stats["brand"], **stats["classes"]}.get(call_class)
        return found or {"calls": 0, "throttled": 0, "accepted": 0}

    def forget(self) -> None:
        """Let the simulator count from here on."""
        self._control("DELETE", "stats")

    def last_write(self) -> int:
        """The number of the last write that the simulator has accepted."""
        return int(self._control("GET", "journal?limit=0")["last"])

    def writes(self, after: int, upto: int) -> Iterator[dict[str, Any]]:
        """The writes that the simulator has accepted, as its journal has them, between two numbers.

        Raises:
            RuntimeError: it does not remember all of them.
        """
        while after < upto:
            found = self._control("GET", f"journal?after={after}")["entries"]
            if not found or found[0]["seq"] != after + 1:
                raise RuntimeError(f"the simulator has forgotten its write {after + 1}")
            yield from (entry for entry in found if entry["seq"] <= upto)
            after = found[-1]["seq"]

    def _control(self, method: str, what: str, given: object = None) -> dict[str, Any]:
        parts = urlsplit(self.platform)
        request = Request(  # noqa: S310  (our own address)
            f"{parts.scheme}://{parts.netloc}/control/{what}",
            method=method,
            data=None if given is None else json.dumps(given).encode(),
            headers={"content-type": "application/json"},
        )
        with urlopen(request) as answer:  # noqa: S310  (as above)
            found: dict[str, Any] = json.load(answer)
            return found

    @contextmanager
    def service(self, *options: str) -> Iterator[Service]:
        """`milepost serve` with these options, in a process that ends with the block.

        Raises:
            RuntimeError: it does not answer; the text is what it said.
        """
        port = free_port(0)
        said = self.home / "serve.log"
        with (
            said.open("wb") as log,
            process(
                *("serve", "--port", str(port), *options),
                environment=environ | self.environment,
                stderr=log,
            ) as started,
        ):
            try:
                await_answer(f"http://127.0.0.1:{port}/health/ready")
                yield Service(port=port, pid=started.pid)
            except Exception as error:
                error.add_note(said.read_text(encoding="utf-8")[-2_000:])
                raise

    async def define(self, key: str = MILESTONE, **definition: object) -> None:
        """Register a milestone and fill its pool.

        Args:
            key: of the milestone.
            definition: members of its definition that differ from the usual ones.

        Raises:
            RuntimeError: the pool does not get full.
        """
        given = {"survey_id": self.survey_id, **definition}
        wanted = msgspec.convert(given, MilestoneDefinition)
        async with self.opened() as milepost:
            await milepost.store.milestones.put(key, wanted)
            report = await milepost.replenish.run_once()
        if report.ready < report.planned:
            raise RuntimeError(f"the pool is not full: {report}")

    async def forget_contacts(self) -> None:
        """Have nobody known to the platform, as it is; and a home list, with nobody in it."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(STRANGERS)
        async with self.opened() as milepost:
            # The keys of these people are made up as well, and nobody can be recognised by them.
            criteria = milepost.deployment.dedup_criteria or frozenset()
            await milepost.store.registrants.rekey(self.directory_id, criteria)
            await home_list(milepost.store, milepost.upstream)

    async def bring_home(self) -> None:
        """Have job `sync` put everybody into the home list, at the platform.

        Raises:
            RuntimeError: somebody is not in it.
        """
        await self.forget_contacts()
        async with self.opened() as milepost:
            run = await milepost.run("sync", asked_by="benchmark")
        if strangers := self.one("SELECT count(*) FROM registrants WHERE home_lookup_id IS NULL"):
            raise RuntimeError(f"{strangers} people are not in the home list: {run.error}")

    def limited(self, rate_per_minute: int, limits: Mapping[str, int], latency_ms: int) -> Stage:
        """The same, on a platform that limits calls from now on, and takes its time for each."""
        self._control(
            "PUT",
            "settings",
            {
                "limits": dict(limits) or "none",
                "rate_per_minute": rate_per_minute,
                "latency_ms": latency_ms,
            },
        )
        known = {
            "MILEPOST_RATE_PER_MINUTE": str(rate_per_minute),
            "MILEPOST_LIMITS": json.dumps(dict(limits)) if limits else "none",
        }
        return msgspec.structs.replace(self, environment=self.environment | known)

    def join(self, key: str) -> None:
        """Have everybody in a milestone's first list ahead of events, as far as Milepost knows."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(MEMBERSHIPS.format(key))
            connection.execute("VACUUM ANALYZE memberships")

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[app.Milepost]:
        """Milepost itself, in this process."""
        async with app.opened(load(self.environment, self.home), self.database_url) as milepost:
            yield milepost

    def see_that_all_wait(self, events: int) -> None:
        """See that the ledger holds so many links, all waiting behind short URLs.

        Raises:
            RuntimeError: it does not.
        """
        found = self.one(
            "SELECT count(*) FROM links WHERE state = 'waiting' AND published = 'short' "
            "AND short_url LIKE '%/l/' || token"
        )
        if found != events:
            raise RuntimeError(f"{events} events were answered, and {found} links wait")

    def see_that_all_are_ready(self, milestone: str, events: int) -> None:
        """See that a milestone has so many links that were given out without a call.

        Raises:
            RuntimeError: it has not.
        """
        found = self.one(
            "SELECT count(*) FROM links WHERE state = 'issued' AND lane = 'ready' "
            f"AND url LIKE '%' || lookup_id || '%' AND milestone = '{milestone}'"
        )
        if found != events:
            raise RuntimeError(f"{events} events were answered, and {found} links are ready")

    def one(self, statement: str) -> int:
        """The one number that a statement gives."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            row = connection.execute(statement.encode()).fetchone()
        return int(row[0]) if row else 0


@asynccontextmanager
async def staged(
    database_url: str,
    size: Size,
    *platform: str,
    at_home: bool = False,
) -> AsyncIterator[Stage]:
    """A Milepost with people, whose platform is a simulator.

    Args:
        database_url: an empty database.
        size: how many people.
        platform: options of `milepost simulate`, which has no limits without them.
        at_home: `size.known` people, whom the platform has in the home list since job `sync`; the
            contacts of the others are made up.
    """
    migrate.upgrade(database_url)
    with ExitStack() as ends:
        options = ("--seed", str(size.seed), *platform)
        ready = ends.enter_context(simulator_process(0, *options))()
        stage = Stage(
            database_url=database_url,
            key="",
            home=Path(ends.enter_context(tempfile.TemporaryDirectory())),
            environment={
                "MILEPOST_DATABASE_URL": database_url,
                "MILEPOST_UPSTREAM_URL": ready["url"],
                "MILEPOST_UPSTREAM_TOKEN": SIMULATOR_TOKEN,
                "MILEPOST_SECRET": secrets.token_hex(32),
                "MILEPOST_RATE_PER_MINUTE": str(MAX_RATE_PER_MINUTE),
                "MILEPOST_LIMITS": "none",
                # Its calls are for hours past, and would be in some rounds and not in others.
                "MILEPOST_SCHEDULE": '{"reconcile": "0 0 1 1 *"}',
            },
            platform=ready["url"],
            directory_id=ready["directory_id"],
            survey_id=ready["survey_id"],
            people=size.known if at_home else size.people,
        )
        async with stage.opened() as milepost:
            _, key = await milepost.store.keys.create("benchmark", [Scope.ISSUE])
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(PEOPLE.format(stage.people))
            connection.execute("ANALYZE")
        if at_home:
            await stage.bring_home()
        yield msgspec.structs.replace(stage, key=key)


def peak_memory(started: Popen[bytes]) -> float:
    """The most resident memory that a process ever has until it ends, in MB. Linux only."""
    most = 0.0
    while started.poll() is None:
        most = max(most, _memory(started.pid, "VmHWM"))
        time.sleep(LOOK_SECONDS)
    return most


def _memory(pid: int, what: str) -> float:
    """One of the figures that Linux has of a process's memory, in MB; 0: it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024


def await_answer(url: str) -> None:
    """Wait until somebody answers there, with whatever.

    Raises:
        RuntimeError: nobody does.
    """
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        try:
            with urlopen(url, timeout=5):  # noqa: S310  (our own address)
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nobody answers at {url}")


@contextmanager
def sibling(database_url: str, name: str) -> Iterator[str]:
    """The URL of another empty database on the same server, while the block runs."""
    parts = urlsplit(database_url)
    path = f"{parts.path}_{name}"
    named = sql.Identifier(path[1:])
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(named))
        try:
            yield parts._replace(path=path).geturl()
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(named))
