"""Calls to the platform for each link on one stream of events, as the platform counts them.

A short burst of each kind: links that are made at once, links that go out as short URLs and are
made by the worker afterwards, and links of people who were in the list ahead of events. Every call
of that time counts, whatever it was for; job `reconcile` does not come round meanwhile, whose calls
are for distributions, and not for their links. Beside them links of route `transaction` at the pace
at which it is to be measured, and the platform's documented chain, for people who are not in the
home list: what others need for a link.
"""

from __future__ import annotations

import asyncio
import time

import msgspec

from benchmarks import load
from benchmarks.figure import Figure
from benchmarks.load import Order
from benchmarks.stage import (
    AHEAD,
    DEFERRED,
    DIRECT,
    MILESTONE,
    READY,
    Size,
    Stage,
    sibling,
    staged,
)
from milepost.model import Route
from milepost.settings import RATE_PER_MINUTE

CONNECTIONS = 8
SECONDS = 2.0
DRAIN_SECONDS = 120
LATER = "later"
CHAIN = "chain"
"""A milestone of route `stepwise`."""

PACE = 30_000
"""Events a minute by route `transaction`."""
PACED_CONNECTIONS = 512
PACED_SECONDS = 10.0
LATENCY_MS = 150
"""Of the platform then: what a group waits for, the next one gathers meanwhile."""


async def measure(database_url: str, size: Size) -> list[Figure]:
    """Measure once."""
    async with staged(database_url, size) as stage:
        await stage.define(lanes=DIRECT)
        await stage.define(LATER, lanes=DEFERRED)
        with stage.service() as service:
            order = Order(
                port=service.port,
                path="/v1/links",
                key=stage.key,
                seconds=min(SECONDS, size.seconds),
                connections=CONNECTIONS,
                milestone=MILESTONE,
                registrants=size.people,
            )
            stage.forget()
            direct = load.run(order)
            later = msgspec.structs.replace(order, milestone=LATER, first=direct.events)
            deferred = load.run(later)
            await _drained(stage)
            issued = stage.one("SELECT count(*) FROM links WHERE url IS NOT NULL")
            calls = stage.calls()["calls"]
        # Before links of people who were in the list: their data would follow meanwhile.
        order = msgspec.structs.replace(order, first=direct.events + deferred.events)
        chain_calls, chain_links = await _chain(stage, order)
        await stage.define(AHEAD, membership="ahead", lanes=READY)
        stage.join(AHEAD)
        with stage.service("--no-worker") as service:
            stage.forget()
            ready = load.run(
                msgspec.structs.replace(
                    order,
                    port=service.port,
                    milestone=AHEAD,
                    first=order.first + chain_links,
                    expected='"lane":"ready"',
                )
            )
            calls_before = stage.calls()["calls"]
    with sibling(database_url, "transaction") as other:
        shared_calls, shared_links = await _shared(other, size)
    if issued != direct.events + deferred.events:
        raise RuntimeError(f"{direct.events + deferred.events} events, and {issued} links")
    return [
        Figure(
            name="upstream calls per link, one stream, list",
            unit="calls",
            ours=calls / issued,
            must=1.00,
            at_most=True,
        ),
        Figure(
            name=f"the same, transaction, at {PACE:,} events a minute",
            unit="calls",
            ours=shared_calls / shared_links,
            must=0.10,
            at_most=True,
        ),
        Figure(
            name="the same, stepwise",
            unit="calls",
            ours=chain_calls / chain_links,
            must=5.00,
            at_most=True,
        ),
        Figure(
            name="the same before the URL, membership ahead",
            unit="calls",
            ours=calls_before / ready.events,
            must=0.00,
            at_most=True,
        ),
    ]


async def _chain(stage: Stage, order: Order) -> tuple[int, int]:
    """Calls and links of a burst by route `stepwise`, made at once or by the worker afterwards."""
    await stage.define(CHAIN, route=Route.STEPWISE, lanes=DIRECT)
    await stage.forget_contacts()
    with stage.service() as service:
        stage.forget()
        asked = load.run(msgspec.structs.replace(order, port=service.port, milestone=CHAIN))
        await _drained(stage)
        links = stage.one(
            f"SELECT count(*) FROM links WHERE url IS NOT NULL AND milestone = '{CHAIN}'"
        )
        calls = stage.calls()["calls"]
    if links != asked.events:
        raise RuntimeError(f"{asked.events} events, and {links} links of route stepwise")
    return calls, links


async def _shared(database_url: str, size: Size) -> tuple[int, int]:
    """Calls and links of a burst by route `transaction`."""
    async with staged(database_url, size, at_home=True) as free:
        await free.define(route=Route.TRANSACTION, lanes=DIRECT)
        stage = free.limited(RATE_PER_MINUTE, {}, LATENCY_MS)
        with stage.service() as service:
            stage.forget()
            asked = load.run(
                Order(
                    port=service.port,
                    path="/v1/links",
                    key=stage.key,
                    seconds=min(PACED_SECONDS, size.seconds),
                    connections=PACED_CONNECTIONS,
                    per_second=PACE / 60,
                    milestone=MILESTONE,
                    registrants=stage.people,
                )
            )
            await _drained(stage)
            links = stage.one("SELECT count(*) FROM links WHERE url IS NOT NULL")
            calls = stage.calls()["calls"]
    if links != asked.events:
        raise RuntimeError(f"{asked.events} events, and {links} links of route transaction")
    return calls, links


async def _drained(stage: Stage) -> None:
    """Wait until no link is left to be made."""
    until = time.monotonic() + DRAIN_SECONDS
    while stage.one("SELECT count(*) FROM links WHERE due_at IS NOT NULL"):
        if time.monotonic() > until:
            raise RuntimeError(f"links still wait after {DRAIN_SECONDS} s")
        await asyncio.sleep(0.1)
