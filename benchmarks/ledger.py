"""The time of a claim in a ledger of millions, against one in a ledger of thousands.

Both are filled alike, ten links for each registrant: most of them finished or expired, some alive,
some waiting, some suppressed; what has expired stands on distributions that have expired as well.
Claims are the store's own, one at a time and a hundred together; the places that they took are
given back after each round.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time

import psycopg
from psycopg import sql

from benchmarks.figure import Figure
from benchmarks.filling import PEOPLE, refilled
from benchmarks.stage import MILESTONE, Size, sibling
from milepost.model import Event, MilestoneDefinition, Quiet
from milepost.store import Store, migrate

SURVEY = "SV_000000000000001"
TEMPLATE = (
    "https://survey.test/jfe/form/SV_000000000000001"
    "?Q_CHL=gl&Q_DL=EMD_000000000000001_SV_000000000000001_CGC_{}&_g_=g"
)
SLOTS = 25
LINKS_EACH = 10
SINGLES = 100
BATCHES = 5
"""Of each round."""

BATCH = 100

POOL = sql.SQL("""
INSERT INTO slots (milestone, survey_id, number, list_name, list_id, created_at)
SELECT {milestone}, {survey}, n, 'list ' || n, 'CG_' || lpad(n::text, 15, '0'), milepost_now()
FROM generate_series(1, {slots}) AS n;
INSERT INTO distributions (slot_id, generation, description, distribution_id, template, state,
    expires_at, takes_until, calibrated_at, created_at)
SELECT id, generation, 'distribution', 'EMD_' || lpad((100 * generation + id)::text, 15, '0'),
    {template}, CASE generation WHEN 1 THEN 'retired' ELSE 'ready' END,
    ends_at, ends_at - interval '14 days', milepost_now(), milepost_now()
FROM slots, generate_series(1, 2) AS generation,
    LATERAL (
        SELECT milepost_now() + make_interval(days => 60 * generation - 80) AS ends_at) AS ending
ORDER BY generation, id
""")
"""Each slot has had a distribution that has expired; on its successor stands what is alive."""

LINKS = sql.SQL("""
INSERT INTO links (id, event_id, milestone, survey_id, ref, registrant_id, data, fingerprint,
    asked_by, state, rule, route, lane, published, attempt, waiting_until, slot_id,
    distribution_id, contact_key, lookup_id, url, upstream_calls, expires_at, created_at,
    issued_at, data_at, finished_at, token, short_url, due_at)
