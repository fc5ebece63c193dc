"""Lane `ready`: the URL is there before the event, and the event's data follow it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from milepost.app import Milepost
from milepost.routes import contact_fields

Landed = Callable[..., Awaitable[None]]
Elapse = Callable[[float], Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]
Join = Callable[..., Awaitable[None]]

AHEAD = {"membership": "ahead", "late_data": True}

JOINED = """
INSERT INTO memberships (registrant_id, slot_id, contact_key, contact_id, lookup_id)
SELECT r.id, s.id, r.contact_key, %s, %s
FROM registrants AS r, slots AS s
WHERE r.ref = %s AND s.number = 1
"""


@pytest.fixture
async def join(milepost: Milepost, platform: Any, execute: Execute) -> Join:
    """Have the platform put people into slot 1's list, and write down what it says of them."""

    async def joined(*refs: str) -> None:
        """Put them in."""
        directory_id = milepost.deployment.directory_id or ""
        ((list_id,),) = await execute("SELECT list_id FROM slots WHERE number = 1")
        for ref in refs:
            registrant = await milepost.store.registrants.get(ref)
            assert registrant is not None
            contact = contact_fields(ref, registrant.details)
            added = await milepost.upstream.add_list_contact(directory_id, list_id, contact)
            await execute(JOINED, added.contact_id, added.lookup_id, ref)
        await platform.forget()

    return joined


async def ask(client: httpx.AsyncClient, event_id: str = "e1", **changes: object) -> Any:
    """The status of the answer to an event of `ann`, and the answer."""
    body = {"event_id": event_id, "milestone": "landed", "registrant": "ann", "data": {"flight": 17}}
    answer = await client.post("/v1/links", json=body | changes)
    return answer.status_code, answer.json()


async def test_smoke(client, landed, join, milepost, platform):
    """x"""
    await landed(**AHEAD)
    await join("ann", "ben")
    before = await platform.calls()
    status, link = await ask(client)
    print(status, link)
    assert before == await platform.calls()
    print(await milepost.drain.run_once())
    print(await platform.entries())
    print((await client.get(f"/v1/links/{link['id']}")).json())
    print(await ask(client, "e2"))
    assert 0
