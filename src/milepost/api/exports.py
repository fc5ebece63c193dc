"""Exports: links with their events' data, as files that can be gone on with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from litestar import Router, get
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Schema,
)
from litestar.params import FromQuery, QueryParameter
from litestar.response import Stream

from milepost.api.access import caller_of, needs
from milepost.api.problems import documented
from milepost.api.requests import StrictRequest, checked, header
from milepost.api.spreadsheets import CSV, lines
from milepost.errors import InvalidRequest, UnknownMilestone
from milepost.model import Key, Scope
from milepost.store import Store
from milepost.store.connections import persistently
from milepost.store.exports import ExportedLink, Position

NDJSON: Final = "application/x-ndjson"

AT_ONCE: Final = 500
"""Links that are read and sent together. An event's data may have 64 KiB, so that these are 32 MiB
at the worst, and half a megabyte as a rule."""

AWAY_SECONDS: Final = 20.0
"""How long an export that has begun waits for a database that is away, before it breaks off."""

_FIRST: Final = UUID(int=0)
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS: Final = ExportedLink.__struct_fields__
_ENCODER: Final = msgspec.json.Encoder()


@dataclass
class _ExportOperation(Operation):
    """Documents the two forms of what is answered."""

    def __post_init__(self) -> None:
        answer = (self.responses or {})["200"]
        if isinstance(answer, OpenAPIResponse):
            text = OpenAPIMediaType(Schema(type=OpenAPIType.STRING))
            answer.content = {CSV: text, NDJSON: text}


def router(store: Store) -> Router:
    """The routes under `/v1/exports`."""

    @get(
        "/links",
        opt=needs(Scope.READ),
        operation_class=_ExportOperation,
        responses=documented(404),
        response_description="One link in a line; CSV has a line of names before them.",
    )
    async def links(
        request: StrictRequest,
        *,
        milestone: FromQuery[str | None] = None,
        since: Annotated[datetime | None, QueryParameter(name="from")] = None,
        until: Annotated[datetime | None, QueryParameter(name="to")] = None,
        cursor: FromQuery[UUID | None] = None,
        form: Annotated[Literal["csv", "ndjson"] | None, QueryParameter(name="format")] = None,
    ) -> Stream:
        """Export links with their events' data, their moments and the ids of their responses.

        By milestone and by the time of their creation, `from` included and `to` not; the newest are
        20 s old. Where an export broke off, `cursor` with the `id` of the last whole line goes on
        behind it. CSV, or NDJSON with `?format=ndjson` or `Accept: application/x-ndjson`. Without
        the scope `admin` there are no URLs, and the values of `data` are veiled.
        """
        since, until = _moment(since, "from"), _moment(until, "to")
        settled = await store.exports.settled_until()
        milestones = await _milestones(store, milestone)
        pages = _pages(
            store,
            milestones,
            since=since or _BEGINNING,
            until=min(until or settled, settled),
            behind=await _position(store, cursor, milestone),
            in_full=caller_of(request).may(Scope.ADMIN),
        )
        if form is None:
            form = "ndjson" if NDJSON in header(request.scope, b"accept") else "csv"
        headers = {"Content-Disposition": f'attachment; filename="links.{form}"'}
        if form == "ndjson":
            return Stream(_as_ndjson(pages), media_type=NDJSON, headers=headers)
        body = _as_csv(pages, with_names=cursor is None)
        return Stream(body, media_type=CSV, headers=headers)

    return Router("/v1/exports", route_handlers=[links], tags=["exports"])


async def _pages(
    store: Store,
    milestones: Iterable[str],
    *,
    since: datetime,
    until: datetime,
    behind: Position | None,
    in_full: bool,
) -> AsyncIterator[list[ExportedLink]]:
    for milestone in milestones:
        at = Position(milestone, since, _FIRST)
        if behind is not None and milestone < behind.milestone:
            continue
        if behind is not None and milestone == behind.milestone and behind.created_at >= since:
            at = behind
        while page := await _page(store, at, until):
            yield page if in_full else [masked(link) for link in page]
            at = Position(milestone, page[-1].created_at, page[-1].id)
            if len(page) < AT_ONCE:
                break


async def _page(store: Store, at: Position, until: datetime) -> list[ExportedLink]:
    return await persistently(lambda: store.exports.page(at, until, AT_ONCE), AWAY_SECONDS)


async def _as_csv(
    pages: AsyncIterator[list[ExportedLink]], *, with_names: bool
) -> AsyncIterator[str]:
    if with_names:
        yield lines([_COLUMNS])
    async for page in pages:
        yield lines(_cells(link) for link in page)


async def _as_ndjson(pages: AsyncIterator[list[ExportedLink]]) -> AsyncIterator[bytes]:
    async for page in pages:
        yield b"".join(_ENCODER.encode(link) + b"\n" for link in page)


def _cells(link: ExportedLink) -> list[object]:
    """The cells of a line: moments as in JSON, data as JSON."""
    *cells, _ = msgspec.to_builtins(link).values()
    return [*cells, _ENCODER.encode(link.data).decode()]


def masked(link: ExportedLink) -> ExportedLink:
    """A link for eyes that may neither use it nor see personal data: the names of the data stay."""
    return msgspec.structs.replace(link, url=None, data=dict.fromkeys(link.data, "…"))


def _moment(moment: datetime | None, name: str) -> datetime | None:
    """A moment out of an address, in UTC.

    Raises:
        InvalidRequest: it has no time zone, or lies outside the calendar.
    """
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise InvalidRequest(
            f"{name} has no time zone.", fix="Write it as 2026-11-23T21:10:00Z.", field=name
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(f"{name} is outside the calendar.", field=name) from None


async def _position(store: Store, cursor: UUID | None, milestone: str | None) -> Position | None:
    """Behind which link to go on.

    Raises:
        InvalidRequest: there is none of that id, or it is not among those that are wanted.
    """
    if cursor is None:
        return None
    behind = await store.exports.position(cursor)
    if behind is None:
        raise InvalidRequest(
            "There is no link with the id that cursor gives.",
            fix="Give the id of the last whole line that arrived.",
            field="cursor",
        )
    if milestone not in {None, behind.milestone}:
        raise InvalidRequest(
            f"The link that cursor gives is of milestone {behind.milestone!r}.",
            fix="Give the milestone and the cursor of one and the same export.",
            field="cursor",
        )
    return behind


async def _milestones(store: Store, wanted: str | None) -> list[str]:
    """The keys whose links are wanted, in their order."""
    known = sorted(milestone.key for milestone in await store.milestones.all())
    if wanted is None:
        return known
    if checked(wanted, Key, "milestone") not in known:
        raise UnknownMilestone(wanted)
    return [wanted]
