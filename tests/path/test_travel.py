"""Time can go by in a test: for the database, for whoever is connected to it, for the platform."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx

from milepost.app import Milepost

Landed = Callable[..., Awaitable[None]]
Travel = Callable[..., Awaitable[None]]


async def test_everybody_travels(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """A claim that was planned before finds its distribution too old, and the survey is shut."""
    await landed(fields=[], slots=1)
    event = {"milestone": "landed", "registrant": "ann"}
    made = (await client.post("/v1/links", json={"event_id": "e1", **event})).json()
    before = await milepost.store.runs.now()
    await travel(days=20)
    await travel(days=41)
    assert timedelta(days=61) <= await milepost.store.runs.now() - before < timedelta(days=62)
    late = (await client.post("/v1/links", json={"event_id": "e2", **event})).json()
    assert ("issued", "pool-empty") == (made["state"], late["reason"]["rule"])
    assert 200 != (await platform.web.get(made["url"])).status_code
