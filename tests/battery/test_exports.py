"""A million links: exported in a flat memory, broken off, gone on with, read back without loss."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import httpx
import psycopg
import pytest
import uvloop
from benchmarks.filling import refilled
from psycopg import sql
from tests.battery.load import LONG, MILESTONE, Installation
from tests.path.test_exports import alike, as_exported, at_their_moments

from milepost.model import Scope
from milepost.store import Store

log = logging.getLogger(__name__)

LINKS = 1_000_000
BREAKS_AT = 150_000_000
"""Bytes after which the reader goes away, somewhere within a line."""
GROWTH = 20
"""MiB that a process may grow by while it sends hundreds of megabytes: two pages and their text."""
STALL_SECONDS = 60
"""Until some megabytes of buffers are full."""
SHEET_SECONDS = 1_200

FILL = sql.SQL(
    """
INSERT INTO links (id, event_id, milestone, survey_id, ref, data, fingerprint, asked_by, attempt,
    state, rule, published, lane, route, lookup_id, url, expires_at, created_at, issued_at,
    delivered_at, clicked_at, started_at, finished_at, response_id)
SELECT ('01990000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
    CASE n %% 4 WHEN 0 THEN '=e' WHEN 1 THEN '''e' ELSE '0' END || n, {milestone},
    'SV_000000000000001', '@r' || n %% 100000,
    jsonb_build_object('flight', n, 'gate', E'B"22",\\n=1', 'note', 'naïve 🎟️'), '{{}}', 'app', 0,
    CASE WHEN is_issued THEN 'issued' ELSE 'suppressed' END,
    CASE WHEN NOT is_issued THEN 'sample' END,
    CASE WHEN is_issued THEN 'personal' END,
    CASE WHEN is_issued THEN 'direct' END,
    CASE WHEN is_issued THEN 'list' END,
    CASE WHEN is_issued THEN 'CGC_' || n END,
    CASE WHEN is_issued THEN 'https://survey.test/' || n END,
    CASE WHEN is_issued THEN now() + interval '60 days' END,
    now() - interval '30 days' + n / 100 * interval '100 milliseconds',
    CASE WHEN is_issued THEN now() END,
    CASE WHEN is_issued AND n %% 2 = 0 THEN now() + interval '1 minute' END,
    CASE WHEN is_issued AND n %% 5 = 0 THEN now() + interval '2 minutes' END,
    CASE WHEN is_issued AND n %% 3 = 0 THEN now() + interval '3 minutes' END,
    CASE WHEN is_issued AND n %% 3 = 0 THEN now() + interval '4 minutes' END,
    CASE WHEN is_issued AND n %% 3 = 0 THEN 'R_' || lpad(n::text, 15, '0') END
FROM (SELECT n, n %% 10 > 0 AS is_issued FROM generate_series(0, {links} - 1) AS n) AS n
""".replace("%%", "%")
)

IDLE = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'milepost'
    AND query LIKE '-- Links of a milestone in the order of their creation%'
    AND state <> 'idle'
"""


async def key_of(database_url: str) -> str:
    """A key that sees everything."""
    async with await Store.open(database_url) as store:
        return (await store.keys.create("analyst", [Scope.ADMIN]))[1]


def resident(pid: int) -> float:
    """The resident memory of a process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1_024


def fetch(
    on: Installation, key: str, to: BinaryIO, *, most: int | None = None, **query: str
) -> list[float]:
    """Write an export into a file, up to `most` bytes; returns the server's memory meanwhile."""
    seen = []
    with httpx.stream(
        "GET",
        f"{on.addresses[0]}/v1/exports/links",
        params={"milestone": MILESTONE, **query},
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    ) as answer:
        assert 200 == answer.status_code
        for number, piece in enumerate(answer.iter_raw()):
            to.write(piece)
            if number % 500 == 0:
                seen.append(resident(on.replicas[0].pid))
            if most is not None and answer.num_bytes_downloaded > most:
                until_idle(on.database_url)  # nobody reads just now
                break
    return seen


def until_idle(database_url: str) -> None:
    """Wait until what lies between server and reader is full, and see that nothing is held then."""
    give_up = time.monotonic() + STALL_SECONDS
    with psycopg.connect(database_url, autocommit=True) as database:
        idle = 0
        while idle < 10:
            assert time.monotonic() < give_up, "the export holds a connection"
            time.sleep(0.1)
            idle = idle + 1 if database.execute(IDLE).fetchone() == (0,) else 0


def last_line(file: Path) -> str:
    """Take away what comes after the last whole line, and return the id of that one's link."""
    with file.open("r+b") as text:
        text.seek(-200_000, os.SEEK_END)
        begin, tail = text.tell(), text.read()
        whole = tail[: tail.rindex(b"\r\n01990000-") + 2]
        text.truncate(begin + len(whole))
    return whole[whole.rindex(b"\r\n01990000-") + 2 :].split(b",")[0].decode()


def lines(file: Path) -> Iterator[list[str]]:
    """The lines of a CSV, cell by cell."""
    with file.open(encoding="utf-8", newline="") as text:
        yield from csv.reader(text)


def of_the_ledger(database_url: str, as_json: Path, *, every: int) -> int:
    """See that so many-th links are exported as the ledger has them; returns how many those are."""
    with as_json.open(encoding="utf-8") as text:
        sample = [json.loads(line) for line in islice(text, 0, None, every)]
    with psycopg.connect(database_url) as database:
        rows = database.execute(
            "SELECT to_jsonb(l) FROM links AS l WHERE id = ANY (%s)",
            ([UUID(link["id"]) for link in sample],),
        )
        ledger = {row["id"]: row for (row,) in rows}
    for link in sample:
        assert at_their_moments(as_exported(ledger[link["id"]])) == at_their_moments(link)
    return len(sample)


@pytest.mark.parametrize("links", [pytest.param(LINKS, id="long", marks=LONG)])
def test_a_million_links_are_exported_and_read_back(
    install: Callable[..., Installation], tmp_path: Path, links: int
) -> None:
    """By DuckDB, and by a spreadsheet where there is one, with the cells that the ledger has."""
    on = install(people=1)
    with refilled(on.database_url) as database:
        database.execute(FILL.format(milestone=sql.Literal(MILESTONE), links=sql.Literal(links)))
    key = uvloop.run(key_of(on.database_url))
    as_csv, as_json = tmp_path / "links.csv", tmp_path / "links.ndjson"
    began = time.monotonic()
    with as_csv.open("wb") as file:
        memory = fetch(on, key, file, most=BREAKS_AT)
    with as_csv.open("ab") as file:
        cursor = last_line(as_csv)
        file.seek(0, os.SEEK_END)
        memory += fetch(on, key, file, cursor=cursor)
    with as_json.open("wb") as file:
        memory += fetch(on, key, file, format="ndjson")
    seconds = time.monotonic() - began
    warm = memory[len(memory) // 10]
    log.info("twice in %.0f s; MiB: at first %.0f, at most %.0f", seconds, warm, max(memory))
    assert max(memory) - warm < GROWTH
    assert links == sum(1 for _ in lines(as_csv)) - 1
    assert links == alike(as_csv, as_json)
    assert 1_000 == of_the_ledger(on.database_url, as_json, every=links // 1_000)
    office = shutil.which("soffice")
    if office is None:
        pytest.skip("there is no LibreOffice: what a spreadsheet reads was not looked at")
    as_text = "/".join(f"{number + 1}/2" for number in range(len(next(lines(as_csv)))))
    subprocess.run(  # noqa: S603  (found by its name, and the files are ours)
        [
            *(office, "--headless", f"-env:UserInstallation=file://{tmp_path}/office"),
            f"--infilter=Text - txt - csv (StarCalc):44,34,76,1,{as_text}",
            *("--convert-to", "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true,false"),
            *("--outdir", str(tmp_path / "read"), str(as_csv)),
        ],
        check=True,
        timeout=SHEET_SECONDS,
        capture_output=True,
    )
    read = lines(tmp_path / "read" / as_csv.name)
    assert all(line == cells for line, cells in zip(lines(as_csv), read, strict=True))
    assert links + 1 == sum(1 for _ in islice(lines(as_csv), links + 2))
