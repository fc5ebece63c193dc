"""What comes in: bodies are bounded, timed and decoded strictly, straight into the handler's type.

A framework's defaults are too kind for a public door: they take JSON under any content type, turn
deep nesting into a crash and texts into numbers. Here a body is refused unless it is JSON, UTF-8,
at most 32 levels deep, without NUL (Postgres cannot store it), without a name that stands twice in
one object (who reads it otherwise would see another event), and of exactly the declared types.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable
from functools import cache
from http import HTTPStatus
from typing import Any, Final, TypeVar, cast

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Empty, HTTPReceiveMessage, Scope

from milepost.errors import InvalidRequest
from milepost.wording import refusal

MAX_DEPTH: Final = 32
_TOO_DEEP: Final = f"The JSON is nested deeper than {MAX_DEPTH} levels."
MAX_BODY_BYTES: Final = 64 * 1024
"""For one event or one definition; a body that is larger is a mistake or an attack."""
BODY_SECONDS: Final = 5.0
"""From the head of a request to the end of its body."""
PIECE_SECONDS: Final = 10.0
"""From one piece of a body that may be of any size to the next."""

# A text without an end reaches to the end of the body, and no way into a text is tried twice: or
# each quote in it would be taken for another beginning, which is quadratic.
_TEXT_OR_BRACKET: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)

_OF_A_MEMBER: Final = re.compile(r", got `(?P<kind>\w+)` - at `\$\.?(?P<path>[^`\[]*)\[\.\.\.\]`\Z")
_KINDS: Final = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    type(None): "null",
    list: "array",
    dict: "object",
}
"""What msgspec calls the types of JSON."""

_ESCAPED_COLON: Final = re.compile(rb"\\u003[aA]")
_ANYTHING: Final = msgspec.json.Decoder()
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODE: Final = msgspec.json.Encoder().encode

T = TypeVar("T")


def header(scope: Scope, name: bytes) -> str:
    """The first header of this name, in lower case; empty where there is none.

    Straight from the scope: the framework's mapping decodes all of them, for every request.
    """
    for given, value in scope["headers"]:
        if given == name:
            return value.decode("latin-1")
    return ""


class StrictRequest(Request[Any, Any, State]):
    """A request whose body is read and decoded strictly."""

    async def body(self) -> bytes:
        """Read the body, whole and in time.

        Raises:
            HTTPException: 413 for one that is too large, 408 for one that stalls.
            InvalidRequest: the caller hung up, or sent nothing where something is needed.
        """
        if self._body is Empty:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    body = await self._receive_all()
            except TimeoutError as error:
                raise HTTPException(
                    status_code=HTTPStatus.REQUEST_TIMEOUT,
                    detail=f"The body did not arrive within {BODY_SECONDS:g} s.",
                ) from error
            field = self.route_handler.parsed_data_field
            if not body and (field is None or field.default is Empty):
                raise InvalidRequest("The body is empty.")
            self._body = self._connection_state.body = body
        return self._body

    async def _receive_all(self) -> bytes:
        most = self.route_handler.resolve_request_max_body_size() or 0
        announced = header(self.scope, b"content-length")
        if announced.isdecimal() and int(announced) > most:
            raise RequestEntityTooLarge
        parts: list[bytes] = []
        left = most
        while True:
            message = cast("HTTPReceiveMessage", await self.receive())
            if message["type"] == "http.disconnect":
                raise InvalidRequest("The connection ended before the body did.")
            parts.append(message["body"])
            left -= len(message["body"])
            if left < 0:
                raise RequestEntityTooLarge
            if not message["more_body"]:
                return b"".join(parts)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Read the body piece by piece, whatever its size.

        Raises:
            HTTPException: 408 for one that stalls.
            InvalidRequest: the caller hung up.
        """
        is_whole = False
        while not is_whole:
            try:
                async with asyncio.timeout(PIECE_SECONDS):
                    message = cast("HTTPReceiveMessage", await self.receive())
            except TimeoutError as error:
                raise HTTPException(
                    status_code=HTTPStatus.REQUEST_TIMEOUT,
                    detail=f"Nothing of the body arrived for {PIECE_SECONDS:g} s: none of it is "
                    "taken.",
                ) from error
            if message["type"] == "http.disconnect":
                raise InvalidRequest("The connection ended before the body did: none is taken.")
            is_whole = not message["more_body"]
            yield message["body"]

    async def json(self) -> Any:
        """Decode the body into what the handler takes.

        Raises:
            HTTPException: as `json_body`.
            InvalidRequest: names the field that is wrong.
        """
        field = self.route_handler.parsed_data_field
        if field is None:  # pragma: no cover  (Litestar asks only for handlers that take data)
            raise TypeError("the handler takes no data")
        return decode(await self.json_body(), field.annotation)

    async def json_body(self) -> bytes:
        """Read the body that says of itself that it is JSON.

        Raises:
            HTTPException: 415 when the content type is not JSON; as `body`.
            InvalidRequest: the caller hung up.
        """
        kind = header(self.scope, b"content-type").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HTTPException(
                status_code=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                detail=f"The content type is {kind or 'missing'}; send JSON as application/json.",
            )
        return await self.body()


