"""Exports: what is written can be read again, and a file that broke off can be gone on with."""

from __future__ import annotations

import csv
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest

from milepost.api.exports import AT_ONCE
from milepost.app import Milepost
from milepost.model import RegistrantDetails, Scope
from milepost.store.exports import ExportedLink

Landed = Callable[..., Awaitable[None]]
Travel = Callable[..., Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

NASTY = ("=1+1", "'quoted", "@SUM(A1)", "-1", 'a "b", c', "naïve 🎟️")
"""Ids as apps have them, and as somebody has them who wants a spreadsheet to run something."""

FILL = """
INSERT INTO links (id, event_id, milestone, survey_id, ref, data, fingerprint, asked_by, attempt,
    state, published, lane, route, lookup_id, url, expires_at, created_at, issued_at)
SELECT gen_random_uuid(), '=e' || n, 'landed', 'SV_000000000000001', '@r' || n,
    jsonb_build_object('flight', n, 'gate', E'B"22",\\n=1'), '{}', 'app', 0, 'issued', 'personal',
    'direct', 'list', 'CGC_' || n, 'https://survey.test/' || n, now() + interval '60 days',
    now() - make_interval(mins => n / 7 + 1), now()
FROM generate_series(0, %s - 1) AS n
"""


MOMENTS = ("expires", "delivered", "clicked", "opened", "started", "finished", "revoked", "data")
"""What becomes of a link, and when; each at another moment in the test."""


def as_exported(ledger: dict[str, Any], reminded_at: str | None = None) -> dict[str, Any]:
    """What an export says of a link that has a personal URL, told from its row in the ledger."""
    elsewhere = {"registrant": ledger["ref"], "reminded_at": reminded_at}
    return {name: (ledger | elsewhere)[name] for name in ExportedLink.__struct_fields__}


def at_their_moments(link: dict[str, Any]) -> dict[str, Any]:
    """A link with its moments read, which are written in more than one form."""
    moments = [name for name in link if name.endswith(("_at", "_until")) and link[name]]
    return link | {name: datetime.fromisoformat(link[name]) for name in moments}


def alike(as_csv: Path, as_json: Path) -> int:
    """How many links have the same cells in both forms of an export, as DuckDB reads them."""
    names = ExportedLink.__struct_fields__
    texts = ", ".join(f"{name}: 'VARCHAR'" for name in names)
    same = " AND ".join(
        f"regexp_replace(c.{name}, '^''', '') IS NOT DISTINCT FROM j.{name}" for name in names
    )
    ((links,),) = duckdb.sql(f"""
        SELECT count(DISTINCT c.id)
        FROM read_csv('{as_csv}', all_varchar = true) AS c
        JOIN read_json('{as_json}', format = 'newline_delimited', columns = {{{texts}}}) AS j
            ON j.id = c.id
        WHERE {same}
    """).fetchall()
    return int(links)


async def exported(client: httpx.AsyncClient, **query: str) -> str:
    """What an export of the milestone is."""
    query = {"milestone": "landed", **query}
    answer = await client.get("/v1/exports/links", params=query)
    assert 200 == answer.status_code, answer.text
    return answer.text


def read(text: str) -> list[dict[str, str]]:
    """The lines of a CSV, with what was defused as it was."""
    lines = csv.DictReader(StringIO(text))
    return [{name: cell.removeprefix("'") for name, cell in line.items()} for line in lines]


async def ask(client: httpx.AsyncClient, event_id: str, **more: Any) -> None:
    """Ask for the link of an event."""
    body = {"event_id": event_id, "milestone": "landed", "registrant": "ann", **more}
    assert 201 == (await client.post("/v1/links", json=body)).status_code


@pytest.fixture
async def nasty(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, travel: Travel
) -> httpx.AsyncClient:
    """A caller of a Milepost with links of such ids, a minute old."""
    await landed()
    for number, ref in enumerate(NASTY):
        people = {ref: RegistrantDetails(email=f"{number}@example.com")}
        await milepost.store.registrants.put(people)
        data = {"flight": number, "gate": ref}
        await ask(client, ref, registrant=ref, data=data)
    await travel(minutes=1)
    return client


async def test_csv_and_ndjson_say_the_same(nasty: httpx.AsyncClient) -> None:
    """Every column, in the order of creation; nothing of it is lost by defusing."""
    as_json = [json.loads(line) for line in (await exported(nasty, format="ndjson")).splitlines()]
    assert [*NASTY] == [link["event_id"] for link in as_json]
    assert [*NASTY] == [link["data"]["gate"] for link in as_json]
    lines = read(await exported(nasty))
    assert [*as_json[0]] == [*lines[0]]
    for link, line in zip(as_json, lines, strict=True):
        assert link.pop("data") == json.loads(line.pop("data"))
        assert {name: "" if value is None else str(value) for name, value in link.items()} == line
        assert None is not link["issued_at"]


async def test_every_column_is_what_the_ledger_says(
    client: httpx.AsyncClient, landed: Landed, travel: Travel, execute: Execute
) -> None:
    """None is told for another, and none is left out."""
    await landed()
    await ask(client, "e1", data={"flight": 7}, occurred_at="2026-11-20T12:00:00Z")
    later = ", ".join(
        f"{name}_at = issued_at + interval '{number} days'"
        for number, name in enumerate(MOMENTS, 1)
    )
    more = "rule = 'cooldown', rule_detail = 'why', rule_until = issued_at, response_id = 'R_1'"
    await execute(f"UPDATE links SET {later}, {more}")
    await execute(
        "INSERT INTO reminders (link_id, milestone, sent_at)"
        " SELECT id, milestone, issued_at + interval '20 days' FROM links"
    )
    await travel(minutes=1)
    ((ledger, reminded_at),) = await execute(
        "SELECT to_jsonb(l), to_jsonb(r.sent_at) FROM links AS l JOIN reminders AS r ON true"
    )
    (line,) = (await exported(client, format="ndjson")).splitlines()
    link = json.loads(line)
    assert at_their_moments(as_exported(ledger, reminded_at)) == at_their_moments(link)
    assert {"reuses"} == {name for name, value in link.items() if value is None}


async def test_no_cell_begins_a_formula(nasty: httpx.AsyncClient) -> None:
    """Neither for who opens it, nor after the cells were put in quotes."""
    lines = csv.reader(StringIO(await exported(nasty)))
    begins = {cell[:1] for line in lines for cell in line}
    assert set() == begins & set("=+-@\t\r\n")


async def test_it_goes_on_behind_a_line(nasty: httpx.AsyncClient) -> None:
    """Without names, so that it can be put behind what has arrived."""
    whole = await exported(nasty)
    lines = whole.splitlines(keepends=True)
    for upto in (1, 3, len(NASTY)):
        cursor = read("".join(lines[: upto + 1]))[-1]["id"]
        assert whole == "".join(lines[: upto + 1]) + await exported(nasty, cursor=cursor)


async def test_it_is_of_a_milestone_and_of_a_time(
    nasty: httpx.AsyncClient, milepost: Milepost, travel: Travel
) -> None:
    """From a moment on, up to another; without a milestone of all of them, one after the other."""
    definition = (await milepost.store.milestones.get("landed")).definition
    await milepost.store.milestones.put("boarded", definition)
    await milepost.replenish.run_once()
    await ask(nasty, "boarded", milestone="boarded")
    assert [] == read(await exported(nasty, milestone="boarded"))  # it has just been made
    await travel(hours=1)
    every = read((await nasty.get("/v1/exports/links")).text)
    assert ["boarded", *NASTY] == [line["event_id"] for line in every]
    begin, end = every[2]["created_at"], every[4]["created_at"]
    some = read(await exported(nasty, **{"from": begin, "to": end}))
    assert [*NASTY[1:3]] == [line["event_id"] for line in some]
    behind = await nasty.get("/v1/exports/links", params={"cursor": every[0]["id"]})
    assert len(NASTY) == len(behind.text.splitlines())
    mixed = {"milestone": "landed", "cursor": every[0]["id"]}
    refused = (await nasty.get("/v1/exports/links", params=mixed)).json()
    assert (400, "cursor") == (refused["status"], refused["field"])
    later = every[-1]["created_at"]
    assert 1 == len(read(await exported(nasty, **{"from": later})))


async def test_who_reads_sees_neither_urls_nor_data(
    nasty: httpx.AsyncClient, keys: dict[Scope, str]
) -> None:
    """The names of the data stay; moments and ids are whole."""
    reader = {"Authorization": f"Bearer {keys[Scope.READ]}"}
    for form in ("csv", "ndjson"):
        query = {"format": form}
        answer = await nasty.get("/v1/exports/links", params=query, headers=reader)
        assert len(NASTY) <= answer.text.count("flight")
        assert "http" not in answer.text
        assert "B22" not in answer.text


async def test_duckdb_reads_both_forms(
    client: httpx.AsyncClient, landed: Landed, execute: Execute, tmp_path: Path
) -> None:
    """Several pages of links, with the same cells in both as in the ledger."""
    await landed(fields=[])
    links = 4 * AT_ONCE + 1
    await execute(FILL, links)
    as_csv, as_json = tmp_path / "links.csv", tmp_path / "links.ndjson"
    as_csv.write_text(await exported(client), "utf-8", newline="")
    as_json.write_text(await exported(client, format="ndjson"), "utf-8")
    assert links == alike(as_csv, as_json)
    ledger = await execute("SELECT event_id FROM links ORDER BY created_at, id")
    assert [event_id for (event_id,) in ledger] == [
        json.loads(line)["event_id"] for line in as_json.read_text("utf-8").splitlines()
    ]
