"""Resident memory of a process: idle, and how much more while it drains a million waiting links."""

from __future__ import annotations

import asyncio

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from benchmarks.figure import Figure
from benchmarks.filling import PEOPLE, refilled
from benchmarks.stage import DIRECT, MILESTONE, Size, staged
from milepost.model import Event
from milepost.payload import fingerprint
from milepost.settings import RATE_PER_MINUTE

SETTLE_SECONDS = 2.0
"""After its start: what runs once has run."""

DRAIN_SECONDS = 30.0
"""1,500 links at 3,000 calls a minute; what the work on a page takes, it takes from the first."""

SLOTS = 10

WAITING = sql.SQL("""
INSERT INTO links (id, event_id, milestone, survey_id, ref, registrant_id, data, fingerprint,
    asked_by, state, rule, route, lane, published, attempt, waiting_until, slot_id, contact_key,
    created_at, token, short_url, due_at)
SELECT ('01990000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'e' || n, s.milestone,
    s.survey_id, r.ref, r.id, '{{}}', p.fingerprint, 'benchmark', 'waiting', 'budget-spent', 'list',
    'deferred', 'short', 0, milepost_now() + interval '30 days', s.id, r.contact_key,
    milepost_now(), left(md5('token ' || n), 22),
    'http://127.0.0.1:8700/l/' || left(md5('token ' || n), 22), milepost_now()
FROM generate_series(0, {links} - 1) AS n
JOIN registrants AS r ON r.id = n % {people} + 1
JOIN fingerprints AS p ON p.ref = r.ref
JOIN slots AS s ON s.number = n / {people} + 1
""")


async def measure(database_url: str, size: Size) -> list[Figure]:
    """Measure two processes: one with nothing to do, and one with much."""
    async with staged(database_url, size) as free:
        await free.define(lanes=DIRECT, slots=SLOTS)
        stage = free.limited(RATE_PER_MINUTE, {}, latency_ms=0)
        with stage.service() as service:
            await asyncio.sleep(min(SETTLE_SECONDS, size.seconds))
            idle = service.memory()
        people = -(-size.waiting // SLOTS)
        with refilled(database_url) as connection:
            connection.execute(PEOPLE.format(people))
            _copy_fingerprints(connection, people)
            connection.execute(WAITING.format(links=size.waiting, people=people))
        stage.forget()
        with stage.service() as service:
            await asyncio.sleep(min(DRAIN_SECONDS, 3 * size.seconds))
            busy = service.memory("VmHWM")
        if not stage.calls("list_contacts")["accepted"]:
            raise RuntimeError("nothing was drained")
    return [
        Figure(name="memory of a process, idle", unit="MB", ours=idle, must=150, at_most=True),
        Figure(
            name=f"more of it, with {size.waiting:,} links waiting",
            unit="MB",
            ours=busy - idle,
            must=100,
            at_most=True,
        ),
    ]


def _copy_fingerprints(connection: psycopg.Connection, people: int) -> None:
    """What identifies the payload of each registrant's events; the worker compares it."""
    connection.execute("CREATE TEMP TABLE fingerprints (ref text, fingerprint jsonb)")
    (key,) = connection.execute("SELECT fingerprint_key FROM deployment").fetchone() or (b"",)
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY fingerprints (ref, fingerprint) FROM STDIN") as copy,
    ):
        for number in range(people):
            event = Event(
                event_id="",
                milestone=MILESTONE,
                ref=f"r{number:07}",
                data={},
                occurred_at=None,
                asked_by="",
            )
            copy.write_row((event.ref, Jsonb(fingerprint(event, key))))
