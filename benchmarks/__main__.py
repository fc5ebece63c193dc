"""Runs the benchmarks, prints one table and writes one JSON file: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.direct import measure


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round (default 10)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mp") as home:
        figures = asyncio.run(measure(Path(home), rounds=given.rounds, seconds=given.seconds))
    table = Table("figure", "ours", "against", "ratio", "must", "aim", title="Milepost, measured")
    for figure in figures:
        table.add_row(
            figure.name,
            f"{figure.ours:.2f} {figure.unit}",
            f"{figure.against:.2f} {figure.unit}",
            f"{figure.ratio:.2f}",
            figure.must,
            figure.aim,
        )
    Console().print(table)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(
        json.dumps(
            {
                "commit": _commit(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
                "python": platform.python_version(),
                "rounds": given.rounds,
                "seconds": given.seconds,
                "figures": [figure.as_dict() for figure in figures],
            },
            indent=1,
        )
    )
    print(f"written: {path}", file=sys.stderr)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603  (our own words)


main()
