"""Canaries: distributions that tell what the platform's links look like now.

A survey's *canary list* is a slot that belongs to no milestone. It holds nobody but our probe, so
that the links of what stands on it may be listed: that touches no customer. A *canary* is a
distribution on it. It is made under a lease, as every distribution is, and is `ready` when the link
of our probe has been listed; nobody gets a link of it, and the next one replaces it.

Links of transactions have another form (observed), so a survey of whose milestones one has route
`transaction` has a *canary batch* as well, a slot of that route.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, and_, case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from milepost.model import Route
from milepost.store import tables
from milepost.store.connections import Connections, plain, statement
from milepost.store.pools import LEASE_SECONDS, NEWEST_LINKS, Making

CANARY_DAYS: Final = 7
"""For so long a canary is to live: it is replaced every night, and its link has been seen to be
listed only after 48 h."""

LEARNT_SECONDS: Final = 60
"""For so long after a template was learnt anew a link may still be settled as it was claimed."""

_CANARY: Final = statement("canary_claim")


class Canary(Struct, frozen=True, kw_only=True):
    """A canary whose probe's link the platform has listed."""

    template: str
    probe_lookup_id: str
    made_at: datetime


class Learnt(Struct, frozen=True, kw_only=True):
    """A distribution whose template is in use."""

    id: int
    milestone: str
    distribution_id: str
    template: str


class Given(Struct, frozen=True, kw_only=True):
    """A distribution that has given links lately."""

    id: int
    distribution_id: str
    since: datetime
    """Links from then on were built by its template as it is now."""


