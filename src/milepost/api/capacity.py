"""Capacity: how many calls and links are left, and how long what waits will take."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Final, Literal

from litestar import Router, get
from msgspec import Struct

from milepost.api.access import needs
from milepost.api.problems import documented
from milepost.budget import Budget, Standing
from milepost.model import Lane, Purpose, Route, Scope
from milepost.routes import MailingListMaker
from milepost.store import Store
from milepost.store.budget import BRAND
from milepost.store.links import Backlog

_CALL_CLASSES: Final = {Route.LIST: MailingListMaker.call_class}


class PurposeCapacity(Struct, frozen=True, kw_only=True):
    """What calls of one class are left for one purpose."""

    purpose: Purpose
    share: float
    """What part of the limit is its own; what others do not want of theirs is lent."""
    used: int
    """Calls granted in the last minute."""
    wanted: int
    """Calls asked for in the last minute."""
    free: int
    """Calls that would be granted now; purposes that can wait get theirs second by second."""


class CallClassCapacity(Struct, frozen=True, kw_only=True):
    """What calls of one class are left; `brand` is the limit over all classes."""

    call_class: str
    limit: int
    """Calls a minute that the platform takes, by the settings."""
    factor: float
    """What part of the limit is used at present: less than 1 after answers 429."""
    per_minute: int
    """Calls a minute that are made at the most at present."""
    used: int
    """Calls granted in the last minute."""
    closed_until: datetime | None
    """The platform said when to come back."""
    upstream: Literal["answers", "away"]
    """Whether the platform answers calls of this class, as this process has seen it."""
    purposes: list[PurposeCapacity]


class LaneCapacity(Struct, frozen=True, kw_only=True):
    """How many links a route can make in a lane."""

    route: Route
    lane: Lane
    links_per_minute: int | None
    """None: no call is made before the answer, so no limit of the platform bounds it."""


class MilestoneBacklog(Struct, frozen=True, kw_only=True):
    """A milestone's links that are still to be made."""

    milestone: str
    route: Route
    links: int


class Capacity(Struct, frozen=True, kw_only=True):
    """What is left, and what waits."""

    call_classes: list[CallClassCapacity]
    lanes: list[LaneCapacity]
    backlog: list[MilestoneBacklog]
    drained_per_minute: int
    """Waiting links that can be made in a minute, as the other purposes are now."""
    minutes_to_drain: float
    """Until none waits for a call, if none is added. What waits for a person, for a place or for a
    registrant is counted as well."""
    late_data: int
    """Links of lane `ready` whose data the platform is still to be told, with the share of clicks.
    """


def router(store: Store, budget: Budget) -> Router:
    """The route `/v1/capacity`."""

    @get("/", opt=needs(Scope.READ), responses=documented())
    async def capacity() -> Capacity:
        """Look at what is left of the calls to the platform now, and at what waits for them."""
        standings = {standing.call_class: standing for standing in await budget.standings()}
        backlog = _by_milestone(await store.links.backlog())
        drained = _links_per_minute(standings, Route.LIST, Purpose.DRAIN)
        return Capacity(
            call_classes=[_call_class(standing, standings) for standing in standings.values()],
            lanes=[
                LaneCapacity(route=Route.LIST, lane=Lane.READY, links_per_minute=None),
                LaneCapacity(
                    route=Route.LIST,
                    lane=Lane.DIRECT,
                    links_per_minute=_links_per_minute(standings, Route.LIST, Purpose.DIRECT),
                ),
                LaneCapacity(route=Route.LIST, lane=Lane.DEFERRED, links_per_minute=None),
                LaneCapacity(route=Route.LIST, lane=Lane.QUEUED, links_per_minute=None),
            ],
            backlog=backlog,
            drained_per_minute=drained,
            minutes_to_drain=round(sum(entry.links for entry in backlog) / max(drained, 1), 1),
            late_data=await store.links.late_data(),
        )

    return Router("/v1/capacity", route_handlers=[capacity], tags=["capacity"])


def _call_class(standing: Standing, standings: dict[str, Standing]) -> CallClassCapacity:
    first = standing.rooms[0]
    brand = standings[BRAND]
    return CallClassCapacity(
        call_class=standing.call_class,
        limit=first.per_minute,
        factor=round(first.factor, 3),
        per_minute=first.most,
        used=sum(room.granted for room in standing.rooms),
        closed_until=first.closed_until,
        upstream="away" if standing.is_away else "answers",
        purposes=[
            PurposeCapacity(
                purpose=room.purpose,
                share=room.share,
                used=room.granted,
                wanted=room.wanted,
                free=min(room.room, brand.room(room.purpose).room),
            )
            for room in standing.rooms
        ],
    )


def _links_per_minute(standings: dict[str, Standing], route: Route, purpose: Purpose) -> int:
    """Each link takes one call of the route's class, which is one of the brand's."""
    own, brand = standings[_CALL_CLASSES[route]], standings[BRAND]
    return min(own.rate(purpose), brand.rate(purpose))


def _by_milestone(backlog: Sequence[Backlog]) -> list[MilestoneBacklog]:
    return [
        MilestoneBacklog(
            milestone=milestone, route=Route.LIST, links=sum(entry.links for entry in entries)
        )
        for milestone, entries in groupby(backlog, key=lambda entry: entry.milestone)
    ]
