"""The platform's calls to us when a response is completed.

A call is taken when it was signed with our key, and is believed in one thing: which response to
read. That is written down before the answer leaves, and written down again it changes nothing, so
that a call may come twice, or be replayed by whoever has seen it.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from litestar import Router, post
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from msgspec import Struct

from milepost.api.access import PUBLIC
from milepost.api.problems import documented
from milepost.api.requests import StrictRequest
from milepost.errors import EventRefused, EventsUnwanted, InvalidRequest
from milepost.store import Store
from milepost.upstream.events import EventForged, EventUnreadable, verify

MAX_CALL_BYTES: Final = 16 * 1024
"""A recorded call has some 400."""

FORM: Final = "application/x-www-form-urlencoded"


_PROBLEMS: Final = documented(404, 408, 413)
del _PROBLEMS[401]
_PROBLEMS[403].description = "The HMAC is missing or wrong."
_PROBLEMS[404].description = "No event calls are taken here: MILEPOST_EVENTS_KEY is not set."


class Noted(Struct, frozen=True):
    """The call was taken."""

    noted: bool
    """Whether it told of a response that was not known, to a survey of ours."""


@dataclass
class _CallOperation(Operation):
    """Documents the form, which the handler reads as it was signed."""

    def __post_init__(self) -> None:
        text = Schema(type=OpenAPIType.STRING)
        self.request_body = RequestBody(
            required=True,
            content={
                FORM: OpenAPIMediaType(
                    Schema(
                        type=OpenAPIType.OBJECT,
                        required=["HMAC", "MSG"],
                        properties={"HMAC": text, "MSG": text, "Topic": text},
                    )
                )
            },
        )


def router(store: Store, key: str | None) -> Router:
    """The route `/v1/upstream/events`.

    Args:
        store: where responses are noted.
        key: that calls are signed with; None: none is taken.
    """

    @post(
        "/events",
        opt=PUBLIC,
        status_code=HTTPStatus.OK,
        request_max_body_size=MAX_CALL_BYTES,
        operation_class=_CallOperation,
        security=[],
        responses=_PROBLEMS,
    )
    async def take(request: StrictRequest) -> Noted:
        """Take the platform's word that there is a response.

        It is no secret that a call was taken: 200 as well for one that came before, and for a
        survey that no milestone has.
        """
        if key is None:
            raise EventsUnwanted
        try:
            notice = verify(await request.body(), key)
        except EventForged:
            raise EventRefused from None
        except EventUnreadable:
            raise InvalidRequest(
                "The event call does not tell of a completed response.",
                fix="Subscribe to surveyengine.completedResponse.SV_… alone.",
            ) from None
        return Noted(await store.responses.note(notice.survey_id, notice.response_id))

    return Router("/v1/upstream", route_handlers=[take], tags=["upstream"])
