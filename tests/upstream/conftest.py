"""An origin on a real socket that does what a test tells it to, and records what it is sent."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from milepost.upstream import Upstream, call

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> object:
        """The body, decoded."""
        return json.loads(self.body)


@dataclass
class Origin:
    """Gives its answers in order, the last one for ever; `seen` holds what it was asked."""

    answers: list[Answer] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """What a client is given as its base."""
        return f"http://127.0.0.1:{self.port}/API/v3"

    @staticmethod
    def raw(status: int, body: bytes, *headers: str) -> bytes:
        """An answer of any kind."""
        lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", *headers]
        return "\r\n".join([*lines, "", ""]).encode() + body

    @staticmethod
    def ok(result: object = None, *, notice: str | None = None) -> bytes:
        """The envelope of a success; without a result it has no such key."""
        meta = {"httpStatus": "200 - OK", "requestId": "b6212545-7444-4861-9a92-e05649f886af"}
        if notice is not None:
            meta["notice"] = notice
        body = {"meta": meta} if result is None else {"result": result, "meta": meta}
        return Origin.raw(200, json.dumps(body).encode(), "Content-Type: application/json")

    @staticmethod
    def error(status: int, code: str | None, message: str, *headers: str) -> bytes:
        """The envelope of a refusal."""
        note = {"errorMessage": message} | ({} if code is None else {"errorCode": code})
        meta = {"httpStatus": f"{status} - x", "error": note, "requestId": None}
        return Origin.raw(status, json.dumps({"meta": meta}).encode(), *headers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self.connections += 1
        try:
            while True:
                self.seen.append(await self._request(reader))
                self.arrived.set()
                answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _request(reader: asyncio.StreamReader) -> Seen:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in headers.items()}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Seen(method, target, headers, body)


async def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection with a RST."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise ConnectionResetError


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """End the connection without an answer."""
    writer.close()
    raise ConnectionResetError


async def silence(writer: asyncio.StreamWriter) -> None:
    """Never answer; over when the client leaves."""
    await writer.wait_closed()


async def trickle(writer: asyncio.StreamWriter) -> None:
    """Send a good answer so slowly that each read succeeds and the whole never comes."""
    for byte in Origin.ok({"padding": "x" * 10_000}):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads are tried again at once; how long the pauses are is a function with its own test."""
    monkeypatch.setattr(call, "longest_pause", lambda _: 0.0)


@pytest.fixture
async def origins() -> AsyncIterator[Callable[[], Awaitable[Origin]]]:
    """Start as many origins as a test asks for."""
    servers: list[asyncio.Server] = []
    serving: set[asyncio.Task[None]] = set()

    async def start() -> Origin:
        """Start one."""
        origin = Origin()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Serve a connection until it closes."""
            task = asyncio.create_task(origin.serve(reader, writer))
            serving.add(task)
            task.add_done_callback(serving.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        servers.append(server)
        origin.port = server.sockets[0].getsockname()[1]
        return origin

    yield start
    for server in servers:
        server.close()
    for task in list(serving):
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


@pytest.fixture
async def origin(origins: Callable[[], Awaitable[Origin]]) -> Origin:
    """The one origin of most tests."""
    return await origins()


@pytest.fixture
async def upstream(origin: Origin) -> AsyncIterator[Upstream]:
    """A client of that origin, with a deadline that tests can wait for."""
    async with Upstream(origin.url, "s3cret-token", deadline=0.8, max_connections=4) as client:
        yield client


@pytest.fixture
def faults() -> dict[str, Answer]:
    """Every way in which an answer to a request that arrived can fail to come."""
    # What an add and a whoami want, so that only what is done to it can be why it is not taken.
    result = {
        "id": "CID_e25ZlqSlIr2GWpp",
        "contactLookupId": "CGC_e25ZlqSlIr2GWpp",
        "userId": "UR_1",
    }
    good = Origin.ok(result)
    undone = {"result": result, "meta": {"error": {"errorCode": "X_1"}}}
    return {
        "silence": silence,
        "trickle": trickle,
        "reset": reset,
        "hang up": hang_up,
        "HTML": Origin.raw(200, b"<html>Sign in</html>", "Content-Type: text/html"),
        "empty": Origin.raw(200, b""),
        "cut JSON": Origin.raw(200, good.partition(b"\r\n\r\n")[2][:20]),
        "cut body": good[:-9],
        "deep JSON": Origin.raw(200, b'{"x":' + b"[" * 200_000),
        "not UTF-8": Origin.raw(200, b'{"meta":{"notice":"\xff"}}'),
        "encoded": good.replace(b"Content-Type", b"Content-Encoding: gzip\r\nContent-Type", 1),
        "not HTTP": b"220 mail.example.com ESMTP\r\n\r\n",
        "500": Origin.error(500, "INTERNAL", "oops"),
        "502 HTML": Origin.raw(502, b"<html>Bad gateway</html>"),
        "503": Origin.error(503, None, "busy", "Retry-After: 1"),
        "408": Origin.raw(408, b""),
        "oversize": Origin.raw(200, b" " * (8 * 1024 * 1024 + 1)),
        "redirect": Origin.raw(302, b"", "Location: https://elsewhere.example/"),
        "no result": Origin.ok(),
        "result of another type": Origin.ok([]),
        "error in a 200": Origin.raw(200, json.dumps(undone).encode()),
    }
