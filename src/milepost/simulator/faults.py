"""Faults on demand: what the platform, or the way to it, does wrong.

A fault has a *moment*: `before` the call is accepted (it changes nothing) or `after` (it did what
it asked for, and the caller cannot tell). And it has a *kind*: what the caller gets instead of its
answer.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from litestar import Response
from msgspec import Meta, Struct

from milepost.simulator.wire import Refusal, failure, success

if TYPE_CHECKING:
    from litestar import Request

TRANSPORT = "transport"
"""The scope extension in which the server hands over the connection."""

TRICKLED_PIECES = 20
"""In how many pieces a trickling answer comes: each of them ends a wait for the next byte."""

HTML = b"<html><head><title>Error</title></head><body><h1>An error occurred</h1></body></html>"


class Fault(Struct, forbid_unknown_fields=True):
    """A fault that waits for its calls.

    Attributes:
        kind: `status` an error envelope, `timeout` silence until the caller leaves, `reset` the
            connection is reset, `html` a page instead of JSON, `truncated` half of the answer and
            the end of the connection, `trickle` the answer bit by bit and the end of the
            connection, `without_result` a 200 without `result`, `slow` the right answer, but late.
            A `slow` call that is held up `before` is accepted after its time, whether its caller
            still waits or not.
        call_class: Whose calls; `None` is everybody's.
        moment: Before or after the call is accepted; unless given, before for `status`, else after.
        status: Of `status` (default 500) and `html` (default 200).
        times: After so many calls it is gone; `None` stays until it is deleted.
        probability: Of striking a call.
        seconds: How long a `timeout` is silent at most, before the connection is closed; how long
            a `trickle` takes, and how late a `slow` call is.
        struck: How many calls it met so far.
    """

    kind: Literal[
        "status", "timeout", "reset", "html", "truncated", "trickle", "without_result", "slow"
    ]
    call_class: str | None = None
    moment: Literal["before", "after"] | None = None
    status: Annotated[int, Meta(ge=200, le=599)] | None = None
    times: Annotated[int, Meta(ge=1)] | None = None
    probability: Annotated[float, Meta(gt=0, le=1)] = 1.0
    seconds: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    struck: int = 0

    def __post_init__(self) -> None:
        """Settle the moment that is usual for the kind."""
        if self.moment is None:
            self.moment = "before" if self.kind == "status" else "after"


class Faults:
    """The faults that wait, first come first served. The dice are seeded with the account."""

    def __init__(self, seed: int | None) -> None:
        self.waiting: list[Fault] = []
        self._dice = random.Random(seed)  # noqa: S311 - dice of a simulation, not a secret

    def strike(self, call_class: str, moment: Literal["before", "after"]) -> Fault | None:
        """The fault that this call meets at this moment, if any."""
        for fault in self.waiting:
            if (
                fault.moment == moment
                and fault.call_class in (None, call_class)
                and self._dice.random() < fault.probability
            ):
                fault.struck += 1
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times == 0:
                        self.waiting.remove(fault)
                return fault
        return None


async def spoil(
    fault: Fault, request: Request[Any, Any, Any], answer: bytes | None = None
) -> Response[bytes]:
    """What the caller gets instead of `answer`. Where the connection is cut, nobody gets it."""
    if fault.kind == "status":
        refusal = Refusal(fault.status or 500, "The request could not be completed.")
        return Response(failure(refusal), status_code=refusal.status, media_type="application/json")
    if fault.kind == "html":
        return Response(HTML, status_code=fault.status or 200, media_type="text/html")
    if fault.kind == "without_result":
        return Response(success(None), media_type="application/json")
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
    else:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(whole)}"
        transport.write(head.encode() + b"\r\n\r\n")
        if fault.kind == "truncated":
            transport.write(whole[: len(whole) // 2])
        else:
            await _trickle(transport, whole, fault.seconds)
        transport.close()
    await _gone(request)
    return Response(b"")


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
