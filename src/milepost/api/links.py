"""Links: the app asks for one per event, and admins ask what became of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from litestar import Litestar, Request, Response, Router, get, post
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    Reference,
    RequestBody,
    Schema,
)
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Send
from litestar.types import Scope as ASGIScope
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from milepost import payload
from milepost.api import problems
from milepost.api.access import caller_of, needs
from milepost.api.problems import Problem, documented
from milepost.api.requests import (
    MAX_BODY_BYTES,
    StrictRequest,
    checked,
    decode,
    decode_envelope,
)
from milepost.errors import (
    DatabaseBusy,
    EventMismatch,
    InvalidData,
    InvalidRequest,
    MilestonePaused,
    Refusal,
    UnknownLink,
)
from milepost.issuing import Answer, Issuing
from milepost.model import (
    DeadlineMs,
    Event,
    EventId,
    Key,
    Lane,
    Link,
    LinkRecord,
    LinkState,
    Ref,
    RegistrantDetails,
    Scope,
)
from milepost.store import Store

MAX_EVENT_ID_BYTES = 200
MAX_EVENTS = 1_000
"""In a batch: about ten transactions, where no two events are of one person."""
MAX_BATCH_BYTES = 4 * 1024 * 1024

_JSON = (b"content-type", b"application/json")
_ENCODE = msgspec.json.Encoder().encode

_SEEN = ResponseSpec(Link, description="The event was seen before.", generate_examples=False)
_WAITING = ResponseSpec(Link, description="There is no URL yet.", generate_examples=False)


Shown = TypeVar("Shown", bound=Link)
T = TypeVar("T")


class GivenRegistrant(RegistrantDetails, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A registrant with details: they create one that is not known, and change none that is."""

    ref: Ref


class GivenEvent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event, as a caller tells of it."""

    event_id: EventId
    milestone: Key
    registrant: Ref | GivenRegistrant
    data: Annotated[
        dict[str, Any], Meta(description="The milestone's fields; null means absent.")
    ] = msgspec.field(default_factory=dict)
    occurred_at: Annotated[datetime, Meta(tz=True)] | None = None

    def event(self, asked_by: str) -> Event:
        """The event as the path takes it.

        Raises:
            InvalidRequest, InvalidData: names the field that is wrong.
        """
        if len(self.event_id.encode()) > MAX_EVENT_ID_BYTES:
            raise InvalidRequest(
                f"event_id has more than {MAX_EVENT_ID_BYTES} bytes.", field="event_id"
            )
        given = self.registrant if isinstance(self.registrant, GivenRegistrant) else None
        return Event(
            event_id=self.event_id,
            milestone=self.milestone,
            ref=given.ref if given else str(self.registrant),
            data=payload.present(self.data),
            occurred_at=_storable(self.occurred_at),
            details=given,
            asked_by=asked_by,
        )


class LinkRequest(GivenEvent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event that asks for its link."""

    deadline_ms: DeadlineMs | None = None


class BatchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Many events, each of which is looked at by itself."""

    events: Annotated[list[Raw], Meta(max_length=MAX_EVENTS)]
    deadline_ms: DeadlineMs | None = None


class Outcome(StrEnum):
    """What became of one event of a batch, and the key that it is counted under."""

    ISSUED = "issued"
    REUSED = "reused"
    DEFERRED = "deferred"
    QUEUED = "queued"
    WAITING = "waiting"
    SUPPRESSED = "suppressed"
    FAILED = "failed"
    CONFLICT = "conflict"
    INVALID = "invalid"


class BatchResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one event: a link, or the problem with it."""

    index: int
    """Its place among the events of the request, from 0 on."""
    outcome: Outcome
    link: Link | UnsetType = UNSET
    problem: Problem | UnsetType = UNSET


class BatchCounts(Struct, frozen=True, kw_only=True):
    """How many events had which outcome."""

    issued: int
    reused: int
    deferred: int
    queued: int
    waiting: int
    suppressed: int
    failed: int
    conflict: int
    invalid: int


class BatchAnswer(Struct, frozen=True, kw_only=True):
    """What became of the events of a batch, in their order."""

    results: list[BatchResult]
    counts: BatchCounts


class LinkPage(Struct, frozen=True, kw_only=True):
    """Some links, and where the next ones begin."""

    links: list[Link]
    next_cursor: UUID | None


class Told(Response[T]):
    """JSON under a status, and nothing else: what answers most requests is sent as it is.

    The framework's own way from a value to what is sent looks for cookies, headers, encoders and
    media types that no answer of these has.
    """

    def to_asgi_response(self, app: Litestar | None, request: Request, **_: Any) -> ASGIResponse:  # type: ignore[type-arg]  # noqa: ARG002  (the framework's signature)
        """What is sent."""
        return _Sent(self.status_code or HTTPStatus.OK, _ENCODE(self.content))


