"""The web page, for those who run milestones and those who count responses.

It shows what the API tells, by the same verbs and through the same mask, to whoever shows a key
with the scope `read` or `admin`. Plain HTML: no script, one stylesheet, nothing of a third party.
"""

from __future__ import annotations

from litestar import Router, get
from litestar.exceptions import NotFoundException

from milepost.admin import drift, jobs, links, milestones, sign_in
from milepost.admin.frame import PATH, Frame
from milepost.admin.sessions import MAX_FORM_BYTES, Sessions
from milepost.api import exports, funnel
from milepost.api.access import SHOWN, needs
from milepost.api.pages import PRIVATE
from milepost.api.requests import StrictRequest
from milepost.model import Caller, Scope
from milepost.scheduler import Scheduler
from milepost.store import Store

__all__ = ["router"]


def router(store: Store, scheduler: Scheduler, *, secret: bytes, secure: bool) -> Router:
    """The routes under `/admin`.

    Args:
        store: what is asked.
        scheduler: knows the jobs, and when they are due.
        secret: the deployment's; sessions are sealed with it.
        secure: Milepost is reached over TLS, and nothing of a session goes without.
    """
    sessions = Sessions(store.keys, secret, secure=secure)
    frame = Frame(sessions)

    # Not the method itself: the framework copies routers deeply, and a method with its object.
    async def shown(request: StrictRequest) -> Caller | None:
        return await sessions.caller(request)

    @get("/{elsewhere:path}", opt=needs(Scope.READ))
    async def elsewhere() -> None:
        """Say that there is no such page."""
        raise NotFoundException

    return Router(
        PATH,
        route_handlers=[
            *sign_in.handlers(store.keys, sessions, frame),
            *milestones.handlers(store, frame),
            *links.handlers(store, frame),
            *drift.handlers(store, scheduler, frame),
            *jobs.handlers(scheduler, frame),
            # Files to take along: the API's own routes, shown a session.
            Router(
                "/",
                route_handlers=[funnel.reading(store), exports.router(store)],
                response_headers=PRIVATE,
            ),
            elsewhere,
        ],
        opt={SHOWN: shown},
        include_in_schema=False,
        exception_handlers=frame.errors,
        request_max_body_size=MAX_FORM_BYTES,
    )
