"""Messages: two attempts at an endpoint, each its taker's for a while, and what is forgotten."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import psycopg
import pytest
from tests.store.conftest import Register, Sql, event, issued, later, setback

from milepost.errors import InvalidEndpoint, UnknownEndpoint
from milepost.model import LinkState, MessageType
from milepost.store import Store
from milepost.store.connections import statement
from milepost.store.messages import LEASE_SECONDS, MOST_ENDPOINTS, Delivery, Taken

TELL = """
INSERT INTO messages (endpoint_id, type, data, due_at, created_at)
SELECT %s, 'job.failed', jsonb_build_object('n', n), now(), now() FROM generate_series(1, %s) AS n
"""


async def endpoint(store: Store, *types: MessageType) -> UUID:
    """An endpoint."""
    made, _ = await store.messages.create("https://app.test/hook", types, "ours")
    return made.id


def came(taken: Taken, state: Any = "delivered", **more: Any) -> Delivery:
    """What came of an attempt."""
    given = {"id": taken.id, "attempt": taken.attempt, "line": taken.line, "seconds": 0.1}
    return Delivery(state=state, **(given | more))


async def test_an_endpoint_has_two_lines(store: Store, sql: Sql) -> None:
    """However many ask at once; another one's are its own. What is settled makes room."""
    one, other = await endpoint(store), await endpoint(store)
    for each in (one, other):
        sql(TELL, each, 5)
    async with await Store.open(store_url(store)) as elsewhere:
        rounds = [s.messages.take() for s in (store, elsewhere) for _ in range(4)]
        taken = [message for took in await asyncio.gather(*rounds) for message in took]
        assert 4 == len(taken) == len({message.id for message in taken})
        assert [] == await elsewhere.messages.take()
        assert await elsewhere.messages.settle(came(taken[0]))
        (following,) = await elsewhere.messages.take()
    assert following.id not in {message.id for message in taken}


def store_url(store: Store) -> str:
    """The database of a store."""
    url: str = store.connections._path.conninfo  # noqa: SLF001 - another process's connections
    return url


async def test_a_line_that_somebody_takes_is_left_to_them(store: Store, database_url: str) -> None:
    """Nobody waits for it, nor takes it as well: what is not committed yet is another one's."""
    ours = await endpoint(store)
    await tell(store, ours, 5)
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        taken = await other.execute(statement("message_take"), {"lease": LEASE_SECONDS})
        assert 2 == taken.rowcount
        assert [] == await store.messages.take()
        await other.commit()
    assert [] == await store.messages.take()


async def test_what_its_taker_leaves_is_taken_again(store: Store, database_url: str) -> None:
    """After the lease, with another attempt number, under which the first one changes nothing."""
    ours = await endpoint(store)
    async with await Store.open(later(database_url, seconds=LEASE_SECONDS + 1)) as after:
        await tell(store, ours)
        (first,) = await store.messages.take()
        (second,) = await after.messages.take()
        assert (first.id, 1, 2) == (second.id, first.attempt, second.attempt)
        assert not await store.messages.settle(came(first))
        assert [] == await after.messages.take()
        assert await after.messages.settle(came(second, "waiting", pause=5, code=500, said="oh"))
        (message,) = await after.messages.page(ours)
    assert "waiting" == message.state
    assert [(2, 500, "oh")] == [(a.number, a.code, a.said) for a in message.attempts]


async def tell(store: Store, endpoint_id: UUID, n: int = 1) -> None:
    """Write messages."""
    async with store.connections.path() as connection:
        await connection.execute(TELL.encode(), (endpoint_id, n))


async def test_endpoints_get_what_they_want(store: Store, register: Register) -> None:
    """A link that is issued and one that fails, each told once, in the settlement's transaction."""
    await register()
    everything = await endpoint(store)
    failures = await endpoint(store, MessageType.LINK_FAILED, MessageType.POOL_LOW)
    asked = await store.links.claim(event("e1"))
    settlement = issued(asked)
    assert [] == await store.messages.page(everything)
    await store.links.settle(settlement)
    assert None is await store.links.settle(settlement)
    await store.links.settle(
        setback(await store.links.claim(event("e2", "ben")), LinkState.FAILED, leaves=True)
    )
    told = await store.messages.page(everything)
    assert [MessageType.LINK_FAILED, MessageType.LINK_ISSUED] == [m.type for m in told]
    assert asked.link.id == told[1].link_id
    assert [MessageType.LINK_FAILED] == [m.type for m in await store.messages.page(failures)]


