"""Drift: in what the ledger and the platform differ, each fact once, however often it is seen.

A fact is a kind and what it is about. It is *settled* when a person says so, and stays so then; or
by itself, when what explains it has come in, and is back when it is seen again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import DictRow
from sqlalchemy import func, select, update

from milepost.errors import UnknownDrift
from milepost.model import DriftKind
from milepost.store import tables
from milepost.store.connections import Connections, plain, statement

_FLAG: Final = statement("drift_flag")
_CLEAR: Final = statement("drift_clear")


class Flag(Struct, frozen=True, kw_only=True):
    """A fact in which ledger and platform differ."""

    kind: DriftKind
    subject: str
    """What it is about, by its ids: with the kind it makes the fact one."""
    milestone: str | None = None
    """None: as far as distribution or survey tell it."""
    link_id: UUID | None = None
    survey_id: str | None = None
    response_id: str | None = None
    distribution_id: str | None = None
    """The platform's, `EMD_…`."""
    lookup_id: str | None = None
    rule: str | None = None
    """Of a response: why it is not of the link that it names."""


class Drift(Struct, frozen=True, kw_only=True):
    """A flag as it stands."""

    id: int
    kind: DriftKind
    milestone: str | None
    link_id: UUID | None
    survey_id: str | None
    response_id: str | None
    distribution_id: str | None
    lookup_id: str | None
    rule: str | None
    first_seen_at: datetime
    last_seen_at: datetime
    settled_at: datetime | None
    settled_by: str | None
    """The name of the key that has settled it; None: it went by itself, or is open."""


class DriftStore:
    """The verbs of drift; each is one transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def page(
        self,
        *,
        kind: DriftKind | None = None,
        milestone: str | None = None,
        is_settled: bool = False,
        after: int = 0,
        limit: int = 100,
    ) -> list[Drift]:
        """Drift by id, that is as it was first seen, from behind `after` on.

        Args:
            kind: only of this kind.
            milestone: only of this milestone.
            is_settled: what is settled, instead of what is open.
            after: an id.
            limit: at most so many.
        """
        drift = tables.drift
        wanted = [drift.c.id > after, drift.c.settled_at.is_not(None) == is_settled]
        if kind is not None:
            wanted.append(drift.c.kind == kind.value)
        if milestone is not None:
            wanted.append(drift.c.milestone == milestone)
        query = select(drift).where(*wanted).order_by(drift.c.id).limit(limit)
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(query)).mappings()
            return [msgspec.convert(plain(row), Drift) for row in rows]

    async def settle(self, drift_id: int, *, by: str) -> Drift:
        """Write down that somebody has seen to it, or lets it be. Again changes nothing.

        Args:
            drift_id: which.
            by: the name of their key.

        Raises:
            UnknownDrift: there is none.
        """
        drift = tables.drift
        changed = (
            update(drift)
            .where(drift.c.id == drift_id)
            .values(
                settled_at=func.coalesce(drift.c.settled_at, func.milepost_now()),
                settled_by=func.coalesce(drift.c.settled_by, by),
            )
            .returning(drift)
        )
        async with self._connections.transaction() as connection:
            row = (await connection.execute(changed)).mappings().one_or_none()
        if row is None:
            raise UnknownDrift
        return msgspec.convert(plain(row), Drift)


async def flag(connection: psycopg.AsyncConnection[DictRow], flags: Sequence[Flag]) -> int:
    """Write flags down in the caller's transaction; returns how many were not known."""
    if not flags:
        return 0
    given = {"flags": msgspec.json.encode(flags).decode()}
    rows = await (await connection.execute(_FLAG, given)).fetchall()
    return sum(row["is_first"] for row in rows)


async def clear(
    connection: psycopg.AsyncConnection[DictRow], gone: Iterable[tuple[DriftKind, str]]
) -> None:
    """Settle what is not so any more, in the caller's transaction."""
    named = [{"kind": kind, "subject": subject} for kind, subject in gone]
    if named:
        await connection.execute(_CLEAR, {"gone": msgspec.json.encode(named).decode()})
