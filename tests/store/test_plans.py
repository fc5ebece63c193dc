"""The statements on the path of an event touch the big tables by their indexes alone."""

from __future__ import annotations

from asyncio import gather
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Self
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from tests.store.conftest import SURVEY, Register, Sql, event, issued

from milepost.errors import UnknownReminder
from milepost.model import Lane, LinkState, Purpose
from milepost.store import Store
from milepost.store.budget import BRAND, Ask, Terms, Unspent
from milepost.store.connections import Row, statement
from milepost.store.links import Telling
from milepost.store.outcomes import Entry
from milepost.store.responses import Judged

Node = dict[str, Any]
"""A node of a plan, as Postgres explains it in JSON."""

REGISTRANTS = 100_000
LINKS = 1_000_000
SLOTS = 8

BIG = {"links", "registrants", "memberships"}
"""The tables that grow with every event and with every customer."""

PATH = {
    *("claim_lock", "claim", "hand_over", "find_many", "settle", "registrants_contacts"),
    *("find", "due", "look", "click", "budget_lock", "budget_grant", "budget_give_back"),
    *("late_data_claim", "late_data_settle", "of_reference", "delivered"),
    *("reminders_gather", "reminders_due", "reminder_sent", "funnel_mark", "funnel_count"),
    *("pool_standing", "pool_demand", "pool_full", "pool_plan", "pool_claim", "pool_age"),
    *("outcomes", "history_links", "history_strangers", "history_lacking", "reconcile_due"),
    *("stepwise_due", "stepwise_again", "of_history", "responses_note", "responses_heard"),
    *("responses_take", "responses_judge", "responses_second", "responses_explain"),
    *("drift_flag", "drift_clear"),
}
"""The statements of the path, by their files: none may be missing from what is explained.

Those of pools are among them: every few seconds they look at the newest links. So are those by
which it is known what becomes of links, and what an app or a job uses all day besides.
"""

PREPARED = """
SELECT statement, format('EXPLAIN (FORMAT JSON) EXECUTE %I', name)
    || coalesce('(' || (SELECT string_agg('NULL', ', ') FROM unnest(parameter_types)) || ')', '')
    AS explain
FROM pg_prepared_statements
"""
"""What a connection has prepared; a generic plan does not look at the values."""

CONSTRAINTS = """
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
    format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname,
        pg_get_constraintdef(oid))
FROM pg_constraint
WHERE contype IN ('p', 'u', 'f')
    AND (conrelid IN ('links'::regclass, 'registrants'::regclass, 'memberships'::regclass)
        OR confrelid IN ('links'::regclass, 'registrants'::regclass))
ORDER BY contype = 'f' DESC, contype
"""
"""How each key of the big tables is taken away and put back; foreign keys are the first to go."""

INDEXES = """
SELECT format('DROP INDEX %I', indexname), indexdef
FROM pg_indexes
WHERE tablename IN ('links', 'registrants')
    AND indexname NOT IN (SELECT conname FROM pg_constraint)
"""

FILL_REGISTRANTS = """
INSERT INTO registrants (ref, email, contact_key, dedup_key, contact_id, home_lookup_id,
    contact_at, created_at, updated_at)
SELECT 'r' || n, 'r' || n || '@x.test', 'k' || n, 'k' || n, 'CID_' || n, 'CGC_home_' || n,
    now(), now(), now()
FROM generate_series(0, {registrants} - 1) AS n
"""

