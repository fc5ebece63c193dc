"""One message: signed, sent to nobody but whom it may be sent to, and what came of it."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import httpcore
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from milepost.errors import InvalidEndpoint
from milepost.webhooks import MOST_READ, Answer, Webhooks, body, kind_of

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
SECRET = "whsec_" + "QUFB" * 10 + "QUE="
OTHER = "whsec_" + "QkJC" * 10 + "QkI="
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nokay"
PUBLIC = "93.184.216.34"

HOSTILE = (
    "0.0.0.0",  # noqa: S104 - nothing is bound
    *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "017700000001"),
    *("0", "127.255.255.254", "10.0.0.1", "10.255.255.255", "172.16.0.1"),
    *("172.31.255.255", "192.168.1.1", "169.254.169.254", "2852039166", "0xa9fea9fe"),
    *("100.64.0.1", "100.127.255.254", "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1"),
    *("198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250"),
    *("240.0.0.1", "255.255.255.255", "localhost", "LOCALHOST", "[::1]", "[::]"),
    *("[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]"),
    *("[::ffff:169.254.169.254]", "[::127.0.0.1]", "[::ffff:0:127.0.0.1]"),
    *("[64:ff9b::127.0.0.1]", "[64:ff9b::a00:1]", "[64:ff9b:1::7f00:1]", "[fc00::1]"),
    *("[fd12:3456::1]", "[fe80::1]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]"),
    *("[2001::7f00:1]", "[2001:10::1]", "[2002:7f00:1::]", "[2002:a00:1::1]", "[3fff::1]"),
    *("[5f00::1]", "[100::1]", "loopback.test", "private.test", "metadata.test", "sixth.test"),
    *("mixed.test", "mapped.test", "rebound.test", "zoned.test"),
)
"""Where nothing is to be sent, in whatever form it is written, and names that lead there."""

NAMES: dict[str, list[list[str]]] = {
    "loopback.test": [["127.0.0.1"]],
    "private.test": [["10.1.2.3"]],
    "metadata.test": [["169.254.169.254"]],
    "sixth.test": [["::1"]],
    "mixed.test": [[PUBLIC, "192.168.0.1"]],
    "mapped.test": [["::ffff:192.168.0.1"]],
    "zoned.test": [["fe80::1%1"]],
    # At the first question it is another one than at the next.
    "rebound.test": [[PUBLIC], ["127.0.0.1"]],
}


def resolving() -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """A resolver that knows `NAMES`, and asks this machine's for any other."""
    answers = {name: itertools.cycle(found) for name, found in NAMES.items()}

    async def resolve(host: str, port: int) -> Sequence[str]:
        """Answer."""
        if host in answers:
            return next(answers[host])
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [str(address[0]) for *_, address in found]

    return resolve


@asynccontextmanager
async def receiving(
    *answers: bytes, delay: float = 0
) -> AsyncIterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A receiver with these answers, one after the other; tells its URL and what it was sent."""
    seen: list[tuple[dict[str, str], bytes]] = []
    coming = itertools.chain(answers, itertools.repeat(answers[-1]))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep what is sent, and answer it."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head)}
        seen.append((headers, await reader.readexactly(int(headers["content-length"]))))
        await asyncio.sleep(delay)
        writer.write(next(coming))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", seen


@pytest.fixture
async def webhooks() -> AsyncIterator[Webhooks]:
    """What sends, to this machine as well."""
    async with Webhooks(LOOPBACK, seconds=5) as webhooks:
        yield webhooks


@pytest.fixture
def connects(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where connections were asked for; none is made."""
    asked: list[str] = []

    async def connect(_: object, host: str, *__: object, **___: object) -> Any:
        """Connect to nobody."""
        asked.append(host)
        raise httpcore.ConnectError

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)
    return asked


def test_there_are_sixty_hostile_hosts() -> None:
    """So many are promised to be refused."""
    assert len(set(HOSTILE)) >= 60


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_nothing_is_sent_to_hostile_hosts(scheme: str, connects: list[str]) -> None:
    """No connection is made to any, though a name is a public one when it is looked at first."""
    async with Webhooks(resolve=resolving()) as webhooks:
        for host in HOSTILE:
            for _ in range(2 if host == "rebound.test" else 1):
                answer = await webhooks.send(f"{scheme}://{host}/", [SECRET], "msg_1", b"{}")
                assert (host, None) == (host, answer.code)
                assert answer.error is not None
    # The one that is public once is connected to then, by the address that was looked at.
    assert ([PUBLIC] if scheme == "https" else []) == connects


