"""Capacity: how many calls and links are left, and how long what waits will take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Final, Literal

from litestar import Router, get
from msgspec import Struct

from milepost.api.access import needs
from milepost.api.problems import documented
from milepost.budget import Budget, Standing
from milepost.model import Lane, Purpose, Route, Scope
from milepost.routes import Maker
from milepost.store import Store
from milepost.store.budget import BRAND
from milepost.store.links import Backlog

_WITHOUT_CALL: Final = (Route.LIST, Route.ANONYMOUS)
"""Routes of which a link may be had without a call at the time of the event."""


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
    drained_per_minute: int | None
    """How many that wait can be made in a minute afterwards, as the other purposes are now. None:
    none waits in this lane, or none for a call."""


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
    minutes_to_drain: float
    """Until none waits for a call, if none is added; routes share the brand's limit. What waits for
    a person, for a place or for a registrant is counted as well."""
    late_data: int
    """Links of lane `ready` whose data the platform is still to be told, with the share of clicks.
    """


def router(store: Store, budget: Budget, makers: Mapping[Route, Maker]) -> Router:
    """The route `/v1/capacity`.

    Args:
        store: counts what waits.
        budget: says what is left.
        makers: of the routes whose links take calls.
    """

    @get("/", opt=needs(Scope.READ), responses=documented())
    async def capacity() -> Capacity:
        """Look at what is left of the calls to the platform now, and at what waits for them."""
        standings = {standing.call_class: standing for standing in await budget.standings()}
        backlog = _by_milestone(await store.links.backlog())
        return Capacity(
            call_classes=[_call_class(standing, standings) for standing in standings.values()],
            lanes=[lane for route in Route for lane in _lanes(route, makers.get(route), standings)],
            backlog=backlog,
            minutes_to_drain=_minutes_to_drain(backlog, makers, standings),
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


def _lanes(
    route: Route, maker: Maker | None, standings: Mapping[str, Standing]
) -> list[LaneCapacity]:
    """The lanes that a route has, in their order."""
    direct = drained = None
    if maker is not None:
        direct = _links_per_minute(maker, standings, Purpose.DIRECT)
        drained = _links_per_minute(maker, standings, Purpose.DRAIN)
    return [
        LaneCapacity(
            route=route,
            lane=lane,
            links_per_minute=direct if lane is Lane.DIRECT else None,
            drained_per_minute=drained if lane in {Lane.DEFERRED, Lane.QUEUED} else None,
        )
        for lane in Lane
        if (lane is not Lane.READY or route in _WITHOUT_CALL)
        and (lane is not Lane.DIRECT or maker is not None)
    ]


def _links_per_minute(maker: Maker, standings: Mapping[str, Standing], purpose: Purpose) -> int:
    """As the limit of the scarcest of its calls allows, and that of the brand for all of them."""
    own, brand = standings[maker.call_class].rate(purpose), standings[BRAND].rate(purpose)
    return int(min(own, brand / maker.calls) * maker.carries)


def _minutes_to_drain(
    backlog: Sequence[MilestoneBacklog],
    makers: Mapping[Route, Maker],
    standings: Mapping[str, Standing],
) -> float:
    """Routes are drained side by side, each by its own limit, and all of them by the brand's."""
    waiting = Counter[Route]()
    for entry in backlog:
        waiting[entry.route] += entry.links
    calls = {
        route: links / maker.carries
        for route, links in waiting.items()
        if (maker := makers.get(route))
    }
    own = [
        n / max(standings[makers[route].call_class].rate(Purpose.DRAIN), 1)
        for route, n in calls.items()
    ]
    brand = sum(n * makers[route].calls for route, n in calls.items())
    return round(max(*own, brand / max(standings[BRAND].rate(Purpose.DRAIN), 1), 0.0), 1)


def _by_milestone(backlog: Sequence[Backlog]) -> list[MilestoneBacklog]:
    return [
        MilestoneBacklog(
            milestone=milestone, route=route, links=sum(entry.links for entry in entries)
        )
        for (milestone, route), entries in groupby(
            backlog, key=lambda entry: (entry.milestone, entry.route)
        )
    ]
