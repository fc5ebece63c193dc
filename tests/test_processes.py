"""Several processes on one port: who answers, who takes whose place, and how all of them end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import uvicorn

from milepost import app, local, settings, worker
from milepost.local import process, simulator
from milepost.model import MilestoneDefinition, RegistrantDetails, Scope
from milepost.worker import Endless, WorkerEnded

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def environment(database_url: str) -> Iterator[dict[str, str]]:
    """The settings of an installation with a simulator, and no limits."""
    with simulator(0) as ready:
        on = ready()
        yield {
            "MILEPOST_DATABASE_URL": database_url,
            "MILEPOST_UPSTREAM_URL": on["url"],
            "MILEPOST_UPSTREAM_TOKEN": "simulator",
            "MILEPOST_SECRET": "a secret of at least sixteen bytes",
            "MILEPOST_RATE_PER_MINUTE": "1000000",
            "MILEPOST_LIMITS": "none",
            "MILEPOST_PUBLIC_URL": "http://127.0.0.1:8700",
            "SURVEY": on["survey_id"],
        }


class Served:
    """A `milepost serve` that runs."""

    def __init__(self, started: subprocess.Popen[bytes], url: str) -> None:
        self.started = started
        self.url = url

    def processes(self) -> list[int]:
        """The processes that answer for it, by id."""
        parent = self.started.pid
        found = []
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with suppress(OSError):  # it has just ended
                if b"serve-one" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
        return found

    async def replaced(self, pid: int, count: int = 2) -> None:
        """Wait until a process has gone and as many as before answer."""
        while pid in (now := self.processes()) or len(now) < count:  # noqa: ASYNC110  (another process's children have no event)
            await asyncio.sleep(0.02)


@contextmanager
def serving(environment: dict[str, str], *options: str) -> Iterator[Served]:
    """`milepost serve` in processes of its own, ready to answer."""
    arguments = ("serve", "--port", "0", *options)
    whole = os.environ | environment
    with process(*arguments, environment=whole, stderr=subprocess.PIPE) as started:
        assert started.stderr is not None
        said = started.stderr.readline().decode()
        assert said.startswith("Milepost on http://"), said
        yield Served(started, said.split()[2])


async def set_up(environment: dict[str, str], tmp_path: Path) -> str:
    """A milestone whose pool is full, and a registrant for each of 100; returns a key."""
    given = settings.load(environment, tmp_path)
    async with app.opened(given, environment["MILEPOST_DATABASE_URL"]) as milepost:
        definition = MilestoneDefinition(survey_id=environment["SURVEY"], slots=5, max_slots=5)
        await milepost.store.milestones.put("landed", definition)
        people = {
            f"r{n}": RegistrantDetails(email=f"r{n}@example.com", first_name="R")
            for n in range(100)
        }
        await milepost.store.registrants.put(people)
        await milepost.replenish.run_once()
        return (await milepost.store.keys.create("app", [Scope.ISSUE]))[1]


class Load:
    """Callers that ask for links without a pause, each over a connection that it keeps."""

    def __init__(self, urls: list[str], key: str) -> None:
        self.urls = urls
        self.outcomes: Counter[object] = Counter()
        self.links: dict[str, str] = {}
        self._headers = {"Authorization": f"Bearer {key}"}
        self._next = iter(range(10**6))

    async def run(self, callers: int, until: Callable[[], bool]) -> None:
        """Ask until it is time to end."""
        await asyncio.gather(*(self._call(until) for _ in range(callers)))

    async def _call(self, until: Callable[[], bool]) -> None:
        async with httpx.AsyncClient(headers=self._headers, timeout=20, trust_env=False) as client:
            while not until():
                await self._ask(client, next(self._next))

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        event = {
            "event_id": f"e{number}",
            "milestone": "landed",
            "registrant": f"r{number % 100}",
            "deadline_ms": 8000,
        }
        for turn in range(100 * len(self.urls)):
            url = self.urls[(number + turn) % len(self.urls)]
            try:
                answer = await client.post(f"{url}/v1/links", json=event)
            except httpx.ConnectError:  # nothing was sent: it goes to the other one
                await asyncio.sleep(0.01)
                continue
            except httpx.TransportError as error:
                self.outcomes[type(error).__name__] += 1
                return
            self.outcomes[answer.status_code] += 1
            if answer.is_success:
                self.links[event["event_id"]] = answer.json()["url"]
            return
        self.outcomes["nobody there"] += 1


@ON_LINUX
async def test_connections_spread_over_the_processes(environment: dict[str, str]) -> None:
    """Of 200 that are kept, each of two processes has at least 60."""
    with serving(environment, "--processes", "2") as served:
        async with httpx.AsyncClient(
            trust_env=False, limits=httpx.Limits(max_connections=None), timeout=60
        ) as client:
            async with asyncio.TaskGroup() as callers:
                for _ in range(200):
                    callers.create_task(client.get(f"{served.url}/health/live"))
            port = int(served.url.rsplit(":", 1)[1])
            shares = [len(connections(pid, port)) for pid in served.processes()]
    assert 2 == len(shares)
    assert 200 >= sum(shares)
    assert 60 < min(shares), shares


def connections(pid: int, port: int) -> set[str]:
    """The connections to a port that a process holds, by inode."""
    held = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            held.add(str(entry.readlink()))
    established, local = "01", f":{port:04X}"
    rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {
        row[9]
        for row in rows
        if row[1].endswith(local) and row[3] == established and f"socket:[{row[9]}]" in held
    }


@ON_LINUX
async def test_processes_are_replaced_under_load_without_a_failed_request(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Three times one of two is told to end, while at least 500 links are asked for."""
    key = await set_up(environment, tmp_path)
    with serving(environment, "--processes", "2") as served:
        load, rolled = Load([served.url], key), asyncio.Event()
        asking = asyncio.create_task(
            load.run(8, until=lambda: rolled.is_set() and load.outcomes.total() >= 500)
        )
        for _ in range(3):
            old = served.processes()[0]
            os.kill(old, signal.SIGTERM)
            await served.replaced(old)
        rolled.set()
        await asking
    assert {201} <= {*load.outcomes} <= {201, 202}, load.outcomes
    assert 0 == served.started.returncode