async def test_hostile_hosts_are_refused_when_they_are_registered(connects: list[str]) -> None:
    """With the reason; what cannot be told then is told at each connection."""
    async with Webhooks(resolve=resolving()) as webhooks:
        for host in HOSTILE:
            if host == "rebound.test":
                await webhooks.check(f"https://{host}/hook")
                continue
            with pytest.raises(InvalidEndpoint, match=r"Nothing is sent there: .* is ") as refused:
                await webhooks.check(f"https://{host}/hook")
            assert "url" == refused.value.field
    assert [] == connects


async def test_no_listener_hears_of_hostile_names() -> None:
    """Real sockets on this machine, and the names that lead to them: nobody knocks."""
    async with receiving(OK) as (url, seen), Webhooks(resolve=resolving()) as strict:
        port = url.split(":")[2]
        for host in ("127.0.0.1", "localhost", "2130706433", "loopback.test", "rebound.test"):
            for scheme in ("http", "https"):
                await strict.send(f"{scheme}://{host}:{port}", [SECRET], "msg_1", b"{}")
        assert [] == seen


@pytest.mark.parametrize(
    "address",
    [
        PUBLIC,
        "1.1.1.1",
        "172.32.0.1",
        "100.128.0.1",
        "192.0.1.1",
        "2606:4700::1111",
        "2001:4860::8",
    ],
)
def test_public_addresses_are_sent_to(address: str) -> None:
    """Those beside what is reserved, too."""
    assert None is kind_of(ipaddress.ip_address(address))


async def test_the_connection_goes_to_the_address_that_was_judged(connects: list[str]) -> None:
    """And to the next one where that one does not answer; the name is not asked for again."""
    questions = []

    async def resolve(host: str, _: int) -> Sequence[str]:
        """Know three addresses."""
        questions.append(host)
        return [PUBLIC, "2606:4700::1111", "1.1.1.1"]

    async with Webhooks(resolve=resolve) as webhooks:
        answer = await webhooks.send("https://app.test/", [SECRET], "msg_1", b"{}")
    assert (["app.test"], [PUBLIC, "2606:4700::1111"]) == (questions, connects)
    assert "no connection" == answer.error


