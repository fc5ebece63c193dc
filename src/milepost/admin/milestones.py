"""The pages of milestones: all of them at a glance, and each with its pool and its funnel."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, timedelta
from typing import Annotated, Final

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from milepost.admin.frame import Frame, go
from milepost.admin.sessions import form
from milepost.api.access import caller_of, needs
from milepost.api.funnel import MOST_DAYS, USUAL_DAYS, Funnel, funnel_of
from milepost.api.milestones import MilestoneView, headroom_days, known, pool_of, resumed, view
from milepost.api.requests import StrictRequest
from milepost.errors import InvalidRequest
from milepost.model import Scope
from milepost.store import Store
from milepost.store.pools import PoolEntry

SPANS: Final = (7, USUAL_DAYS, 90)
"""Days that are offered: a week, a month, a quarter."""

STEPS: Final = {
    "requested": "events, one link for each",
    "eligible": "those that were neither reused nor suppressed",
    "issued": "a personal link was made",
    "delivered": "the app says that the customer was shown it",
    "clicked": "a person has opened the short URL; personal URLs do not lead through Milepost",
    "started": "the platform says so",
    "finished": "the platform says so",
}
"""What the steps of a funnel mean, in a few words."""


class Lack(Struct, frozen=True, kw_only=True):
    """Why the pool of a milestone that is active does not last."""

    detail: str
    fix: str


class Glance(Struct, frozen=True, kw_only=True):
    """A milestone as the first page shows it."""

    milestone: MilestoneView
    headroom_days: float | None
    lack: Lack | None
    today: Funnel


def handlers(store: Store, frame: Frame) -> list[HTTPRouteHandler]:
    """The first page, and that of each milestone."""

    @get("/", opt=needs(Scope.READ))
    async def every(request: StrictRequest) -> Response[bytes]:
        """Look at all milestones."""
        today = (await store.runs.now()).astimezone(UTC).date()
        account = await store.capabilities.all()
        in_full = caller_of(request).may(Scope.ADMIN)
        glances = []
        for one in await store.milestones.all():
            standing = await store.pools.standing(one.key)
            days = await headroom_days(store, one.key, standing)
            glance = Glance(
                milestone=view(one, account, in_full=in_full),
                headroom_days=days,
                lack=lack_of(await store.pools.entries(one.key, standing.survey_id))
                if days == 0
                else None,
                today=(await funnel_of(store, one.key, since=today, until=today)).in_all,
            )
            glances.append(glance)
        return frame.show(request, "milestones.html", glances=glances)

    @get("/milestones/{key:str}", opt=needs(Scope.READ))
    async def read(
        request: StrictRequest,
        key: FromPath[str],
        *,
        days: Annotated[int, QueryParameter(ge=1, le=MOST_DAYS)] = USUAL_DAYS,
    ) -> Response[bytes]:
        """Look at one milestone, and at its funnel of the last days."""
        milestone = await known(store, key)
        today = (await store.runs.now()).astimezone(UTC).date()
        since = today - timedelta(days=days - 1)
        funnel = await funnel_of(store, key, since=since, until=today)
        pool = await pool_of(store, milestone)
        return frame.show(
            request,
            "milestone.html",
            milestone=view(
                milestone,
                await store.capabilities.all(),
                in_full=caller_of(request).may(Scope.ADMIN),
            ),
            pool=pool,
            lack=lack_of(pool.distributions) if pool.headroom_days == 0 else None,
            funnel=funnel,
            steps=STEPS,
            most=max(1, *(day.requested.links for day in funnel.days)),
            spans=SPANS,
            days=days,
        )

    @post("/milestones/{key:str}", opt=needs(Scope.ADMIN))
    async def change(request: StrictRequest, key: FromPath[str]) -> Response[bytes]:
        """Pause a milestone, or have it resumed."""
        milestone = await known(store, key)
        match (await form(request)).get("state"):
            case "paused":
                await store.milestones.pause(key, paused=True)
            case "active":
                await resumed(store, milestone, by=caller_of(request).name)
            case _:
                raise InvalidRequest("A milestone is paused or active.", field="state")
        return go(request, f"/milestones/{key}")

    return [every, read, change]


def lack_of(distributions: Sequence[PoolEntry]) -> Lack:
    """Why a pool does not last for a moment: what a slot met, or who has them all."""
    ready = {entry.slot for entry in distributions if entry.state == "ready"}
    newest = {entry.slot: entry for entry in distributions}  # they come by generation
    lacking = [entry for slot, entry in newest.items() if slot not in ready]
    for entry in lacking:
        if met := entry.stopped_because or entry.last_error:
            return Lack(
                detail=f"Slot {entry.slot} of its pool takes no links: {met}",
                fix="See what is wrong with: milepost doctor",
            )
    if any(entry.state == "making" for entry in lacking):
        return Lack(
            detail="Its pool is being made.", fix="Job replenish does so, within half a minute."
        )
    return Lack(
        detail="Somebody has a live link in each of its slots, or a slot takes no more links.",
        fix="Raise max_slots if a person may have so many; else see: milepost doctor",
    )
