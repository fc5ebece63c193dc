"""The breaker of a call class: after enough calls without an answer, none is sent for a while.

::

    closed ──▶ open    at least half of the last outcomes, and five of them, were no answer; or
                       one said that the token is not accepted
    open   ──▶ open    every few seconds one call is let through as a probe
    open   ──▶ closed  a probe came back with an answer

It spares callers the wait for what will not come, and the platform the calls. A refusal is an
answer: who says no is there. A call that is out for three seconds counts as unanswered at that
moment, so that a platform that hangs is noticed long before the first deadline of ten seconds.

Each process has breakers of its own: it knows by its own calls within seconds what a shared state
could tell it, and the way to the platform may be broken for one machine alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

WINDOW_SECONDS: Final = 10.0
"""How long an outcome counts. It only matters before the breaker opens: a probe closes it."""

FEWEST: Final = 5
"""Outcomes without an answer that it takes: fewer may be one bad connection."""

RATIO: Final = 0.5
"""Of the outcomes in the window. Below it more calls succeed than fail, and are worth making."""

SLOW_SECONDS: Final = 3.0
"""A call takes some 150 ms (observed); after twenty times as long it counts as unanswered."""

PROBE_SECONDS: Final = 2.0
"""Between probes: an outage is over for callers at most this long after it is over."""


class Outcome(Enum):
    """How a call ended, as far as it tells whether the platform is there."""

    ANSWERED = "answered"
    UNANSWERED = "no answer"
    BARRED = "the token is not accepted"
    """Whoever asks next is told the same, until a person has mended it."""
    DROPPED = "dropped"
    """Its caller went away: it tells nothing."""


class Outing:
    """A call that is out."""

    __slots__ = ("_breaker", "since", "told")

    def __init__(self, breaker: Breaker, since: float) -> None:
        self._breaker = breaker
        self.since = since
        self.told = False
        """Whether it has been counted, so that it is not counted again."""

    def back(self, outcome: Outcome) -> None:
        """The call has ended."""
        self._breaker.back(self, outcome)


class Breaker:
    """Whether calls of one class are worth making. Its clock is in seconds and never goes back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._unanswered = 0
        self._out: dict[int, Outing] = {}
        self._opened_at: float | None = None
        self._probe_at = 0.0
        self._is_probe_out = False

    @property
    def is_open(self) -> bool:
        """Whether calls are held back now."""
        if self._opened_at is None and self._out:
            self._note_slow(self._clock())
        return self._opened_at is not None

    def wait(self) -> float:
        """Seconds until a call may go: 0 where it may, or where one may go as the probe."""
        return max(0.0, self._probe_at - self._clock()) if self.is_open else 0.0

    def probe(self) -> bool:
        """Take the right to the one probe that is due; False: none is.

        Who takes it says what became of it, with `sent_probe` or `keep_probe`; or, should they
        not, the next one is due after `PROBE_SECONDS`.
        """
        now = self._clock()
        if self._opened_at is None or now < self._probe_at:
            return False
        self._probe_at = now + PROBE_SECONDS
        self._is_probe_out = True
        return True

    def sent_probe(self) -> None:
        """The probe leaves."""
        self._is_probe_out = False

    def keep_probe(self) -> None:
        """No call was made with the right to the probe: somebody else may have it at once."""
        if self._is_probe_out:
            self._is_probe_out = False
            self._probe_at = self._clock()

    def out(self) -> Outing:
        """A call is sent."""
        outing = Outing(self, self._clock())
        self._out[id(outing)] = outing
        return outing

    def back(self, outing: Outing, outcome: Outcome) -> None:
        """A call has ended; see `Outing.back`."""
        if self._out.pop(id(outing), None) is None or outcome is Outcome.DROPPED:
            return
        now = self._clock()
        if outing.told or now - outing.since >= SLOW_SECONDS:
            if not outing.told:
                self._count(now, unanswered=True)
        elif self._opened_at is None and outcome is Outcome.BARRED:
            self._open(now)
        elif self._opened_at is None:
            self._count(now, unanswered=outcome is Outcome.UNANSWERED)
        elif outcome is Outcome.ANSWERED and outing.since > self._opened_at:
            # What was sent before it opened tells of a time that is over.
            self._opened_at = None
            self._outcomes.clear()
            self._unanswered = 0
            for earlier in self._out.values():
                earlier.told = True

    def _note_slow(self, now: float) -> None:
        for outing in self._out.values():  # the oldest first
            if now - outing.since < SLOW_SECONDS:
                return
            if not outing.told:
                outing.told = True
                self._count(now, unanswered=True)

    def _count(self, now: float, *, unanswered: bool) -> None:
        self._outcomes.append((now, unanswered))
        self._unanswered += unanswered
        while self._outcomes[0][0] <= now - WINDOW_SECONDS:
            self._unanswered -= self._outcomes.popleft()[1]
        if (
            self._opened_at is None
            and self._unanswered >= FEWEST
            and self._unanswered >= RATIO * len(self._outcomes)
        ):
            self._open(now)

    def _open(self, now: float) -> None:
        self._opened_at = now
        self._probe_at = now + PROBE_SECONDS
