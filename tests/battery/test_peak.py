"""The peak: more events than calls, and still a link for each of them, once and in time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import msgspec
import pytest
from msgspec import Struct
from tests.battery.load import LONG, Installation, events, variables
from tests.battery.verdicts import Watch, ledger, verify

from milepost.issuing import DIRECT_AT_ONCE

BRAND = 3_000
"""Calls a minute that the platform allows the whole company."""

EVEN_PACE = 2_700
"""Events a minute that leave a tenth of those calls to everything else."""

THROTTLED = 3
"""A call that set out in time can arrive in another window than it was meant for: a few may be
answered 429 in a whole peak, and no storm of them."""

SLOW = 2
"""Seconds that a slow platform takes: less than the three after which it counts as away."""

TRUE_WITHIN = 720
"""Seconds from the first event of a peak to the last contact that the platform holds."""

SAMPLED = 40
"""How many short links are opened at the end."""


@pytest.mark.parametrize(
    "seconds", [pytest.param(8, id="short"), pytest.param(65, id="long", marks=LONG)]
)
def test_what_fits_the_budget_is_direct(
    install: Callable[..., Installation], watch: Watch, seconds: int
) -> None:
    """2,700 events a minute under 3,000 calls a minute, at a platform that takes 150 ms."""
    count = EVEN_PACE * seconds // 60
    on = install(
        people=count // 2,
        slots=4,
        platform=("--limits", "none", "--rate-per-minute", str(BRAND), "--latency-ms", "150"),
        settings=limited(BRAND, "none"),
    )
    answers = on.pour(events(count, people=count // 2), connections=100, per_minute=EVEN_PACE)
    watch.settled(within=15)
    verdict = verify(on, answers, watch=watch, busiest_minute=BRAND)
    assert {"direct": count} == verdict.lanes
    assert {201: count} == verdict.statuses
    assert verdict.poured_seconds < seconds + 1


@pytest.mark.parametrize(
    ("limits", "deferred"),
    [
        pytest.param("none", 160, id="brand"),
        pytest.param({"list_contacts": 120}, 280, id="endpoint", marks=LONG),
    ],
)
def test_beyond_the_budget_links_are_short_and_true_once_there_is_some(
    install: Callable[..., Installation],
    watch: Watch,
    limits: str | dict[str, int],
    deferred: int,
) -> None:
    """A small budget is spent in 2 s: all are answered in time, what is left comes with a larger.

    It is the short form of a peak, which would otherwise last as long as the platform's minute.
    """
    on = install(people=200, slots=2, settings=limited(240, limits))
    on.platform.control("PUT", "settings", {"limits": limits, "rate_per_minute": 240})
    answers = on.pour(events(400, people=200), connections=100, per_minute=12_000)
    lanes = Counter(answer.link.lane for answer in answers)
    assert {"direct", "deferred"} == lanes.keys()
    assert lanes["deferred"] >= deferred
    assert 0 == on.platform.calls()["throttled"]

    [replica] = on.replicas
    replica.stop()
    on.platform.control("PUT", "settings", {"limits": "none", "rate_per_minute": 6_000})
    replica.environment |= variables(limited(6_000, "none"))
    replica.start()
    watch.settled(within=30)
    verdict = verify(on, answers, watch=watch)
    assert {201: 400} == verdict.statuses
    assert {"issued": 400} == verdict.states
    assert_short_links_lead_to_the_survey(on)


@pytest.mark.battery
def test_more_calls_than_may_be_out_at_once_are_made_later(
    install: Callable[..., Installation], watch: Watch
) -> None:
    """Who comes after them has a short link at once, instead of a wait for somebody else's call."""
    on = install(people=200, slots=1, settings=limited(100_000, "none"))
    on.platform.control("PUT", "settings", {"latency_ms": 1000 * SLOW})
    answers = on.pour(events(200, people=200, deadline_ms=8_000), connections=200)
    on.platform.control("PUT", "settings", {"latency_ms": 0})
    watch.settled(within=30)
    verdict = verify(on, answers, watch=watch, deadline=8)
    assert {"direct": DIRECT_AT_ONCE, "deferred": 200 - DIRECT_AT_ONCE} == verdict.lanes
    deferred = sorted(answer.seconds for answer in answers if answer.link.lane == "deferred")
    assert deferred[len(deferred) // 2] < SLOW


class Peak(Struct, frozen=True):
    """Events that come faster than calls may go out."""

    events: int
    seconds: int
    """In which they come, evenly."""
    limits: str
    """Of single call classes, at the platform and at Milepost alike."""


@pytest.mark.parametrize(
    "peak",
    [
        pytest.param(Peak(30_000, 60, "none"), id="brand", marks=LONG),
        pytest.param(Peak(5_000, 10, "published"), id="endpoint", marks=LONG),
    ],
)
def test_a_peak_is_answered_in_time_and_true_within_twelve_minutes(
    install: Callable[..., Installation], watch: Watch, peak: Peak
) -> None:
    """Ten times the brand's calls in a minute; ten minutes of an endpoint's calls in 10 s."""
    people = peak.events // 2
    on = install(people=people, slots=4, settings=limited(BRAND, peak.limits))
    of_platform = {"limits": peak.limits, "rate_per_minute": BRAND, "latency_ms": 150}
    on.platform.control("PUT", "settings", of_platform)
    answers = on.pour(
        events(peak.events, people=people),
        connections=800,
        per_minute=peak.events * 60 / peak.seconds,
    )
    begun = min(answer.begun for answer in answers)
    watch.settled(within=TRUE_WITHIN - (time.monotonic() - begun))
    verdict = verify(on, answers, watch=watch, throttled=THROTTLED, busiest_minute=BRAND)
    assert {201: peak.events} == verdict.statuses
    assert verdict.lanes.keys() <= {"direct", "deferred"}
    assert verdict.poured_seconds < 1.1 * peak.seconds + 1
    assert {"issued": peak.events} == verdict.states
    assert_short_links_lead_to_the_survey(on)


def limited(rate_per_minute: int, limits: str | dict[str, int]) -> dict[str, str]:
    """The settings that hold Milepost to these limits."""
    given = limits if isinstance(limits, str) else msgspec.json.encode(limits).decode()
    return {"RATE_PER_MINUTE": str(rate_per_minute), "LIMITS": given}


def assert_short_links_lead_to_the_survey(on: Installation) -> None:
    """Open some, evenly taken, as their owners would."""
    short = [row for row in ledger(on.database_url) if row.short_url is not None]
    sample = {row.short_url or "": row.url for row in short[:: max(1, len(short) // SAMPLED)]}
    opened = on.click(sample)
    assert {url: (302, sample[url]) for url in sample} == {
        url: (response.status, response.headers.get("location")) for url, response in opened.items()
    }