async def test_what_a_claim_issues_or_ends_is_told(
    store: Store, register: Register, sql: Sql
) -> None:
    """A link given again, and one that was waited for in vain; not what its caller was told."""
    ours = await endpoint(store)
    await register(repeat="once", unknown_registrant="defer", lanes=["direct", "queued"])
    await store.links.settle(issued(await store.links.claim(event("e1"))))
    again = await store.links.claim(event("e2"))
    assert (LinkState.ISSUED, True) == (again.link.state, again.link.reused)
    waits = await store.links.claim(event("e3", "dora"))
    sql("UPDATE registrants SET opted_out_at = now() WHERE ref = 'ben'")
    refused = await store.links.claim(event("e4", "ben"))
    assert (LinkState.WAITING, LinkState.SUPPRESSED) == (waits.link.state, refused.link.state)
    sql(
        "INSERT INTO registrants (ref, opted_out_at, created_at, updated_at)"
        " VALUES ('dora', now(), now(), now())"
    )
    ended = await store.links.claim(event("e3", "dora"))
    assert LinkState.SUPPRESSED == ended.link.state
    told = [(m.type.value, m.link_id) for m in await store.messages.page(ours)]
    assert [
        ("link.failed", waits.link.id),
        ("link.issued", again.link.id),
    ] == told[:2]
    assert 3 == len(told)


async def test_what_is_disabled_is_told_nothing(store: Store) -> None:
    """Since it answered 410, until somebody resumes it; what waits goes on then."""
    ours = await endpoint(store)
    await tell(store, ours, 3)
    first, second = await store.messages.take()
    await store.messages.settle(came(first, "parked", code=410, gone=True))
    await store.messages.settle(came(second))
    disabled = await store.messages.endpoint(ours)
    assert ("disabled", True) == (disabled.state, "410" in (disabled.disabled_because or ""))
    assert [] == await store.messages.take()
    assert "active" == (await store.messages.resume(ours)).state
    assert 1 == len(await store.messages.take())


async def test_messages_are_sent_again(store: Store) -> None:
    """Parked ones, one, or all of a time, from the beginning of their schedule; no other waits."""
    ours = await endpoint(store)
    await tell(store, ours, 2)
    parked, delivered = await store.messages.take()
    await store.messages.settle(came(parked, "parked"))
    await store.messages.settle(came(delivered))
    assert 1 == await store.messages.replay(ours)
    (again,) = await store.messages.take()
    assert (parked.id, 2, 1) == (again.id, again.attempt, again.tries)
    # One that is under way is not made twice.
    await store.messages.replay(ours, message=again.id)
    assert [] == await store.messages.take()
    await store.messages.settle(came(again))
    assert 1 == await store.messages.replay(ours, message=delivered.id)
    (message,) = [m for m in await store.messages.page(ours) if m.id == delivered.id]
    assert 2 == await store.messages.replay(ours, since=message.created_at)
    assert 2 == len(await store.messages.take())


async def test_a_replay_brings_forward_what_waits(store: Store) -> None:
    """After an outage nobody has to sit out the pauses of the schedule."""
    ours = await endpoint(store)
    await tell(store, ours, 1)
    (message,) = await store.messages.take()
    await store.messages.settle(came(message, "waiting", pause=3_600))
    assert [] == await store.messages.take()
    assert 1 == await store.messages.replay(ours, since=message.created_at)
    (again,) = await store.messages.take()
    assert (message.id, 2, 1) == (again.id, again.attempt, again.tries)


async def test_old_messages_are_forgotten(store: Store, database_url: str, sql: Sql) -> None:
    """After a month, with their attempts; what is younger stays."""
    ours = await endpoint(store)
    await tell(store, ours, 2)
    (first, _) = await store.messages.take()
    await store.messages.settle(came(first))
    assert not await store.messages.forget_some()
    async with await Store.open(later(database_url, days=31)) as after:
        async with after.connections.path() as connection:
            await connection.execute(TELL.replace("now()", "milepost_now()").encode(), (ours, 1))
        assert not await after.messages.forget_some()
    assert [{"count": 1}] == sql("SELECT count(*) FROM messages")
    assert [{"count": 0}] == sql("SELECT count(*) FROM attempts")


async def test_there_are_so_many_endpoints(store: Store, sql: Sql) -> None:
    """As many as can be sent to at once; one that is deleted makes room, and is told no more."""
    sql(
        "INSERT INTO endpoints (url, types, description, state, secret, created_at)"
        " SELECT 'https://app.test', '{}', '', 'active', 's', now() FROM generate_series(2, %s)",
        MOST_ENDPOINTS,
    )
    ours = await endpoint(store)
    with pytest.raises(InvalidEndpoint):
        await endpoint(store)
    await tell(store, ours)
    await store.messages.delete(ours)
    assert [] == await store.messages.take()
    with pytest.raises(UnknownEndpoint):
        await store.messages.delete(ours)
    await endpoint(store)