SELECT
    ('01990000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
    'e' || n, {milestone}, {survey}, r.ref, r.id,
    '{{}}', '{{"ref": "0123456789abcdef", "milestone": "0123456789abcdef"}}', 'benchmark',
    CASE WHEN is_issued THEN 'issued' WHEN is_waiting THEN 'waiting' ELSE 'suppressed' END,
    CASE WHEN is_waiting THEN 'budget-spent' WHEN NOT is_issued THEN 'sample' END,
    CASE WHEN is_issued OR is_waiting THEN 'list' END,
    CASE WHEN is_short THEN 'deferred' WHEN is_issued THEN 'direct' END,
    CASE WHEN is_short THEN 'short' WHEN is_issued THEN 'personal' END,
    1,
    CASE WHEN is_waiting THEN milepost_now() + interval '30 days' END,
    CASE WHEN is_issued OR is_waiting THEN slot.id END,
    CASE WHEN is_issued THEN slot.distribution_id END,
    CASE WHEN is_issued OR is_waiting THEN r.contact_key END,
    CASE WHEN is_issued THEN 'CGC_' || lpad(n::text, 15, '0') END,
    CASE WHEN is_issued THEN replace({template}, '{{}}', lpad(n::text, 15, '0')) END,
    1,
    CASE WHEN is_issued THEN born_at + interval '60 days' END,
    born_at,
    CASE WHEN is_issued THEN born_at END,
    CASE WHEN is_issued THEN born_at END,
    CASE WHEN is_issued AND n % 3 = 0 THEN born_at + interval '1 day' END,
    CASE WHEN is_short THEN left(md5('token ' || n), 22) END,
    CASE WHEN is_short THEN 'http://127.0.0.1:8700/l/' || left(md5('token ' || n), 22) END,
    CASE WHEN is_waiting THEN milepost_now() - interval '1 minute' END
FROM generate_series(0, {links} - 1) AS n
CROSS JOIN LATERAL (
    SELECT
        nth,
        nth < 7 AS is_issued,
        nth = 7 AND n % 5 = 0 AS is_waiting,
        nth = 6 OR nth = 7 AND n % 5 = 0 AS is_short,
        milepost_now() - make_interval(days => greatest(150 - 20 * nth, 2)) AS born_at
    FROM (SELECT (n / {people})::integer AS nth) AS numbered
) AS kind
JOIN registrants AS r ON r.id = n % {people} + 1
LEFT JOIN (
    SELECT s.id, s.number - 1 AS nth, d.id AS distribution_id, d.state = 'ready' AS is_ready
    FROM slots AS s JOIN distributions AS d ON d.slot_id = s.id
) AS slot ON slot.nth = kind.nth AND slot.is_ready = (born_at > milepost_now() - interval '60 days')
""")
"""For each registrant seven issued links, five of them expired, a third of them finished, the last
one behind a short URL; for one in five a link that waits; the others suppressed."""


async def measure(database_url: str, size: Size) -> list[Figure]:
    """Measure in alternating rounds."""
    with sibling(database_url, "small") as small_url:
        await _fill(small_url, size.few_links)
        await _fill(database_url, size.links)
        for url in (small_url, database_url):
            _read(url)
        async with await Store.open(small_url) as few, await Store.open(database_url) as many:
            small = _Ledger(few, small_url, size.few_links // LINKS_EACH, size.seed)
            large = _Ledger(many, database_url, size.links // LINKS_EACH, size.seed)
            for ledger in (small, large):
                await ledger.claim_all()  # connections, prepared statements
            rounds = [
                (await large.claim_all(), await small.claim_all()) for _ in range(size.rounds)
            ]
    return [
        Figure(
            name=f"time of a claim among {size.links:,} links, {name}",
            unit="ms",
            ours=statistics.median(ours[kind] for ours, _ in rounds),
            against=statistics.median(against[kind] for _, against in rounds),
            measure=f"among {size.few_links:,}",
            must=must,
            aim=1.3,
            at_most=True,
        )
        for kind, (name, must) in enumerate((("single", 1.5), (f"{BATCH} at once", 2.0)))
    ]


READ = """
SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off;
SELECT count(url) FROM (SELECT url FROM links ORDER BY id) AS l;
SELECT count(*) FROM (SELECT ref FROM links ORDER BY ref, created_at) AS l;
SELECT count(*) FROM (SELECT registrant_id FROM links WHERE slot_id IS NOT NULL
    ORDER BY registrant_id, distribution_id) AS l;
SELECT count(*) FROM (SELECT contact_key FROM links WHERE contact_key IS NOT NULL
    ORDER BY contact_key, distribution_id) AS l;
SELECT count(email) FROM (SELECT email FROM registrants ORDER BY id) AS r;
SELECT count(*) FROM (SELECT ref FROM registrants ORDER BY ref) AS r;
"""
"""Have in Postgres's buffers what claims look at, as far as it has room there, and as it is on a
server that has been at work for a while. In the order of an index, for what is read otherwise
leaves the buffers again."""

LEAVE = """
UPDATE links SET state = 'failed', rule = 'upstream-refused', due_at = NULL, slot_id = NULL,
    distribution_id = NULL, contact_key = NULL
WHERE event_id BETWEEN 'claim' AND 'clain' AND state = 'claimed'
"""
"""Give back the places that the claims of a round took. (To delete a link, Postgres would look
through all of them for one that reuses it.)"""


class _Ledger:
    """Claims in one ledger; their medians, in ms."""

    def __init__(self, store: Store, url: str, people: int, seed: int) -> None:
        self._store = store
        self._url = url
        self._people = people
        self._random = random.Random(seed)  # noqa: S311  (whom to ask for is no secret)
        self._numbers = itertools.count()

    async def claim_all(self) -> tuple[float, float]:
        """Claim one at a time, then many at once, and give the places back."""
        among = range(self._people)
        singles = [await self._timed(self._random.sample(among, 1)) for _ in range(SINGLES)]
        batches = [await self._timed(self._random.sample(among, BATCH)) for _ in range(BATCHES)]
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            await connection.execute(LEAVE)
        return statistics.median(singles), statistics.median(batches)

    async def _timed(self, people: list[int]) -> float:
        events = [
            Event(
                event_id=f"claim{next(self._numbers)}",
                milestone=MILESTONE,
                ref=f"r{number:07}",
                data={},
                occurred_at=None,
                asked_by="benchmark",
            )
            for number in people
        ]
        begun = time.perf_counter()
        asked = await asyncio.gather(*map(self._store.links.claim, events))
        took = time.perf_counter() - begun
        if any(one.claim is None for one in asked):
            raise RuntimeError("a place was not found")
        return took * 1000


def _read(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(READ)


async def _fill(database_url: str, links: int) -> None:
    """A ledger with so many links, and a tenth as many registrants."""
    migrate.upgrade(database_url)
    quiet = Quiet(links=10, days=30)
    async with await Store.open(database_url) as store:
        await store.milestones.put(MILESTONE, MilestoneDefinition(survey_id=SURVEY, quiet=quiet))
    values = {
        "milestone": sql.Literal(MILESTONE),
        "survey": sql.Literal(SURVEY),
        "template": sql.Literal(TEMPLATE),
        "slots": sql.Literal(SLOTS),
        "links": sql.Literal(links),
        "people": sql.Literal(links // LINKS_EACH),
    }
    with refilled(database_url) as connection:
        connection.execute(POOL.format(**values))
        connection.execute(PEOPLE.format(links // LINKS_EACH))
        connection.execute("ANALYZE registrants, slots, distributions")
        connection.execute(LINKS.format(**values))
