"""Exports: all that the ledger knows of links, page by page.

A page is a statement of its own. Nothing is held between two of them, neither a connection nor a
snapshot, however slowly they are read: so a long export holds nobody up, and keeps Postgres from
tidying nothing away. Pages go by the moments at which links were created and by their ids, which
never change: whoever goes on behind a link meets each other one once, and as it is then.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import func, select

from milepost.model import Scalar
from milepost.store import tables
from milepost.store.connections import Connections, plain, statement

_PAGE: Final = statement("export_page").decode()

UNFINISHED: Final = timedelta(seconds=20)
"""Links that are younger are for another export. They are numbered by moments at which they were
not committed yet: one that is committed behind another would be missed by whoever goes on behind
that one. A statement is given up after 10 s."""


class ExportedLink(Struct, frozen=True, kw_only=True):
    """A link with its event's data and its moments; its members are the columns of an export."""

    id: UUID
    event_id: str
    milestone: str
    survey_id: str
    registrant: str
    asked_by: str
    state: str
    lane: str | None
    route: str | None
    published: str | None
    url: str | None
    """The one that was given out, for admins; others see none."""
    reuses: UUID | None
    """The link that it was given again."""
    rule: str | None
    rule_until: datetime | None
    rule_detail: str | None
    upstream_calls: float
    occurred_at: datetime | None
    created_at: datetime
    issued_at: datetime | None
    data_at: datetime | None
    expires_at: datetime | None
    delivered_at: datetime | None
    clicked_at: datetime | None
    opened_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    revoked_at: datetime | None
    reminded_at: datetime | None
    response_id: str | None
    data: Mapping[str, Scalar]


class Position(Struct, frozen=True):
    """A link, as the place behind which an export goes on."""

    milestone: str
    created_at: datetime
    id: UUID


class ExportStore:
    """The verbs of exports; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def position(self, link_id: UUID) -> Position | None:
        """Where a link stands; None: there is none."""
        links = tables.links
        query = select(links.c.milestone, links.c.created_at, links.c.id)
        async with self._connections.transaction() as connection:
            row = (await connection.execute(query.where(links.c.id == link_id))).one_or_none()
        return Position(row.milestone, row.created_at, row.id) if row else None

    async def settled_until(self) -> datetime:
        """Links that were created before this moment are all there."""
        async with self._connections.transaction() as connection:
            now: datetime = (await connection.execute(select(func.milepost_now()))).scalar_one()
        return now - UNFINISHED

    async def page(self, after: Position, until: datetime, limit: int) -> list[ExportedLink]:
        """Links of a milestone behind a position, oldest first.

        Args:
            after: of that milestone.
            until: they were created before.
            limit: how many at the most.
        """
        given = {
            "milestone": after.milestone,
            "after_at": after.created_at,
            "after_id": after.id,
            "until": until,
            "limit": limit,
        }
        async with self._connections.transaction() as connection:
            rows = (await connection.exec_driver_sql(_PAGE, given)).mappings()
            return [ExportedLink(**plain(row)) for row in rows]
