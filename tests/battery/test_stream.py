"""One stream of events by three routes: what each takes of the platform's calls."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import pytest
import uvloop
from msgspec import Struct
from tests.battery.load import LONG, MILESTONE, Answer, Installation, events, register
from tests.battery.test_peak import BRAND, THROTTLED, limited
from tests.battery.verdicts import Watch, assert_responses_show_their_own_data, ledger, verify

from milepost.model import Route

log = logging.getLogger(__name__)

PEAK: Final = 30_000
"""Events in a minute: ten times the calls that there are."""

CLASSES: Final = {
    Route.STEPWISE: (
        "list_contacts",
        "transactions",
        "transaction_batches",
        "distributions",
        "links",
    ),
    Route.TRANSACTION: ("brand",),
    Route.LIST: ("list_contacts",),
}
"""The call classes that a route's links are counted by: the jobs of many minutes make other calls.
The first of them brings people into the home list that the second finds there."""

MOST_CALLS: Final = {Route.STEPWISE: 5.00, Route.TRANSACTION: 0.10, Route.LIST: 1.00}
"""For each link."""


def made_so_far(on: Installation, classes: Iterable[str]) -> int:
    """How many calls of these classes the platform has counted."""
    return sum(on.platform.calls(each)["calls"] for each in classes)


class Stream(Struct, frozen=True):
    """So much of a stream."""

    seconds: float
    steps: int
    """How many of its events go by the documented chain: all would take it an hour."""
    within: float
    """Seconds after which all that is left of it is made."""


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(Stream(1, 30, 30), id="short", marks=LONG),
        pytest.param(Stream(20, 300, 360), id="long", marks=LONG),
    ],
)
def test_one_stream_takes_each_route_its_calls_a_link(
    install: Callable[..., Installation], watch: Watch, tmp_path: Path, stream: Stream
) -> None:
    """The same people, data and pace, under the same limit, at a platform that takes 150 ms.

    By route `transaction` no more than a tenth of a call, by `list` one, by the documented chain
    five, for people who are in no list; however many are made at once, or behind short URLs.
    """
    count = int(PEAK * stream.seconds / 60)
    on = install(people=count, slots=1, settings=limited(BRAND, "none"))
    answers: list[Answer] = []
    for route, classes in CLASSES.items():
        key = MILESTONE if route is Route.LIST else route.value
        on.platform.control("PUT", "settings", {"latency_ms": 0})
        if route is not Route.LIST:
            at_home = route is Route.TRANSACTION
            uvloop.run(register(on, tmp_path, {key: {"route": route}}, at_home=at_home))
        sent = events(count, people=count, prefix=key, milestone=key)
        if route is Route.STEPWISE:
            sent = sent[: stream.steps]
        on.platform.control("PUT", "settings", {"rate_per_minute": BRAND, "latency_ms": 150})
        before = made_so_far(on, classes)
        came = on.pour(sent, connections=800, per_minute=PEAK)
        watch.settled(within=stream.within)
        calls = made_so_far(on, classes) - before
        lanes = Counter(answer.link.lane for answer in came)
        log.info("%s: %.3f calls a link, %s", route.value, calls / len(sent), dict(lanes))
        if route is Route.TRANSACTION:
            assert calls <= MOST_CALLS[route] * len(sent)
        else:
            assert MOST_CALLS[route] == round(calls / len(sent), 2)
        answers += came
    # In which time they are answered is the matter of other scenarios.
    verdict = verify(
        on, answers, watch=watch, deadline=None, throttled=THROTTLED, busiest_minute=BRAND
    )
    assert {"issued": len(answers)} == verdict.states
    assert len(answers) == len(ledger(on.database_url))
    assert_responses_show_their_own_data(on)
