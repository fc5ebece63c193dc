"""One HTTP request to the platform's API, and what became of it.

Every call has one deadline for all of it, because a limit per read never ends a body that trickles.
What a failure means depends on one moment, the first byte of the request leaving: before it the
call cannot have had an effect (`Unreachable`), after it nobody knows (`UnknownOutcome`) unless the
platform itself says so, in its own envelope. That moment is taken from the driver's trace.

The driver's transport is used without its client. A client adds cookies, redirects, proxies and
credentials from the environment, and a log line with every URL; here all of these are wrong. The
header with the token is strong enough to read everybody's data and is not stripped by the usual
clients on a redirect to another host, so it goes to the configured origin directly and nowhere
else: no redirect is followed, no address out of an answer is ever asked, and a request brings no
more than a path, which is put into the configured address and not behind it: written behind an
address without a path, `@elsewhere.example/` would be one of another host.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, Literal, Protocol, TypeVar, get_args

import httpx
import msgspec

from milepost.errors import ConfigurationError
from milepost.upstream.errors import (
    Cause,
    Facts,
    Forbidden,
    NotFound,
    Refused,
    Throttled,
    Unauthorized,
    Unavailable,
    UnknownOutcome,
    Unreachable,
    Unreadable,
)
from milepost.upstream.wire import AnswerMeta, Bare, ErrorNote

CallClass = Literal[
    "account",
    "directories",
    "directory_contacts",
    "distributions",
    "history",
    "links",
    "list_contacts",
    "mailing_lists",
    "responses",
    "surveys",
]
"""A family of endpoints that has a limit of its own at the platform (second-hand)."""

CALL_CLASSES: Final[tuple[CallClass, ...]] = get_args(CallClass)

B = TypeVar("B", bound=Bare)
B_co = TypeVar("B_co", bound=Bare, covariant=True)

LARGEST_ANSWER: Final = 8 * 1024 * 1024
"""Bytes. A page has at most 100 contacts and a value 1,024 characters (documented), so this leaves
room for 80 of the longest values each; whatever is larger is not a page of the platform's."""

READ_TRIES: Final = 3
"""Of one read, inside its one deadline. More would multiply the load of an outage."""

# An idle connection that the far side closes just as we write makes a write's outcome unknown, so
# ours end first: common load balancers keep theirs for 60 s and more.
_IDLE_SECONDS: Final = 20.0

# Statuses below 500 that say that an answer did not come in time, not that nothing was done.
_UNDECIDED: Final = frozenset({408, 499})
# What reading again cannot mend.
_FUTILE: Final = frozenset[Cause]({"oversize", "no-result", "redirect", "paging"})
_REFUSALS: Final[Mapping[int, tuple[type[Refused], str]]] = {
    401: (Unauthorized, "the token is not accepted"),
    403: (Forbidden, "the token may not do this"),
    404: (NotFound, "not found"),
}

