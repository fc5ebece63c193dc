"""Milestones, as admins define them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec import UNSET
from sqlalchemy import (
    ColumnElement,
    RowMapping,
    and_,
    case,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from milepost.errors import UnknownMilestone
from milepost.model import Cooldown, MessageType, Milestone, MilestoneDefinition, Stop
from milepost.store import tables
from milepost.store.connections import Connections
from milepost.store.messages import tell

_STOP: Final = (
    "stopped_at",
    "stopped_because",
    "stopped_expected",
    "stopped_found",
    "resumed_at",
    "stop_seen_at",
)


class MilestoneStore:
    """The verbs of milestones; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def put(self, key: str, definition: MilestoneDefinition) -> tuple[Milestone, bool]:
        """Define a milestone or replace its definition; the flag says whether it is the first.

        A paused milestone stays paused; a stopped one stopped, unless it gets another survey. Then
        its distributions are stopped in its place: should it get the former survey again, nothing
        is built by what was not trusted.
        """
        async with self._connections.transaction() as connection:
            return await _put(connection, key, definition)

    async def put_all(self, definitions: Mapping[str, MilestoneDefinition]) -> dict[str, bool]:
        """Define milestones by key, all or none; the flags say which are the first of their key."""
        async with self._connections.transaction() as connection:
            # In one order, or two who define the same ones would wait for each other in a circle.
            firsts = {
                key: (await _put(connection, key, definitions[key]))[1]
                for key in sorted(definitions)
            }
        return {key: firsts[key] for key in definitions}

    async def get(self, key: str) -> Milestone:
        """The milestone with this key.

        Raises:
            UnknownMilestone: there is none.
        """
        found = await self.find(key)
        if found is None:
            raise UnknownMilestone(key)
        return found

    async def find(self, key: str) -> Milestone | None:
        """The milestone with this key, if there is one."""
        milestones = tables.milestones
        async with self._connections.transaction() as connection:
            result = await connection.execute(select(milestones).where(milestones.c.key == key))
            row = result.mappings().one_or_none()
        return _milestone(row) if row else None

    async def all(self) -> list[Milestone]:
        """Every milestone, by key."""
        milestones = tables.milestones
        async with self._connections.transaction() as connection:
            result = await connection.execute(select(milestones).order_by(milestones.c.key))
            return [_milestone(row) for row in result.mappings()]

    async def pause(self, key: str, *, paused: bool) -> Milestone:
        """Pause or resume a milestone. One that is stopped stays so.

        That it was resumed is remembered until a canary has answered it, or until it is paused.

        Raises:
            UnknownMilestone: there is none.
        """
        milestones, now = tables.milestones, func.milepost_now()
        resumed_at = None if paused else case((milestones.c.stopped_at.is_not(None), now))
        async with self._connections.transaction() as connection:
            result = await connection.execute(
                update(milestones)
                .where(milestones.c.key == key)
                .values(
                    state="paused" if paused else "active", resumed_at=resumed_at, updated_at=now
                )
                .returning(milestones)
            )
            row = result.mappings().one_or_none()
        if row is None:
            raise UnknownMilestone(key)
        return _milestone(row)

    async def stop(
        self,
        key: str,
        because: str,
        *,
        survey_id: str,
        expected: str | None = None,
        found: str | None = None,
    ) -> None:
        """Give no more personal links of a milestone: they would be wrong ones.

        Of one that is stopped already it is said anew why, and only what is known of a moment
        after that ends the stop.

        Args:
            key: of the milestone.
            because: a sentence without URLs.
            survey_id: of whose links that was seen; one that has another by now is not stopped.
            expected: the URL that is built here.
            found: the one that the platform gives in its place.
        """
        milestones = tables.milestones
        is_of_survey = and_(milestones.c.key == key, milestones.c.survey_id == survey_id)
        async with self._connections.transaction() as connection:
            was_going = await connection.scalar(
                select(milestones.c.stopped_at.is_(None))
                .where(is_of_survey)
                .with_for_update(key_share=True)
            )
            stopped_at = await connection.scalar(
                update(milestones)
                .where(is_of_survey)
                .values(
                    stopped_at=func.coalesce(milestones.c.stopped_at, func.milepost_now()),
                    stop_seen_at=func.milepost_now(),
                    stopped_because=because,
                    stopped_expected=expected,
                    stopped_found=found,
                )
                .returning(milestones.c.stopped_at)
            )
            if was_going:
                told = {"milestone": key, "survey_id": survey_id, "because": because}
                await tell(connection, MessageType.MILESTONE_STOPPED, told | {"at": stopped_at})

    async def trust(
        self, key: str, at: datetime, *, survey_id: str, given_until: datetime | None = None
    ) -> bool:
        """The links of a milestone have been found right: a stop from before that is over.

        Args:
            key: of the milestone.
            at: of which moment this is known.
            survey_id: of whose links; of one that has another by now nothing is known.
            given_until: the links that were given until then have been looked at; None: until `at`.

        Returns:
            Whether it was stopped.
        """
        milestones = tables.milestones
        is_of_survey = and_(milestones.c.key == key, milestones.c.survey_id == survey_id)
        async with self._connections.transaction() as connection:
            ended = await connection.execute(
                update(milestones)
                .where(is_of_survey, _last_stop() <= at)
                .values(dict.fromkeys(_STOP))
            )
            await connection.execute(
                update(milestones)
                .where(is_of_survey, milestones.c.stopped_at.is_(None))
                .values(trusted_at=given_until or at)
            )
        return bool(ended.rowcount)

    async def answer(self, key: str, resumed_at: datetime, at: datetime) -> None:
        """What a person wanted by resuming a stopped milestone was tried.

        They know of the links that were given before, and these are not looked at again.

        Args:
            key: of the milestone.
            resumed_at: when they resumed it; who has since waits for the next answer.
            at: of which moment the answer is; none from before a stop answers whoever resumed it.
        """
        milestones = tables.milestones
        async with self._connections.transaction() as connection:
            await connection.execute(
                update(milestones)
                .where(
                    milestones.c.key == key,
                    milestones.c.resumed_at == resumed_at,
                    _last_stop() <= at,
                )
                .values(resumed_at=None, trusted_at=resumed_at)
            )


