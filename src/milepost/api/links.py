"""Links: the app asks for one per event, and admins ask what became of it."""

from __future__ import annotations

from datetime import MAXYEAR, MINYEAR, datetime
from http import HTTPStatus
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from litestar import Response, Router, get, post
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Meta, Struct

from milepost import payload
from milepost.api.access import caller_of, needs
from milepost.api.problems import documented
from milepost.api.requests import MAX_BODY_BYTES, StrictRequest, checked
from milepost.errors import InvalidRequest, UnknownLink
from milepost.issuing import Answer, Issuing
from milepost.model import (
    DeadlineMs,
    Event,
    EventId,
    Key,
    Link,
    LinkRecord,
    LinkState,
    Ref,
    RegistrantDetails,
    Scope,
)
from milepost.store import Store

MAX_EVENT_ID_BYTES = 200

_SEEN = ResponseSpec(Link, description="The event was seen before.", generate_examples=False)
_WAITING = ResponseSpec(Link, description="There is no URL yet.", generate_examples=False)


Shown = TypeVar("Shown", bound=Link)


class GivenRegistrant(RegistrantDetails, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A registrant with details: they create one that is not known, and change none that is."""

    ref: Ref


class LinkRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event that asks for its link."""

    event_id: EventId
    milestone: Key
    registrant: Ref | GivenRegistrant
    data: Annotated[
        dict[str, Any], Meta(description="The milestone's fields; null means absent.")
    ] = msgspec.field(default_factory=dict)
    occurred_at: Annotated[datetime, Meta(tz=True)] | None = None
    deadline_ms: DeadlineMs | None = None

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


class LinkPage(Struct, frozen=True, kw_only=True):
    """Some links, and where the next ones begin."""

    links: list[Link]
    next_cursor: UUID | None


def router(issuing: Issuing, store: Store) -> Router:
    """The routes under `/v1/links`."""

    @post(
        "/",
        opt=needs(Scope.ISSUE),
        request_max_body_size=MAX_BODY_BYTES,
        responses={200: _SEEN, 202: _WAITING, **documented(404, 409, 422, body=True)},
        response_description="The event was not seen before.",
    )
    async def ask(request: StrictRequest, data: JSONBody[LinkRequest]) -> Response[Link]:
        """Ask for the link of an event.

        201 for an event that was not seen before, 200 for one that was, 202 while there is no URL:
        ask again with the same event.
        """
        event = data.event(caller_of(request).name)
        answer = await issuing.issue(event, deadline_ms=data.deadline_ms)
        return Response(shown(answer.link), status_code=_status(answer))

    @get("/{link_id:uuid}", opt=needs(Scope.ISSUE, Scope.READ), responses=documented(404))
    async def read(request: StrictRequest, link_id: FromPath[UUID]) -> LinkRecord:
        """Look at one link: its state, the rule that decided, and its moments.

        The URL is shown to the key that asked for the link, and to admins.
        """
        caller = caller_of(request)
        own = None if caller.may(Scope.ADMIN) else caller.name
        if caller.may(Scope.ISSUE) and (link := await store.links.find(link_id, asked_by=own)):
            return link
        if caller.may(Scope.READ) and (link := await store.links.find(link_id)):
            return masked(link)
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

    return Router("/v1/links", route_handlers=[ask, read, page], tags=["links"])


def shown(link: Link) -> Link:
    """A link as the asker is told of it: what is claimed has, for them, no URL *yet*."""
    if link.state is LinkState.CLAIMED:
        return msgspec.structs.replace(link, state=LinkState.WAITING)
    return link


def masked(link: Shown) -> Shown:
    """A link for eyes that may not use it: a URL is a credential."""
    return msgspec.structs.replace(link, url=None)


def _status(answer: Answer) -> HTTPStatus:
    if answer.link.unsettled:
        return HTTPStatus.ACCEPTED
    return HTTPStatus.CREATED if answer.is_new else HTTPStatus.OK


def _storable(moment: datetime | None) -> datetime | None:
    """The first and the last year of the calendar lose their day when they change their zone."""
    if moment is not None and not MINYEAR < moment.year < MAXYEAR:
        raise InvalidRequest(f"occurred_at is in the year {moment.year}.", field="occurred_at")
    return moment