_NOTICES: Final = 16
_BASE: Final = re.compile(
    r"(?:https://(?:[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?(?:\.(?=[0-9A-Za-z])|(?=[:/]|\Z)))+"
    r"|http://(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]))"
    r"(?::[0-9]{1,5})?(?:/[0-9A-Za-z._~-]+)*/?"
)
_CODE: Final = re.compile(r"[0-9A-Za-z_.:-]{1,64}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_VISIBLE: Final = re.compile(r"[!-~]+")
_BARE: Final = msgspec.json.Decoder(Bare)

_logger = logging.getLogger("milepost.upstream")

# The drivers write URLs, and with them ids of people, into their own logs.
for _driver in ("httpx", "httpcore"):
    logging.getLogger(_driver).setLevel(logging.CRITICAL)


class Calls:
    """How many requests were sent inside a `counting()` block."""

    __slots__ = ("_outer", "count")

    def __init__(self, outer: Calls | None) -> None:
        self.count = 0
        self._outer = outer

    def add(self) -> None:
        """Count one request, here and in every block around this one."""
        self.count += 1
        if self._outer is not None:
            self._outer.add()


_counting: contextvars.ContextVar[Calls | None] = contextvars.ContextVar("calls", default=None)


@contextmanager
def counting() -> Iterator[Calls]:
    """Count the requests that really leave inside the block, in this task and in those it starts.

    A request counts when its first byte goes out, whatever becomes of it; tries of a read count
    each; one that finds no connection does not count.
    """
    calls = Calls(_counting.get())
    token = _counting.set(calls)
    try:
        yield calls
    finally:
        _counting.reset(token)


class Gate(Protocol):
    """What every request passes right before it is sent: `budget.py` implements it."""

    def passage(
        self, verb: str, call_class: CallClass, within: float
    ) -> AbstractAsyncContextManager[None]:
        """Let one request through and watch it; it is sent, and ends, inside the block.

        Args:
            verb: the verb that sends it.
            call_class: what it is one of.
            within: seconds after which a grant would come too late for the call.

        Raises:
            BudgetSpent: on entering; nothing is to be sent.
        """
        ...


class Decoder(Protocol[B_co]):
    """What turns a body into an envelope in one pass, such as `msgspec.json.Decoder`."""

    def decode(self, buf: bytes | bytearray, /) -> B_co:
        """Decode a whole body."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a verb, without the origin and the token."""

    verb: str
    call_class: CallClass
    method: str
    path: str
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytearray


@dataclass(frozen=True, slots=True)
class _Lost:
    """No whole answer came. `sent`: the request had begun to leave."""

    sent: bool
    cause: Cause
    saying: str


class _OversizeError(Exception):
    """An answer went beyond `LARGEST_ANSWER`."""


class _Departure:
    """The driver's trace of one request, of which only the departure matters."""

    __slots__ = ("_calls", "sent")

    def __init__(self, calls: Calls | None) -> None:
        self.sent = False
        self._calls = calls

    async def __call__(self, event: str, _info: object) -> None:
        if event == "http11.send_request_headers.started":
            self.sent = True
            if self._calls is not None:
                self._calls.add()


class Caller:
    """Carries requests to one origin, at most `max_connections` at a time, each past the gate."""

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        deadline: float,
        max_connections: int,
        gate: Gate | None = None,
    ) -> None:
        self._base = httpx.URL(_checked_base(base_url))
        self._base_path = self._base.path.rstrip("/")
        if not _VISIBLE.fullmatch(token):
            raise ConfigurationError("the upstream token is empty or not plain visible ASCII")
        self._deadline = deadline
        self._gate = gate
        headers = [
            (b"Host", self._base.netloc),
            (b"X-API-TOKEN", token.encode()),
            (b"Accept", b"application/json"),
            # A compressed answer would make the cap on bytes a cap on something else.
            (b"Accept-Encoding", b"identity"),
            (b"User-Agent", b"milepost"),
        ]
        self._headers = headers
        self._headers_with_body = [*headers, (b"Content-Type", b"application/json")]
        # Proxies and certificates named by the environment are not used: a proxy would be another
        # machine that holds the requests, and a simulator on this machine is none of its business.
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._places = asyncio.Semaphore(max_connections)
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._closed = False
        self._noticed: set[str] = set()

    async def aclose(self) -> None:
        """Close all idle connections at once, and each that a call still holds when it ends."""
        self._closed = True
        while self._idle:
            await self._idle.pop().aclose()

    async def write(self, request: Request, decoder: Decoder[B]) -> B:
        """Make a call that creates or changes something. It is tried once, whatever happens.

        Raises:
            Refused: Nothing was changed.
            BudgetSpent: Nothing was sent, and nothing is wrong.
            Unreachable: Nothing was sent.
            UnknownOutcome: It was sent, and what it did is not known. A caller that is cancelled
                is told nothing, and must take the outcome for unknown as well.
        """
        ends = asyncio.get_running_loop().time() + self._deadline
        return await self._once(request, ends, decoder, write=True)

    async def read(self, request: Request, decoder: Decoder[B]) -> B:
        """Make a call that changes nothing, again where that may help.

        `Throttled` is not tried again here: every process is to slow down then, which whoever
        holds the budget arranges. Each try is a call, and passes the gate.

        Raises:
            Refused: With the platform's reason.
            BudgetSpent: Nothing was sent, or not again.
            Unreachable: Nothing was sent.
            Unavailable: No answer of the platform's.
            Unreadable: An answer that is not understood.
        """
        clock = asyncio.get_running_loop().time
        ends = clock() + self._deadline
        tries = 0
        while True:
            tries += 1
            try:
                return await self._once(request, ends, decoder, write=False)
            except (Unavailable, Unreachable):
                # Full jitter: the dice are apart from the arithmetic, which is `longest_pause`.
                pause = random.uniform(0, longest_pause(tries))  # noqa: S311 -- not a secret
                if tries == READ_TRIES or clock() + pause >= ends:
                    raise
            await asyncio.sleep(pause)

    async def _once(self, request: Request, ends: float, decoder: Decoder[B], *, write: bool) -> B:
        """One try: a free place, the gate, the call."""
        try:
            async with asyncio.timeout_at(ends):
                await self._places.acquire()
        except TimeoutError:
            raise Unreachable(request.verb, "nothing was sent; too many calls are out") from None
        try:
            async with self._passage(request, ends):
                landed = await self._carry(request, ends)
                return self._settled(request, landed, decoder, write=write)
        finally:
            self._places.release()

    def _passage(self, request: Request, ends: float) -> AbstractAsyncContextManager[None]:
        """The gate. What is left of the deadline is shared with the call, which comes after it."""
        if self._gate is None:
            return nullcontext()
        within = (ends - asyncio.get_running_loop().time()) / 2
        return self._gate.passage(request.verb, request.call_class, within)

    async def _carry(self, request: Request, ends: float) -> _Answer | _Lost:
        """Send and receive until the moment `ends` of the loop's clock; never raises for the net.

        Failures are values, so that no exception of the driver's, which may hold the request and
        its token, is ever part of one that leaves this module.
        """
        departure = _Departure(_counting.get())
        cause: Cause
        try:
            async with asyncio.timeout_at(ends):
                return await self._exchange(self._addressed(request, departure))
        except TimeoutError:
            cause, saying = "deadline", "no answer inside the deadline"
        except (httpx.TransportError, OSError) as error:  # OSError: TLS breaking mid-answer
            cause, saying = "disconnected", f"the connection failed ({type(error).__name__})"
        except _OversizeError:
            cause, saying = "oversize", f"the answer is larger than {LARGEST_ANSWER} bytes"
        return _Lost(departure.sent, cause, saying)

    def _addressed(self, request: Request, departure: _Departure) -> httpx.Request:
        """Give a request its address and the token; no path can name another origin here."""
        return httpx.Request(
            request.method,
            self._base.copy_with(raw_path=f"{self._base_path}{request.path}".encode()),
            headers=self._headers if request.body is None else self._headers_with_body,
            content=request.body,
            extensions={"trace": departure},
        )

    async def _exchange(self, request: httpx.Request) -> _Answer:
        """Send and receive over a connection of its own, the one that was used last.

        The driver's pool of many connections looks at each idle one, twice, for every request, and
        loses a place whenever a waiting request is cancelled just as it is given one (httpcore
        1.0.9); cancelling is how deadlines end here. A pool of one, that never makes a request
        wait, does neither.
        """
        transport = self._idle.pop() if self._idle else self._connection()
        try:
            return await self._exchange_over(transport, request)
        finally:
            if self._closed:
                await transport.aclose()
            else:
                self._idle.append(transport)

    def _connection(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(
            verify=self._tls,
            trust_env=False,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=1, keepalive_expiry=_IDLE_SECONDS
            ),
        )

    async def _exchange_over(
        self, transport: httpx.AsyncHTTPTransport, request: httpx.Request
    ) -> _Answer:
        response = await transport.handle_async_request(request)
        body = bytearray()
        try:
            stream = response.stream
            if not isinstance(stream, httpx.AsyncByteStream):
                raise TypeError("the driver gave a response that cannot be awaited")
            async for chunk in stream:
                body += chunk
                if len(body) > LARGEST_ANSWER:
                    raise _OversizeError
        finally:
            await response.aclose()
        return _Answer(response.status_code, response.headers, body)

    def _settled(
        self, request: Request, landed: _Answer | _Lost, decoder: Decoder[B], *, write: bool
    ) -> B:
        """Say what the call ended with: the one place where facts of the wire become errors."""
        if isinstance(landed, _Lost):
            if not landed.sent:
                raise Unreachable(request.verb, f"nothing was sent; {landed.saying}")
            raise _inconclusive(request.verb, landed.saying, landed.cause, Facts(), write=write)

        cause: Cause
        match landed.status // 100:
            case 2:
                try:
                    envelope = _decoded(landed, decoder)
                except msgspec.ValidationError as error:
                    # msgspec's sentences name types and places, never values.
                    cause, saying = "no-result", f"not the wanted answer: {error}"
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    cause, saying = "not-json", "the answer is not JSON, or not all of it"
                else:
                    self._surface(envelope.meta.notice)
                    return envelope
            case 3:
                cause, saying = "redirect", "the answer is a redirect, which is never followed"
            case 4 if landed.status not in _UNDECIDED:
                meta = _meta(landed)
                if meta is not None and (meta.http_status is not None or meta.error is not None):
                    raise _refusal(request.verb, landed)
                cause, saying = "no-envelope", "the refusal is not in the platform's envelope"
            case _:
                cause, saying = "status", "the platform failed"
        raise _inconclusive(request.verb, saying, cause, _facts(landed), write=write)

    def _surface(self, notice: str | None) -> None:
        """Log the platform's notice about our use of it, once: each answer may repeat it."""
        if notice is not None and notice not in self._noticed and len(self._noticed) < _NOTICES:
            self._noticed.add(notice)
            _logger.warning("upstream says: %.200s", ascii(notice))


