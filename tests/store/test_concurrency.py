"""Many at once: no rule of the ledger breaks, whoever comes first."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import datetime

import psycopg
import pytest
from sqlalchemy import text
from tests.store.conftest import Register, Sql, event, issued

from milepost.errors import DatabaseBusy, EventMismatch, UnknownRegistrant
from milepost.model import LinkState, RegistrantDetails
from milepost.store import Store
from milepost.store.connections import Connections
from milepost.store.links import Asked

LOCK = "SELECT 1 FROM registrants WHERE ref = %s FOR NO KEY UPDATE"
FOREIGN_LINK = (
    "INSERT INTO links (id, event_id, milestone, survey_id, ref, registrant_id, data, fingerprint,"
    " asked_by, state, attempt, lease_until, due_at, slot_id, distribution_id, contact_key,"
    " created_at)"
    " SELECT gen_random_uuid(), %s, 'landed', 's', ref, id, '{}', '{}', 'app', 'claimed', 1,"
    " now() + interval '20 s', now(), 1, 1, 'k', statement_timestamp()"
    " FROM registrants WHERE ref = %s RETURNING created_at"
)


async def until_blocked(sql: Sql, by: psycopg.AsyncConnection) -> None:
    """Return when a statement waits for this connection."""
    blocked = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(sql, blocked, by.info.backend_pid):  # noqa: ASYNC110  (Postgres has no event for it)
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("claims_before", [0, 8])
async def test_a_decision_is_newer_than_the_lock_it_waited_for(
    store: Store, register: Register, sql: Sql, database_url: str, claims_before: int
) -> None:
    """A claim that waited for its registrant sees what was committed meanwhile, and the time.

    Both statements travel in one pipeline; the second one's snapshot and clock must be taken after
    the first got its locks, also when they are prepared and their plan is a generic one.
    """
    await register(repeat="once")
    for number in range(claims_before):
        await store.links.claim(event(f"before-{number}", "ben"))
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute(LOCK, ["ann"])
        claim = asyncio.create_task(store.links.claim(event("late")))
        await until_blocked(sql, other)
        row = await (await other.execute(FOREIGN_LINK, ["early", "ann"])).fetchone()
        await other.commit()
    asked = await claim
    assert asked.link.reason is not None
    assert (LinkState.WAITING, "once") == (asked.link.state, asked.link.reason.rule)
    assert row is not None
    assert isinstance(row[0], datetime)
    assert row[0] < asked.link.created_at


async def test_a_registrant_written_amid_a_claim_is_not_known_to_it(
    store: Store, register: Register, sql: Sql, database_url: str
) -> None:
    """Nobody holds their lock, so nothing is decided about them before the next claim."""
    await register(unknown_registrant="defer", repeat="once")
    async with (
        await Store.open(database_url) as importer,
        await psycopg.AsyncConnection.connect(database_url) as holder,
    ):
        await holder.execute(LOCK, ["ann"])
        claims = [
            asyncio.create_task(store.links.claim(event(ref, ref)))
            for ref in ("cleo", "ann", "dora")
        ]
        await until_blocked(sql, holder)
        await importer.registrants.put({"dora": RegistrantDetails(email="dora@x.test")})
        await holder.commit()
        asked = (await asyncio.gather(*claims))[2]
    assert "registrant-unknown" == (asked.link.reason and asked.link.reason.rule)
    assert (await store.links.claim(event("dora", "dora"))).claim is not None


async def test_a_deadlock_is_nobodys_business(
    store: Store, register: Register, sql: Sql, database_url: str
) -> None:
    """A batch that Postgres gives up for a rival in the opposing order is written all the same."""
    await register()
    async with await psycopg.AsyncConnection.connect(database_url) as rival:
        await rival.execute("SET deadlock_timeout = '1min'")  # it is the batch that finds out
        await rival.execute(LOCK, ["ben"])
        claims = [
            asyncio.create_task(store.links.claim(event(ref, ref)))
            for ref in ("cleo", "ann", "ben")
        ]
        await until_blocked(sql, rival)
        await rival.execute(LOCK, ["ann"])
        await rival.commit()
    states = {asked.link.state for asked in await asyncio.gather(*claims)}
    assert {LinkState.CLAIMED} == states


async def test_four_hundred_events_break_no_rule(
    store: Store, register: Register, sql: Sql, database_url: str
) -> None:
    """Twenty registrants, two milestones, two stores: as many links as the rules allow, no more."""
    await register("landed", slots=3)
    await register("boarded", repeat="once")
    refs = [f"r{number}" for number in range(20)]
    people = {ref: RegistrantDetails(email=f"{ref}@x.test") for ref in refs}
    await store.registrants.put(people)
    events = [
        event(f"{milestone}-{ref}-{number}", ref, milestone)
        for milestone in ("landed", "boarded")
        for ref in refs
        for number in range(10)
    ]
    dice = random.Random(7)  # noqa: S311  (an order, not a secret)
    dice.shuffle(events)

    async with await Store.open(database_url) as second:

        async def ask(number: int) -> Asked:
            """Ask one of the two stores, and settle what it lets us make."""
            replica = dice.choice((store, second))
            asked = await replica.links.claim(events[number])
            if asked.claim:
                await replica.links.settle(issued(asked))
            return asked

        await asyncio.gather(*(ask(number) for number in range(400)))
    rows = sql("SELECT ref, milestone, state, rule, reuses, slot_id FROM links")
    assert 400 == len(rows)
    own = [row for row in rows if row["state"] == "issued" and row["reuses"] is None]
    assert {("landed", ref): 3 for ref in refs} | {("boarded", ref): 1 for ref in refs} == Counter(
        (row["milestone"], row["ref"]) for row in own
    )
    assert 80 == len({(row["ref"], row["slot_id"]) for row in own})
    assert {("waiting", "no-slot"), ("waiting", "once"), ("issued", "once")} >= {
        (row["state"], row["rule"]) for row in rows if row not in own
    }


async def test_one_event_asked_for_fifty_times_is_one_row_and_one_claim(
    store: Store, register: Register, sql: Sql, database_url: str
) -> None:
    """All are told of the same link, one of them that it is theirs to make."""
    await register()
    async with await Store.open(database_url) as second:
        answers = await asyncio.gather(
            *(replica.links.claim(event()) for _ in range(25) for replica in (store, second))
        )
    assert 1 == len({asked.link.id for asked in answers})
    assert [1, 1] == [
        sum(asked.claim is not None for asked in answers),
        sum(asked.is_first for asked in answers),
    ]
    assert [{"attempt": 1}] == sql("SELECT attempt FROM links")


@pytest.mark.parametrize("refs", [("ann", "ben"), ("dora", "ann"), ("dora", "eve")])
async def test_one_event_id_of_two_registrants_is_the_first_ones(
    store: Store, register: Register, sql: Sql, database_url: str, refs: tuple[str, str]
) -> None:
    """The other one is refused, in the same process or in another, known registrant or not."""
    await register(unknown_registrant="defer")
    async with await Store.open(database_url) as second:
        answers = await asyncio.gather(
            *(
                replica.links.claim(event(ref=ref))
                for _ in range(10)
                for replica in (store, second)
                for ref in refs
            ),
            return_exceptions=True,
        )
    (row,) = sql("SELECT ref FROM links")
    assert {EventMismatch: 20, Asked: 20} == Counter(map(type, answers))
    links = [asked.link for asked in answers if isinstance(asked, Asked)]
    assert {row["ref"]} == {link.registrant for link in links}
    assert 1 == sum(asked.is_first for asked in answers if isinstance(asked, Asked))


async def test_a_refusal_never_reaches_the_neighbour(store: Store, register: Register) -> None:
    """Two registrants' events with one id, at the same time: the known one's is claimed."""
    await register()
    answers = await asyncio.gather(
        *(store.links.claim(event(*who)) for who in (("first", "cleo"), ("e1",), ("e1", "dora"))),
        return_exceptions=True,
    )
    assert [Asked, Asked] == [type(answer) for answer in answers[:2]]
    assert isinstance(answers[2], EventMismatch | UnknownRegistrant)


async def test_lost_connections_fail_at_once_and_come_back(
    store: Store, register: Register, sql: Sql
) -> None:
    """Each is told `DatabaseBusy` or has its claim; nothing hangs, and the next one works."""
    await register()
    sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'milepost'"
    )
    async with asyncio.timeout(5):
        answers = await asyncio.gather(
            *(store.links.claim(event(f"e{number}")) for number in range(50)),
            return_exceptions=True,
        )
        assert {DatabaseBusy, Asked} >= set(map(type, answers))
        while True:
            try:
                await store.links.claim(event("after"))
            except DatabaseBusy:
                continue
            break


async def test_decisions_are_newer_than_locks_whatever_the_server_prefers(
    database_url: str,
) -> None:
    """The snapshot of a transaction that repeats its reads would be as old as its locks."""
    joint = "&" if "?" in database_url else "?"
    preferring = f"{database_url}{joint}options=-c%20default_transaction_isolation%3Dserializable"
    connections = Connections(preferring)
    await connections.open()
    try:
        async with connections.path() as path:
            cursor = await path.execute("SHOW transaction_isolation")
            assert {"transaction_isolation": "read committed"} == await cursor.fetchone()
        async with connections.transaction() as transaction:
            shown = await transaction.execute(text("SHOW transaction_isolation"))
            assert "read committed" == shown.scalar_one()
    finally:
        await connections.close()