@pytest.mark.battery
async def test_services_are_replaced_under_load_without_a_failed_request(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Three restarts of one of two services, whose callers go to the other when it takes none."""
    key = await set_up(environment, tmp_path)
    with ExitStack() as services:
        steady, served = (services.enter_context(serving(environment)) for _ in range(2))
        load, rolled = Load([steady.url, served.url], key), asyncio.Event()
        asking = asyncio.create_task(
            load.run(8, until=lambda: rolled.is_set() and load.outcomes.total() >= 500)
        )
        for _ in range(3):
            asked = load.outcomes.total()
            while load.outcomes.total() < asked + 20:  # noqa: ASYNC110  (it is a mere count)
                await asyncio.sleep(0.02)
            served.started.send_signal(signal.SIGTERM)
            assert 0 == await asyncio.to_thread(served.started.wait, 60)
            again = serving(environment, "--port", served.url.rsplit(":", 1)[1])
            served = await asyncio.to_thread(services.enter_context, again)
        rolled.set()
        await asking
    assert {201} <= {*load.outcomes} <= {201, 202}, load.outcomes


@ON_LINUX
async def test_a_process_that_was_killed_is_replaced(environment: dict[str, str]) -> None:
    """And meanwhile the other one answers."""
    with serving(environment, "--processes", "2") as served:
        killed = served.processes()[0]
        os.kill(killed, signal.SIGKILL)
        await served.replaced(killed)
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            answers = [await client.get(f"{served.url}/health/ready") for _ in range(10)]
    assert {200} == {answer.status_code for answer in answers}
    assert served.started.stderr is not None
    assert 0 == served.started.returncode


@ON_LINUX
def test_all_processes_end_with_the_one_that_started_them(environment: dict[str, str]) -> None:
    """Also when it was killed and could tell nobody."""
    with serving(environment, "--processes", "2", "--no-worker") as served:
        served.started.kill()
        assert served.started.stderr is not None
        # The end of it comes when nobody holds it any more, so when all of them have gone.
        assert b"" == served.started.stderr.read()


def test_processes_that_cannot_start_are_given_up(environment: dict[str, str]) -> None:
    """With the reason, which one of them gave, and one line more."""
    wrong = environment | {"MILEPOST_DIRECTORY_ID": "POOL_doesnotexist012"}
    command = [sys.executable, "-m", "milepost", "serve", "--port", "0", "--processes", "2"]
    ended = subprocess.run(  # noqa: S603  (our own command)
        command, env=os.environ | wrong, capture_output=True, text=True, timeout=60, check=False
    )
    reason, given_up = ended.stderr.splitlines()
    assert "MILEPOST_DIRECTORY_ID: the account has no directory" in reason
    assert "milepost: a process ended before it answered (exit code 1)" == given_up
    assert 1 == ended.returncode


def test_a_shared_port_is_shared_with_nobody_else(environment: dict[str, str]) -> None:
    """A second service on it would get half of the first one's callers."""
    with app.listening("127.0.0.1", 0, 2) as listeners:
        port = str(listeners[0].getsockname()[1])
        command = [sys.executable, "-m", "milepost", "serve", "--port", port, "--processes", "2"]
        ended = subprocess.run(  # noqa: S603  (our own command)
            command,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert f"another program has port {port}" in ended.stderr
    assert 1 == ended.returncode


async def test_a_server_says_first_that_it_is_about_to_end(environment: dict[str, str]) -> None:
    """It is not ready, but answers, and each connection ends with an answer."""
    with serving(environment, "--no-worker") as served:
        async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
            assert 200 == (await client.get("/health/ready")).status_code
            served.started.terminate()
            while (last := await client.get("/health/ready")).status_code == 200:
                pass
            assert (503, "try-again") == (last.status_code, last.json()["code"])
            assert "1" == last.headers["retry-after"]
            begun = time.monotonic()
            while last.headers.get("connection") != "close":
                last = await client.get("/health/live")
                assert 200 == last.status_code
        assert 0 == await asyncio.to_thread(served.started.wait, 30)
    assert time.monotonic() - begun < app.NOTICE_SECONDS + app.LINGER_SECONDS + 2


async def test_who_says_nothing_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither from the start nor in the middle of a request's head; who speaks, is."""
    monkeypatch.setattr(app, "HEAD_SECONDS", 0.2)

    async def answer(scope: object, receive: object, send: Callable[..., Awaitable[None]]) -> None:
        """Answer anything."""
        del scope, receive
        head = {"type": "http.response.start", "status": 200, "headers": []}
        await send(head)
        await send({"type": "http.response.body", "body": b"heard"})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(answer, http=app.Connection, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listener]))  # noqa: SLF001  (signals are pytest's)
        address = listener.getsockname()
        for said in (b"", b"GET / HTTP/1.1\r\nHos"):
            assert b"" == await asyncio.to_thread(exchange, address, said, None)
        whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        assert b"heard" in await asyncio.to_thread(exchange, address, 2 * whole, 2)
        server.should_exit = True
        await serving