def _last_stop() -> ColumnElement[datetime | None]:
    """When a milestone that is stopped was last seen to differ; NULL: it is not stopped."""
    milestones = tables.milestones
    seen_at = func.greatest(milestones.c.stopped_at, milestones.c.stop_seen_at)
    return case((milestones.c.stopped_at.is_not(None), seen_at))


async def _put(
    connection: AsyncConnection, key: str, definition: MilestoneDefinition
) -> tuple[Milestone, bool]:
    milestones = tables.milestones
    now = func.milepost_now()
    values = _columns(key, definition)
    await _leave(connection, key, definition.survey_id, values["route"])
    # What was seen of the links of one survey and route says nothing of another's.
    is_same = and_(
        milestones.c.survey_id == definition.survey_id, milestones.c.route == values["route"]
    )
    seen = {name: case((is_same, milestones.c[name])) for name in (*_STOP, "trusted_at")}
    result = await connection.execute(
        insert(milestones)
        .values(key=key, **values, state="active", created_at=now, updated_at=now)
        .on_conflict_do_update(index_elements=["key"], set_={**values, **seen, "updated_at": now})
        .returning(milestones, literal_column("xmax = 0").label("is_first"))
    )
    row = result.mappings().one()
    if not row["is_first"]:
        await _shorten(connection, key, definition.min_link_days)
    return _milestone(row), row["is_first"]


async def _leave(connection: AsyncConnection, key: str, survey_id: str, route: str) -> None:
    """Where a stopped milestone gets another survey or route, its distributions keep the stop."""
    slots, distributions, milestones = tables.slots, tables.distributions, tables.milestones
    left = await connection.execute(
        select(milestones.c.survey_id, milestones.c.route, milestones.c.stopped_because)
        .where(
            milestones.c.key == key,
            or_(milestones.c.survey_id != survey_id, milestones.c.route != route),
            milestones.c.stopped_at.is_not(None),
        )
        .with_for_update(key_share=True)
    )
    for row in left:
        of_survey = select(slots.c.id).where(
            slots.c.milestone == key,
            slots.c.survey_id == row.survey_id,
            slots.c.route == row.route,
        )
        await connection.execute(
            update(distributions)
            .where(
                distributions.c.slot_id.in_(of_survey),
                distributions.c.state.in_(("ready", "draining")),
            )
            .values(state="stopped", stopped_because=row.stopped_because)
        )


async def _shorten(connection: AsyncConnection, key: str, min_link_days: int) -> None:
    """Let what is made already take links for as long as those live that are wanted now."""
    slots, distributions = tables.slots, tables.distributions
    await connection.execute(
        update(distributions)
        .where(
            distributions.c.slot_id.in_(select(slots.c.id).where(slots.c.milestone == key)),
            distributions.c.state.in_(("making", "ready")),
        )
        .values(takes_until=distributions.c.expires_at - timedelta(days=min_link_days))
    )


def _columns(key: str, definition: MilestoneDefinition) -> dict[str, Any]:
    columns: dict[str, Any] = msgspec.to_builtins(definition)
    quiet = columns.pop("quiet")
    repeat = columns.pop("repeat")
    cooldown = definition.repeat if isinstance(definition.repeat, Cooldown) else None
    return columns | {
        "name": key if definition.name is UNSET else definition.name,
        "repeat": "cooldown" if cooldown else repeat,
        "cooldown_days": cooldown.cooldown_days if cooldown else None,
        "quiet_links": quiet["links"] if quiet else None,
        "quiet_days": quiet["days"] if quiet else None,
    }


def _milestone(row: RowMapping) -> Milestone:
    days = row["cooldown_days"]
    stopped_at, resumed_at = row["stopped_at"], row["resumed_at"]
    quiet = {"links": row["quiet_links"], "days": row["quiet_days"]}
    definition = {
        **row,
        "repeat": {"cooldown_days": days} if days is not None else row["repeat"],
        "quiet": quiet if row["quiet_links"] is not None else None,
    }
    known = {name: definition[name] for name in MilestoneDefinition.__struct_fields__}
    return Milestone(
        key=row["key"],
        definition=msgspec.convert(known, MilestoneDefinition),
        state=row["state"],
        stop=Stop(
            at=stopped_at,
            because=row["stopped_because"],
            expected=row["stopped_expected"],
            found=row["stopped_found"],
            # The version before ends a stop without the wish that went with it.
            resumed_at=resumed_at if resumed_at and resumed_at >= stopped_at else None,
        )
        if stopped_at
        else None,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