FILL_LINKS = """
INSERT INTO links (id, event_id, milestone, survey_id, ref, registrant_id, data, fingerprint,
    asked_by, state, rule, route, lane, published, attempt, waiting_until, slot_id,
    distribution_id, contact_key, lookup_id, url, upstream_calls, expires_at, created_at,
    issued_at, data_at, finished_at, token, short_url, due_at)
SELECT
    ('01990000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
    'e' || n, 'landed', 'SV_000000000000001', r.ref, r.id,
    '{{"flight": 4711, "gate": "B22"}}', '{{"data.flight": "0123456789abcdef"}}', 'app',
    CASE WHEN is_issued THEN 'issued' WHEN is_due THEN 'waiting' ELSE 'suppressed' END,
    CASE WHEN is_due THEN 'budget-spent' WHEN NOT is_issued THEN 'sample' END,
    CASE WHEN is_issued OR is_due THEN 'list' END,
    CASE WHEN is_short THEN 'deferred' WHEN is_issued THEN 'direct' END,
    CASE WHEN is_short THEN 'short' WHEN is_issued THEN 'personal' END,
    1,
    CASE WHEN is_due THEN now() + interval '30 days' END,
    CASE WHEN is_issued OR is_due THEN slot.id END,
    CASE WHEN is_issued THEN slot.distribution_id END,
    CASE WHEN is_issued OR is_due THEN r.contact_key END,
    CASE WHEN is_issued THEN 'CGC_' || n END,
    CASE WHEN is_issued THEN 'https://survey.test/jfe/form/SV_000000000000001?Q_DL=' || n END,
    1,
    CASE WHEN is_issued THEN born_at + interval '60 days' END,
    born_at,
    CASE WHEN is_issued THEN born_at END,
    CASE WHEN is_issued THEN born_at END,
    CASE WHEN is_issued AND n % 3 = 0 THEN born_at + interval '1 day' END,
    CASE WHEN is_short THEN lpad(n::text, 22, '0') END,
    CASE WHEN is_short THEN 'https://links.test/l/' || lpad(n::text, 22, '0') END,
    CASE WHEN is_due THEN now() - interval '1 minute' END
FROM generate_series(0, {links} - 1) AS n
CROSS JOIN LATERAL (
    SELECT
        n / {registrants} AS nth,
        n / {registrants} < 7 AS is_issued,
        n / {registrants} = 7 AND n % 5 = 0 AS is_due,
        n / {registrants} = 6 OR n / {registrants} = 7 AND n % 5 = 0 AS is_short,
        now() - make_interval(days => 200 - 20 * (n / {registrants})::integer) AS born_at
) AS kind
JOIN registrants AS r ON r.ref = 'r' || n % {registrants}
LEFT JOIN (
    SELECT s.id, s.number - 1 AS nth, d.id AS distribution_id
    FROM slots AS s JOIN distributions AS d ON d.slot_id = s.id
) AS slot ON slot.nth = kind.nth
"""
"""Ten links for each registrant: six with a personal URL, expired ones and finished ones among
them; one that was completed behind its short URL; for one out of five a short URL that waits to be
completed; the others suppressed."""


JOIN = """
UPDATE distributions SET template = 'https://survey.test/SE?Q_DL=' || id || '_CGC_{}';
INSERT INTO memberships (registrant_id, slot_id, contact_key, contact_id, lookup_id)
SELECT r.id, s.id, r.dedup_key, r.contact_id, 'CGC_' || lpad(r.id::text, 15, '0')
FROM registrants AS r, slots AS s
WHERE s.milestone = 'boarded' AND s.number = 1;
ANALYZE memberships, slots, distributions
"""
"""Everybody is in the first list of a milestone ahead of events."""


@pytest.fixture
async def _filled(register: Register, database_url: str) -> AsyncIterator[None]:
    """A million links of a hundred thousand registrants.

    Keys and indexes are built at the end, which is faster than row by row, and all in the
    transaction that made the tables empty: then Postgres needs no log of it.
    """
    await register(slots=SLOTS, repeat="once", quiet={"links": 3, "days": 7})
    sizes = {"registrants": sql.Literal(REGISTRANTS), "links": sql.Literal(LINKS)}
    with psycopg.connect(database_url) as connection:
        connection.execute("SET LOCAL maintenance_work_mem = '512MB'")
        connection.execute("SET LOCAL work_mem = '128MB'")
        rebuilt = [
            *connection.execute(CONSTRAINTS).fetchall(),
            *connection.execute(INDEXES).fetchall(),
        ]
        for drop, _ in rebuilt:
            connection.execute(drop)
        connection.execute("TRUNCATE registrants, links, memberships")
        for fill in (FILL_REGISTRANTS, FILL_LINKS):
            connection.execute(sql.SQL(fill).format(**sizes))
        for _, create in reversed(rebuilt):
            connection.execute(create)
        connection.execute("ANALYZE links, registrants, milestones, slots, distributions")
    await register("boarded", membership="ahead", lanes=["ready", "direct", "deferred"])
    with psycopg.connect(database_url) as connection:
        connection.execute(JOIN)
    yield
    with psycopg.connect(database_url) as connection:
        connection.execute("TRUNCATE registrants, links, memberships, responses, drift")


class Recording(psycopg.AsyncCursor[Any]):
    """A cursor that keeps what it was given to execute."""

    seen: ClassVar[list[tuple[bytes, Any]]] = []

    async def execute(self, query: Any, params: Any = None, **how: Any) -> Self:
        """Execute it."""
        if isinstance(query, bytes):
            self.seen.append((query, params))
        return await super().execute(query, params, **how)


class RawRecording(psycopg.AsyncRawCursor[Any]):
    """The same of statements that number their values."""

    async def execute(self, query: Any, params: Any = None, **how: Any) -> Self:
        """Execute it."""
        Recording.seen.append((query, params))
        return await super().execute(query, params, **how)


