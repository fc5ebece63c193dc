"""The pages of milestones: all of them at a glance, and each with its pool and its funnel."""

from __future__ import annotations

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from msgspec import Struct

from milepost.admin.frame import Frame, go
from milepost.admin.sessions import form
from milepost.api import milestones
from milepost.api.access import caller_of, needs
from milepost.api.milestones import MilestoneView, Pool, known, pool_of, resumed
from milepost.api.requests import StrictRequest
from milepost.errors import InvalidRequest
from milepost.model import Milestone, Scope
from milepost.store import Store


class Glance(Struct, frozen=True, kw_only=True):
    """A milestone as the first page shows it."""

    milestone: MilestoneView
    pool: Pool


def handlers(store: Store, frame: Frame) -> list[HTTPRouteHandler]:
    """The first page, and that of each milestone."""

    async def view(request: StrictRequest, milestone: Milestone) -> MilestoneView:
        in_full = caller_of(request).may(Scope.ADMIN)
        return milestones.view(milestone, await store.capabilities.all(), in_full=in_full)

    @get("/", opt=needs(Scope.READ))
    async def every(request: StrictRequest) -> Response[bytes]:
        """Look at all milestones."""
        glances = [
            Glance(milestone=await view(request, one), pool=await pool_of(store, one))
            for one in await store.milestones.all()
        ]
        return frame.show(request, "milestones.html", glances=glances)

    @get("/milestones/{key:str}", opt=needs(Scope.READ))
    async def read(request: StrictRequest, key: FromPath[str]) -> Response[bytes]:
        """Look at one milestone."""
        milestone = await known(store, key)
        return frame.show(
            request,
            "milestone.html",
            milestone=await view(request, milestone),
            pool=await pool_of(store, milestone),
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