def longest_pause(tries: int) -> float:
    """Seconds that may at most pass between a read's try number `tries` and the next one."""
    return min(0.1 * 2.0**tries, 2.0)


def _checked_base(base_url: str) -> str:
    """Refuse an address under which the token would cross a network in the clear.

    Raises:
        ConfigurationError: It is neither `https://…/API/v3` nor an `http://` of this machine.
    """
    if not _BASE.fullmatch(base_url):
        raise ConfigurationError(
            "the upstream address must be https, such as https://fra1.qualtrics.com/API/v3, "
            "or http on this machine, such as http://127.0.0.1:8790/API/v3"
        )
    return base_url.rstrip("/")


def _decoded(answer: _Answer, decoder: Decoder[B]) -> B:
    """Decode a success.

    Raises:
        msgspec.ValidationError: It is JSON, but not the wanted answer.
        msgspec.DecodeError: It is not JSON.
    """
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise msgspec.DecodeError
    envelope = decoder.decode(answer.body)
    if envelope.meta.error is not None:
        raise msgspec.ValidationError("a success that holds an error")
    return envelope


def _meta(answer: _Answer) -> AnswerMeta | None:
    """Read the envelope of an answer that is no success; None where it has none."""
    try:
        return _BARE.decode(answer.body).meta
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _facts(answer: _Answer) -> Facts:
    """Read what an answer that is no success says about itself, as far as it can be read."""
    meta = _meta(answer)
    if meta is None:
        return Facts(http_status=answer.status)
    note = meta.error or ErrorNote()
    return Facts(
        http_status=answer.status,
        error_code=_plain(note.error_code),
        request_id=_plain(meta.request_id),
        upstream_message=note.error_message,
    )


