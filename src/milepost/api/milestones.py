"""Milestones: admins register surveys, pause them, and look at their pools."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Literal

import msgspec
from litestar import Response, Router, get, post, put
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from milepost import policy
from milepost.api.access import needs
from milepost.api.problems import documented
from milepost.api.requests import MAX_BODY_BYTES, checked
from milepost.errors import InvalidRequest, UnknownMilestone
from milepost.model import Capabilities, Caution, Key, Milestone, MilestoneDefinition, Scope
from milepost.store import Store
from milepost.store.pools import PoolEntry


class MilestoneView(MilestoneDefinition, frozen=True, kw_only=True):
    """A milestone: its definition, and what is true of it."""

    key: str
    state: Literal["active", "paused"]
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
    ready: int
    """Distributions that take links now."""
    distributions: list[PoolEntry]


_CREATED = ResponseSpec(
    MilestoneView, description="There was no such milestone.", generate_examples=False
)


def router(store: Store) -> Router:
    """The routes under `/v1/milestones`."""

    @put(
        "/{key:str}",
        opt=needs(Scope.ADMIN),
        request_max_body_size=MAX_BODY_BYTES,
        responses={201: _CREATED, **documented(422, body=True)},
    )
    async def define(
        key: FromPath[str], data: JSONBody[MilestoneDefinition]
    ) -> Response[MilestoneView]:
        """Register a milestone, or replace its definition. Its pool is made by job `replenish`."""
        policy.check_definition(data)
        key = checked(key, Key, "key")
        account = await store.capabilities.all()
        earlier = await store.milestones.find(key)
        policy.check_account(data, account, earlier.definition if earlier else None)
        milestone, is_new = await store.milestones.put(key, data)
        status = HTTPStatus.CREATED if is_new else HTTPStatus.OK
        return Response(view(milestone, account), status_code=status)

    @get("/{key:str}", opt=needs(Scope.READ), responses=documented(404))
    async def read(key: FromPath[str]) -> MilestoneView:
        """Look at one milestone."""
        return view(await _known(store, key), await store.capabilities.all())

    @get("/", opt=needs(Scope.READ), responses=documented())
    async def every() -> Milestones:
        """Look at all milestones."""
        account = await store.capabilities.all()
        return Milestones([view(one, account) for one in await store.milestones.all()])

    @post(
        "/{key:str}/pause",
        opt=needs(Scope.ADMIN),
        status_code=HTTPStatus.OK,
        responses=documented(404),
    )
    async def pause(key: FromPath[str]) -> MilestoneView:
        """Stop taking events; those seen before are answered as ever."""
        await _known(store, key)
        milestone = await store.milestones.pause(key, paused=True)
        return view(milestone, await store.capabilities.all())

    @post(
        "/{key:str}/resume",
        opt=needs(Scope.ADMIN),
        status_code=HTTPStatus.OK,
        responses=documented(404),
    )
    async def resume(key: FromPath[str]) -> MilestoneView:
        """Take events again."""
        await _known(store, key)
        milestone = await store.milestones.pause(key, paused=False)
        return view(milestone, await store.capabilities.all())

    @get("/{key:str}/pool", opt=needs(Scope.READ), responses=documented(404))
    async def pool(key: FromPath[str]) -> Pool:
        """Look at the distributions that links are made on."""
        milestone = await _known(store, key)
        survey_id = milestone.definition.survey_id
        entries = await store.pools.entries(key, survey_id)
        return Pool(
            milestone=key,
            survey_id=survey_id,
            ready=sum(entry.state == "ready" for entry in entries),
            distributions=list(entries),
        )

    return Router(
        "/v1/milestones",
        route_handlers=[define, read, every, pause, resume, pool],
        tags=["milestones"],
    )


def view(milestone: Milestone, account: Capabilities) -> MilestoneView:
    """A milestone as the API shows it, on this account."""
    return MilestoneView(
        **msgspec.structs.asdict(milestone.definition),
        key=milestone.key,
        state=milestone.state,
        created_at=milestone.created_at,
        updated_at=milestone.updated_at,
        cautions=policy.cautions(milestone.definition, account),
    )


async def _known(store: Store, key: str) -> Milestone:
    try:
        return await store.milestones.get(checked(key, Key, "key"))
    except InvalidRequest:
        raise UnknownMilestone(key) from None
