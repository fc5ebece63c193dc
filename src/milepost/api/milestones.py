"""Milestones: admins register surveys, pause and resume them, and look at their pools."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Final, Literal

import msgspec
from litestar import Response, Router, get, post, put
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from milepost import policy
from milepost.api.access import caller_of, needs
from milepost.api.problems import documented
from milepost.api.requests import MAX_BODY_BYTES, StrictRequest, checked
from milepost.budget import for_purpose
from milepost.errors import InvalidMilestone, InvalidRequest, UnknownMilestone, UpstreamError
from milepost.model import (
    Capabilities,
    Caution,
    Key,
    Milestone,
    MilestoneDefinition,
    PoolStanding,
    Purpose,
    Route,
    Scope,
    Stop,
)
from milepost.store import Store
from milepost.store.pools import PoolEntry
from milepost.upstream import NotFound, Upstream


class MilestoneView(MilestoneDefinition, frozen=True, kw_only=True):
    """A milestone: its definition, and what is true of it."""

    key: str
    state: Literal["active", "paused"]
    """A person's word."""
    stopped: Stop | None
    """Why it gives no personal links although it is active: the platform's have changed. The two
    URLs are for admins."""
    created_at: datetime
    updated_at: datetime
    cautions: list[Caution]
    """What an admin should know of it on this account, although it works."""


class Milestones(Struct, frozen=True):
    """All milestones, by key."""

    milestones: list[MilestoneView]


class Pool(Struct, frozen=True, kw_only=True):
    """A milestone's pool."""

    milestone: str
    survey_id: str
    route: Route
    """Of `stepwise` there is none, since each link is made at its event."""
    is_tended: bool
    """The milestone is neither paused nor stopped, so that links are given and the pool is kept."""
    headroom_days: float | None
    """For so many days it can go on giving links at the present pace, if nothing were made for it.
    None: there is no pool, or nobody tends it."""
    ready: int
    """Distributions that take links now."""
    distributions: list[PoolEntry]


_CREATED = ResponseSpec(
    MilestoneView, description="There was no such milestone.", generate_examples=False
)


SEE_SECONDS: Final = 2.0
"""How long a registration waits for what the platform says of its survey."""


def router(store: Store, upstream: Upstream | None = None) -> Router:
    """The routes under `/v1/milestones`.

    Args:
        store: what is asked.
        upstream: is asked whether there is such a survey; None: nobody is.
    """

    @put(
        "/{key:str}",
        opt=needs(Scope.ADMIN),
        request_max_body_size=MAX_BODY_BYTES,
        responses={201: _CREATED, **documented(422, body=True)},
    )
    async def define(
        key: FromPath[str], data: JSONBody[MilestoneDefinition]
    ) -> Response[MilestoneView]:
        """Register a milestone, or replace its definition. Its pool is made by job `replenish`.

        A survey that the platform does not know is refused, and so is one for route `anonymous`
        that is answered by invitation only; where the platform cannot be asked within 2 s it is
        taken as it is.
        """
        policy.check_definition(data)
        key = checked(key, Key, "key")
        account = await store.capabilities.all()
        earlier = await store.milestones.find(key)
        policy.check_account(data, account, earlier.definition if earlier else None)
        before = earlier and (earlier.definition.survey_id, earlier.definition.route)
        if upstream is not None and before != (data.survey_id, data.route):
            await _see_survey(upstream, data)
        milestone, is_new = await store.milestones.put(key, data)
        status = HTTPStatus.CREATED if is_new else HTTPStatus.OK
        return Response(view(milestone, account, in_full=True), status_code=status)

    @get("/{key:str}", opt=needs(Scope.READ), responses=documented(404))
    async def read(request: StrictRequest, key: FromPath[str]) -> MilestoneView:
        """Look at one milestone."""
        in_full = caller_of(request).may(Scope.ADMIN)
        return view(await known(store, key), await store.capabilities.all(), in_full=in_full)

    @get("/", opt=needs(Scope.READ), responses=documented())
    async def every(request: StrictRequest) -> Milestones:
        """Look at all milestones."""
        account = await store.capabilities.all()
        in_full = caller_of(request).may(Scope.ADMIN)
        return Milestones(
            [view(one, account, in_full=in_full) for one in await store.milestones.all()]
        )

    @post(
        "/{key:str}/pause",
        opt=needs(Scope.ADMIN),
        status_code=HTTPStatus.OK,
        responses=documented(404),
    )
    async def pause(key: FromPath[str]) -> MilestoneView:
        """Stop taking events; those seen before are answered as ever."""
        await known(store, key)
        milestone = await store.milestones.pause(key, paused=True)
        return view(milestone, await store.capabilities.all(), in_full=True)

    @post(
        "/{key:str}/resume",
        opt=needs(Scope.ADMIN),
        status_code=HTTPStatus.OK,
        responses=documented(404),
    )
    async def resume(request: StrictRequest, key: FromPath[str]) -> MilestoneView:
        """Take events again.

        One that is stopped gives personal links again when job `canary`, which is asked for by
        this, has learnt how the platform's links look now: in a moment, or as soon as the platform
        lists its canary. `stopped.resumed_at` is there until then.
        """
        milestone = await resumed(store, await known(store, key), by=caller_of(request).name)
        return view(milestone, await store.capabilities.all(), in_full=True)

    @get("/{key:str}/pool", opt=needs(Scope.READ), responses=documented(404))
    async def pool(key: FromPath[str]) -> Pool:
        """Look at the distributions that links are made on."""
        return await pool_of(store, await known(store, key))

    return Router(
        "/v1/milestones",
        route_handlers=[define, read, every, pause, resume, pool],
        tags=["milestones"],
    )