def decode(body: bytes, wanted: type[T]) -> T:
    """Decode JSON strictly into a type.

    Raises:
        InvalidRequest: says what is wrong, and where.
    """
    if _depth_exceeds(body, MAX_DEPTH):
        raise InvalidRequest(_TOO_DEEP)
    value: T = _decoded(body, wanted)
    if _may_hold_twins(body):
        _refuse_twins(body)
    if b"\\u0000" in body and (path := _path_of_nul(msgspec.to_builtins(value), ())) is not None:
        raise InvalidRequest("A text holds a NUL character.", fix="Leave it out.", field=path)
    return value


def decode_envelope(body: bytes, wanted: type[T]) -> T:
    """Decode an object whose members are raw JSON, for `decode` to look at each by itself.

    Raises:
        InvalidRequest: says what is wrong with the envelope.
    """
    value: T = _decoded(body, wanted)
    # As `_may_hold_twins`, but exact: the names are known by now, and what is raw stays as it is.
    if _ENCODE(_MEMBERS.decode(body)).count(b":") != body.count(b":"):
        raise InvalidRequest("A field stands twice.")
    return value


def checked(text: str, kind: Any, field: str) -> str:
    """A text out of an address, if it is of a kind such as `Key`.

    Raises:
        InvalidRequest: says what it must be.
    """
    try:
        value: str = msgspec.convert(text, kind)
    except msgspec.ValidationError as error:
        raise refusal(str(error), field) from None
    return value


def _decoded(body: bytes, wanted: Any) -> Any:
    try:
        return _decoder(wanted).decode(body)
    except msgspec.ValidationError as error:
        names = getattr(wanted, "__struct_encode_fields__", ())
        raise refusal(_with_member(str(error), body), names=names) from None
    except msgspec.DecodeError as error:
        flaw = str(error).removeprefix("JSON is malformed: ").removeprefix("Input data was ")
        flaw = "it ends too early" if flaw == "truncated" else flaw
        raise InvalidRequest(f"The body is not JSON: {flaw}.") from None
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not UTF-8.") from None
    except RecursionError:
        raise InvalidRequest(_TOO_DEEP) from None


def _with_member(sentence: str, body: bytes) -> str:
    """A sentence of msgspec's that names the member of an object of any names, which it leaves out.

    Where all members are of one type, it is the first that is of the type that was found instead.
    """
    found = _OF_A_MEMBER.search(sentence)
    if found is None:
        return sentence
    within = _ANYTHING.decode(body)
    for name in found["path"].split(".") if found["path"] else ():
        within = within[name]
    members = within.items() if isinstance(within, dict) else ()
    wrong = next((name for name, value in members if _KINDS[type(value)] == found["kind"]), "")
    return sentence if not wrong or "`" in wrong else sentence.replace("[...]", f".{wrong}")


@cache
def _decoder(wanted: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(wanted)


def _depth_exceeds(body: bytes, most: int) -> bool:
    if body.count(b"[") + body.count(b"{") <= most:
        return False
    depth = 0
    for match in _TEXT_OR_BRACKET.finditer(body):
        token = match[0]
        if token in b"[{":
            depth += 1
            if depth > most:
                return True
        elif token in b"]}":
            depth -= 1
    return False


def _may_hold_twins(body: bytes) -> bool:
    """Whether a name may stand twice in one object; false is certain.

    Of two that have one name decoding keeps one, which is told by the colons that are left. Each
    stands behind a name or inside a text, and no text gains or loses one by being decoded and
    encoded again, unless it is written as an escape. This takes a tenth of the time of a decoder
    that looks at names.
    """
    if _ESCAPED_COLON.search(body):
        return True
    return _ENCODE(_ANYTHING.decode(body)).count(b":") != body.count(b":")


def _refuse_twins(body: bytes) -> None:
    def unique(pairs: list[tuple[str, object]]) -> None:
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                raise InvalidRequest(f"The field {name!r} stands twice in one object.", field=name)
            names.add(name)

    json.loads(body, object_pairs_hook=unique, parse_int=float)


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
