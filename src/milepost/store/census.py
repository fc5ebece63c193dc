"""The census: what doctor wants to know of a database, counted over whole tables.

Nothing here is asked for an event. A count reads its table once, which takes a second for a few
million rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, and_, case, func, select, text, union_all

from milepost.store import tables
from milepost.store.connections import Connections, plain
from milepost.store.pools import NOT_LISTED

CONNECTIONS_OF_A_PROCESS: Final = 12
"""The most that one process holds: 6 for the path of an event, 2 for readers of short links, 4 for
the rest."""

STUCK_SECONDS: Final = 120
"""A link that nobody has taken up for so long after it was due was forgotten by everybody: a
takeover takes 30 s, and a look for the outcome of a call a minute."""

_SERVER: Final = text(
    """
    SELECT
        current_setting('server_version_num')::integer / 10000 AS major,
        current_setting('server_version') AS version,
        current_setting('server_encoding') AS encoding,
        current_setting('fsync')::boolean AS fsync,
        current_setting('full_page_writes')::boolean AS full_page_writes,
        current_setting('synchronous_commit') AS synchronous_commit,
        current_setting('transaction_read_only')::boolean AS read_only,
        current_setting('statement_timeout') AS statement_timeout,
        current_setting('max_connections')::integer
            - current_setting('superuser_reserved_connections')::integer
            - coalesce(current_setting('reserved_connections', true), '0')::integer
            AS connections,
        -- Not from pg_stat_activity, where an ordinary role sees of others' sessions too little.
        (SELECT sum(numbackends) FROM pg_stat_database)::integer AS in_use,
        clock_timestamp() AS clock
    """
)


class Server(Struct, frozen=True, kw_only=True):
    """A Postgres server, as a session of ours sees it."""

    major: int
    version: str
    encoding: str
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    read_only: bool
    statement_timeout: str
    """Ours say 10 s when they connect: `0` means that somebody between takes no options."""
    connections: int
    """How many anybody but a superuser may hold, all programs together."""
    in_use: int
    """How many are held now."""
    clock: datetime


class People(Struct, frozen=True, kw_only=True):
    """Registrants, those who were erased left out."""

    registrants: int
    shared: int
    """Another registrant has the same contact."""
    incomplete: int
    """They lack a value by which the directory tells contacts apart."""
    without_contact: int
    """They are to have a contact in the home list, and have none yet."""
    opted_out: int
    lacking: Mapping[str, int]
    """How many have no value, by criterion (`policy.DEDUP_CRITERIA`)."""


class Pool(Struct, frozen=True, kw_only=True):
    """What a milestone has at the platform for its present survey, in slots."""

    milestone: str
    ready: int
    """A distribution on them takes links."""
    making: int
    stopped: int
    """The newest distribution on them is not trusted."""
    unlisted: int
    """Of those in the making: the platform does not list our probe's link yet."""
    stopped_because: str | None
    last_error: str | None
    """What went wrong; that a link is not listed yet is not."""


class Stuck(Struct, frozen=True, kw_only=True):
    """Links that were due and that nobody has taken up."""

    links: int
    since: datetime | None


class Census:
    """The counts; each is one transaction that reads."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def server(self) -> Server:
        """The server, and what it does for every session."""
        async with self._connections.transaction() as connection:
            row = (await connection.execute(_SERVER)).mappings().one()
        return msgspec.convert(plain(row), Server)

    async def people(self) -> People:
        """The registrants, and what they lack."""
        rows = tables.registrants
        owns = rows.c.dedup_key.is_not(None)
        is_there = rows.c.removed_at.is_(None)
        columns = {
            "registrants": _count(is_there),
            "shared": _count(and_(is_there, rows.c.contact_key.is_not(None), ~owns)),
            "incomplete": _count(and_(is_there, rows.c.contact_key.is_(None))),
            "without_contact": _count(
                and_(is_there, rows.c.home_lookup_id.is_(None), owns, rows.c.opted_out_at.is_(None))
            ),
            "opted_out": _count(rows.c.opted_out_at.is_not(None)),
        }
        lacking = {
            name: _count(func.coalesce(func.btrim(rows.c[name]), "") == "")
            for name in ("email", "first_name", "last_name", "phone")
        }
        query = select(*(column.label(name) for name, column in (columns | lacking).items())).where(
            rows.c.erased_at.is_(None)
        )
        async with self._connections.transaction() as connection:
            row = plain((await connection.execute(query)).mappings().one())
        return People(
            **{name: row[name] for name in columns},
            lacking={name: row[name] for name in lacking},
        )

    async def pools(self) -> Mapping[str, Pool]:
        """What is there for each milestone's present survey; a milestone without slots is left out.

        That a `making` distribution failed is told by `last_error`, and also that a `ready` one's
        list is not known to the platform any more.
        """
        slots, distributions, milestones = tables.slots, tables.distributions, tables.milestones
        state, error = distributions.c.state, distributions.c.last_error
        newest = func.max(distributions.c.generation).over(partition_by=distributions.c.slot_id)
        each = (
            select(
                distributions.c.slot_id,
                state,
                distributions.c.stopped_because,
                case((state.in_(("making", "ready")), error)).label("error"),
                and_(state == "ready", distributions.c.takes_until > func.milepost_now()).label(
                    "is_ready"
                ),
                and_(state == "stopped", distributions.c.generation == newest).label("is_stopped"),
            )
        ).subquery()
        query = (
            select(
                slots.c.milestone,
                _slots(each.c.slot_id, each.c.is_ready).label("ready"),
                _slots(each.c.slot_id, each.c.state == "making").label("making"),
                _slots(each.c.slot_id, each.c.is_stopped).label("stopped"),
                _slots(
                    each.c.slot_id, and_(each.c.state == "making", each.c.error == NOT_LISTED)
                ).label("unlisted"),
                func.max(case((each.c.is_stopped, each.c.stopped_because))).label(
                    "stopped_because"
                ),
                func.max(case((each.c.error != NOT_LISTED, each.c.error))).label("last_error"),
            )
            .join(each, each.c.slot_id == slots.c.id)
            .join(
                milestones,
                and_(
                    milestones.c.key == slots.c.milestone,
                    milestones.c.survey_id == slots.c.survey_id,
                    milestones.c.route == slots.c.route,
                ),
            )
            .group_by(slots.c.milestone)
        )
        async with self._connections.transaction() as connection:
            rows = (await connection.execute(query)).mappings()
            found = [msgspec.convert(plain(row), Pool) for row in rows]
        return {pool.milestone: pool for pool in found}

    async def stuck(self) -> Stuck:
        """Links under way or of unknown outcome that are due since more than `STUCK_SECONDS`.

        What waits for its call is not among them: it may wait as long as the budget says.
        """
        links = tables.links
        due = links.c.due_at
        late = [
            links.c.state.in_(("claimed", "unknown")),
            due <= func.milepost_now() - timedelta(seconds=STUCK_SECONDS),
        ]
        # What is due stands in two partial indexes, and each serves only whoever asks for its part.
        either = union_all(
            select(due).where(*late, due.is_not(None), links.c.clicked_at.is_(None)),
            select(due).where(*late, due.is_not(None), links.c.clicked_at.is_not(None)),
        ).subquery()
        query = select(func.count().label("links"), func.min(either.c.due_at).label("since"))
        async with self._connections.transaction() as connection:
            row = (await connection.execute(query)).mappings().one()
        return msgspec.convert(plain(row), Stuck)


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count(case((condition, 1)))


def _slots(slot: ColumnElement[int], condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count(func.distinct(case((condition, slot))))
