"""Files of a million rows, and workers that are killed over them.

Their short forms stand in `tests/test_intake.py`: they need no process of their own.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import uvloop
from psycopg.rows import tuple_row
from tests.battery.load import LONG

from milepost.store import Store

pytestmark = [*LONG]
log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
DIRECTORY = "POOL_000000000000001"

MOST_SECONDS = 300
MOST_GROWN = 200 * 1024**2

HEADER = b"ref,email,first_name,last_name,phone,language,tier,city\n"

BROKEN: dict[str, tuple[int, bytes]] = {
    "7 values under 8 columns": (7, b""),
    "9 values under 8 columns": (7, b"Berlin,more"),
    "ref: it is missing": (0, b""),
    "ref: a control character": (0, b"a\x07b"),
    "a NUL character": (2, b"A\x00nn"),
    "not utf-8": (3, b"M\xfcller"),
    "a quote is not closed": (2, b'"Ann'),
    "not CSV: ',' expected after '\"'": (2, b'"Ann"a'),
    "email: more than 254 characters": (1, b"x" * 255),
    "phone: more than 40 characters": (4, b"1" * 41),
}
"""Ten kinds of bad rows: the reason, and which value is to be written how."""


def write(path: Path, rows: int, *, tier: bytes = b"gold", changed: int = 0) -> list[Any]:
    """A file of so many rows, 1 % of them bad, with another tier every so many.

    Returns:
        Lines and reasons of the bad rows.
    """
    bad: list[Any] = []
    kinds = list(BROKEN.items())
    with path.open("wb") as file:
        file.write(HEADER)
        for n in range(rows):
            # Not in the order of refs, which no export promises.
            ref = b"c%08d" % (n * 7_919 % rows)
            paid = b"blue" if changed and n % changed == 1 else tier
            values = [ref, b"%b@x.test" % ref, b"Zo\xc3\xab", b"M\xc3\xbcller", b"+49 30 1", b"DE"]
            values += [paid, b"Berlin"]
            if n % 100 == 50:
                reason, (column, value) = kinds[n // 100 % len(kinds)]
                values[column] = value
                if reason.startswith("7 values"):
                    values.pop()
                bad.append((n + 2, reason))
            file.write(b",".join(values) + b"\n")
    return bad


@contextmanager
def taking_in(database_url: str, path: Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that takes the file in."""
    command = [sys.executable, "-m", "tests.battery.taking_in", database_url, str(path)]
    process = subprocess.Popen(  # noqa: S603  (our own)
        [*command, json.dumps(options)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def taken_in(database_url: str, path: Path, **options: object) -> dict[str, Any]:
    """What it tells of itself when it has done so."""
    with taking_in(database_url, path, **options) as process:
        assert process.stdout is not None
        *_, last = process.stdout
        told: dict[str, Any] = json.loads(last)
    log.info("%s", {name: told[name] for name in ("seconds", "grown")})
    return told


def counted(told: dict[str, Any]) -> dict[str, int]:
    """What its run counted, but what is nothing."""
    counts = told["run"]["counts"]
    return {name: n for name, n in counts.items() if isinstance(n, int) and n and name != "found"}


def ask(database_url: str, query: str) -> list[tuple[Any, ...]]:
    """Rows of the database."""
    with psycopg.connect(database_url, row_factory=tuple_row) as connection:
        cursor = connection.execute(query)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


async def directory(database_url: str) -> None:
    """Let the directory recognise people by their e-mail."""
    async with await Store.open(database_url) as store:
        await store.registrants.rekey(DIRECTORY, frozenset({"email"}))


def test_a_file_is_taken_in_whatever_its_size(database_url: str, tmp_path: Path) -> None:
    """In time, in little memory, and each of its bad rows is listed with its line and reason.

    The same file again writes no row; one of which 1 % has changed, those; one of which 15 % are
    missing stops and asks.
    """
    rows, path = 1_000_000, tmp_path / "people.csv"
    uvloop.run(directory(database_url))
    bad = write(path, rows)
    good = rows - len(bad)
    first = taken_in(database_url, path)
    assert {"rows": rows, "created": good, "bad": len(bad)} == counted(first)
    assert first["seconds"] < MOST_SECONDS
    assert first["grown"] < MOST_GROWN
    listed = "SELECT line, reason FROM findings WHERE run_id = {} ORDER BY number"
    assert bad == ask(database_url, listed.format(first["run"]["id"]))

    versions = "SELECT max(xmin::text::bigint), count(*) FROM registrants"
    written = ask(database_url, versions)
    again = taken_in(database_url, path)
    assert {"rows": rows, "unchanged": good, "bad": len(bad)} == counted(again)
    assert written == ask(database_url, versions)

    write(path, rows, changed=100)
    changed = taken_in(database_url, path)
    assert {"attributes.tier": rows // 100} == changed["run"]["counts"]["fields"]
    assert rows // 100 == counted(changed)["changed"]
    newer = f"SELECT count(*) FROM registrants WHERE xmin::text::bigint > {written[0][0]}"
    assert [(rows // 100,)] == ask(database_url, newer)

    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(HEADER + b"".join(lines[1 + rows * 15 // 100 :]))
    stopped = taken_in(database_url, path)
    assert "stopped" == stopped["run"]["state"]
    assert [(0,)] == ask(database_url, "SELECT count(removed_at) FROM registrants")
    accepted = taken_in(database_url, path, accept_removals=True)
    removed = counted(accepted)["removed"]
    assert [(removed,)] == ask(database_url, "SELECT count(removed_at) FROM registrants")
    assert removed > good * 14 // 100
    assert [(0, 0)] == ask(
        database_url, "SELECT (SELECT count(*) FROM staged), (SELECT count(*) FROM intakes)"
    )


def test_a_worker_that_is_killed_leaves_nothing_undone(database_url: str, tmp_path: Path) -> None:
    """At random pages, with the whole of its process group; the next one goes on from there."""
    rows, kills, path = 200_000, 10, tmp_path / "people.csv"
    uvloop.run(directory(database_url))
    write(path, rows)
    taken_in(database_url, path)
    bad = write(path, rows, tier=b"blue")
    pages = int(rows / 100 / kills)
    dice = random.Random(rows)  # noqa: S311  (no secret)
    for _ in range(kills):
        with taking_in(database_url, path) as process:
            assert process.stdout is not None
            for _ in range(dice.randint(1, max(2, pages // 20))):
                assert process.stdout.readline()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        # As if its lease had ended by itself.
        ask(database_url, "UPDATE runs SET lease_until = now() WHERE state = 'running'")
    told = taken_in(database_url, path)
    assert kills + 1 == ask(database_url, "SELECT max(attempt) FROM runs")[0][0]
    good = rows - len(bad)
    assert {"rows": rows, "changed": good, "bad": len(bad)} == counted(told)
    listed = f"SELECT line, reason FROM findings WHERE run_id = {told['run']['id']} ORDER BY number"
    assert bad == ask(database_url, listed)
    assert [("blue", good)] == ask(
        database_url,
        "SELECT attributes ->> 'tier', count(*) FROM registrants GROUP BY 1",
    )
