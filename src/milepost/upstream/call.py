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
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from typing import Final, Literal, Protocol, TypeVar, get_args

import httpx
import msgspec

from milepost.errors import ConfigurationError
from milepost.upstream.credentials import (
    GRANT,
    GRANT_REFUSAL,
    Access,
    AccessGrant,
    ClientAccess,
    ClientCredentials,
    Credentials,
    TokenAccess,
    basic,
    grant_form,
)
from milepost.upstream.errors import (
    BudgetSpent,
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
from milepost.upstream.wire import AnswerMeta, Bare, ErrorNote, plain_code, sentence

CallClass = Literal[
    "account",
    "batch_transactions",
    "directories",
    "directory_contacts",
    "distributions",
    "history",
    "imports",
    "links",
    "list_contacts",
    "mailing_lists",
    "responses",
    "subscriptions",
    "surveys",
    "transaction_batches",
    "transactions",
]
"""A family of endpoints that has a limit of its own at the platform (second-hand)."""

CALL_CLASSES: Final[tuple[CallClass, ...]] = get_args(CallClass)

T = TypeVar("T")
B = TypeVar("B", bound=Bare)
B_co = TypeVar("B_co", bound=Bare, covariant=True)

LARGEST_ANSWER: Final = 8 * 1024 * 1024
"""Bytes. A page has at most 100 contacts and a value 1,024 characters (documented), so this leaves
room for 80 of the longest values each; whatever is larger is not a page of the platform's."""

READ_TRIES: Final = 3
"""Of one read, inside its one deadline. More would multiply the load of an outage."""

RETRY_SHARE: Final = 0.1
"""Tries again for each read: an outage brings the platform a tenth more calls, not three times as
many."""

RETRY_RESERVE: Final = 10.0
"""Tries again that may be saved up, and that there are at the start: a quiet client, such as a job
by night, is to survive a gateway's restart as well as a busy one."""

# An idle connection that the far side closes just as we write makes a write's outcome unknown, so
# ours end first: common load balancers keep theirs for 60 s and more.
_IDLE_SECONDS: Final = 20.0

# Statuses below 500 that say that an answer did not come in time, not that nothing was done.
_UNDECIDED: Final = frozenset({408, 499})
# What reading again cannot mend.
_FUTILE: Final = frozenset[Cause]({"oversize", "no-result", "redirect", "paging"})
_BARRED: Final = "the token is not accepted"
_REFUSALS: Final[Mapping[int, tuple[type[Refused], str]]] = {
    401: (Unauthorized, _BARRED),
    403: (Forbidden, "the token may not do this"),
    404: (NotFound, "not found"),
}

_TOKEN_PATH: Final = b"/oauth2/token"
_MOST_NOTICES: Final = 16
_NOTICE_LENGTH: Final = 200
_BASE: Final = re.compile(
    r"(?:https://(?:[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?(?:\.(?=[0-9A-Za-z])|(?=[:/]|\Z)))+"
    r"|http://(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]))"
    r"(?::[0-9]{1,5})?(?:/[0-9A-Za-z._~-]+)*/?"
)
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_BARE: Final = msgspec.json.Decoder(Bare)

_logger = logging.getLogger("milepost.upstream")

# The drivers write URLs, and with them ids of people, into their own logs.
for _driver in ("httpx", "httpcore"):
    logging.getLogger(_driver).setLevel(logging.CRITICAL)


class Calls:
    """How many requests were sent inside a `counting()` block."""

    __slots__ = ("_outer", "count")

    def __init__(self, outer: Calls | None) -> None:
        self.count = 0.0
        self._outer = outer

    def add(self, n: float = 1) -> None:
        """Count one request, or so much of it, here and in every block around this one."""
        self.count += n
        if self._outer is not None:
            self._outer.add(n)


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


def count(n: float) -> None:
    """Count so many requests in this context that have left in another, on behalf of several."""
    if (calls := _counting.get()) is not None:
        calls.add(n)


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


class _StaleError(Refused):
    """An access token is not accepted any more; another may be."""


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


class _Retries:
    """How many tries again there may be: `RETRY_SHARE` of the reads, and a reserve."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = RETRY_RESERVE

    def earn(self) -> None:
        """A read begins."""
        self._left = min(self._left + RETRY_SHARE, RETRY_RESERVE)

    def take(self) -> bool:
        """Take one; False: there is none."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Caller:
    """Carries requests to one origin, at most `max_connections` at a time, each past the gate."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        *,
        deadline: float,
        max_connections: int,
        gate: Gate | None = None,
    ) -> None:
        self._base = httpx.URL(_checked_base(base_url))
        self._base_path = self._base.path.rstrip("/")
        self._access: TokenAccess | ClientAccess
        if isinstance(credentials, ClientCredentials):
            self._access = ClientAccess(
                credentials, partial(self._ask, credentials), time.monotonic
            )
        else:
            self._access = TokenAccess(credentials)
        self._deadline = deadline
        self._gate = gate
        self._headers = [
            (b"Host", self._base.netloc),
            (b"Accept", b"application/json"),
            # A compressed answer would make the cap on bytes a cap on something else.
            (b"Accept-Encoding", b"identity"),
            (b"User-Agent", b"milepost"),
        ]
        self._headers_with_body = [*self._headers, (b"Content-Type", b"application/json")]
        # Proxies and certificates named by the environment are not used: a proxy would be another
        # machine that holds the requests, and a simulator on this machine is none of its business.
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._places = asyncio.Semaphore(max_connections)
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._closed = False
        self._retries = _Retries()
        self._notices: list[str] = []
        self._dated: tuple[str, float] | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """What the platform has said about our use of it, each once; see `Upstream.notices`."""
        return tuple(self._notices)

    @property
    def clock_ahead(self) -> float | None:
        """Seconds by which the platform's clock is ahead of ours; see `Upstream.clock_ahead`."""
        if self._dated is None:
            return None
        try:
            return parsedate_to_datetime(self._dated[0]).timestamp() - self._dated[1]
        except (ValueError, OverflowError):
            return None

    async def aclose(self) -> None:
        """Close all idle connections at once, and each that a call still holds when it ends."""
        self._closed = True
        await self._access.aclose()
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
        holds the budget arranges. Each try is a call, and passes the gate. There are no more tries
        again than `RETRY_SHARE` of the reads, and a reserve.

        Raises:
            Refused: With the platform's reason.
            BudgetSpent: Nothing was sent, or not again.
            Unreachable: Nothing was sent.
            Unavailable: No answer of the platform's.
            Unreadable: An answer that is not understood.
        """
        clock = asyncio.get_running_loop().time
        ends = clock() + self._deadline
        self._retries.earn()
        tries = 0
        while True:
            tries += 1
            try:
                return await self._once(request, ends, decoder, write=False)
            except (Unavailable, Unreachable):
                # Full jitter: the dice are apart from the arithmetic, which is `longest_pause`.
                pause = random.uniform(0, longest_pause(tries))  # noqa: S311 -- not a secret
                if tries == READ_TRIES or clock() + pause >= ends or not self._retries.take():
                    raise
            await asyncio.sleep(pause)

    async def _once(self, request: Request, ends: float, decoder: Decoder[B], *, write: bool) -> B:
        """One try, and one more where it was refused for a token that is not good any more."""
        try:
            return await self._sent(request, ends, decoder, write=write)
        except _StaleError:
            pass
        try:
            return await self._sent(request, ends, decoder, write=write)
        except _StaleError as error:
            raise Unauthorized(request.verb, _BARRED, error.facts) from None

    async def _sent(self, request: Request, ends: float, decoder: Decoder[B], *, write: bool) -> B:
        """Get access, a free place and the gate's leave; then make the call."""
        access = await self._accessed(request.verb, ends)
        async with self._place(request, ends):
            landed = await self._carry(self._addressed(request, access), ends)
            try:
                settled = self._settled(request, landed, decoder, write=write)
            except Unauthorized as error:
                # For the gate, too, a token whose time is over is no token that is not accepted.
                if self._access.give_up(access):
                    raise _StaleError(request.verb, "a token was revoked", error.facts) from None
                raise
            access.proven = True
            return settled

    async def _accessed(self, verb: str, ends: float) -> Access:
        try:
            async with asyncio.timeout_at(ends):
                access = await self._access.current()
        except TimeoutError:
            raise Unreachable(verb, "nothing was sent; no access token came in time") from None
        match access:
            case Access():
                return access
            case BudgetSpent():
                raise BudgetSpent(verb, access.rule, access.retry_after or 0.0)
            case Throttled():
                raise Throttled(verb, "no access token", access.facts, access.retry_after)
            case Refused():
                raise Unauthorized(verb, "nothing was sent; no access token", access.facts)
            case _:
                raise Unreachable(verb, "nothing was sent; no access token", access.facts)

    async def _ask(self, credentials: ClientCredentials) -> AccessGrant:
        """Ask for an access token, at the origin of the API (documented).

        Raises:
            CallFailed: There is none.
        """
        request = Request("access_token", "account", "POST", "")
        asking = httpx.Request(
            "POST",
            self._base.copy_with(raw_path=_TOKEN_PATH),
            headers=[
                *self._headers,
                (b"Authorization", basic(credentials)),
                (b"Content-Type", b"application/x-www-form-urlencoded"),
            ],
            content=grant_form(credentials),
        )
        ends = asyncio.get_running_loop().time() + self._deadline
        async with self._place(request, ends):
            return _granted(request.verb, await self._carry(asking, ends))

    @asynccontextmanager
    async def _place(self, request: Request, ends: float) -> AsyncIterator[None]:
        """A free place, and then the gate."""
        try:
            async with asyncio.timeout_at(ends):
                await self._places.acquire()
        except TimeoutError:
            raise Unreachable(request.verb, "nothing was sent; too many calls are out") from None
        try:
            async with self._passage(request, ends):
                yield
        finally:
            self._places.release()

    def _passage(self, request: Request, ends: float) -> AbstractAsyncContextManager[None]:
        """The gate. What is left of the deadline is shared with the call, which comes after it."""
        if self._gate is None:
            return nullcontext()
        within = (ends - asyncio.get_running_loop().time()) / 2
        return self._gate.passage(request.verb, request.call_class, within)

    async def _carry(self, request: httpx.Request, ends: float) -> _Answer | _Lost:
        """Send and receive until the moment `ends` of the loop's clock; never raises for the net.

        Failures are values, so that no exception of the driver's, which may hold the request and
        its token, is ever part of one that leaves this module.
        """
        departure = _Departure(_counting.get())
        request.extensions = {"trace": departure}
        cause: Cause
        try:
            async with asyncio.timeout_at(ends):
                return await self._exchange(request)
        except TimeoutError:
            cause, saying = "deadline", "no answer inside the deadline"
        except (httpx.TransportError, OSError) as error:  # OSError: TLS breaking mid-answer
            cause, saying = "disconnected", f"the connection failed ({type(error).__name__})"
        except _OversizeError:
            cause, saying = "oversize", f"the answer is larger than {LARGEST_ANSWER} bytes"
        return _Lost(departure.sent, cause, saying)

    def _addressed(self, request: Request, access: Access) -> httpx.Request:
        """Give a request its address and the token; no path can name another origin here."""
        headers = self._headers if request.body is None else self._headers_with_body
        return httpx.Request(
            request.method,
            self._base.copy_with(raw_path=f"{self._base_path}{request.path}".encode()),
            headers=[*headers, access.header],
            content=request.body,
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
        if (date := response.headers.get("Date")) is not None:
            self._dated = (date, time.time())
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
                self._surface(None if meta is None else meta.notice)
                if meta is not None and (meta.http_status is not None or meta.error is not None):
                    raise _refusal(request.verb, landed)
                cause, saying = "no-envelope", "the refusal is not in the platform's envelope"
            case _:
                cause, saying = "status", "the platform failed"
        raise _inconclusive(request.verb, saying, cause, _facts(landed), write=write)

    def _surface(self, notice: str | None) -> None:
        """Keep and log a notice about our use of the platform, once: each answer may repeat it."""
        if notice is None or len(self._notices) >= _MOST_NOTICES:
            return
        shown = "".join(c if c.isprintable() else "?" for c in notice[:_NOTICE_LENGTH])
        if shown not in self._notices:
            self._notices.append(shown)
            _logger.warning("upstream says: %s", ascii(shown))


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
    bare = _read(_BARE, answer)
    return None if bare is None else bare.meta


def _facts(answer: _Answer) -> Facts:
    """Read what an answer that is no success says about itself, as far as it can be read."""
    meta = _meta(answer)
    if meta is None:
        return Facts(http_status=answer.status)
    note = meta.error or ErrorNote()
    return Facts(
        http_status=answer.status,
        error_code=plain_code(note.error_code),
        request_id=plain_code(meta.request_id),
        upstream_message=sentence(note.error_message),
    )


def _refusal(verb: str, answer: _Answer, code: str | None = None) -> Refused:
    facts = _facts(answer)
    if code is not None:
        facts = replace(facts, error_code=code)
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        wait = retry_after(answer.headers.get("Retry-After"), answer.headers.get("Date"))
        return Throttled(verb, "too many calls", facts, wait)
    kind, saying = _REFUSALS.get(answer.status, (Refused, "refused"))
    return kind(verb, saying, facts)


def _granted(verb: str, landed: _Answer | _Lost) -> AccessGrant:
    """Say what the asking for an access token ended with: its answers have no envelope.

    Raises:
        CallFailed: There is none.
    """
    if isinstance(landed, _Lost):
        if not landed.sent:
            raise Unreachable(verb, f"nothing was sent; {landed.saying}")
        raise Unavailable(verb, landed.saying, landed.cause)
    match landed.status // 100:
        case 2:
            grant = _read(GRANT, landed)
            if grant is not None:
                return grant
            raise Unreadable(verb, "the answer is no access token", "no-result")
        case 3:
            raise Unreadable(verb, "the answer is a redirect, which is never followed", "redirect")
        case 4 if landed.status not in _UNDECIDED:
            refusal = _read(GRANT_REFUSAL, landed)
            if refusal is None and _meta(landed) is None:
                raise Unavailable(verb, "the refusal is not the platform's", "no-envelope")
            refused = _refusal(verb, landed, None if refusal is None else plain_code(refusal.error))
            if isinstance(refused, Throttled):
                raise refused
            # Under any of these statuses (OAuth's `invalid_client` may be a 400) the next asking
            # would be refused, too: the gate is to hold it back as it does for a bad token.
            raise Unauthorized(verb, "the asking is refused", refused.facts)
        case _:
            raise Unavailable(verb, "the platform failed", "status", _facts(landed))


def _read(decoder: msgspec.json.Decoder[T], answer: _Answer) -> T | None:
    """Decode a body that has no envelope; None where it is not what was wanted."""
    try:
        return decoder.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


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
    except (TypeError, ValueError, OverflowError):  # TypeError: one of the two has no zone
        return None
