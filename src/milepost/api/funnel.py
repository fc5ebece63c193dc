"""The funnel of a milestone: how far its links have come, by the day, as JSON, CSV or a picture.

One of its steps only the app knows: that a customer was shown the link.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Response, Router, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Schema,
)
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from milepost.api.access import caller_of, needs
from milepost.api.links import asked_for
from milepost.api.problems import documented
from milepost.api.requests import StrictRequest, checked, header
from milepost.api.spreadsheets import CSV, lines
from milepost.errors import InvalidRequest, UnknownMilestone
from milepost.model import Key, LinkRecord, Scope
from milepost.store import Store
from milepost.store.funnel import Day

SVG: Final = "image/svg+xml"

USUAL_DAYS: Final = 30
MOST_DAYS: Final = 366
"""A year: some 9,000 hours, each with its distributions, are added up for it."""

_STEPS: Final = (
    "requested",
    "eligible",
    "issued",
    "delivered",
    "clicked",
    "started",
    "finished",
)
_BESIDES: Final = ("reused", "suppressed", "failed", "waiting")
_TOLD_BY_THE_PLATFORM: Final = frozenset({"started", "finished"})

_PICTURE: Final = Environment(
    loader=PackageLoader("milepost.api"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
).get_template("funnel.svg")


class Step(Struct, frozen=True, kw_only=True):
    """How many links have come so far, and how well that is known."""

    links: int
    as_of: datetime | None
    """Of which moment this is, at the least; null: nobody has counted, or asked the platform."""
    reconciled: float | None
    """The share of the issued links for which it is known, from 0 to 1. What the ledger knows by
    itself it knows of all; what the platform tells, of those on distributions whose history was
    read after they were issued. Null: none was issued."""


class Funnel(Struct, frozen=True, kw_only=True):
    """How far links have come. Each step counts the links that have come that far."""

    requested: Step
    """Events: one link for each, whatever became of it."""
    eligible: Step
    """Without those that were reused or suppressed."""
    issued: Step
    """A personal link was made."""
    delivered: Step
    """The app says that the customer was shown it."""
    clicked: Step
    """A person has opened the short URL. Personal URLs do not lead through Milepost."""
    started: Step
    finished: Step
    reused: int
    """They were given the live link of an earlier event."""
    suppressed: int
    """A rule decided against a link."""
    failed: int
    """Eligible, and no link could be made."""
    waiting: int
    """Eligible, and still to be made."""


class FunnelDay(Funnel, frozen=True, kw_only=True):
    """The links of one day, UTC: that on which their events were told of first."""

    day: date


class FunnelView(
    Struct, frozen=True, kw_only=True, rename={"first": "from", "last": "to", "in_all": "total"}
):
    """The funnel of a milestone."""

    milestone: str
    first: date
    last: date
    """Days of UTC, both included."""
    in_all: Funnel
    days: list[FunnelDay]


@dataclass
class _FunnelOperation(Operation):
    """Documents that the funnel is to be had as CSV and as a picture, too."""

    def __post_init__(self) -> None:
        answer = (self.responses or {})["200"]
        if isinstance(answer, OpenAPIResponse) and answer.content is not None:
            text = OpenAPIMediaType(Schema(type=OpenAPIType.STRING))
            answer.content |= {CSV: text, SVG: text}


def router(store: Store) -> Router:
    """The routes of the funnel, and of what the app tells for it."""

    @post(
        "/v1/links/{link_id:uuid}/delivered",
        opt=needs(Scope.ISSUE),
        status_code=HTTPStatus.OK,
        responses=documented(404, 409),
        tags=["links"],
    )
    async def deliver(request: StrictRequest, link_id: FromPath[UUID]) -> LinkRecord:
        """Confirm that the customer was shown the link: the funnel counts it as delivered.

        A key may confirm what a key of its name asked for, an admin everything. Again changes
        nothing: the first moment stays.
        """
        caller = caller_of(request)
        if caller.may(Scope.ADMIN):
            return await store.links.deliver(link_id)
        return asked_for(await store.links.deliver(link_id, asked_by=caller.name))

    return Router("/", route_handlers=[reading(store), deliver])


def reading(store: Store) -> HTTPRouteHandler:
    """The route that tells the funnel."""

    @get(
        "/v1/milestones/{key:str}/funnel",
        opt=needs(Scope.READ),
        operation_class=_FunnelOperation,
        responses={
            200: ResponseSpec(FunnelView, description="By the day.", generate_examples=False),
            **documented(404),
        },
        tags=["milestones"],
    )
    async def funnel(
        request: StrictRequest,
        key: FromPath[str],
        *,
        since: Annotated[date | None, QueryParameter(name="from")] = None,
        until: Annotated[date | None, QueryParameter(name="to")] = None,
        form: Annotated[Literal["json", "csv", "svg"] | None, QueryParameter(name="format")] = None,
    ) -> Response[Any]:
        """Look at how far the links of a milestone have come, by the day of their creation.

        From the day `from` to the day `to`, both of them included and of UTC; by default the last
        30. `?format=csv` or `Accept: text/csv` gives CSV, `?format=svg` or `Accept: image/svg+xml`
        a picture. It is read from a summary that job `funnel` keeps: each number says of which
        moment it is.
        """
        known = checked(key, Key, "key")
        if await store.milestones.find(known) is None:
            raise UnknownMilestone(known)
        view = await funnel_of(store, known, since=since, until=until)
        accepts = header(request.scope, b"accept")
        if form is None:
            form = "csv" if CSV in accepts else "svg" if SVG in accepts else "json"
        if form == "json":
            return Response(view)
        body, kind = (as_csv(view), CSV) if form == "csv" else (as_picture(view), SVG)
        disposition = f'inline; filename="funnel-{known}.{form}"'
        return Response(body, media_type=kind, headers={"Content-Disposition": disposition})

    return funnel


async def funnel_of(
    store: Store, milestone: str, *, since: date | None = None, until: date | None = None
) -> FunnelView:
    """The funnel of a milestone, from one day to another, by default the last 30.

    Raises:
        InvalidRequest: the days are in the wrong order, or too far apart.
    """
    now, as_of = await store.funnel.standing(milestone)
    first, last = _days(since, until, now.astimezone(UTC).date())
    return told(milestone, first, last, await store.funnel.days(milestone, first, last), as_of)


def _days(since: date | None, until: date | None, today: date) -> tuple[date, date]:
    """The first day and the last.

    Raises:
        InvalidRequest: they are in the wrong order, or too far apart.
    """
    last = until or max(today, since or today)
    if last == date.max or (since is None and last < date(2, 1, 1)):
        raise InvalidRequest("to is at the end of the calendar.", field="to")
    first = since or last - timedelta(days=USUAL_DAYS - 1)
    if first > last:
        raise InvalidRequest(
            f"from is {first}, which is after {last}.", fix="Exchange them.", field="from"
        )
    if (last - first).days >= MOST_DAYS:
        raise InvalidRequest(
            f"From {first} to {last} there are more than {MOST_DAYS} days.",
            fix="Ask for fewer at a time.",
            field="from",
        )
    return first, last


def told(
    milestone: str, first: date, last: date, counted: Sequence[Day], as_of: datetime | None
) -> FunnelView:
    """What the summary says of these days; without links a day has zeros."""
    by_day = {day.day: day for day in counted}
    every = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    return FunnelView(
        milestone=milestone,
        first=first,
        last=last,
        in_all=Funnel(**_of(counted, as_of)),
        days=[
            FunnelDay(day=day, **_of([by_day[day]] if day in by_day else [], as_of))
            for day in every
        ],
    )


def _of(days: Iterable[Day], as_of: datetime | None) -> dict[str, Any]:
    """The funnel of some days together."""
    days = list(days)
    named = ("requested", "reused", "suppressed", "failed", "issued", "delivered", "clicked")
    links = {
        name: sum(getattr(day, name) for day in days)
        for name in (*named, "started", "finished", "looked_at")
    }
    links["eligible"] = links["requested"] - links["reused"] - links["suppressed"]
    links["waiting"] = links["eligible"] - links["issued"] - links["failed"]
    issued = links["issued"]
    asked = [day.looked_at_until for day in days if day.looked_at_until is not None]
    asked_until = min([*asked, as_of]) if asked and as_of else None
    steps = {
        name: Step(
            links=links[name],
            as_of=asked_until if name in _TOLD_BY_THE_PLATFORM else as_of,
            reconciled=None
            if not issued
            else round(links["looked_at"] / issued, 4)
            if name in _TOLD_BY_THE_PLATFORM
            else 1.0,
        )
        for name in _STEPS
    }
    return {**steps, **{name: links[name] for name in _BESIDES}}


def as_csv(view: FunnelView) -> str:
    """The days as CSV: what was counted, of which moment, and what of it the platform has told."""
    names = ["day", *_STEPS, *_BESIDES, "as_of", "reconciled", "reconciled_as_of"]
    rows = [
        [
            str(day.day),
            *(getattr(day, name).links for name in _STEPS),
            *(getattr(day, name) for name in _BESIDES),
            msgspec.to_builtins(day.requested.as_of),
            day.finished.reconciled,
            msgspec.to_builtins(day.finished.as_of),
        ]
        for day in view.days
    ]
    return lines([names, *rows])


def as_picture(view: FunnelView) -> str:
    """The funnel as an SVG: a bar for each step, and below a column for each day."""
    steps = {name: getattr(view.in_all, name) for name in _STEPS}
    most = max([1, *(day.requested.links for day in view.days)])
    return _PICTURE.render(
        view=view, steps=steps, requested=max(1, view.in_all.requested.links), most=most
    )
