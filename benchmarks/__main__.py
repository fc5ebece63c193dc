"""Measures, prints one table and writes one JSON file: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import psycopg
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import pictures
from benchmarks.figure import Figure
from benchmarks.stage import SHORT, Size
from milepost.embedded import EmbeddedPostgres

PICTURES = Path("docs/pictures")

ROWS = ("single", "bulk", "direct", "calls", "limits", "sync", "memory", "ledger")

QUARTER = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4

SETTINGS = {
    "shared_buffers": f"{QUARTER >> 20}MB",
    "max_wal_size": "4GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}
"""Of Postgres, for both sides of every ratio: a quarter of the memory, as its documentation
advises; with fewer checkpoints the rounds are more alike, and tables of millions of rows are filled
without a log of them."""


def main() -> None:
    """Measure, print, write."""
    given = _arguments()
    size = SHORT if given.short else Size(seed=given.seed)
    wanted = {name: getattr(given, name) for name in ("rounds", "seconds", "links")}
    size = msgspec.structs.replace(size, **{k: v for k, v in wanted.items() if v is not None})
    figures: list[Figure] = []
    with (
        tempfile.TemporaryDirectory(prefix="mp") as home,
        EmbeddedPostgres(_passable(Path(home)), settings=SETTINGS) as server,
    ):
        for row in given.rows:
            begun = time.monotonic()
            figures += _measured(row, server, size)
            print(f"{row}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    report(figures, size, given.out, short=given.short)
    if not given.short and set(given.rows) == set(ROWS):
        for path in pictures.draw(figures, PICTURES):
            print(f"drawn: {path}", file=sys.stderr)
    if given.strict and any(figure.verdict == "missed" for figure in figures):
        sys.exit(1)


def _passable(folder: Path) -> Path:
    """Let the account that runs Postgres for root into a folder: all then ends with the folder."""
    folder.chmod(0o711)
    return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--rows",
        type=lambda text: text.split(","),
        default=ROWS,
        metavar=",".join(ROWS),
        help="which (default: all)",
    )
    parser.add_argument("--rounds", type=int, help="alternating rounds (default 5)")
    parser.add_argument("--seconds", type=float, help="of each round (default 10)")
    parser.add_argument("--links", type=int, help="in the large ledger (default 10 million)")
    parser.add_argument("--short", action="store_true", help="only see that everything runs")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a must is missed")
    parser.add_argument("--seed", type=int, default=1, help="of ids and orders (default 1)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder")
    given = parser.parse_args()
    if unknown := set(given.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    return given


def _measured(row: str, server: str, size: Size) -> list[Figure]:
    """The figures of a row, in a database of its own."""
    name = f"bench_{row}"
    url = urlsplit(server)._replace(path=f"/{name}").geturl()
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            figures: list[Figure] = uvloop.run(
                importlib.import_module(f"benchmarks.{row}").measure(url, size)
            )
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    return figures


def report(figures: list[Figure], size: Size, folder: Path, *, short: bool = False) -> None:
    """Print the figures as a table, and write them as a JSON file into the folder."""
    columns = ("figure", "ours", "against", "ratio", "must", "aim", "")
    table = Table(*columns, title="Milepost, measured")
    for figure in figures:
        table.add_row(*figure.row(judged=not short))
    if short:
        table.caption = "A short run: these figures measure nothing."
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    facts = {
        "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "size": msgspec.to_builtins(size),
        "figures": [
            {**msgspec.to_builtins(figure), "value": figure.value, "verdict": figure.verdict}
            for figure in figures
        ],
    }
    path.write_text(json.dumps(facts, indent=1))
    print(f"written: {path}", file=sys.stderr)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603  (our own words)


if __name__ == "__main__":
    main()