class CanaryStore:
    """The verbs of canaries and of what they are held against; each is one transaction.

    `PoolStore` writes down how far the making of a canary is.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def take(
        self,
        survey_id: str,
        deployment: str,
        *,
        since: datetime,
        is_patient: bool = False,
        route: Route = Route.LIST,
    ) -> Making | Canary | None:
        """The survey's canary, or the right to make one; None: somebody else is at it.

        Args:
            survey_id: the survey.
            deployment: the deployment's id, for the name of its list.
            since: it is new enough that was made then at the earliest.
            is_patient: or that is in the making since before; its link is not listed yet.
            route: `transaction`: the one that stands on a batch.
        """
        slots = tables.slots
        name = f"milepost {deployment} canary {survey_id.removeprefix('SV_')}"
        if route is not Route.LIST:
            name += f" {route}"
        of_survey = _of_survey(survey_id, route)
        async with self._connections.transaction() as connection:
            await connection.execute(
                insert(slots)
                .values(
                    survey_id=survey_id,
                    route=route.value,
                    number=1,
                    list_name=name,
                    created_at=func.milepost_now(),
                )
                .on_conflict_do_nothing()
            )
            locked = select(slots.c.id).where(of_survey).with_for_update()
            given = {
                "list": (await connection.execute(locked)).scalar_one(),
                "since": since,
                "is_patient": is_patient,
                "days": CANARY_DAYS,
                "lease": LEASE_SECONDS,
            }
            row = (await connection.exec_driver_sql(_CANARY.decode(), given)).mappings().first()
        if row is None:
            return None
        if row["is_ready"]:
            return msgspec.convert(plain(row), Canary)
        return msgspec.convert(plain(row), Making)

    async def old(self, survey_id: str, route: Route = Route.LIST) -> dict[int, str | None]:
        """Canaries of a survey that nobody needs: those before the newest that is ready or stopped.

        Returns:
            The platform's ids; None: it may be that nothing was made.
        """
        slots, distributions = tables.slots, tables.distributions
        is_told = distributions.c.state.in_(("ready", "stopped"))
        canaries = (
            select(
                distributions.c.id,
                distributions.c.distribution_id,
                distributions.c.generation,
                distributions.c.lease_until,
                func.max(case((is_told, distributions.c.generation))).over().label("newest"),
            )
            .join(slots, slots.c.id == distributions.c.slot_id)
            .where(_of_survey(survey_id, route))
            .subquery()
        )
        query = (
            select(canaries.c.id, canaries.c.distribution_id)
            .where(
                canaries.c.generation < canaries.c.newest,
                func.coalesce(canaries.c.lease_until <= func.milepost_now(), True),
            )
            .order_by(canaries.c.id)
        )
        async with self._connections.transaction() as connection:
            return {row.id: row.distribution_id for row in await connection.execute(query)}

    async def forget(self, canary: int) -> None:
        """The platform does not have it any more."""
        distributions = tables.distributions
        async with self._connections.transaction() as connection:
            await connection.execute(delete(distributions).where(distributions.c.id == canary))

    async def learnt(
        self, survey_id: str, routes: Collection[Route] = tuple(Route)
    ) -> list[Learnt]:
        """The distributions whose templates are in use, of milestones that have this survey now.

        Args:
            survey_id: the survey.
            routes: of the milestones.
        """
        slots, distributions, milestones = tables.slots, tables.distributions, tables.milestones
        query = (
            select(
                distributions.c.id,
                slots.c.milestone,
                distributions.c.distribution_id,
                distributions.c.template,
            )
            .join(slots, slots.c.id == distributions.c.slot_id)
            .join(milestones, milestones.c.key == slots.c.milestone)
            .where(
                slots.c.survey_id == survey_id,
                milestones.c.survey_id == survey_id,
                slots.c.route == milestones.c.route,
                slots.c.route.in_([route.value for route in routes]),
                distributions.c.state.in_(("ready", "draining")),
            )
            .order_by(distributions.c.id)
        )
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(query)).mappings()
            return [msgspec.convert(plain(row), Learnt) for row in rows]

    async def learn(self, templates: Mapping[int, str]) -> None:
        """Build the links of these distributions by other templates from now on."""
        distributions = tables.distributions
        async with self._connections.transaction() as connection:
            for distribution, template in sorted(templates.items()):
                await connection.execute(
                    update(distributions)
                    .where(distributions.c.id == distribution)
                    .values(template=template, calibrated_at=func.milepost_now())
                )

    async def given(self, milestone: str) -> list[Given]:
        """The distributions on which a milestone has given links since they were last found right.

        They are looked for among the milestone's newest `NEWEST_LINKS`.
        """
        links, distributions, milestones = tables.links, tables.distributions, tables.milestones
        newest = (
            select(links.c.distribution_id, links.c.issued_at, links.c.route)
            .where(links.c.milestone == milestone)
            .order_by(links.c.id.desc())
            .limit(NEWEST_LINKS)
            .subquery()
        )
        since = func.greatest(
            milestones.c.trusted_at,
            distributions.c.calibrated_at + timedelta(seconds=LEARNT_SECONDS),
        )
        query = (
            select(distributions.c.id, distributions.c.distribution_id, since.label("since"))
            .distinct()
            .select_from(newest)
            .join(distributions, distributions.c.id == newest.c.distribution_id)
            .join(milestones, milestones.c.key == milestone)
            .where(
                newest.c.issued_at > since,
                # No distribution's history tells of a survey's plain link.
                newest.c.route != Route.ANONYMOUS.value,
                distributions.c.calibrated_at.is_not(None),
            )
            .order_by(distributions.c.id)
        )
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(query)).mappings()
            return [msgspec.convert(plain(row), Given) for row in rows]

    async def urls(self, given: Given, lookup_ids: Sequence[str]) -> dict[str, str]:
        """The links that were given on a distribution, by lookup id, as far as they are new."""
        links = tables.links
        query = select(links.c.lookup_id, links.c.url).where(
            links.c.distribution_id == given.id,
            links.c.lookup_id.in_(lookup_ids),
            links.c.issued_at > given.since,
            links.c.url.is_not(None),
        )
        async with self._connections.transaction() as connection:
            return {row.lookup_id: row.url for row in await connection.execute(query)}


def _of_survey(survey_id: str, route: Route) -> ColumnElement[bool]:
    """That a slot is the survey's canary list, or its canary batch."""
    slots = tables.slots
    return and_(
        slots.c.milestone.is_(None),
        slots.c.survey_id == survey_id,
        slots.c.route == route.value,
    )
