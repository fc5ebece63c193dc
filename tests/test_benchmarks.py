"""The benchmarks: each row runs, on sizes that say nothing, and its figures are read as meant."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from benchmarks.__main__ import ROWS, report
from benchmarks.figure import Figure
from benchmarks.stage import SHORT

BY_DEFAULT = {"single", "direct", "ledger"}
"""The rows that take least; the others are run with the battery."""


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=() if row in BY_DEFAULT else pytest.mark.battery, id=row)
        for row in ROWS
    ],
)
async def test_a_row_measures(row: str, database_url: str) -> None:
    """From set-up to figures: all processes start, all checks of the row hold, all of it ends."""
    figures: list[Figure] = await importlib.import_module(f"benchmarks.{row}").measure(
        database_url, SHORT
    )
    assert all(figure.verdict in {"", "missed", "ok", "aim"} for figure in figures)
    assert [] == [figure.name for figure in figures if figure.against == 0]


@pytest.mark.parametrize(
    ("ours", "against", "at_most", "verdict"),
    [
        (39, 100, False, "missed"),
        (40, 100, False, "ok"),
        (60, 100, False, "aim"),
        (41, 100, True, "missed"),
        (0.4, None, True, "ok"),
        (0.404, None, True, "ok"),
        (0.41, None, True, "missed"),
    ],
)
def test_a_figure_is_held_against_its_bounds(
    ours: float, against: float | None, *, at_most: bool, verdict: str
) -> None:
    """As a ratio where it has a measure, and to two places, as the table shows it."""
    aim = None if at_most else 0.6
    figure = Figure(
        name="", unit="s", ours=ours, against=against, must=0.4, aim=aim, at_most=at_most
    )
    assert verdict == figure.verdict


def test_figures_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a line of a table for people, and with what it takes to read them later for programs."""
    figure = Figure(name="links", unit="/s", ours=30, against=100, measure="rows", must=0.4)
    report([figure], SHORT, tmp_path)
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-2].split("│")]
    (path,) = tmp_path.iterdir()
    written = json.loads(path.read_text())
    assert ["links", "30 /s", "100 /s, rows", "0.30", "≥ 0.4", "", "missed"] == cells[1:-1]
    assert {"commit", "machine", "python", "size", "figures"} == set(written)
    assert (0.3, "missed") == tuple(written["figures"][0][key] for key in ("value", "verdict"))