def nodes(plan: Node) -> Iterator[Node]:
    """The plan's node and all below it."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def reads_all(node: Node) -> bool:
    """Whether it reads a big table from end to end, be it in the order of an index."""
    return node.get("Relation Name") in BIG and (
        node["Node Type"] == "Seq Scan"
        or (node["Node Type"] in ("Index Scan", "Index Only Scan") and "Index Cond" not in node)
    )


async def plan(
    connection: psycopg.AsyncConnection[Row], explain: bytes, values: Any = None
) -> list[Node]:
    """All nodes of the plan that this statement explains."""
    kind = psycopg.AsyncRawCursor if isinstance(values, list) else psycopg.AsyncCursor
    row = await (await kind(connection).execute(explain, values, prepare=False)).fetchone()
    assert row is not None
    return list(nodes(row["QUERY PLAN"][0]["Plan"]))


TERMS = Terms(limits={BRAND: 3_000}, shares={Purpose.DIRECT: 1.0}, patient=frozenset())


async def walk_the_path(store: Store) -> None:
    """Use every verb that an event, its job or its reader may meet, for one and for a hundred."""
    links = store.links
    await store.pools.plan("landed", "abcdefgh", lead=timedelta(days=50))
    await store.pools.claim(1)
    await store.pools.age()
    for name, many in (("one", 1), ("more", 100)):
        # Of people that the ledger knows: a claim meets their earlier links.
        events = [event(f"{name}-{n}", f"r{REGISTRANTS - 2 - 7 * n}") for n in range(many)]
        asked = await gather(*map(links.claim, events))
        await gather(*map(links.claim, events))
        made = [one for one in asked if one.claim is not None]
        assert len(made) > many / 4
        await gather(*(links.hand_over(one.link.id) for one in made[::2]))
        await gather(*(links.settle(issued(one)) for one in made))
        await gather(
            *(
                store.registrants.note_contact(one.claim.ref, "CID_1", one.claim.contact_key)
                for one in made
                if one.claim is not None
            )
        )
        boarded = [event(f"{name}-b{n}", f"r{many + n}", "boarded") for n in range(many)]
        ready = await gather(*map(links.decide, boarded))
        assert {Lane.READY} == {one and one.link.lane for one in ready}
        late = await links.claim_late_data()
        assert late is not None
        await links.settle_late_data(Telling(id=late.link_id, attempt=1, rule="x", leaves=True))
        ask = Ask(call_class="list_contacts", purpose=Purpose.DIRECT, n=many, wanted=many)
        (grant,) = await store.budget.exchange(TERMS, [ask])
        unspent = Unspent(
            call_class=ask.call_class, purpose=ask.purpose, number=grant.number, n=grant.n
        )
        await store.budget.exchange(TERMS, [ask], [unspent])
        await links.find(asked[0].link.id)
        await links.find(event_id="e4711")
        await links.of_reference("a reference", asked[0].link.id)
        for state in (LinkState.CLAIMED, LinkState.WAITING, LinkState.UNKNOWN):
            await links.due(state, many)
        token = f"{7 * REGISTRANTS:022}"
        await links.look(token)
        await links.click(token)
        await become_something(store, name, many)
        await remind_and_count(store, asked[0].link.id, many)


async def remind_and_count(store: Store, link_id: UUID, many: int) -> None:
    """Use every verb of what is shown, reminded of and counted."""
    await store.links.deliver(link_id)
    await store.reminders.gather("landed", after_days=3, link_days=60)
    await store.reminders.due({"landed": 3}, many, asked_by="app")
    with suppress(UnknownReminder):
        await store.reminders.sent(link_id)
    await store.funnel.mark()
    await store.funnel.count_next()


async def become_something(store: Store, name: str, many: int) -> None:
    """Use every verb by which it is known what became of links."""
    look = (await store.outcomes.due(after=0, limit=many))[0]
    entries = [
        Entry(lookup_id=f"CGC_{name}{n}", contact_id="CID_1", response_id=f"R_{name}{n}")
        for n in range(many)
    ]
    known = Entry(lookup_id="CGC_17", started_at=datetime.now(UTC), response_id=f"R_{name}")
    told = await store.outcomes.tell(look, [*entries, known])
    assert (1, many) == (told.links, told.drift)
    if many == 1:
        await store.outcomes.flag_lacking(look, frozenset(f"CGC_{n}" for n in range(LINKS)))
    await store.outcomes.stepwise_due(many)
    named = await store.links.of_history(look.distribution_id, "CGC_17")
    assert named is not None
    await store.outcomes.look_again(named.link.id, 900)
    assert await store.responses.note(SURVEY, f"R_{name} told")
    judged = [
        Judged(
            survey_id=unread.survey_id,
            response_id=unread.response_id,
            lookup_id=unread.lookup_id,
            started_at=None,
            completed_at=unread.now,
            verdict="without-reference",
            rule="no-reference",
            link_id=named.link.id,
            is_unexplained=True,
        )
        for unread in await store.responses.take(many)
    ]
    assert many == len(judged)
    await store.responses.settle(judged)
    await store.responses.flag_unexplained()


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_filled")
async def test_no_statement_of_the_path_scans_a_big_table(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as it is planned for the values at hand nor, once it is prepared, for any values."""
    monkeypatch.setattr("milepost.store.links.AsyncRawCursor", RawRecording)
    pools = (store.connections.path, store.connections.readers)
    async with AsyncExitStack() as held:
        for pool, size in zip(pools, (6, 2), strict=True):  # all that there may be
            for _ in range(size):
                connection = await held.enter_async_context(pool())
                connection.cursor_factory = Recording
    await walk_the_path(store)
    explained = []
    for pool in pools:
        async with pool() as connection:
            explained += [
                (query, await plan(connection, b"EXPLAIN (FORMAT JSON) " + query, values))
                for query, values in Recording.seen
            ]
            await connection.execute("SET plan_cache_mode = force_generic_plan")
            prepared = await connection.execute(PREPARED)
            explained += [
                (row["statement"].encode(), await plan(connection, row["explain"].encode()))
                for row in await prepared.fetchall()
            ]
    missing = {name for name in PATH if not any(statement(name)[:40] in q for q, _ in explained)}
    assert set() == missing
    scans = {
        (query.splitlines()[0], node["Relation Name"])
        for query, nodes in explained
        for node in nodes
        if reads_all(node)
    }
    assert set() == scans


