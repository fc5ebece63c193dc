"""When a breaker opens, whom it lets through, and what closes it."""

from __future__ import annotations

import pytest

from milepost.upstream.breaker import (
    FEWEST,
    PROBE_SECONDS,
    SLOW_SECONDS,
    WINDOW_SECONDS,
    Breaker,
    Outcome,
)

ANSWERED, UNANSWERED, BARRED, DROPPED = Outcome


class Clock:
    """Goes on when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The breaker's clock."""
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """A breaker that has seen nothing."""
    return Breaker(clock)


def calls(breaker: Breaker, *outcomes: Outcome) -> None:
    """Calls that end at once."""
    for outcome in outcomes:
        breaker.out().back(outcome)


def test_it_opens_when_half_of_the_calls_and_at_least_five_get_no_answer(breaker: Breaker) -> None:
    """Fewer may be one bad connection; with more answers than that, calls are worth making."""
    calls(breaker, *[ANSWERED] * 6, *[UNANSWERED] * (FEWEST - 1))
    assert not breaker.is_open
    calls(breaker, UNANSWERED)
    assert not breaker.is_open
    calls(breaker, UNANSWERED)
    assert breaker.is_open
    assert PROBE_SECONDS == breaker.wait()


def test_what_is_long_ago_does_not_count(breaker: Breaker, clock: Clock) -> None:
    """An outage opens it after hours of answers, and failures of before do not."""
    calls(breaker, *[ANSWERED] * 1000, *[UNANSWERED] * (FEWEST - 1))
    clock.now += WINDOW_SECONDS
    calls(breaker, UNANSWERED)
    assert not breaker.is_open
    calls(breaker, *[UNANSWERED] * (FEWEST - 1))
    assert breaker.is_open


def test_a_hanging_platform_is_noticed_in_three_seconds(breaker: Breaker, clock: Clock) -> None:
    """Calls that are still out count then, once; who went away tells nothing."""
    outings = [breaker.out() for _ in range(FEWEST)]
    dropped = breaker.out()
    clock.now += SLOW_SECONDS - 0.1
    dropped.back(DROPPED)
    assert not breaker.is_open
    clock.now += 0.1
    assert breaker.is_open
    for outing in outings:
        outing.back(ANSWERED)
    assert breaker.is_open


def test_one_probe_at_a_time_and_one_answer_closes_it(breaker: Breaker, clock: Clock) -> None:
    """What was sent before, and comes back late or never, does not matter any more."""
    hanging = [breaker.out() for _ in range(FEWEST)]
    calls(breaker, *[UNANSWERED] * FEWEST)
    assert breaker.is_open
    assert not breaker.probe()
    clock.now += PROBE_SECONDS
    assert 0 == breaker.wait()
    assert breaker.probe()
    assert not breaker.probe()
    calls(breaker, UNANSWERED)
    assert breaker.is_open
    hanging.pop().back(ANSWERED)
    assert breaker.is_open
    clock.now += PROBE_SECONDS
    assert breaker.probe()
    calls(breaker, ANSWERED)
    assert not breaker.is_open
    clock.now += SLOW_SECONDS
    assert not breaker.is_open
    assert 0 == breaker.wait()


def test_a_probe_that_takes_too_long_closes_nothing(breaker: Breaker, clock: Clock) -> None:
    """Callers would wait as long for nothing."""
    calls(breaker, *[UNANSWERED] * FEWEST)
    clock.now += PROBE_SECONDS
    assert breaker.probe()
    probe = breaker.out()
    clock.now += SLOW_SECONDS
    probe.back(ANSWERED)
    assert breaker.is_open


def test_a_token_that_is_not_accepted_opens_it_at_once(breaker: Breaker, clock: Clock) -> None:
    """Every other call would be told the same; a probe finds out when it is mended."""
    calls(breaker, *[ANSWERED] * 100, BARRED)
    assert breaker.is_open
    clock.now += PROBE_SECONDS
    assert breaker.probe()
    calls(breaker, BARRED)
    assert breaker.is_open
    calls(breaker, ANSWERED)
    assert not breaker.is_open


def test_a_probe_that_made_no_call_is_somebody_elses(breaker: Breaker, clock: Clock) -> None:
    """The right to it is not lost with one who had nothing to call for."""
    calls(breaker, *[UNANSWERED] * FEWEST)
    clock.now += PROBE_SECONDS
    assert breaker.probe()
    assert not breaker.probe()
    breaker.keep_probe()
    assert breaker.probe()
    breaker.sent_probe()
    breaker.keep_probe()
    assert not breaker.probe()