async def _see_survey(upstream: Upstream, wanted: MilestoneDefinition) -> None:
    """See whether links can lead to the survey, if that can be told now: nothing else needs it.

    Raises:
        InvalidMilestone: the platform says that there is none, at least for the token's user, or
            that plain links to it open a closed page.
    """
    survey_id = wanted.survey_id
    with suppress(UpstreamError, TimeoutError), for_purpose(Purpose.PROVISIONING, SEE_SECONDS / 2):
        try:
            async with asyncio.timeout(SEE_SECONDS):
                survey = await upstream.survey_definition(survey_id)
        except NotFound:
            raise InvalidMilestone(
                f"The token's user sees no survey {survey_id} at the platform.",
                fix="Mend the id, or share the survey with that user.",
                field="survey_id",
            ) from None
        if wanted.route is Route.ANONYMOUS and survey.invitation_only:
            raise InvalidMilestone(
                f"Survey {survey_id} is answered by invitation only: links of route anonymous open "
                "a closed page.",
                fix="Let it be answered without an invitation, in the survey's security options, "
                "or choose another route.",
                field="route",
            )


def view(milestone: Milestone, account: Capabilities, *, in_full: bool) -> MilestoneView:
    """A milestone as the API shows it, on this account; in full with what is for admins."""
    stop = milestone.stop
    if stop is not None and not in_full:
        stop = msgspec.structs.replace(stop, expected=None, found=None)
    return MilestoneView(
        **msgspec.structs.asdict(milestone.definition),
        key=milestone.key,
        state=milestone.state,
        stopped=stop,
        created_at=milestone.created_at,
        updated_at=milestone.updated_at,
        cautions=policy.cautions(milestone.definition, account),
    )


async def resumed(store: Store, milestone: Milestone, *, by: str) -> Milestone:
    """A milestone that takes events again; where it is stopped, a canary is asked for."""
    milestone = await store.milestones.pause(milestone.key, paused=False)
    if milestone.stop is not None:
        await store.runs.ask("canary", asked_by=by)
    return milestone


async def pool_of(store: Store, milestone: Milestone) -> Pool:
    """A milestone's pool as the API shows it."""
    key, survey_id = milestone.key, milestone.definition.survey_id
    entries = await store.pools.entries(key, survey_id)
    standing = await store.pools.standing(key)
    return Pool(
        milestone=key,
        survey_id=survey_id,
        route=milestone.definition.route,
        is_tended=standing.is_tended,
        headroom_days=await headroom_days(store, key, standing),
        ready=sum(entry.takes_links(standing.now) for entry in entries),
        distributions=list(entries),
    )


async def headroom_days(store: Store, milestone: str, standing: PoolStanding) -> float | None:
    """For how many days a pool can go on giving links; None: there is none, or nobody tends it."""
    if not standing.is_tended:
        return None
    return policy.headroom_days(standing, await store.pools.demand(milestone))


async def known(store: Store, key: str) -> Milestone:
    """The milestone with this key out of an address.

    Raises:
        UnknownMilestone: there is none, or none can be.
    """
    try:
        return await store.milestones.get(checked(key, Key, "key"))
    except InvalidRequest:
        raise UnknownMilestone(key) from None
