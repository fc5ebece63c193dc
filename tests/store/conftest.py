"""A store on a database of its own, with a milestone whose pool is filled by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.rows import dict_row

from milepost.model import Event, Link, LinkState, MilestoneDefinition, RegistrantDetails, Route
from milepost.store import Store
from milepost.store.links import Asked, Settlement

DIRECTORY = "POOL_000000000000001"
CRITERIA = frozenset({"email"})
SURVEY = "SV_000000000000001"
SUCCESSOR = """
INSERT INTO distributions (slot_id, generation, description, distribution_id, template, state,
    expires_at, takes_until, calibrated_at, created_at)
SELECT slot_id, 2, 'second', 'EMD_second', 't', 'ready', expires_at, takes_until, now(), now()
FROM distributions WHERE slot_id = 1
"""
"""Rotate slot 1: another distribution on the same list."""

Sql = Callable[..., list[dict[str, Any]]]
Register = Callable[..., Awaitable[None]]


def event(event_id: str = "e1", ref: str = "ann", milestone: str = "landed", **more: Any) -> Event:
    """An event of `ann`, landed."""
    known = {"data": {}, "occurred_at": None, "asked_by": "app"}
    return Event(event_id=event_id, ref=ref, milestone=milestone, **(known | more))


def issued(asked: Asked, **more: Any) -> Settlement:
    """The settlement of a claim whose call came back with a lookup id of the registrant's own."""
    claim = asked.claim
    assert claim is not None, asked.link
    made = {
        "id": claim.link.id,
        "attempt": claim.attempt,
        "state": LinkState.ISSUED,
        "route": Route.LIST,
        "lookup_id": f"CGC_{claim.place.list_id}_{claim.ref}",
        "url": f"https://survey.test/{claim.place.distribution_id}/{claim.ref}",
        "expires_at": claim.place.expires_at,
    }
    return Settlement(**(made | more))


def setback(asked: Asked, state: LinkState = LinkState.WAITING, **more: Any) -> Settlement:
    """The settlement of a claim whose call did not end well."""
    assert asked.claim is not None, asked.link
    made = {"rule": "upstream-away", "id": asked.link.id, "attempt": asked.claim.attempt}
    return Settlement(state=state, **(made | more))


def told(link: Link | None) -> dict[str, Any]:
    """What a link says, without the moments that only its record has."""
    assert link is not None
    return {name: getattr(link, name) for name in Link.__struct_fields__}


def later(url: str, **ago: float) -> str:
    """The same database, seen by a store whose clock is ahead by this much."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT statement_timestamp()").fetchone()
    assert row is not None
    return f"{url}{'&' if '?' in url else '?'}options=-c%20milepost.now%3D" + (
        (row[0] + timedelta(**ago)).isoformat().replace("+", "%2B").replace(":", "%3A")
    )


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """The store, with registrants `ann`, `ben` and `cleo`."""
    async with await Store.open(database_url) as store:
        await store.deployment.load()
        await store.registrants.rekey(DIRECTORY, CRITERIA)
        await store.registrants.put(
            {ref: RegistrantDetails(email=f"{ref}@x.test") for ref in ("ann", "ben", "cleo")}
        )
        yield store


@pytest.fixture
def sql(database_url: str) -> Sql:
    """Run a statement in a transaction of its own and return its rows."""

    def run(statement: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(database_url, row_factory=dict_row) as connection:
            cursor = connection.execute(statement, values)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def register(store: Store, sql: Sql) -> Register:
    """Register a milestone with these changes to its definition, its pool ready for links."""

    async def landed(key: str = "landed", **changes: Any) -> None:
        """Register it."""
        given = {"survey_id": SURVEY, "lanes": ["direct", "queued"], **changes}
        await store.milestones.put(key, msgspec.convert(given, MilestoneDefinition))
        await store.pools.plan(key, "abcdefgh")
        sql("UPDATE slots SET list_id = 'CG_' || id WHERE list_id IS NULL")
        sql(
            "UPDATE distributions SET distribution_id = 'EMD_' || id, template = 't',"
            " calibrated_at = now(), expires_at = now() + interval '60 days',"
            " takes_until = now() + interval '46 days', state = 'ready' WHERE state = 'making'"
        )

    return landed