async def test_tls_asks_for_the_hosts_name() -> None:
    """Not for the address that was connected to."""
    hello = asyncio.Queue[bytes]()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear the first words."""
        hello.put_nowait(await reader.read(4_096))
        writer.close()

    async def resolve(*_: object) -> Sequence[str]:
        """Know one address."""
        return ["127.0.0.1"]

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server, Webhooks(LOOPBACK, resolve=resolve) as webhooks:
        port = server.sockets[0].getsockname()[1]
        answer = await webhooks.send(f"https://app.test:{port}/", [SECRET], "msg_1", b"{}")
        assert b"app.test" in await hello.get()
    assert None is answer.code


@pytest.mark.parametrize(
    "url",
    [
        "",
        "app.example.com",
        "ftp://app.example.com",
        "https://",
        "https://app.example.com:0",
        "https://app.example.com:99999",
        "https://ann:secret@app.example.com",
        "https://app.example.com/#part",
        "https://app.example.com\\@10.0.0.1/",
        "https://app.example.com/a b",
        "https://äpp.example.com",
        "http://app.example.com",
        "https://[::1",
        "https://app.example.com/" + "a" * 2_000,
    ],
)
async def test_what_is_no_endpoint_is_refused(url: str) -> None:
    """With the field, and what to do."""

    async def resolve(*_: object) -> Sequence[str]:
        """Know one address."""
        return [PUBLIC]

    async with Webhooks(resolve=resolve) as webhooks:
        with pytest.raises(InvalidEndpoint) as refused:
            await webhooks.check(url)
    assert ("url", True) == (refused.value.field, bool(refused.value.fix))


async def test_a_message_is_signed(webhooks: Webhooks) -> None:
    """By each secret, as Standard Webhooks has it; another secret does not verify it."""
    content = body("link.issued", datetime(2030, 1, 1, tzinfo=UTC), {"url": "https://x.test/é"})
    async with receiving(OK) as (url, seen):
        answer = await webhooks.send(url, [SECRET, OTHER], "msg_1", content)
    assert (200, "okay", None, True) == (answer.code, answer.said, answer.error, answer.is_taken)
    ((headers, received),) = seen
    told = {
        "type": "link.issued",
        "timestamp": "2030-01-01T00:00:00Z",
        "data": {"url": "https://x.test/é"},
    }
    assert "msg_1" == headers["webhook-id"]
    for secret in (SECRET, OTHER):
        assert told == Webhook(secret).verify(received, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "Q0ND" * 10 + "Q0M=").verify(received, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(received.replace(b"issued", b"failed"), headers)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, True, False, None)),
        (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", (410, False, True, None)),
        (
            b"HTTP/1.1 503 Busy\r\nRetry-After: 90\r\nContent-Length: 0\r\n\r\n",
            (503, False, False, 90),
        ),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 99\r\n\r\n", (500, False, False, None)),
    ],
)
async def test_what_an_endpoint_says(
    webhooks: Webhooks, answer: bytes, expected: tuple[int, bool, bool, float | None]
) -> None:
    """2xx takes the message, 410 ends all, Retry-After is heard, half an answer is one."""
    async with receiving(answer) as (url, _):
        came = await webhooks.send(url, [SECRET], "msg_1", b"{}")
    assert expected == (came.code, came.is_taken, came.is_gone, came.retry_after)
    assert None is came.error


async def test_redirects_are_not_followed(webhooks: Webhooks) -> None:
    """They are an answer like others that take nothing."""
    async with receiving(OK) as (there, seen):
        redirect = f"HTTP/1.1 307 Away\r\nLocation: {there}\r\nContent-Length: 0\r\n\r\n".encode()
        async with receiving(redirect) as (url, _):
            answer = await webhooks.send(url, [SECRET], "msg_1", b"{}")
    assert (307, False, []) == (answer.code, answer.is_taken, seen)


async def test_little_is_read_of_an_answer(webhooks: Webhooks) -> None:
    """However much there is; less is shown."""
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer without an end."""
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65_536)
                sent += 65_536
                await writer.drain()
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(pour, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        answer = await webhooks.send(url, [SECRET], "msg_1", b"{}")
    assert (200, "x" * 200) == (answer.code, answer.said)
    assert sent < 100 * MOST_READ  # what the kernel's buffers take besides


async def test_an_attempt_has_one_deadline() -> None:
    """Also where a letter comes now and then."""
    is_over = asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer letter by letter."""
        await reader.readuntil(b"\r\n\r\n")
        end = asyncio.ensure_future(reader.read())
        while not end.done():
            writer.write(b"H")
            await asyncio.wait({end}, timeout=0.05)
        writer.close()
        with suppress(ConnectionError):
            await asyncio.gather(end, writer.wait_closed())
        is_over.set()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, Webhooks(LOOPBACK, seconds=0.3) as webhooks:
        answer = await webhooks.send(url, [SECRET], "msg_1", b"{}")
        assert (None, "it took longer than 0.3 s") == (answer.code, answer.error)
        await asyncio.wait_for(is_over.wait(), 5)


@pytest.mark.parametrize("sent", [b"SSH-2.0-OpenSSH\r\n", b""])
async def test_what_is_no_answer(webhooks: Webhooks, sent: bytes) -> None:
    """It is said in a few words, without particulars of the network."""
    async with receiving(sent) as (url, _):
        answer = await webhooks.send(url, [SECRET], "msg_1", b"{}")
    assert Answer(seconds=answer.seconds, error="no answer in HTTP") == answer


async def test_a_name_that_is_none(webhooks: Webhooks) -> None:
    """It is said so, and may be one at the next attempt."""
    await webhooks.check("https://nobody.invalid/hook")
    answer = await webhooks.send("https://nobody.invalid/hook", [SECRET], "msg_1", b"{}")
    assert "its host's name cannot be resolved" == answer.error


def test_a_body_is_json() -> None:
    """With a type, a moment and data, as Standard Webhooks recommends."""
    at = datetime(2030, 1, 1, tzinfo=UTC)
    told = {"type": "pool.low", "timestamp": "2030-01-01T00:00:00Z", "data": {"milestone": "m"}}
    assert told == json.loads(body("pool.low", at, {"milestone": "m"}))
