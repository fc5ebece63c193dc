"""Drift: in what the ledger and the platform differ, each with what to do about it."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from litestar import Router, get, post
from litestar.params import FromPath, FromQuery, QueryParameter
from msgspec import Struct

from milepost import policy
from milepost.api.access import caller_of, needs
from milepost.api.jobs import LARGEST
from milepost.api.problems import documented
from milepost.api.requests import StrictRequest, checked
from milepost.errors import UnknownDrift
from milepost.matching import SENTENCES
from milepost.model import DriftKind, Key, Scope
from milepost.store import Store
from milepost.store.drift import Drift


class DriftView(Struct, frozen=True, kw_only=True):
    """A fact in which ledger and platform differ."""

    id: int
    kind: DriftKind
    detail: str
    """What it is, in a sentence."""
    fix: str
    """What to do about it."""
    milestone: str | None
    """Null: the survey is not that of one milestone alone."""
    link_id: UUID | None
    """The link that a response counts for, or names; the one that lacks its membership."""
    survey_id: str | None
    response_id: str | None
    distribution_id: str | None
    """`EMD_…`, where it is known."""
    lookup_id: str | None
    """With the distribution it makes a link, which is a credential: for admins."""
    rule: str | None
    """Of a response: why it is not of the link that it names."""
    rule_detail: str | None
    first_seen_at: datetime
    last_seen_at: datetime
    settled_at: datetime | None
    settled_by: str | None
    """The name of the key that has settled it; null: it went by itself, or is open."""


class DriftPage(Struct, frozen=True, kw_only=True):
    """Some drift, and where the next begins."""

    drift: list[DriftView]
    next_cursor: int | None


def router(store: Store) -> Router:
    """The routes under `/v1/drift`."""

    @get("/", opt=needs(Scope.READ), responses=documented())
    async def page(
        request: StrictRequest,
        *,
        kind: FromQuery[DriftKind | None] = None,
        milestone: FromQuery[str | None] = None,
        settled: FromQuery[bool] = False,
        cursor: Annotated[int, QueryParameter(ge=0, le=LARGEST)] = 0,
        limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 100,
    ) -> DriftPage:
        """Look through what differs, in the order in which it was first seen.

        What is settled is left out, or with `settled=true` the rest. Lookup ids are for admins.
        """
        found = await store.drift.page(
            kind=kind,
            milestone=milestone and checked(milestone, Key, "milestone"),
            is_settled=settled,
            after=cursor,
            limit=limit,
        )
        in_full = caller_of(request).may(Scope.ADMIN)
        return DriftPage(
            drift=[view(each, in_full=in_full) for each in found],
            next_cursor=found[-1].id if len(found) == limit else None,
        )

    @post(
        "/{drift_id:int}/settle",
        opt=needs(Scope.ADMIN),
        status_code=HTTPStatus.OK,
        responses=documented(404),
    )
    async def settle(request: StrictRequest, drift_id: FromPath[int]) -> DriftView:
        """Say that it was seen to, or may stay: it is not listed any more, also if seen again.

        Again changes nothing.
        """
        if not 0 < drift_id <= LARGEST:
            raise UnknownDrift
        return view(await store.drift.settle(drift_id, by=caller_of(request).name), in_full=True)

    return Router("/v1/drift", route_handlers=[page, settle], tags=["drift"])


def view(found: Drift, *, in_full: bool) -> DriftView:
    """Drift as it is shown, with what it is and what to do."""
    advice = policy.DRIFT[found.kind]
    return DriftView(
        id=found.id,
        kind=found.kind,
        detail=advice.what,
        fix=advice.fix,
        milestone=found.milestone,
        link_id=found.link_id,
        survey_id=found.survey_id,
        response_id=found.response_id,
        distribution_id=found.distribution_id,
        lookup_id=found.lookup_id if in_full else None,
        rule=found.rule,
        rule_detail=SENTENCES.get(found.rule or ""),
        first_seen_at=found.first_seen_at,
        last_seen_at=found.last_seen_at,
        settled_at=found.settled_at,
        settled_by=found.settled_by,
    )