class _Sent(ASGIResponse):
    def __init__(self, status: int, body: bytes) -> None:
        self.status_code = status
        self.body = body

    async def __call__(self, _scope: ASGIScope, _receive: Receive, send: Send) -> None:
        length = (b"content-length", b"%d" % len(self.body))
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": [_JSON, length]}
        )
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


@dataclass
class _BatchOperation(Operation):
    """Documents the body of a batch, whose handler reads it in parts."""

    def __post_init__(self) -> None:
        event = Reference(ref="#/components/schemas/LinkRequest")
        self.request_body = RequestBody(
            required=True,
            content={
                "application/json": OpenAPIMediaType(
                    Schema(
                        type=OpenAPIType.OBJECT,
                        required=["events"],
                        properties={
                            "events": Schema(
                                type=OpenAPIType.ARRAY,
                                items=event,
                                max_items=MAX_EVENTS,
                                description="Each without a deadline_ms of its own.",
                            ),
                            "deadline_ms": Schema(
                                one_of=[
                                    Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=8_000),
                                    Schema(type=OpenAPIType.NULL),
                                ]
                            ),
                        },
                    )
                )
            },
        )


def router(issuing: Issuing, store: Store) -> Router:
    """The routes under `/v1/links`."""

    @post(
        "/",
        opt=needs(Scope.ISSUE),
        request_max_body_size=MAX_BODY_BYTES,
        responses={200: _SEEN, 202: _WAITING, **documented(404, 409, 422, body=True)},
        response_description="The event was not seen before.",
    )
    async def ask(request: StrictRequest, data: JSONBody[LinkRequest]) -> Told[Link]:
        """Ask for the link of an event.

        201 for an event that was not seen before, 200 for one that was, 202 while there is no URL:
        ask again with the same event.
        """
        event = data.event(caller_of(request).name)
        answer = await issuing.issue(event, deadline_ms=data.deadline_ms)
        return Told(shown(answer.link), status_code=_status(answer))

    @post(
        "/batch",
        opt=needs(Scope.ISSUE),
        status_code=HTTPStatus.OK,
        request_max_body_size=MAX_BATCH_BYTES,
        operation_class=_BatchOperation,
        response_description="What became of each event, in their order.",
        responses=documented(body=True),
    )
    async def ask_many(request: StrictRequest) -> Told[BatchAnswer]:
        """Ask for the links of up to 1,000 events, each of which has an outcome of its own.

        A bad event loses nothing of the others. Sending a batch again is always safe.
        """
        batch = decode_envelope(await request.json_body(), BatchRequest)
        asked_by = caller_of(request).name
        given = [_given(event, asked_by) for event in batch.events]
        taken = [event for event in given if isinstance(event, Event)]
        answered = await issuing.issue_all(taken, deadline_ms=batch.deadline_ms)
        away = [answer for answer in answered if isinstance(answer, DatabaseBusy)]
        if away and len(away) == len(answered):
            raise away[0]  # nothing was promised for any
        answers = iter(answered)
        results = [
            _result(index, next(answers) if isinstance(event, Event) else event)
            for index, event in enumerate(given)
        ]
        counts = Counter(result.outcome for result in results)
        counted = BatchCounts(**{outcome.value: counts[outcome] for outcome in Outcome})
        return Told(BatchAnswer(results=results, counts=counted), status_code=HTTPStatus.OK)

    @get("/{link_id:uuid}", opt=needs(Scope.ISSUE, Scope.READ), responses=documented(404))
    async def read(request: StrictRequest, link_id: FromPath[UUID]) -> LinkRecord:
        """Look at one link: its state, the rule that decided, and its moments.

        The URL is shown to the key that asked for the link, and to admins.
        """
        caller = caller_of(request)
        own = None if caller.may(Scope.ADMIN) else caller.name
        if caller.may(Scope.ISSUE) and (link := await store.links.find(link_id, asked_by=own)):
            return link if own is None else asked_for(link)
        if caller.may(Scope.READ) and (link := await store.links.find(link_id)):
            return masked(asked_for(link))
        raise UnknownLink

    @get("/", opt=needs(Scope.ISSUE, Scope.READ), responses=documented())
    async def page(
        request: StrictRequest,
        *,
        milestone: FromQuery[str | None] = None,
        registrant: FromQuery[str | None] = None,
        event_id: FromQuery[str | None] = None,
        link_state: Annotated[LinkState | None, QueryParameter(name="state")] = None,
        cursor: FromQuery[UUID | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 100,
    ) -> LinkPage:
        """Look through the links, oldest first.

        A key that may read sees all, without their URLs; one that may only ask for links sees those
        that it asked for; an admin sees all of it.
        """
        caller = caller_of(request)
        links = await store.links.page(
            milestone=milestone and checked(milestone, Key, "milestone"),
            ref=registrant and checked(registrant, Ref, "registrant"),
            event_id=event_id and checked(event_id, EventId, "event_id"),
            state=link_state,
            asked_by=None if caller.may(Scope.READ) else caller.name,
            after=cursor,
            limit=limit,
        )
        in_full = caller.may(Scope.ADMIN) or not caller.may(Scope.READ)
        return LinkPage(
            links=links if in_full else [masked(link) for link in links],
            next_cursor=links[-1].id if len(links) == limit else None,
        )

    @post(
        "/{link_id:uuid}/revoke",
        opt=needs(Scope.ISSUE),
        status_code=HTTPStatus.OK,
        responses=documented(404),
    )
    async def revoke(request: StrictRequest, link_id: FromPath[UUID]) -> LinkRecord:
        """End a link: its short URL answers 410 from now on, and a link that waits is not made.

        A key may revoke what a key of its name asked for, an admin everything. Again changes
        nothing. The platform is not told: a personal URL that somebody has goes on working there.
        """
        caller = caller_of(request)
        if caller.may(Scope.ADMIN):
            return await store.links.revoke(link_id)
        return asked_for(await store.links.revoke(link_id, asked_by=caller.name))

    return Router("/v1/links", route_handlers=[ask, ask_many, read, page, revoke], tags=["links"])


def shown(link: Link) -> Link:
    """A link as the asker is told of it: what is claimed has, for them, no URL *yet*."""
    if link.state is LinkState.CLAIMED:
        return msgspec.structs.replace(link, state=LinkState.WAITING)
    return link


def asked_for(link: LinkRecord) -> LinkRecord:
    """A link for whoever asked for it: they were given one URL, and the other is for admins."""
    return msgspec.structs.replace(link, other_url=None)


def masked(link: Shown) -> Shown:
    """A link for eyes that may not use it: a URL is a credential."""
    return msgspec.structs.replace(link, url=None)


def _given(raw: Raw, asked_by: str) -> Event | Refusal:
    """An event out of a batch, or what is wrong with it."""
    event = bytes(raw)
    if len(event) > MAX_BODY_BYTES:
        return InvalidRequest(f"The event has more than {MAX_BODY_BYTES} bytes.")
    try:
        return decode(event, GivenEvent).event(asked_by)
    except InvalidRequest as error:
        if error.field == "deadline_ms":
            return InvalidRequest(
                "An event of a batch has no deadline of its own.",
                fix="Send deadline_ms once, beside events.",
                field="deadline_ms",
            )
        return error
    except InvalidData as error:
        return error


def _result(index: int, answer: Answer | Exception) -> BatchResult:
    match answer:
        case Answer(link=link):
            return BatchResult(index=index, outcome=outcome(link), link=shown(link))
        case DatabaseBusy():
            # It may or may not be written down. Of all outcomes `waiting` is the one whose callers
            # come back, which is right in either case.
            kind, problem = Outcome.WAITING, problems.of_busy(answer)
        case EventMismatch() | MilestonePaused():
            kind, problem = Outcome.CONFLICT, problems.of(answer)
        case Refusal():
            kind, problem = Outcome.INVALID, problems.of(answer)
        case _:  # as little is known of it
            kind, problem = Outcome.WAITING, problems.of_unexpected(answer)
    return BatchResult(index=index, outcome=kind, problem=problem)


def outcome(link: Link) -> Outcome:
    """Under which outcome a link is counted.

    What the caller holds comes before how it came about: a short URL stays `deferred` when it is
    completed, also by the link of an earlier event.
    """
    if link.state in {LinkState.SUPPRESSED, LinkState.FAILED}:
        return Outcome(link.state.value)
    if link.lane is Lane.DEFERRED:
        return Outcome.DEFERRED
    if link.reused:
        return Outcome.REUSED
    if link.state is LinkState.ISSUED:
        return Outcome.ISSUED
    return Outcome.QUEUED if link.lane is Lane.QUEUED else Outcome.WAITING


def _status(answer: Answer) -> HTTPStatus:
    if answer.link.unsettled and answer.link.url is None:
        return HTTPStatus.ACCEPTED
    return HTTPStatus.CREATED if answer.is_new else HTTPStatus.OK


def _storable(moment: datetime | None) -> datetime | None:
    """The first and the last year of the calendar lose their day when they change their zone."""
    if moment is not None and not MINYEAR < moment.year < MAXYEAR:
        raise InvalidRequest(f"occurred_at is in the year {moment.year}.", field="occurred_at")
    return moment
