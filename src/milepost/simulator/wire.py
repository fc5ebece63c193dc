"""The outer form of every answer: envelopes, refusals, pages, moments.

Shapes are copied from recordings of the platform (observed). Where a recorded error carries no
`errorCode`, neither does ours; the wording of errors that nobody recorded is our own (inferred).
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, TypeVar
from zoneinfo import ZoneInfo

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

API_ROOT = "/API/v3"
"""Where the API stands on the simulator's origin, as it does on the platform's hosts."""

PAGE_SIZE = 100
"""Elements on a page: the default and the most (documented for lists, observed for links)."""

FIRST_PAGE = "t0"
LAST_PAGE = f"t{'f' * 15}"
"""Cursors of the first page, and of the empty one behind the last element that there can be."""

# The platform appears to read a date without a zone as its own local time (inferred).
_PLATFORM_ZONE = ZoneInfo("America/Denver")

# The last moment that can be written again in ISO 8601, in milliseconds.
_END_OF_TIME = 253_402_300_800_000

# The errors whose request's id was recorded as null, and those in which it was missing (observed).
# Each was recorded once; the code may have nothing to do with it, but a client has to meet both.
_NULL_REQUEST_ID = frozenset({(404, "PACC_6"), (404, "ESSG_2")})
_NO_REQUEST_ID = frozenset({(400, "GP_0"), (403, "TAG_0.4"), (404, None)})

_ENCODE = msgspec.json.Encoder().encode
_UNKNOWN_FIELD = re.compile(r"^Object contains unknown field `(.*?)`(?: - at `.*`)?$", re.DOTALL)

Shape = TypeVar("Shape")


class Refusal(Exception):
    """A call that is answered with an error envelope and changes nothing.

    Attributes:
        status: The HTTP status.
        message: `meta.error.errorMessage`.
        code: `meta.error.errorCode`; left out of the envelope when `None`.
        headers: Sent along, such as `Retry-After`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers or {}


def _meta(status: int, error: dict[str, str] | None, notice: str | None) -> dict[str, object]:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    meta: dict[str, object] = {"httpStatus": f"{status} - {phrase}"}
    if error is not None:
        meta["error"] = error
    meta["requestId"] = str(uuid.uuid4())
    if notice is not None:
        meta["notice"] = notice
    return meta


def success(result: object | None, notice: str | None = None) -> bytes:
    """The envelope of a 200; a call without a result has no `result` key (observed).

    Args:
        result: What was asked for.
        notice: `meta.notice`, which a data centre that passes calls on adds (observed).
    """
    meta = _meta(200, None, notice)
    return _ENCODE({"meta": meta} if result is None else {"result": result, "meta": meta})


def failure(refusal: Refusal, notice: str | None = None) -> bytes:
    """The envelope of an error: `meta` alone, with `error` in it (observed)."""
    error = {"errorMessage": refusal.message}
    if refusal.code is not None:
        error["errorCode"] = refusal.code
    meta = _meta(refusal.status, error, notice)
    kind = (refusal.status, refusal.code)
    if kind in _NULL_REQUEST_ID:
        meta["requestId"] = None
    elif kind in _NO_REQUEST_ID:
        del meta["requestId"]
    return _ENCODE({"meta": meta})


def read(decoder: msgspec.json.Decoder[Shape], body: bytes) -> Shape:
    """The body as its shape.

    Raises:
        Refusal: 400, for anything that is not exactly that shape. The words for an unknown key are
            the platform's own (observed).
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        unknown = _UNKNOWN_FIELD.match(str(error))
        if unknown:
            raise Refusal(400, f"Unexpected json key provided: {unknown[1]}") from error
        raise Refusal(400, f"Invalid request body. {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "Invalid JSON in request body.") from error


class Ordered(Protocol):
    """Anything that has its place in the order in which things were made."""

    @property
    def ordinal(self) -> int:
        """Grows with every thing made; never reused."""


Item = TypeVar("Item", bound=Ordered)


def ordinal_of(item: Ordered) -> int:
    """The sort key of every paged collection."""
    return item.ordinal


def place_after(items: Sequence[Ordered], ordinal: int) -> int:
    """The index of the first item made after `ordinal`, in a sequence in order of making."""
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2
        if items[middle].ordinal > ordinal:
            high = middle
        else:
            low = middle + 1
    return low


def page(
    items: Sequence[Item], query: dict[str, str], *, size: int | None = None
) -> tuple[Sequence[Item], str | None]:
    """One page, by key and never by offset, and the `skipToken` of the next one.

    The token names the last element given, so that things which come or go between two pages
    neither repeat nor hide the others.

    Args:
        items: In the order of making.
        query: Reads `skipToken`, and `pageSize` unless `size` is fixed.
        size: A page size that the caller cannot change.

    Raises:
        Refusal: 400, for a size outside 1 to 100 or a token that we did not give out.
    """
    if size is None:
        size = _page_size(query.get("pageSize"))
    start = place_after(items, _read_token(query["skipToken"])) if "skipToken" in query else 0
    found = items[start : start + size]
    more = start + size < len(items)
    return found, f"t{found[-1].ordinal:x}" if more else None


def _page_size(text: str | None) -> int:
    if text is None:
        return PAGE_SIZE
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= PAGE_SIZE:
        raise Refusal(400, f"Invalid pageSize parameter. Must be between 1 and {PAGE_SIZE}.")
    return int(text)


def _read_token(text: str) -> int:
    if not re.fullmatch(r"t[0-9a-f]{1,15}", text):
        raise Refusal(400, "Invalid skipToken parameter.")
    return int(text[1:], 16)


def instant(at: int) -> str:
    """Milliseconds since the epoch, as history writes them: `2021-06-01T18:59:23.161Z`."""
    return (
        datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at % 1000:03}Z"
    )


def second(at: int) -> str:
    """Milliseconds since the epoch, as all but history write them: `2021-07-31T14:58:00Z`."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> int:
    """An ISO 8601 moment as milliseconds since the epoch; without a zone it is Mountain Time.

    Raises:
        ValueError: It is not such a moment.
    """
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=_PLATFORM_ZONE)
    at = round(parsed.timestamp() * 1000)
    if not 0 <= at < _END_OF_TIME:
        raise ValueError(text)
    return at
