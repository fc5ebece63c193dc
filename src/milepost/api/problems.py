"""What goes out when something is wrong: RFC 9457 problems with a stable `code`."""

from __future__ import annotations

import logging
import traceback
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi import ResponseSpec
from msgspec import Struct

from milepost.errors import (
    DatabaseBusy,
    EventMismatch,
    EventRefused,
    EventsUnwanted,
    ImportTooLarge,
    InvalidData,
    InvalidEndpoint,
    InvalidMilestone,
    MilestonePaused,
    NothingGiven,
    Recovering,
    Refusal,
    TooManyImports,
    UnknownDrift,
    UnknownEndpoint,
    UnknownJob,
    UnknownLink,
    UnknownMessage,
    UnknownMilestone,
    UnknownRegistrant,
    UnknownReminder,
    UnknownResponse,
    UnknownRun,
    UpstreamError,
)
from milepost.wording import in_our_words, one_of

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"

AWAY_SECONDS: Final = 5
"""Until it is worth asking again for what only the platform knows."""

_STATUS: Final[dict[type[Refusal], HTTPStatus]] = {
    EventMismatch: HTTPStatus.CONFLICT,
    MilestonePaused: HTTPStatus.CONFLICT,
    UnknownMilestone: HTTPStatus.NOT_FOUND,
    UnknownLink: HTTPStatus.NOT_FOUND,
    UnknownResponse: HTTPStatus.NOT_FOUND,
    UnknownDrift: HTTPStatus.NOT_FOUND,
    EventsUnwanted: HTTPStatus.NOT_FOUND,
    EventRefused: HTTPStatus.FORBIDDEN,
    UnknownReminder: HTTPStatus.NOT_FOUND,
    NothingGiven: HTTPStatus.CONFLICT,
    UnknownJob: HTTPStatus.NOT_FOUND,
    UnknownRun: HTTPStatus.NOT_FOUND,
    UnknownEndpoint: HTTPStatus.NOT_FOUND,
    UnknownMessage: HTTPStatus.NOT_FOUND,
    UnknownRegistrant: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidData: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidMilestone: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidEndpoint: HTTPStatus.UNPROCESSABLE_ENTITY,
    ImportTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TooManyImports: HTTPStatus.TOO_MANY_REQUESTS,
}
"""Any other refusal is a 400."""

_FRAMEWORK: Final[dict[int, tuple[str, str]]] = {
    400: ("invalid-request", "The request is malformed, or holds a value that can never be right."),
    401: ("unauthorized", "There is no API key, or it is not in force."),
    403: ("forbidden", "The API key lacks the scope."),
    404: ("not-found", "There is nothing here."),
    405: ("method-not-allowed", "This is not done here."),
    408: ("request-timeout", "The body did not arrive in time."),
    409: ("conflict", "It contradicts what was said before, or the milestone is paused."),
    413: ("body-too-large", "The body is larger than any that belongs here."),
    415: ("unsupported-media-type", "The body is not of the content type that belongs here."),
    422: ("unprocessable", "It is well-formed, but it does not fit what Milepost knows."),
    503: ("try-again", "The database is away for a moment; nothing was promised."),
}
"""Codes and sentences of our own: those of the language change from version to version."""

_FIXES: Final = {
    "not-found": "/schema/docs shows every address; an id in one is a UUID, a key is lower case.",
}
"""What helps where the framework finds nothing."""

_DESCRIBED: Final[dict[int, str]] = {
    **{status: sentence for status, (_, sentence) in _FRAMEWORK.items()},
    429: "There is no room for another import at the moment; `Retry-After` says when to come back.",
}
"""What an operation's documentation says of a status; 429 is ours alone."""

_PARAMETERS: Final = {
    "link_state": "state",
    "message_state": "state",
    "form": "format",
    "since": "from",
    "until": "to",
}
"""Where a handler's parameter cannot have the name that callers use: `state` is Litestar's, and
the others Python's, or unclear there."""


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    """The path of the field that is wrong, such as `data.flight`."""
    fields: tuple[str, ...] = ()
    """All fields of `data` that are wrong, or those in which a payload differs from the one seen
    before."""
    fix: str | None = None
    """What the caller can do about it."""


def refused(request: Request[Any, Any, Any], error: Refusal) -> Response[bytes]:
    """Answer what Milepost itself refused."""
    if isinstance(error, UnknownRegistrant) and request.method == "GET":
        # They are what was asked for, and not a part of it.
        return respond(of(error, HTTPStatus.NOT_FOUND))
    if isinstance(error, TooManyImports):
        return respond(of(error), {"Retry-After": str(error.retry_after)})
    return respond(of(error))


def of(error: Refusal, status: HTTPStatus | None = None) -> Problem:
    """The problem that a refusal is, by itself or as one of a batch."""
    return problem(
        status or _STATUS.get(type(error), HTTPStatus.BAD_REQUEST),
        error.code,
        error.detail,
        field=error.field,
        fields=error.fields if isinstance(error, EventMismatch | InvalidData) else (),
        fix=error.fix,
    )