@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_what_is_planned_for_an_empty_ledger_is_right_for_a_large_one(
    store: Store, register: Register, sql: Sql, *, is_analyzed: bool
) -> None:
    """A connection keeps a plan until an ANALYZE: it must not count on the ledger being small."""
    await register(slots=SLOTS, lanes=["direct", "deferred"])
    if is_analyzed:
        sql("ANALYZE links")
    for number in range(SLOTS):  # from the sixth time on Postgres keeps a plan
        asked = await store.links.claim(event(f"e{number}"))
        await store.links.hand_over(asked.link.id)
        await store.links.settle(issued(asked, url=f"https://survey.test/{number}"))
    async with store.connections.path() as connection:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        prepared = await (await connection.execute(PREPARED)).fetchall()
        found = {
            name: await plan(connection, row["explain"].encode())
            for name in ("claim_lock", "claim", "hand_over", "settle")
            for row in prepared
            if statement(name)[:40].decode() in row["statement"]
        }
    assert 4 == len(found)
    assert [] == [name for name, nodes in found.items() if any(map(reads_all, nodes))]
    # Who begins with a milestone's name reads all links of the milestone.
    used = {node.get("Index Name") for nodes in found.values() for node in nodes}
    assert "links_of_an_hour" not in used


async def test_the_backlog_is_counted_by_the_indexes_of_what_is_due(store: Store) -> None:
    """Each half of it has its own, in a ledger that may be of any size."""
    async with store.connections.readers() as connection:
        found = await plan(connection, b"EXPLAIN (FORMAT JSON) " + statement("backlog"))
    used = {node["Index Name"] for node in found if "Index Name" in node}
    assert {"links_due", "links_due_clicked"} == {name for name in used if name.startswith("links")}
    assert "links" not in {
        node.get("Relation Name") for node in found if node["Node Type"] == "Seq Scan"
    }


OTHERS = """
INSERT INTO reminders (link_id, milestone, asked_by, due_at)
SELECT gen_random_uuid(), 'landed', 'other', now() - interval '1 day'
FROM generate_series(1, 5000)
"""
"""Reminders that their key does not fetch."""


@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_a_key_finds_its_reminders_without_those_of_another(
    store: Store, register: Register, sql: Sql, *, is_analyzed: bool
) -> None:
    """However many of them are due on the same milestone, and for however long."""
    await register()
    own = await store.links.settle(issued(await store.links.claim(event("own"))))
    assert own is not None
    ago = "now() - interval '4 days'"
    sql(f"UPDATE links SET created_at = {ago}, issued_at = {ago}")
    sql(OTHERS)
    if is_analyzed:
        sql("ANALYZE reminders")
    await store.reminders.gather("landed", after_days=3, link_days=60)
    found, looked_at = await store.reminders.due({"landed": 3}, 10, asked_by="app")
    assert ([own.id], 1) == ([one.link_id for one in found], looked_at)
    used = set()
    async with AsyncExitStack() as held:
        for _ in range(6):  # all that there may be: one of them has it prepared
            connection = await held.enter_async_context(store.connections.path())
            await connection.execute("SET plan_cache_mode = force_generic_plan")
            for row in await (await connection.execute(PREPARED)).fetchall():
                if statement("reminders_due")[:40].decode() in row["statement"]:
                    used |= {
                        node.get("Index Name")
                        for node in await plan(connection, row["explain"].encode())
                    }
    assert "reminders_of_a_key" in used
    assert "reminders_by_due_time" not in used
