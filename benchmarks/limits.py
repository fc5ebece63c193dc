"""Links a minute under the platform's limits, by each route, and what was answered meanwhile.

Callers ask for as much as one process gives them. Calls are made for what is answered directly and,
with what is left of the budget, by the worker for what was answered with a short URL; links of
route `anonymous` take none, and are given out at once. What came true of it, what calls this took,
and what had to be refused, is said by the platform: its journal has each write that it has
accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from benchmarks import load
from benchmarks.figure import Figure
from benchmarks.load import Order
from benchmarks.stage import DIRECT, MILESTONE, READY, Size, Stage, sibling, staged
from milepost.model import Lane, Route
from milepost.settings import PUBLISHED_LIMITS, RATE_PER_MINUTE

CONNECTIONS = 64
LATENCY_MS = 150
TAIL_SECONDS = 2.0
"""After the counted minute callers still ask. It begins with them: a budget may be spent in its
first seconds, and then there is nothing to see until the minute is over."""

COLUMNS: Mapping[str, Mapping[str, int]] = {
    "brand limit only": {},
    "published limits": PUBLISHED_LIMITS,
}


class Rival(Struct, frozen=True, kw_only=True):
    """A route, and what is asked of it in each column."""

    route: Route
    musts: tuple[float, float]
    lanes: tuple[Lane, ...] = DIRECT
    connections: int = CONNECTIONS
    """A caller waits for its link, and a transaction waits for company."""


RIVALS = (
    Rival(route=Route.LIST, musts=(2_700, 450)),
    Rival(route=Route.TRANSACTION, musts=(30_000, 27_000), connections=8 * CONNECTIONS),
    # Five calls for each: 600 and 500 links are all that there can be.
    Rival(route=Route.STEPWISE, musts=(450, 375)),
    Rival(route=Route.ANONYMOUS, musts=(100_000, 100_000), lanes=READY),
)

TRUE_BY: Mapping[Route, tuple[str, Callable[[Any], Iterable[str]]]] = {
    Route.LIST: ("list_contact.add", lambda entry: [entry["ids"]["lookup"]]),
    Route.TRANSACTION: ("transaction_batch.add", lambda entry: entry["body"]["transactionIds"]),
    Route.STEPWISE: ("distribution.create", lambda entry: [entry["ids"]["distribution"]]),
}
"""The write after which a link opens, and the ids that it has of links. Those of route `anonymous`
open without one: they are true as soon as they are written down."""


async def measure(database_url: str, size: Size) -> list[Figure]:
    """Measure each route once under the brand's limit alone, and once with the published ones."""
    figures: list[Figure] = []
    for number, (column, limits) in enumerate(COLUMNS.items()):
        for rival in RIVALS:
            with sibling(database_url, f"{rival.route}_{number}") as other:
                links, calls, answered = await _minute(other, size, rival, limits)
            figures += _figures(rival, column, rival.musts[number], links, calls, answered)
    return figures


async def _minute(
    database_url: str, size: Size, rival: Rival, limits: Mapping[str, int]
) -> tuple[float, Mapping[str, int], float]:
    """Links that came true in a minute, the calls of that time, and events answered a minute."""
    # The platform's own chain begins with the contact.
    async with staged(database_url, size, at_home=rival.route is Route.TRANSACTION) as free:
        if rival.route is Route.STEPWISE:
            await free.forget_contacts()
        await free.define(lanes=rival.lanes, slots=5, route=rival.route)
        stage = free.limited(RATE_PER_MINUTE, limits, LATENCY_MS)
        with stage.service() as service:
            order = Order(
                port=service.port,
                path="/v1/links",
                key=stage.key,
                seconds=size.minute + min(TAIL_SECONDS, size.minute),
                connections=rival.connections,
                milestone=MILESTONE,
                registrants=stage.people,
            )
            stage.forget()
            first = stage.last_write()
            asking = asyncio.create_task(asyncio.to_thread(load.run, order))
            await asyncio.sleep(size.minute)
            calls = stage.calls()
            links = _true(stage, rival.route, first)
            answered = await asking
    return links * 60 / size.minute, calls, answered.per_second * 60


def _true(stage: Stage, route: Route, after: int) -> int:
    """Links that are true at the platform by what it has accepted since a write.

    Raises:
        RuntimeError: more of them are given out.
    """
    given_out = stage.one("SELECT count(*) FROM links WHERE url IS NOT NULL")
    if route not in TRUE_BY:
        return given_out
    operation, ids = TRUE_BY[route]
    found = {
        each
        for entry in stage.writes(after, stage.last_write())
        if entry["operation"] == operation
        for each in ids(entry)
    }
    if len(found) < given_out:
        raise RuntimeError(f"{given_out} links are given out, and {len(found)} of them are true")
    return len(found)


def _figures(  # noqa: PLR0917  (what a minute brought, and what is asked of it)
    rival: Rival,
    column: str,
    must: float,
    links: float,
    calls: Mapping[str, int],
    answered: float,
) -> list[Figure]:
    by_route = f"{rival.route}, {column}"
    figures = [
        Figure(
            name=f"links a minute true at the platform, {by_route}",
            unit="/min",
            ours=links,
            must=must,
        ),
        Figure(
            name=f"calls that the platform throttled meanwhile, {by_route}",
            unit="calls",
            ours=calls["throttled"],
            must=0,
            at_most=True,
        ),
    ]
    if rival.route is Route.LIST:
        figures.append(
            Figure(
                name=f"links a minute answered, {column}",
                unit="/min",
                ours=answered,
                must=100_000,
            )
        )
    if rival.route is Route.TRANSACTION:
        figures.append(
            Figure(
                name=f"calls for each of these links, {by_route}",
                unit="calls",
                ours=calls["accepted"] / max(links, 1),
                must=0.10,
                at_most=True,
            )
        )
    return figures
