"""Webhooks: sign and deliver one message.

Whoever makes an endpoint chooses where this host connects to, and what it is answered is shown to
them. So that nobody can look through it into the network that it stands in, an address is judged
**at the moment of the connection**: the name is resolved, every address that it has is held against
`NOT_PUBLIC`, and the connection goes to one of these very addresses. A name that is resolved once
to be judged and once more to be used may be another one the second time. TLS goes on to check the
host's name, and no redirect is followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import Any, Final, Self
from urllib.parse import urlsplit
from uuid import UUID

import httpcore
import msgspec
from msgspec import Struct
from standardwebhooks import Webhook

from milepost.errors import InvalidEndpoint, MilepostError
from milepost.store.messages import LINES, MOST_ENDPOINTS
from milepost.upstream.call import retry_after

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host, as texts; raises OSError where it has none."""

ATTEMPT_SECONDS: Final = 10.0
"""For an attempt in all, from the name's resolution to the last byte that is read: who takes longer
should answer first and work afterwards."""

CONNECT_SECONDS: Final = 4.0
"""For a connection to one address, so that there is time for another one."""

CHECK_SECONDS: Final = 3.0
"""How long whoever registers an endpoint waits for its name to be resolved."""

MOST_ADDRESSES: Final = 2
"""Of a host that are tried: one of each kind, mostly."""

MOST_READ: Final = 64 * 1024
"""Bytes of an answer."""

MOST_SAID: Final = 200
"""Characters of it that are shown."""

MOST_URL: Final = 2_000

_PORTS: Final = {"https": 443, "http": 80}
_URL: Final = re.compile(r"[!-~]+")
"""Printable ASCII: parsers disagree about the rest, and names beyond it are written in Punycode."""

NOT_PUBLIC: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ipaddress.ip_network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "a carrier's (CGNAT)"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "reserved"),
        ("192.88.99.0/24", "a relay (6to4)"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "reserved"),
        ("198.51.100.0/24", "reserved"),
        ("203.0.113.0/24", "reserved"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::1/128", "loopback"),
        ("::/128", "unspecified"),
        ("::ffff:0:0/96", "an IPv4 address in another form"),
        ("64:ff9b::/96", "an IPv4 address in another form (NAT64)"),
        ("64:ff9b:1::/48", "an IPv4 address in another form (NAT64)"),
        ("fc00::/7", "private (ULA)"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("2001::/32", "an IPv4 address in another form (Teredo)"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "reserved"),
        ("2002::/16", "an IPv4 address in another form (6to4)"),
        ("3fff::/20", "reserved"),
        ("::/3", "reserved"),
        ("4000::/2", "reserved"),
        ("8000::/1", "reserved"),
    )
)
"""Where nothing is sent, unless the operator allows it (IANA's registries of special addresses).
The first that holds an address says of which kind it is. Of IPv6 what is left is 2000::/3, all that
is given out to the public."""


class NotAllowed(MilepostError):
    """A host has an address to which nothing is sent."""


class Answer(Struct, frozen=True, kw_only=True):
    """What an endpoint said to a message."""

    seconds: float
    code: int | None = None
    error: str | None = None
    """Why there was no answer."""
    said: str | None = None
    """How its body begins."""
    retry_after: float | None = None
    """Seconds for which it wants to be left alone."""

    @property
    def is_taken(self) -> bool:
        """It has the message."""
        return self.code is not None and HTTPStatus.OK <= self.code < HTTPStatus.MULTIPLE_CHOICES

    @property
    def is_gone(self) -> bool:
        """It wants no messages any more."""
        return self.code == HTTPStatus.GONE


def kind_of(address: Address, allowed: Iterable[Network] = ()) -> str | None:
    """Why nothing is sent to an address; None: it may be."""
    if any(address in network for network in allowed):
        return None
    return next((kind for network, kind in NOT_PUBLIC if address in network), None)


def name_of(message_id: UUID) -> str:
    """A message's id as receivers are told it."""
    return f"msg_{message_id.hex}"


def body(kind: str, at: datetime, data: object) -> bytes:
    """What a message is sent as.

    Args:
        kind: its type.
        at: when that came about of which it tells.
        data: what it tells.
    """
    return msgspec.json.encode({"type": kind, "timestamp": at, "data": data})


