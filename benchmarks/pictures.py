"""Pictures of a run, for the docs: how fast each lane is, and what each route makes of a budget."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from benchmarks.figure import Figure
from milepost.settings import PUBLISHED_LIMITS, RATE_PER_MINUTE

mpl.rcParams |= {
    "svg.hashsalt": "milepost",  # the same figures make the same file
    "svg.fonttype": "path",  # as readable where a font is missing
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

BLUE, GREY, LIGHT, RED = "#2f5d8c", "#8a8f98", "#9dbad7", "#b3412e"

THROUGHPUT = re.compile(r"links a second, (?:one event per request, (\w+)|(bulk))")
LATENCY = re.compile(r"time of a (\w+) link .*, (median|p99)")
LINKS = re.compile(r"links a minute true at the platform, (\w+), (.+)")


LOADS = {"ready": "64 callers", "deferred": "64 callers", "direct": "2,700 a minute"}
"""Under which each lane's time is taken."""

LIMITS = {
    RATE_PER_MINUTE: "the brand's {:,} calls",
    PUBLISHED_LIMITS["list_contacts"]: "published:\n{} list contacts",
}
"""Calls a minute, and whose they are."""

ROOM_FOR_WORDS = 0.9
"""Beside the last bars, as a part of what a route takes."""


def draw(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Draw what there are figures of, into files of a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, canvas in (("lanes", _lanes(figures)), ("routes", _routes(figures))):
        if canvas is not None:
            path = folder / f"{name}.svg"
            canvas.savefig(path, metadata={"Date": None})
            drawn.append(path)
    return drawn


def _lanes(figures: Sequence[Figure]) -> Canvas | None:
    """Links a second of one process beside what each is held against, and how long one takes."""
    rates = {
        (match[1] or match[2]): figure
        for figure in figures
        if (match := THROUGHPUT.match(figure.name))
    }
    times = {
        match.groups(): figure.ours for figure in figures if (match := LATENCY.match(figure.name))
    }
    if not rates or not times:
        return None
    canvas = Canvas(figsize=(8, 3), layout="constrained")
    left, right = canvas.subplots(1, 2)
    names = [f"{lane}\n({figure.measure})" for lane, figure in rates.items()]
    sides = {
        "Milepost": [figure.ours for figure in rates.values()],
        "held against": [figure.against or 0 for figure in rates.values()],
    }
    _bars(left, names, sides)
    left.set_title("links a second, one process", loc="left")
    left.legend(frameon=False)
    lanes = sorted({lane for lane, _ in times}, key=list(LOADS).index)
    parts = {part: [times[lane, part] for lane in lanes] for part in ("median", "p99")}
    _bars(right, [f"{lane}\n({LOADS[lane]})" for lane in lanes], parts)
    right.set_title("milliseconds until the answer", loc="left")
    right.legend(frameon=False)
    return canvas


def _routes(figures: Sequence[Figure]) -> Canvas | None:
    """Links a minute of each route against the calls that the platform allows."""
    found = {
        match.groups(): figure.ours for figure in figures if (match := LINKS.match(figure.name))
    }
    if not found:
        return None
    routes = list(dict.fromkeys(route for route, _ in found))
    columns = list(dict.fromkeys(column for _, column in found))
    canvas = Canvas(figsize=(8, 3.2), layout="constrained")
    axes = canvas.subplots()
    _bars(axes, routes, {column: [found[route, column] for route in routes] for column in columns})
    axes.set_yscale("log")
    axes.set_xlim(right=len(routes) - 0.5 + ROOM_FOR_WORDS)
    for calls, words in LIMITS.items():
        axes.axhline(calls, color=RED, linestyle="--", linewidth=1)
        axes.annotate(
            words.format(calls),
            (len(routes) - 0.45, calls),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_title("links a minute, by route", loc="left")
    axes.legend(frameon=False, loc="upper left")
    return canvas


def _bars(axes: Axes, names: Sequence[str], parts: Mapping[str, Sequence[float]]) -> None:
    """Groups of bars, each with its number on it."""
    width = 0.8 / len(parts)
    for number, (part, values) in enumerate(parts.items()):
        places = [at - 0.4 + width * (number + 0.5) for at in range(len(names))]
        color = (BLUE, LIGHT)[number % 2]
        bars = axes.bar(places, values, width * 0.92, label=part, color=color)
        axes.bar_label(bars, [_short(value) for value in values], padding=2, fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.margins(y=0.18)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"  # noqa: PLR2004  (two digits count)
