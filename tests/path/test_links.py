"""Asking for links over REST."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx

Landed = Callable[..., Awaitable[None]]


def event(event_id: str = "e1", **changes: object) -> dict[str, object]:
    """An event of `ann`, landed."""
    return {
        "event_id": event_id,
        "milestone": "landed",
        "registrant": "ann",
        "data": {"flight": 17},
    } | changes


async def test_an_event_gets_a_personal_link_for_one_call(
    client: httpx.AsyncClient, landed: Landed
) -> None:
    """A first request is answered 201 with the URL, after exactly one call to the platform."""
    await landed()
    answer = await client.post("/v1/links", json=event())
    link = answer.json()
    assert 201 == answer.status_code, link
    assert ("issued", "direct", "list", 1) == (
        link["state"],
        link["lane"],
        link["route"],
        link["upstream_calls"],
    )
    async with httpx.AsyncClient(trust_env=False) as browser:
        page = await browser.get(link["url"])
    assert 200 == page.status_code
