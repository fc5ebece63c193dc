"""What comes in: bodies are bounded, timed and decoded strictly, straight into the handler's type.

A framework's defaults are too kind for a public door: they take JSON under any content type, turn
deep nesting into a crash and texts into numbers. Here a body is refused unless it is JSON, UTF-8,
at most 32 levels deep, without NUL (Postgres cannot store it), and of exactly the declared types.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.exceptions import HTTPException

from milepost.errors import InvalidRequest

MAX_DEPTH: Final = 32
MAX_BODY_BYTES: Final = 64 * 1024
"""For one event or one definition; a body that is larger is a mistake or an attack."""
BODY_SECONDS: Final = 5.0
"""From the head of a request to the end of its body."""

_AT: Final = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`\Z")
_NAMED: Final = re.compile(r"field `(?P<name>[^`]*)`")
_QUOTE_OR_BRACKET: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class StrictRequest(Request[Any, Any, State]):
    """A request whose body is read and decoded strictly."""

    async def body(self) -> bytes:
        """Read the body, whole and in time.

        Raises:
            HTTPException: 413 for one that is too large, 408 for one that stalls.
        """
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await super().body()
        except TimeoutError as error:
            raise HTTPException(
                status_code=408, detail=f"The body did not arrive within {BODY_SECONDS:.0f} s."
            ) from error

    async def json(self) -> Any:
        """Decode the body into what the handler takes.

        Raises:
            HTTPException: 415 when the content type is not JSON.
            InvalidRequest: names the field that is wrong.
        """
        content_type = self.content_type[0]
        if content_type != "application/json":
            raise HTTPException(
                status_code=415,
                detail=f"The content type is {content_type or 'missing'}; "
                "send JSON as application/json.",
            )
        field = self.route_handler.parsed_data_field
        if field is None:  # pragma: no cover  (Litestar asks only for handlers that take data)
            raise TypeError("the handler takes no data")
        return decode(await self.body(), field.annotation)


def decode(body: bytes, wanted: Any) -> Any:
    """Decode JSON strictly into a type.

    Raises:
        InvalidRequest: says what is wrong, and where.
    """
    if _depth_exceeds(body, MAX_DEPTH):
        raise InvalidRequest(f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    try:
        value = _decoder(wanted).decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from None
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not UTF-8.") from None
    if b"\\u0000" in body and (path := _path_of_nul(msgspec.to_builtins(value), ())) is not None:
        raise InvalidRequest("A text holds a NUL character.", fix="Leave it out.", field=path)
    return value


@cache
def _decoder(wanted: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(wanted)


def _depth_exceeds(body: bytes, most: int) -> bool:
    if body.count(b"[") + body.count(b"{") <= most:
        return False
    depth = 0
    for match in _QUOTE_OR_BRACKET.finditer(body):
        token = match[0]
        if token in b"[{":
            depth += 1
            if depth > most:
                return True
        elif token in b"]}":
            depth -= 1
    return False


def _path_of_nul(value: object, path: tuple[str, ...]) -> str | None:
    if isinstance(value, str):
        return ".".join(path) if "\x00" in value else None
    items: Iterable[tuple[object, object]] = ()
    if isinstance(value, dict):
        if any("\x00" in str(name) for name in value):
            return ".".join(path)
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    found = (_path_of_nul(item, (*path, str(name))) for name, item in items)
    return next((at for at in found if at is not None), None)


def _refusal(message: str) -> InvalidRequest:
    """Turn msgspec's sentence into ours, with the path of the field in the field's own place."""
    at = _AT.search(message)
    path = at["path"] if at else ""
    sentence = message[: at.start()] if at else message
    if (named := _NAMED.search(sentence)) and sentence.startswith("Object"):
        path = f"{path}.{named['name']}".lstrip(".")
        sentence = (
            f"There is no field {named['name']!r} here"
            if "unknown" in sentence
            else f"The field {named['name']!r} is missing"
        )
    return InvalidRequest(f"{sentence}.", field=path or None)
