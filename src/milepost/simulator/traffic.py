"""Who called how often, and who called too often. Real time, whatever the account's clock says."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from msgspec import Struct

MINUTE = 60.0

SLOTS_PER_SECOND = 10
"""How finely a window of a minute slides; it reads at most a tenth of a second too much."""


LimitKind = Literal["window", "bucket"]


class Limit(Protocol):
    """Calls that may come in a minute, counted in one way or another."""

    per_minute: int

    def wait(self, now: float) -> float:
        """Seconds until one more call fits; 0 if it fits now."""

    def let_in(self, now: float) -> None:
        """Count one call."""


class SlidingMinute:
    """So many calls and no more in any 60 s, wherever these begin.

    The strictest way to count, so what fits in here fits the platform's own way, which nobody
    knows. The moment of each call that was let in is kept for a minute, 32 bytes each.
    """

    __slots__ = ("_let_in", "per_minute")

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._let_in: deque[float] = deque()

    def wait(self, now: float) -> float:
        """Seconds until one more call fits; 0 if it fits now."""
        while self._let_in and self._let_in[0] + MINUTE <= now:
            self._let_in.popleft()
        if len(self._let_in) < self.per_minute:
            return 0.0
        return self._let_in[0] + MINUTE - now

    def let_in(self, now: float) -> None:
        """Count one call."""
        self._let_in.append(now)


class LeakyBucket:
    """A bucket of a minute's calls, from which they leak evenly.

    After a pause it takes a whole minute's calls at once and a sixtieth more each second: within
    60 s nearly twice the limit can come through.
    """

    __slots__ = ("_at", "_level", "per_minute")

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._level = 0.0
        self._at = 0.0

    def wait(self, now: float) -> float:
        """Seconds until one more call fits; 0 if it fits now."""
        leaked = (now - self._at) * self.per_minute / MINUTE
        self._level = max(0.0, self._level - leaked)
        self._at = now
        # What is over by a rounding error is not over.
        over = round(self._level + 1 - self.per_minute, 9)
        return max(0.0, over * MINUTE / self.per_minute)

    def let_in(self, now: float) -> None:
        """Count one call, which `wait` has just found to fit."""
        self._at = now
        self._level += 1


_LIMITS: Mapping[LimitKind, Callable[[int], Limit]] = {
    "window": SlidingMinute,
    "bucket": LeakyBucket,
}


class Window:
    """Calls in the last 60 s, and the most that there ever were."""

    __slots__ = ("_slots", "busiest", "total")

    def __init__(self) -> None:
        self._slots: deque[list[int]] = deque()
        self.total = 0
        self.busiest = 0

    def count(self, now: float) -> None:
        """One more call."""
        slot = int(now * SLOTS_PER_SECOND)
        if self._slots and self._slots[-1][0] == slot:
            self._slots[-1][1] += 1
        else:
            self._slots.append([slot, 1])
            oldest = slot - int(MINUTE) * SLOTS_PER_SECOND
            while self._slots[0][0] < oldest:
                self.total -= self._slots.popleft()[1]
        self.total += 1
        self.busiest = max(self.busiest, self.total)


class Calls(Struct):
    """What is counted of one call class, or of the brand.

    Attributes:
        calls: All that came, throttled ones included.
        throttled: Those answered 429 by a limit.
        refused: Those answered with another 4xx.
        accepted: Those that did what they asked for.
        busiest_minute: The most that came within any 60 s.
    """

    calls: int = 0
    throttled: int = 0
    refused: int = 0
    accepted: int = 0
    busiest_minute: int = 0


class Traffic:
    """Counts calls and applies the limits: the brand's, and the call class's own."""

    def __init__(
        self,
        brand: int | None,
        classes: Mapping[str, int],
        clock: Callable[[], float] = time.monotonic,
        *,
        kind: LimitKind = "window",
    ) -> None:
        self._clock = clock
        self.kind: LimitKind = kind
        self._windows: dict[str, Window] = {}
        self._limits: dict[str, Limit] = {}
        self.calls: dict[str, Calls] = {}
        self.set_limits(brand, classes)

    def set_limits(
        self, brand: int | None, classes: Mapping[str, int], kind: LimitKind | None = None
    ) -> None:
        """Replace the limits, in calls a minute; calls of before do not count for these."""
        self.kind = kind or self.kind
        made = _LIMITS[self.kind]
        self._limits = {name: made(per_minute) for name, per_minute in classes.items()}
        if brand is not None:
            self._limits["brand"] = made(brand)

    def limits(self) -> dict[str, int]:
        """The limits in force, in calls a minute, by call class, and `brand` for the whole."""
        return {name: limit.per_minute for name, limit in self._limits.items()}

    def admit(self, call_class: str) -> int:
        """Count a call. 0 if it is let in, else after how many whole seconds it would be."""
        now = self._clock()
        wait = 0.0
        for name in (call_class, "brand"):
            calls = self.calls.setdefault(name, Calls())
            window = self._windows.setdefault(name, Window())
            calls.calls += 1
            window.count(now)
            calls.busiest_minute = window.busiest
            if name in self._limits:
                wait = max(wait, self._limits[name].wait(now))
        if wait > 0:
            for name in (call_class, "brand"):
                self.calls[name].throttled += 1
            return math.ceil(wait)
        for name in (call_class, "brand"):
            if name in self._limits:
                self._limits[name].let_in(now)
        return 0

    def settle(self, call_class: str, *, accepted: bool) -> None:
        """Count how a call that was let in ended."""
        for name in (call_class, "brand"):
            calls = self.calls.setdefault(name, Calls())
            if accepted:
                calls.accepted += 1
            else:
                calls.refused += 1

    def forget(self) -> None:
        """Start counting anew; the limits go on."""
        self._windows.clear()
        self.calls.clear()
