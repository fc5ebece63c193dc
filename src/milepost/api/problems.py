"""What goes out when something is wrong: RFC 9457 problems with a stable `code`."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from msgspec import Struct

from milepost.errors import (
    DatabaseBusy,
    EventMismatch,
    InvalidData,
    InvalidMilestone,
    MilestonePaused,
    Refusal,
    UnknownLink,
    UnknownMilestone,
    UnknownRegistrant,
)

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"

_STATUS: Final[dict[type[Refusal], HTTPStatus]] = {
    EventMismatch: HTTPStatus.CONFLICT,
    MilestonePaused: HTTPStatus.CONFLICT,
    UnknownMilestone: HTTPStatus.NOT_FOUND,
    UnknownLink: HTTPStatus.NOT_FOUND,
    UnknownRegistrant: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidData: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidMilestone: HTTPStatus.UNPROCESSABLE_ENTITY,
}
"""Any other refusal is a 400."""


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
    """The fields in which a payload differs from the one seen before."""
    fix: str | None = None
    """What the caller can do about it."""


def refused(_: Request[Any, Any, Any], error: Refusal) -> Response[bytes]:
    """Answer what Milepost itself refused."""
    return respond(
        problem(
            _STATUS.get(type(error), HTTPStatus.BAD_REQUEST),
            error.code,
            error.detail,
            field=error.field,
            fields=error.fields if isinstance(error, EventMismatch) else (),
            fix=error.fix,
        )
    )


def busy(_: Request[Any, Any, Any], error: DatabaseBusy) -> Response[bytes]:
    """Answer while Postgres is away: nothing was promised, and it is worth coming back."""
    log.warning("answered 503: %s", error)
    return respond(
        problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "try-again",
            "Milepost cannot reach its database at the moment.",
            fix=f"Send the same request again in {error.retry_after} s.",
        ),
        {"Retry-After": str(error.retry_after)},
    )


def framework(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what the framework refused: no such route, wrong method, body too large."""
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "-")
    detail = error.detail if status is not HTTPStatus.NOT_FOUND else "There is nothing here."
    return respond(problem(status, code, detail), dict(error.headers or {}))


def unexpected(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a mistake of ours, without its particulars: they may hold what nobody should see."""
    log.error("answered 500", exc_info=error)
    return respond(
        problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong that should not have.",
            fix="Send the same request again; if it stays, tell the operator.",
        )
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
        title=status.phrase,
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
