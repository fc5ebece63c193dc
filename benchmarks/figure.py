"""One line of the table, and what its bound makes of it."""

from __future__ import annotations

import operator

from msgspec import Struct


class Figure(Struct, frozen=True, kw_only=True):
    """What was measured, against what, and what is asked of it."""

    name: str
    unit: str
    ours: float
    against: float | None = None
    """What ours is a ratio of, in the same unit; None: the bounds are for ours as it stands."""
    measure: str = ""
    """What `against` is the figure of, in words."""
    must: float | None = None
    """None: it is shown for what it is."""
    aim: float | None = None
    at_most: bool = False
    """The bounds are the most that is allowed; otherwise the least."""

    @property
    def value(self) -> float:
        """What is held against the bounds."""
        return self.ours if self.against is None else self.ours / self.against

    @property
    def verdict(self) -> str:
        """`ok`, `missed`, or `aim` where that is reached, too; nothing without a bound."""
        within = operator.le if self.at_most else operator.ge
        if self.must is None:
            return ""
        if not within(round(self.value, 2), self.must):
            return "missed"
        return "aim" if self.aim is not None and within(round(self.value, 2), self.aim) else "ok"

    def row(self, *, judged: bool = True) -> tuple[str, ...]:
        """The cells of the table; the verdict stands there only where it means something."""
        sign = "≤" if self.at_most else "≥"
        marks = {
            "": "",
            "ok": "[green]ok[/]",
            "aim": "[bold green]ok, aim[/]",
            "missed": "[red]missed[/]",
        }
        return (
            self.name,
            f"{_short(self.ours)} {self.unit}",
            f"{_short(self.against)} {self.unit}, {self.measure}" if self.against else "",
            f"{self.value:.2f}" if self.against else "",
            f"{sign} {_short(self.must)}" if self.must is not None else "",
            f"{sign} {_short(self.aim)}" if self.aim else "",
            marks[self.verdict] if judged else "",
        )


def _short(number: float | None) -> str:
    """Three digits that count."""
    if number is None:
        return ""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"  # noqa: PLR2004  (three digits)