def _plain(code: str | None) -> str | None:
    """Keep a code that looks like one: whatever else stands in its place may be a person's data."""
    return code if code is not None and _CODE.fullmatch(code) else None


def _refusal(verb: str, answer: _Answer) -> Refused:
    facts = _facts(answer)
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        wait = retry_after(answer.headers.get("Retry-After"), answer.headers.get("Date"))
        return Throttled(verb, "too many calls", facts, wait)
    kind, saying = _REFUSALS.get(answer.status, (Refused, "refused"))
    return kind(verb, saying, facts)


def _inconclusive(
    verb: str, saying: str, cause: Cause, facts: Facts, *, write: bool
) -> UnknownOutcome | Unavailable | Unreadable:
    if write:
        return UnknownOutcome(verb, saying, cause, facts)
    kind = Unreadable if cause in _FUTILE else Unavailable
    return kind(verb, saying, cause, facts)


def retry_after(value: str | None, date: str | None) -> float | None:
    """Seconds that a `Retry-After` asks for; None where there is none that can be understood.

    Args:
        value: Seconds, or a moment.
        date: The `Date` of the same answer: with a moment, the far clock counts, not ours.
    """
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        since = parsedate_to_datetime(date) if date is not None else datetime.now(UTC)
        return max((until - since).total_seconds(), 0.0)
    except (TypeError, ValueError):  # TypeError: one of the two has no zone
        return None
