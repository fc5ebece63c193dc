"""The page of drift: in what ledger and platform differ, and what to do about each."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Final
from urllib.parse import urlencode

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromQuery, QueryParameter

from milepost import policy
from milepost.admin.frame import Frame, go
from milepost.admin.sessions import form
from milepost.api.access import caller_of, needs
from milepost.api.drift import DriftView, view
from milepost.api.jobs import LARGEST
from milepost.api.requests import StrictRequest, checked
from milepost.errors import UnknownDrift
from milepost.model import DriftKind, Key, Scope
from milepost.scheduler import Scheduler
from milepost.store import Store

AT_ONCE: Final = 100
"""Findings on a page."""


def handlers(store: Store, scheduler: Scheduler, frame: Frame) -> list[HTTPRouteHandler]:
    """The page of drift, and the button on it."""

    @get("/drift", opt=needs(Scope.READ))
    async def read(
        request: StrictRequest,
        *,
        kind: FromQuery[str] = "",
        milestone: FromQuery[str] = "",
        settled: FromQuery[bool] = False,
        after: Annotated[int, QueryParameter(ge=0, le=LARGEST)] = 0,
    ) -> Response[bytes]:
        """Look through what differs, by kind."""
        found = await store.drift.page(
            kind=DriftKind(checked(kind, DriftKind, "kind")) if kind else None,
            milestone=checked(milestone, Key, "milestone") if milestone else None,
            is_settled=settled,
            after=after,
            limit=AT_ONCE,
        )
        (reconcile,) = await scheduler.standings(["reconcile"])
        in_full = caller_of(request).may(Scope.ADMIN)
        by_kind: dict[DriftKind, list[DriftView]] = defaultdict(list)
        for each in found:
            by_kind[each.kind].append(view(each, in_full=in_full))
        return frame.show(
            request,
            "drift.html",
            by_kind=by_kind,
            reconcile=reconcile,
            advice=policy.DRIFT,
            milestones=[one.key for one in await store.milestones.all()],
            kind=kind,
            milestone=milestone,
            settled=settled,
            here=_query(kind=kind, milestone=milestone, settled=settled, after=after),
            following=_query(kind=kind, milestone=milestone, settled=settled, after=found[-1].id)
            if len(found) == AT_ONCE
            else None,
        )

    @post("/drift", opt=needs(Scope.ADMIN))
    async def settle(
        request: StrictRequest,
        *,
        kind: FromQuery[str] = "",
        milestone: FromQuery[str] = "",
        settled: FromQuery[bool] = False,
        after: FromQuery[int] = 0,
    ) -> Response[bytes]:
        """Settle a finding, and show the same page without it."""
        given = (await form(request)).get("id", "")
        if not given.isascii() or not given.isdecimal() or not 0 < int(given) <= LARGEST:
            raise UnknownDrift
        await store.drift.settle(int(given), by=caller_of(request).name)
        here = _query(kind=kind, milestone=milestone, settled=settled, after=after)
        return go(request, "/drift", here)

    return [read, settle]


def _query(*, kind: str, milestone: str, settled: bool, after: int) -> str:
    """The address of a page, behind its question mark; what is usual is left out."""
    said = {
        "kind": kind,
        "milestone": milestone,
        "settled": "true" if settled else "",
        "after": after or "",
    }
    return urlencode({name: value for name, value in said.items() if value})