class Webhooks:
    """Delivers messages. One for each process; safe to share between tasks.

    Args:
        allowed: networks of the operator's own that endpoints may be in, by http as well.
        seconds: for an attempt in all.
        resolve: finds the addresses of a host; None: as this host does it.
    """

    def __init__(
        self,
        allowed: Sequence[Network] = (),
        *,
        seconds: float = ATTEMPT_SECONDS,
        resolve: Resolve | None = None,
    ) -> None:
        self._allowed = tuple(allowed)
        self._seconds = seconds
        # Threads of its own: names that are long in being resolved must not keep others waiting.
        self._threads = ThreadPoolExecutor(2 * LINES * MOST_ENDPOINTS, "webhooks")
        self._resolve = resolve or self._look_up
        self._secure = self._pool(_Guarded(self._addresses), ssl_context=_tls)
        self._plain = self._pool(_Guarded(self._own_addresses))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for pool in (self._secure, self._plain):
            await pool.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def check(self, url: str) -> None:
        """See whether a URL can be an endpoint's, before it is made one.

        A host that cannot be resolved now may be later. What counts is each connection.

        Raises:
            InvalidEndpoint: it cannot; says why, and what to do.
        """
        example = "Give one as https://app.example.com/milepost."
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise InvalidEndpoint("This is not a URL.", fix=example, field="url") from None
        if not _URL.fullmatch(url) or len(url) > MOST_URL or "\\" in url or not host or port == 0:
            raise InvalidEndpoint("This is not a URL.", fix=example, field="url")
        if parts.scheme not in _PORTS:
            raise InvalidEndpoint("Messages go to https addresses.", fix=example, field="url")
        if parts.username is not None or parts.password is not None or "#" in url:
            raise InvalidEndpoint(
                "The URL holds a user, a password or a fragment, which are not sent.",
                fix="Leave them out: a message is known by its signature.",
                field="url",
            )
        judge = self._addresses if parts.scheme == "https" else self._own_addresses
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await judge(host, port or _PORTS[parts.scheme])
        except NotAllowed as error:
            raise InvalidEndpoint(
                f"Nothing is sent there: {error}.",
                fix="Give a public https address, or have the operator add its network to "
                "MILEPOST_WEBHOOKS_ALLOW.",
                field="url",
            ) from error
        except (OSError, UnicodeError, TimeoutError):
            if parts.scheme != "https":
                raise InvalidEndpoint(
                    "The host cannot be resolved, and http is only for networks that the operator "
                    "allows.",
                    fix=example,
                    field="url",
                ) from None

    async def send(
        self, url: str, secrets: Sequence[str], message_id: str, content: bytes
    ) -> Answer:
        """Send a message once, signed, and say what came of it; it raises nothing.

        Args:
            url: of the endpoint.
            secrets: each signs it.
            message_id: the same at every attempt, by which a receiver knows it again.
            content: as `body` makes it.
        """
        # By this host's clock, not the database's: the receiver holds it against its own.
        now = datetime.now(UTC)
        signatures = (Webhook(key).sign(message_id, now, content.decode()) for key in secrets)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "milepost",
            "Webhook-Id": message_id,
            "Webhook-Timestamp": str(int(now.timestamp())),
            "Webhook-Signature": " ".join(signatures),
        }
        begun = time.monotonic()
        pool = self._secure if url.lower().startswith("https:") else self._plain
        code: int | None = None
        said, wait, error = b"", None, None
        try:
            async with (
                asyncio.timeout(self._seconds),
                pool.stream(
                    "POST",
                    url,
                    headers=list(headers.items()),
                    content=content,
                    extensions={"timeout": {"connect": CONNECT_SECONDS}},
                ) as answer,
            ):
                code = answer.status
                told = {name.lower(): value.decode("latin-1") for name, value in answer.headers}
                wait = retry_after(told.get(b"retry-after"), told.get(b"date"))
                async for piece in answer.aiter_stream():
                    said += piece
                    if len(said) > MOST_READ:
                        break
        except TimeoutError:
            error = f"it took longer than {self._seconds:g} s"
        except NotAllowed as refused:
            error = f"nothing is sent there: {refused}"
        except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as failed:
            error = _in_words(failed)
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol, UnicodeError, ValueError):
            error = "no answer in HTTP"
        return Answer(
            seconds=round(time.monotonic() - begun, 3),
            code=code,
            # Whoever has answered has the message, however the rest of the answer went.
            error=error if code is None else None,
            said=said[: 4 * MOST_SAID].decode(errors="replace")[:MOST_SAID] or None,
            retry_after=wait,
        )

    def _pool(
        self, backend: httpcore.AsyncNetworkBackend, ssl_context: Callable[[], Any] | None = None
    ) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=ssl_context() if ssl_context else None,
            max_connections=2 * LINES * MOST_ENDPOINTS,
            max_keepalive_connections=MOST_ENDPOINTS,
            keepalive_expiry=ATTEMPT_SECONDS,
            network_backend=backend,
        )

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        """Of a host, each of which may be connected to.

        Raises:
            NotAllowed: one of them may not.
            OSError: it has none.
        """
        found = await self._resolve(host, port)
        for text in found:
            if kind := kind_of(ipaddress.ip_address(text), self._allowed):
                raise NotAllowed(f"its address is {kind}")
        return found

    async def _own_addresses(self, host: str, port: int) -> Sequence[str]:
        """As `_addresses`, but only in networks that the operator allows."""
        found = await self._addresses(host, port)
        for text in found:
            if not any(ipaddress.ip_address(text) in network for network in self._allowed):
                raise NotAllowed("http is only for networks that the operator allows")
        return found


class _Guarded(httpcore.AsyncNetworkBackend):
    """Connects to addresses that have been judged, and to nothing else."""

    def __init__(self, judged: Resolve) -> None:
        self._judged = judged
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (the signature is httpcore's)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failed: Exception | None = None
        for address in (await self._judged(host, port))[:MOST_ADDRESSES]:
            try:
                return await self._network.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed or httpcore.ConnectError("no address")

    async def connect_unix_socket(
        self,
        path: str,  # noqa: ARG002  (the signature is httpcore's)
        timeout: float | None = None,  # noqa: ARG002, ASYNC109  (as above)
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002  (as above)
    ) -> httpcore.AsyncNetworkStream:
        raise NotAllowed("it is no address of the network")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


@cache
def _tls() -> ssl.SSLContext:
    """Read once: it takes 20 ms."""
    return httpcore.default_ssl_context()


def _in_words(error: Exception) -> str:
    """Why there is no answer, without particulars of this host's network."""
    match error:
        case socket.gaierror():
            return "its host's name cannot be resolved"
        case httpcore.ConnectTimeout():
            return f"no connection within {CONNECT_SECONDS:g} s"
        case httpcore.ConnectError():
            is_tls = isinstance(error.__cause__ or error.__context__, ssl.SSLError)
            return "its certificate is not valid" if is_tls else "no connection"
        case _:
            return "the connection ended before an answer"