def busy(_: Request[Any, Any, Any], error: DatabaseBusy) -> Response[bytes]:
    """Answer while Postgres is away: nothing was promised, and it is worth coming back."""
    log.warning("answered 503: %s", error)
    return respond(of_busy(error), {"Retry-After": str(error.retry_after)})


def away(_: Request[Any, Any, Any], error: UpstreamError) -> Response[bytes]:
    """Answer while the platform cannot be asked: what it would have told can be asked for again."""
    log.warning("answered 503: %s", error)
    return respond(
        problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "upstream-away",
            "The survey platform cannot be asked at the moment.",
            fix=f"Send the same request again in {AWAY_SECONDS} s.",
        ),
        {"Retry-After": str(AWAY_SECONDS)},
    )


def of_busy(error: DatabaseBusy) -> Problem:
    """The problem that a database is which is away, for a request or for one event of a batch."""
    code, detail = "try-again", "Milepost cannot reach its database at the moment."
    if isinstance(error, Recovering):
        code = "recovering"
        detail = "Milepost was restored, and looks for what has been made since the backup."
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        code,
        detail,
        fix=f"Send the same request again in {error.retry_after} s.",
    )


def framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what the framework refused: no such route, wrong method, wrong parameter."""
    if error.status_code not in _FRAMEWORK:
        return unexpected(request, error)
    code, sentence = _FRAMEWORK[error.status_code]
    status = HTTPStatus(error.status_code)
    if isinstance(error, ValidationException):
        wrong = error.extra[0] if isinstance(error.extra, list) and error.extra else {}
        detail = in_our_words(str(wrong.get("message", sentence)))
        name = str(wrong.get("key", ""))
        fix = one_of(choices) if (choices := _choices(request, name)) else None
        return respond(
            problem(status, code, detail, field=_PARAMETERS.get(name, name) or None, fix=fix)
        )
    spoken = error.status_code in {401, 403, 408, 415, 503}
    fix = error.extra.get("fix") if isinstance(error.extra, dict) else _FIXES.get(code)
    if allowed := (error.headers or {}).get("allow"):
        fix = one_of(sorted(allowed.split(", ")))
    return respond(
        problem(status, code, error.detail if spoken else sentence, fix=fix),
        dict(error.headers or {}),
    )


def _choices(request: Request[Any, Any, Any], name: str) -> list[str]:
    """The words that a parameter may be, where it may not be any."""
    parameter = request.route_handler.parsed_fn_signature.parameters.get(name)
    if parameter is None:
        return []
    kinds = get_args(parameter.annotation) or (parameter.annotation,)
    choices: list[str] = []
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            choices.extend(kind)
        elif get_origin(kind) is Literal:
            choices.extend(get_args(kind))
    return choices


def instead_of_a_page(response: Response[Any]) -> Response[Any]:
    """Answer an unknown address under `/schema`, for which the framework has a page of its own."""
    if response.status_code != HTTPStatus.NOT_FOUND:
        return response
    return respond(problem(HTTPStatus.NOT_FOUND, *_FRAMEWORK[404]))


def unexpected(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a mistake of ours."""
    return respond(of_unexpected(error))


def of_unexpected(error: Exception) -> Problem:
    """Tell of a mistake of ours, without its particulars: they may hold what nobody should see.

    The log is told where it happened and not what was said: drivers put values into their errors.
    """
    frames = traceback.extract_tb(error.__traceback__)
    where = " ".join(f"{frame.filename}:{frame.lineno}" for frame in frames)
    log.error("answered 500: %s at %s", type(error).__name__, where)
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal",
        "Something went wrong that should not have.",
        fix="Send the same request again; if it stays, tell the operator.",
    )


def documented(*statuses: int, body: bool = False) -> dict[int, ResponseSpec]:
    """The problems that an operation behind the doorkeeper may answer, for its documentation.

    Args:
        statuses: besides those of every operation.
        body: whether it takes a body.
    """
    usual = {400, 401, 403, 503} | ({408, 413, 415} if body else set())
    return {status: _documented(status) for status in sorted(usual.union(statuses))}


def _documented(status: int) -> ResponseSpec:
    return ResponseSpec(
        Problem, description=_DESCRIBED[status], media_type=MEDIA_TYPE, generate_examples=False
    )


def problem(  # noqa: D103  (the struct's own words hold)
    status: HTTPStatus,
    code: str,
    detail: str,
    *,
    field: str | None = None,
    fields: tuple[str, ...] = (),
    fix: str | None = None,
) -> Problem:
    return Problem(
        type=f"urn:milepost:problem:{code}",
        title=code.replace("-", " ").capitalize(),
        status=status.value,
        detail=detail,
        code=code,
        field=field,
        fields=fields,
        fix=fix,
    )


def respond(document: Problem, headers: dict[str, str] | None = None) -> Response[bytes]:
    """The answer that carries a problem."""
    return Response(
        msgspec.json.encode(document),
        status_code=document.status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )
