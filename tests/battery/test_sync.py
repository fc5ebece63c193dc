"""A crowd at night: everybody gets a contact, at few calls, whoever dies, and live events go on."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from msgspec import Struct
from psycopg.rows import dict_row
from tests.battery.load import LONG, Answer, Event, Installation, events, ref_of
from tests.battery.verdicts import Watch, verify

from milepost.jobs.filling import calls_in_bulk
from milepost.local import process

log = logging.getLogger(__name__)

UNLIMITED: Final = {"RATE_PER_MINUTE": "1000000", "LIMITS": "none"}

MOST_CALLS: Final = 1_500
"""Calls that 100,000 people may cost at the most."""

OTHER_CALLS: Final = 10
"""The directory, opt-outs, the home list, and what a shared machine may make be tried again."""

MORE_MEMORY_KB: Final = 20_000
"""What a crowd may add to a run that has nothing to do: a page of each kind, and no more."""

PER_MINUTE: Final = 1_200
"""Live events: 20 a second."""

LATENCY_MS: Final = 100

LOOK_SECONDS: Final = 0.02
"""Between looks at the memory of a process."""

Install = Callable[..., Installation]


class Ran(Struct, frozen=True):
    """What became of `milepost run sync`."""

    state: str
    counts: dict[str, int]
    error: str | None
    calls: int
    imports: int
    pages: int
    seconds: float
    memory_kb: int
    """The most that the process held (`VmHWM`)."""


def sync(on: Installation, *options: str) -> Ran:
    """Run the job to its end, in a process of its own."""
    on.platform.control("DELETE", "stats")
    begun = time.monotonic()
    with running(on, *options) as started:
        assert started.stdout is not None
        with ThreadPoolExecutor(1) as threads:
            most = threads.submit(memory_kb, started)
            told = json.loads(started.stdout.read())
    return Ran(
        state=told["state"],
        counts={name: n for name, n in told["counts"].items() if n and isinstance(n, int)},
        error=told["error"],
        calls=on.platform.calls()["calls"],
        imports=on.platform.calls("imports")["calls"],
        pages=on.platform.calls("list_contacts")["calls"],
        seconds=round(time.monotonic() - begun, 1),
        memory_kb=most.result(),
    )


def memory_kb(started: subprocess.Popen[bytes]) -> int:
    """The most memory that a process has held, looked at until it ends."""
    most = 0
    while started.poll() is None:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{started.pid}/status").read_text())
        most = int(found[1]) if found else most
        time.sleep(LOOK_SECONDS)
    return most


def running(on: Installation, *options: str) -> Any:
    """`milepost run sync`, while the block runs."""
    arguments = ("run", "sync", "--json", *options)
    return process(*arguments, environment=os.environ | on.environment, stdout=subprocess.PIPE)


def write(path: Path, people: Iterable[int], changed: int = 0) -> None:
    """A file of registrants, of whom the first so many have changed their names."""
    with path.open("w") as file:
        file.write("ref,email,first_name\n")
        for number in people:
            name = "Other" if number < changed else "First"
            file.write(f"{ref_of(number)},{ref_of(number)}@example.com,{name}\n")


def execute(on: Installation, statement: str, *values: object) -> list[dict[str, Any]]:
    """Run a statement in the installation's database."""
    with psycopg.connect(on.database_url, row_factory=dict_row) as connection:
        cursor = connection.execute(statement, values)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def unknown(on: Installation) -> int:
    """How many are not known to be in the home list."""
    query = "SELECT count(*) AS n FROM registrants WHERE home_lookup_id IS NULL"
    return int(execute(on, query)[0]["n"])


def entries(journal: Path) -> Iterator[dict[str, Any]]:
    """What the platform has accepted."""
    with journal.open("rb") as lines:
        for line in lines:
            yield json.loads(line)


def assert_nobody_is_two(on: Installation, people: int) -> None:
    """By the platform's journal: each has been made once, and has one place in the home list."""
    home = execute(on, "SELECT home_list_id FROM deployment")[0]["home_list_id"]
    contacts: set[str] = set()
    places = 0
    for entry in entries(on.platform.journal):
        minted = entry.get("minted", ())
        contacts.update(made for made in minted if made.startswith("CID_"))
        if entry["ids"].get("mailing_list") == home:
            places += sum(made.startswith("CGC_") for made in minted)
    probes = 1
    assert (people + probes, people) == (len(contacts), places)
    kept = execute(
        on, "SELECT count(DISTINCT contact_id) AS n FROM registrants WHERE contact_id IS NOT NULL"
    )
    assert [{"n": people}] == kept


@pytest.mark.parametrize(
    "people", [pytest.param(600, id="short"), pytest.param(100_000, id="long", marks=LONG)]
)
def test_a_crowd_costs_few_calls_and_no_memory(
    install: Install, tmp_path: Path, people: int
) -> None:
    """A file of them into an empty directory; the same again is no write.

    Where a hundredth has changed, only they are told; where 15 of 100 are missing, nobody is.
    """
    source = tmp_path / "people.csv"
    write(source, range(people))
    settings = UNLIMITED | {"REGISTRANTS_SOURCE": str(source)}
    on = install(people=0, slots=1, replicas=0, settings=settings)
    first = sync(on)
    log.info("first: %s", first)
    came = {"rows": people, "created": people, "made": people}
    assert ("done", came) == (first.state, first.counts)
    assert first.calls <= calls_in_bulk(people, 0) + OTHER_CALLS
    assert people < 100_000 or first.calls <= MOST_CALLS
    assert_nobody_is_two(on, people)

    before = on.platform.control("GET", "stats")["accepted_writes"]
    again = sync(on)
    log.info("again: %s", again)
    assert ("done", {"rows": people, "unchanged": people}) == (again.state, again.counts)
    assert again.calls <= OTHER_CALLS
    assert before == on.platform.control("GET", "stats")["accepted_writes"]
    assert first.memory_kb - again.memory_kb < MORE_MEMORY_KB

    changed = max(people // 100, 60)
    write(source, range(people), changed)
    some = sync(on)
    log.info("a hundredth: %s", some)
    assert ("done", changed, changed) == (
        some.state,
        some.counts["changed"],
        some.counts["updated"],
    )
    assert some.calls <= 2 * -(-changed // 1_000) + OTHER_CALLS
    told = [
        contact["extRef"]
        for entry in entries(on.platform.journal)
        if entry["operation"] == "import.start" and entry["seq"] > before
        for contact in entry["body"]["contacts"]
    ]
    assert {ref_of(number): 1 for number in range(changed)} == Counter(told)

    before = on.platform.control("GET", "stats")["accepted_writes"]
    write(source, range(people * 15 // 100, people), changed)
    stopped = sync(on)
    log.info("15 of 100 missing: %s", stopped)
    assert ("stopped", True) == (stopped.state, "--accept-removals" in (stopped.error or ""))
    assert [{"n": 0}] == execute(on, "SELECT count(removed_at) AS n FROM registrants")
    assert people * 15 // 100 == sync(on, "--accept-removals").counts["removed"]
    assert before == on.platform.control("GET", "stats")["accepted_writes"]


class Killing(Struct, frozen=True):
    """So many deaths while so many people come in."""

    people: int
    deaths: int


@pytest.mark.parametrize(
    "killing",
    [
        pytest.param(Killing(2_500, 3), id="short"),
        pytest.param(Killing(100_000, 10), id="long", marks=LONG),
    ],
)
def test_a_run_that_is_killed_again_and_again_ends_complete(
    install: Install, tmp_path: Path, killing: Killing
) -> None:
    """At any page, of the file or the platform; whoever comes next goes on, and nobody is two.

    Between two deaths the lease runs out in the ledger instead of on the clock.
    """
    source = tmp_path / "people.csv"
    write(source, range(killing.people))
    settings = UNLIMITED | {"REGISTRANTS_SOURCE": str(source)}
    on = install(people=0, slots=1, replicas=0, settings=settings)
    dice = random.Random(killing.people)  # noqa: S311  (a seed, so that it can be done again)
    commits = calls_in_bulk(killing.people, 0) // (killing.deaths + 1)
    stages = []
    for _ in range(killing.deaths):
        with running(on) as started:
            stages.append(wait_for_commits(on, started, dice.randint(1, max(1, commits))))
            os.killpg(started.pid, signal.SIGKILL)
            assert -signal.SIGKILL == started.wait()
        execute(on, "UPDATE runs SET lease_until = now() WHERE state = 'running'")
    last = sync(on)
    log.info("died at %s; then %s", stages, last)
    assert "done" == last.state
    assert [] == execute(on, "SELECT * FROM runs WHERE state <> 'done'")
    assert killing.deaths < max(
        row["attempt"] for row in execute(on, "SELECT attempt FROM runs")
    ), "it ended before it died often enough"
    assert 0 == unknown(on)
    assert_nobody_is_two(on, killing.people)


def wait_for_commits(
    on: Installation, started: subprocess.Popen[bytes], commits: int
) -> tuple[str, int]:
    """Wait until a run has written down so often where it stands; returns where."""
    with psycopg.connect(on.database_url, autocommit=True, row_factory=dict_row) as connection:
        seen: set[str] = set()
        while started.poll() is None:
            (row,) = connection.execute(
                "SELECT position::text AS position, stage, done FROM runs ORDER BY id LIMIT 1"
            ).fetchall() or [{"position": None, "stage": None, "done": 0}]
            if row["position"] is not None:
                seen.add(row["position"])
            if len(seen) > commits:
                return row["stage"], row["done"]
    return "ended", 0


class Night(Struct, frozen=True):
    """Live events, without a sync and during one."""

    people: int
    quiet_seconds: int
    latency_ratio: float | None
    """How much slower live events may be; None: of so few it is not judged."""


@pytest.mark.parametrize(
    "night",
    [
        pytest.param(Night(1_500, 2, None), id="short", marks=LONG),
        pytest.param(Night(100_000, 60, 2.0), id="long", marks=LONG),
    ],
)
def test_live_events_are_not_slowed(install: Install, watch: Watch, night: Night) -> None:
    """People pass the milestone while everybody is being brought in, they among them."""
    on = install(
        people=night.people,
        slots=2,
        platform=("--limits", "none", "--latency-ms", str(LATENCY_MS)),
        settings=UNLIMITED,
        options=("--no-worker",),
    )
    coming = events(night.people, people=night.people)
    random.Random(night.people).shuffle(coming)  # noqa: S311  (a seed, so that it can be done again)
    quiet = on.pour(pop(coming, night.quiet_seconds), per_minute=PER_MINUTE)
    answers: list[Answer] = []
    with running(on) as started:
        begun = time.monotonic()
        while started.poll() is None:
            answers += on.pour(pop(coming, 2), per_minute=PER_MINUTE)
        log.info("the sync took %.1f s", time.monotonic() - begun)
        assert 0 == started.returncode
    watch.settled(within=30)
    assert {"direct"} == {answer.link.lane for answer in quiet + answers}
    verify(on, quiet + answers, watch=watch)
    assert 0 == unknown(on)
    ratio = p99(answers) / p99(quiet)
    log.info(
        "p99 quiet %.0f ms of %d, during the sync %.0f ms of %d, longest %.0f ms: %.2f",
        1000 * p99(quiet),
        len(quiet),
        1000 * p99(answers),
        len(answers),
        1000 * max(answer.seconds for answer in answers),
        ratio,
    )
    assert night.latency_ratio is None or ratio <= night.latency_ratio


def pop(coming: list[Event], seconds: int) -> list[Event]:
    """The events of the next seconds."""
    due = coming[-PER_MINUTE * seconds // 60 :]
    del coming[-len(due) :]
    return due


def p99(answers: list[Answer]) -> float:
    """The time that 99 of 100 answers took at the most, in seconds."""
    taken = sorted(answer.seconds for answer in answers)
    return taken[min(len(taken) - 1, int(0.99 * len(taken)))]
