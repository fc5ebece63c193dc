"""Faults on demand: what the platform, or the way to it, does wrong.

A fault has a *moment*: `before` the call is accepted (it changes nothing) or `after` (it did what
it asked for, and the caller cannot tell). And it has a *kind*: what the caller gets instead of its
answer.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast
from urllib.parse import parse_qsl, urlencode

import msgspec
from litestar import Response
from litestar.response import Stream
from msgspec import Meta, Struct

from milepost.simulator.wire import FIRST_PAGE, LAST_PAGE, Refusal, failure, success

if TYPE_CHECKING:
    from litestar import Request

TRANSPORT = "transport"
"""The scope extension in which the server hands over the connection."""

TRICKLED_PIECES = 20
"""In how many pieces a trickling answer comes: each of them ends a wait for the next byte."""

STREAMED_PIECE = 1 << 16
"""Bytes of a huge answer that are in memory at a time."""

HTML = b"<html><head><title>Error</title></head><body><h1>An error occurred</h1></body></html>"

Moment = Literal["before", "after"]

_ALTERING: Final = ("wrong_type", "without_id", "next_page")
_BEFORE_UNLESS_SAID: Final = ("status", "redirect")
_WITHOUT_BODY: Final = (204, 304)
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_PARAMETER: Final = re.compile(r"\{[^{}/]*\}")

# Of each JSON type one value, to stand where another type belongs.
_STRANGERS: Final = ("text", 17, True, 0.5, ["text"], {"key": "value"})


class Fault(Struct, forbid_unknown_fields=True):
    """A fault that waits for its calls.

    Attributes:
        kind: `status` an error envelope, `timeout` silence until the caller leaves, `reset` the
            connection is reset, `html` a page instead of JSON, `empty` a 200 without a body,
            `truncated` half of the answer and the end of the connection, `trickle` the answer bit
            by bit and the end of the connection, `slow` the right answer, but late, `huge` valid
            JSON of so many `bytes`, `redirect` to another host, `without_result` a 200 without
            `result`, `without_id` a result whose ids are missing, `wrong_type` a result in which
            one value, drawn by chance, is of another type, `next_page` a page whose `nextPage`
            leads to another host or round in a circle. The last three alter an answer, and so
            strike after acceptance only, and only answers that have what they alter. A `slow` call
            that is held up `before` is accepted after its time, whether its caller still waits or
            not.
        call_class: Whose calls; `None` is everybody's.
        endpoint: Whose calls, more narrowly: method and path, its parameters in braces under any
            name, such as `POST /directories/{POOL}/mailinglists/{CG}/contacts`.
        moment: Before or after the call is accepted; unless given, before for `status` and
            `redirect`, else after.
        status: Of `status` (default 500), `html` (default 200) and `redirect` (default 307).
        times: After so many calls it is gone; `None` stays until it is deleted.
        probability: Of striking a call.
        seconds: How long a `timeout` is silent at most, before the connection is closed; how long
            a `trickle` takes, and how late a `slow` call is.
        bytes: How long a `huge` answer is.
        location: The origin to which `redirect` and `next_page` lead, such as
            `http://127.0.0.1:9`; path and query of the call are put behind it.
        loop: `next_page` names the same page again.
        struck: How many calls it met so far.

    Raises:
        ValueError: It lacks what its kind needs, its moment is not one of its kind, or its status
            is that of an answer without a body.
    """

    kind: Literal[
        "status",
        "timeout",
        "reset",
        "html",
        "empty",
        "truncated",
        "trickle",
        "slow",
        "huge",
        "redirect",
        "without_result",
        "without_id",
        "wrong_type",
        "next_page",
    ]
    call_class: str | None = None
    endpoint: str | None = None
    moment: Moment | None = None
    status: Annotated[int, Meta(ge=200, le=599)] | None = None
    times: Annotated[int, Meta(ge=1)] | None = None
    probability: Annotated[float, Meta(gt=0, le=1)] = 1.0
    seconds: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    bytes: Annotated[int, Meta(ge=1, le=1 << 34)] = 1 << 26
    location: Annotated[str, Meta(pattern=r"^https?://[^/\s?#]+/?$")] | None = None
    loop: bool = False
    struck: int = 0

    def __post_init__(self) -> None:
        """Settle what is usual for the kind."""
        if self.moment is None:
            self.moment = "before" if self.kind in _BEFORE_UNLESS_SAID else "after"
        if self.kind in _ALTERING and self.moment == "before":
            raise ValueError(f"{self.kind} alters an answer: its moment is after")
        if self.status in _WITHOUT_BODY:
            raise ValueError(f"an answer with status {self.status} has no body")
        if self.kind == "redirect" and self.location is None:
            raise ValueError("redirect needs a location")
        if self.kind == "redirect" and self.status not in (None, *_REDIRECTS):
            raise ValueError("the status of a redirect is 301, 302, 303, 307 or 308")
        if self.kind == "next_page" and self.loop == (self.location is not None):
            raise ValueError("next_page needs a location, or loop")

    def is_for(self, call_class: str, endpoint: str) -> bool:
        """Whether it waits for calls of this class and endpoint."""
        return self.call_class in (None, call_class) and (
            self.endpoint is None or form_of(self.endpoint) == form_of(endpoint)
        )

    def alters(self, result: object) -> bool:
        """Whether an answer has what this fault alters."""
        if self.kind == "next_page":
            return isinstance(result, dict) and "nextPage" in result
        if self.kind == "without_id":
            return _without_ids(result) != result
        return self.kind != "wrong_type" or bool(_leaves(result))


@lru_cache(maxsize=256)
def form_of(endpoint: str) -> str:
    """Method and path of an endpoint, whatever its parameters are called."""
    return _PARAMETER.sub("{}", endpoint.strip().removesuffix("/"))


class Faults:
    """The faults that wait, first come first served. The dice are seeded with the account."""

    def __init__(self, seed: int | None) -> None:
        self.waiting: list[Fault] = []
        self._dice = random.Random(seed)  # noqa: S311 - dice of a simulation, not a secret

    def strike(
        self, call_class: str, endpoint: str, moment: Moment, result: object = None
    ) -> Fault | None:
        """The fault that this call meets at this moment, if any.

        Args:
            call_class: Of the call.
            endpoint: Method and path, such as `GET /whoami`.
            moment: Before or after acceptance.
            result: After acceptance, what would be answered.
        """
        for fault in self.waiting:
            if (
                fault.moment == moment
                and fault.is_for(call_class, endpoint)
                and fault.alters(result)
                and self._dice.random() < fault.probability
            ):
                fault.struck += 1
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times == 0:
                        self.waiting.remove(fault)
                return fault
        return None

    def altered(self, fault: Fault, result: object, request: Request[Any, Any, Any]) -> object:
        """An answer as a fault leaves it; the original is not touched."""
        if fault.kind == "without_id":
            return _without_ids(result)
        if fault.kind == "next_page":
            return cast("dict[str, object]", result) | {"nextPage": _next_page(fault, request)}
        if fault.kind == "wrong_type":
            return self._with_a_stranger(result)
        return result

    def _with_a_stranger(self, result: object) -> object:
        path = self._dice.choice(_leaves(result))
        copy = msgspec.json.decode(msgspec.json.encode({"result": result}))
        place: Any = copy
        steps = ["result", *path]
        for step in steps[:-1]:
            place = place[step]
        held = place[steps[-1]]
        strangers = [value for value in _STRANGERS if type(value) is not type(held)]
        place[steps[-1]] = self._dice.choice(strangers)
        return copy["result"]


def _leaves(value: object) -> list[tuple[str | int, ...]]:
    """Where the values are that hold no others."""
    if isinstance(value, dict):
        return [(key, *rest) for key, inner in value.items() for rest in _leaves(inner)]
    if isinstance(value, list):
        return [(at, *rest) for at, inner in enumerate(value) for rest in _leaves(inner)]
    return [()] if value is not None else []


def _without_ids(value: object) -> object:
    if isinstance(value, dict):
        return {
            key: _without_ids(inner)
            for key, inner in value.items()
            if not (key == "id" or key.endswith("Id"))
        }
    if isinstance(value, list):
        return [_without_ids(inner) for inner in value]
    return value


def _next_page(fault: Fault, request: Request[Any, Any, Any]) -> str:
    """The page behind this one: elsewhere, where a cursor finds nothing more, or this one again."""
    query = dict(parse_qsl(request.scope["query_string"].decode("latin-1")))
    if fault.loop:
        query.setdefault("skipToken", FIRST_PAGE)
        origin = str(request.base_url)
    else:
        query["skipToken"] = LAST_PAGE
        origin = fault.location or ""
    return f"{origin.rstrip('/')}{request.scope['path']}?{urlencode(query)}"


async def spoil(
    fault: Fault, request: Request[Any, Any, Any], answer: bytes | None = None
) -> Response[Any]:
    """What the caller gets instead of `answer`. Where the connection is cut, nobody gets it."""
    replaced = _replaced(fault, request)
    if replaced is not None:
        return replaced
    whole = success({}) if answer is None else answer
    if fault.kind == "slow":
        await asyncio.sleep(fault.seconds)
        return Response(whole, media_type="application/json")
    extensions = cast("dict[str, Any]", request.scope["extensions"])
    transport = cast("asyncio.Transport", extensions[TRANSPORT])
    if fault.kind == "timeout":
        await _silence(request, fault.seconds)
        transport.abort()
    elif fault.kind == "reset":
        # Lingering for no time at all turns the close into a reset.
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        transport.abort()
    elif fault.kind in ("truncated", "trickle"):
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(whole)}"
        transport.write(head.encode() + b"\r\n\r\n")
        if fault.kind == "truncated":
            transport.write(whole[: len(whole) // 2])
        else:
            await _trickle(transport, whole, fault.seconds)
        transport.close()
    else:
        return Response(whole, media_type="application/json")
    await _gone(request)
    return Response(b"")


def _replaced(fault: Fault, request: Request[Any, Any, Any]) -> Response[Any] | None:
    """What comes in the answer's place, for those faults that put something there."""
    if fault.kind == "status":
        refusal = Refusal(fault.status or 500, "The request could not be completed.")
        return Response(failure(refusal), status_code=refusal.status, media_type="application/json")
    instead = {
        "html": (HTML, fault.status or 200, "text/html"),
        "empty": (b"", 200, "application/json"),
        "without_result": (success(None), 200, "application/json"),
    }
    if fault.kind in instead:
        body, status, media_type = instead[fault.kind]
        return Response(body, status_code=status, media_type=media_type)
    if fault.kind == "huge":
        head, tail = success({"padding": "|"}).split(b"|")
        length = max(fault.bytes, len(head) + len(tail))
        return Stream(
            _padded(head, length - len(head) - len(tail), tail),
            media_type="application/json",
            headers={"content-length": str(length)},
        )
    if fault.kind == "redirect":
        query = request.scope["query_string"].decode("latin-1")
        origin = (fault.location or "").rstrip("/")
        target = f"{origin}{request.scope['path']}{'?' if query else ''}{query}"
        return Response(b"", status_code=fault.status or 307, headers={"Location": target})
    return None


async def _padded(head: bytes, padding: int, tail: bytes) -> AsyncIterator[bytes]:
    yield head
    for start in range(0, padding, STREAMED_PIECE):
        yield b"x" * min(STREAMED_PIECE, padding - start)
    yield tail


async def _trickle(transport: asyncio.Transport, whole: bytes, seconds: float) -> None:
    """Give an answer away over so many seconds, or until the caller has gone."""
    size = -(-len(whole) // TRICKLED_PIECES)
    for start in range(0, len(whole), size):
        await asyncio.sleep(seconds / TRICKLED_PIECES)
        if transport.is_closing():
            return
        transport.write(whole[start : start + size])


async def _gone(request: Request[Any, Any, Any]) -> None:
    """Wait until the server knows that the connection has ended, so that it answers no more."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _silence(request: Request[Any, Any, Any], seconds: float) -> None:
    """Say nothing until the caller has gone, or the time is up."""
    try:
        async with asyncio.timeout(seconds):
            await _gone(request)
    except TimeoutError:
        return
