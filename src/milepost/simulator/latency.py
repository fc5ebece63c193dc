"""How long an answer takes: always the same, or drawn for each call."""

from __future__ import annotations

import math
import random
import re
from typing import Literal

from msgspec import Struct

MOST_MS = 600_000
"""Ten minutes: nobody waits longer for an answer, and a wrong unit is noticed."""

# The standard normal distribution's 99th percentile.
_P99 = 2.3263478740408408

_SPELT = re.compile(r"(lognormal|uniform):([0-9]+(?:\.[0-9]+)?):([0-9]+(?:\.[0-9]+)?)", re.ASCII)

_WANTED = (
    "latency_ms must be milliseconds up to 600000, uniform:LEAST:MOST, or lognormal:MEDIAN:P99"
)


class Latency(Struct, frozen=True):
    """Milliseconds that a call waits for its answer.

    Attributes:
        kind: `fixed`; `uniform` between two values; `lognormal`, as the times of real services are,
            with most calls near the median and a long tail.
        low: The time, the least of `uniform`, the median of `lognormal`.
        high: The most of `uniform`, the 99th percentile of `lognormal`.
    """

    kind: Literal["fixed", "uniform", "lognormal"]
    low: float
    high: float

    @classmethod
    def read(cls, given: int | str) -> Latency:
        """Read `150`, `"150"`, `"uniform:50:300"` or `"lognormal:150:400"` (median, p99).

        Raises:
            ValueError: It is none of these, or more than ten minutes.
        """
        if isinstance(given, str) and not (given.isascii() and given.isdigit()):
            spelt = _SPELT.fullmatch(given)
            if spelt is None or not float(spelt[2]) <= float(spelt[3]) <= MOST_MS:
                raise ValueError(_WANTED)
            kind: Literal["uniform", "lognormal"] = (
                "uniform" if spelt[1] == "uniform" else "lognormal"
            )
            if kind == "lognormal" and float(spelt[2]) == 0:
                raise ValueError(_WANTED)
            return cls(kind, float(spelt[2]), float(spelt[3]))
        if len(str(given)) > len(str(MOST_MS)) or not 0 <= int(given) <= MOST_MS:
            raise ValueError(_WANTED)
        return cls("fixed", float(given), float(given))

    def spelt(self) -> int | str:
        """The latency as it is given."""
        if self.kind == "fixed":
            return int(self.low)
        return f"{self.kind}:{self.low:g}:{self.high:g}"

    def seconds(self, dice: random.Random) -> float:
        """The time of one call, in seconds."""
        if self.kind == "fixed":
            drawn = self.low
        elif self.kind == "uniform":
            drawn = dice.uniform(self.low, self.high)
        else:
            drawn = dice.lognormvariate(math.log(self.low), math.log(self.high / self.low) / _P99)
        return min(drawn, MOST_MS) / 1000
