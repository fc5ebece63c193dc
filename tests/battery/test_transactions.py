"""Route `transaction` in the long: ten times the brand's calls, and processes that die amid it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import pytest
from tests.battery.load import LONG, Installation, Replica, events
from tests.battery.test_crashes import UNLIMITED, assert_crashes_lose_nothing
from tests.battery.test_peak import BRAND, THROTTLED, limited
from tests.battery.verdicts import Watch, assert_responses_show_their_own_data, verify

from milepost.failpoints import Failpoint, StepPoint

log = logging.getLogger(__name__)

PEAK: Final = 30_000
"""Events in a minute."""

MOST_CALLS: Final = 0.10
"""For each link, of whatever kind."""

RESOLVED_SECONDS: Final = 150.0
"""From a crash until all is settled: the lease, and where a creation may have been lost three looks
over a minute."""


@pytest.mark.parametrize(
    ("seconds", "replicas", "per_minute"),
    [
        pytest.param(2, 1, PEAK // 2, id="short"),
        pytest.param(60, 1, PEAK, id="one process", marks=LONG),
        pytest.param(20, 4, PEAK // 2, id="one of eight", marks=LONG),
    ],
)
def test_ten_times_as_many_events_as_calls_are_links(
    install: Callable[..., Installation], watch: Watch, seconds: int, replicas: int, per_minute: int
) -> None:
    """30,000 events in a minute under 3,000 calls a minute, at a platform that takes 150 ms.

    Also where a process has an eighth of them to bring together; four of these are run, since eight
    are too many for the machine.
    """
    count = per_minute * seconds // 60
    people = count // 2
    on = install(
        people=people, route="transaction", settings=limited(BRAND, "none"), replicas=replicas
    )
    on.platform.control("PUT", "settings", {"rate_per_minute": BRAND, "latency_ms": 150})
    answers = on.pour(events(count, people=people), connections=800, per_minute=per_minute)
    watch.settled(within=120)
    verdict = verify(on, answers, watch=watch, throttled=THROTTLED, busiest_minute=BRAND)
    calls = on.platform.calls()["calls"]
    log.info("%d calls for %d links: %s", calls, count, verdict.lanes)
    assert {"issued": count} == verdict.states
    assert calls <= MOST_CALLS * count
    assert verdict.lanes["direct"] >= 0.9 * count
    assert_responses_show_their_own_data(on)


@pytest.mark.battery
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("failpoint", ["claimed", "joined", "created", "noted", "made"])
def test_a_crash_between_two_calls_leaves_nothing_behind(
    install: Callable[..., Installation],
    watch: Watch,
    arm: Callable[..., Replica],
    failpoint: Failpoint | StepPoint,
) -> None:
    """A replica dies there ten times; each link has one transaction, in one batch, in the end."""
    count = 6_000
    on = install(
        people=count,
        route="transaction",
        at_home=failpoint != "joined",
        platform=("--limits", "none", "--latency-ms", "100"),
        settings=UNLIMITED,
    )
    doomed = arm(on, f"{failpoint}=kill@60", "--no-worker")
    sent = events(count, people=count, deadline_ms=5_000)

    assert_crashes_lose_nothing(
        on, doomed, sent, per_minute=4_000, watch=watch, within=RESOLVED_SECONDS
    )