def exchange(address: tuple[str, int], said: bytes, answers: int | None) -> bytes:
    """What comes back for this: so many answers, or all until the other side hangs up."""
    with socket.create_connection(address) as connection:
        connection.sendall(said)
        answer = b""
        while answer.count(b"heard") != answers and (more := connection.recv(4096)):
            answer += more
        return answer


@pytest.mark.parametrize("serves", [True, False])
async def test_a_process_does_not_outlive_its_worker(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, serves: bool
) -> None:
    """Whether it answers or not: whoever looks after it starts another one, which has its jobs."""

    async def broken(_: Endless, __: asyncio.Event) -> None:
        """Have a mistake outside of any run."""
        raise OverflowError

    monkeypatch.setattr(worker, "_repeat", broken)
    given = settings.load(environment, tmp_path)
    url = environment["MILEPOST_DATABASE_URL"]
    with app.listening("127.0.0.1", 0) as (listener,):
        if serves:
            ends = app.serve(given, url, listener, with_worker=True, ready=lambda: None)
        else:
            ends = app.work(given, url, lambda: None)
        with pytest.raises(WorkerEnded):
            await asyncio.wait_for(ends, 30)


def test_pauses_double_up_to_ten_seconds() -> None:
    """After however many that died young."""
    assert [0, 0.1, 0.2, 6.4, 10, 10] == [local._pause(lives) for lives in (0, 1, 2, 7, 8, 5_000)]  # noqa: SLF001  (pure arithmetic)
