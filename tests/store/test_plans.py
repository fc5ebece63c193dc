"""The statements on the path of an event touch the big tables by their indexes alone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest
from tests.store.conftest import Register, Sql

from milepost.store.connections import statement

MANY = 50_000


@pytest.fixture
async def _filled(register: Register, sql: Sql) -> None:
    """As many links, each of a registrant of its own, one in ten with a place."""
    await register(slots=3, repeat="once", quiet={"links": 3, "days": 7})
    sql(
        "INSERT INTO registrants (ref, contact_key, dedup_key, created_at, updated_at)"
        " SELECT 'r' || n, 'k' || n, 'k' || n, now(), now() FROM generate_series(1, %s) AS n",
        MANY,
    )
    sql(
        "INSERT INTO links (id, event_id, milestone, survey_id, ref, registrant_id, data,"
        " fingerprint, asked_by, state, rule, attempt, lease_until, slot_id, distribution_id,"
        " contact_key, created_at)"
        " SELECT gen_random_uuid(), 'e' || id, 'landed', 's', ref, id, '{}', '{}',"
        " 'app', CASE id %% 10 WHEN 0 THEN 'claimed' ELSE 'suppressed' END, 'sample', 1, now(),"
        " CASE id %% 10 WHEN 0 THEN 1 END, CASE id %% 10 WHEN 0 THEN 1 END,"
        " CASE id %% 10 WHEN 0 THEN contact_key END, now()"
        " FROM registrants WHERE ref LIKE 'r%%'"
    )
    sql("ANALYZE links, registrants, milestones, slots, distributions")


def nodes(plan: dict[str, object]) -> Iterator[dict[str, object]]:
    """The plan's node and all below it."""
    yield plan
    below = plan.get("Plans", [])
    assert isinstance(below, list)
    for child in below:
        yield from nodes(child)


@pytest.mark.usefixtures("_filled")
def test_no_statement_of_the_path_scans_a_big_table(database_url: str) -> None:
    """Claims of one event and of a hundred, settlements and look-ups, all by index."""
    key = "00000000-0000-7000-8000-000000000000"
    batches = []
    for size in (1, 100):
        batch = [
            {"event_id": f"e{n}", "ref": f"r{n}", "milestone": "landed", "link_id": key}
            for n in range(0, 7 * size, 7)
        ]
        batches += [
            ("claim_lock", {"refs": [row["ref"] for row in batch]}),
            ("claim", {"events": json.dumps(batch), "lease": 20}),
            ("settle", {"settlements": json.dumps([{"id": key, "attempt": 1}] * size)}),
        ]
    batches.append(("find", {"id": None, "event_id": "e7", "asked_by": None}))
    batches.append(("registrants_lock", {"refs": [f"r{n}" for n in range(50)]}))
    with psycopg.connect(database_url) as connection:
        for name, values in batches:
            explained = connection.execute(
                b"EXPLAIN (FORMAT JSON) " + statement(name), values
            ).fetchone()
            assert explained is not None
            scanned = {
                node.get("Relation Name")
                for node in nodes(explained[0][0]["Plan"])
                if node["Node Type"] == "Seq Scan"
            }
            assert set() == scanned & {"links", "registrants"}, name
