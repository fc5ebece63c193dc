"""Processes that die or freeze amid their work: nothing is lost, nothing is made twice."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final, NamedTuple, get_args
from uuid import UUID

import psycopg
import pytest
import uvloop
from msgspec import Struct
from tests.battery.load import LONG, Answer, Event, Installation, Replica, events, pour, ref_of
from tests.battery.verdicts import Journal, Row, Watch, ledger, verify

from milepost.failpoints import Failpoint
from milepost.issuing import BEGIN_SECONDS
from milepost.store.links import PARKED_AFTER

log = logging.getLogger(__name__)

UNLIMITED: Final = {"RATE_PER_MINUTE": "1000000", "LIMITS": "none"}

TAKEOVER_SECONDS: Final = 30.0
"""From a crash to the outcome of each link that the dead process had claimed."""

LATENCY_MS: Final = 200
HASTY_MS: Final = 100
"""The platform's latency, and a deadline that ends before its answer is there."""

Arm = Callable[..., Replica]


class Claim(NamedTuple):
    """A link that is claimed, and for which time."""

    link: UUID
    attempt: int


class Crash(Struct, frozen=True):
    """The end of a process, and what was claimed then.

    Others claim too: their links are settled in a moment.
    """

    at: datetime
    claimed: frozenset[Claim]


def look(database_url: str) -> Crash:
    """What a process that has just died leaves behind."""
    with psycopg.connect(database_url) as connection:
        cursor = connection.execute("SELECT id, attempt FROM links WHERE state = 'claimed'")
        claimed = frozenset(Claim(*row) for row in cursor)
        ((at,),) = connection.execute("SELECT now()").fetchall()
    return Crash(at, claimed)


async def revive(replica: Replica, crashes: int, database_url: str) -> list[Crash]:
    """Start a replica again each time it dies, but for the last time."""
    seen = []
    for left in reversed(range(crashes)):
        assert signal.SIGKILL == await asyncio.to_thread(replica.wait)
        seen.append(await asyncio.to_thread(look, database_url))
        await asyncio.to_thread(replica.stop)
        if left:
            await asyncio.to_thread(replica.start)
    return seen


def assert_crashes_lose_nothing(
    on: Installation,
    doomed: Replica,
    sent: Sequence[Event],
    *,
    per_minute: int,
    watch: Watch,
    within: float,
    crashes: int = 10,
    extra_writes: int = 0,
) -> None:
    """Send events to a replica that dies again and again; all of them become links in the end."""

    async def scenario() -> list[Answer]:
        """The crashes, and what the callers saw."""
        dying = asyncio.create_task(revive(doomed, crashes, on.database_url))
        answers = await asyncio.to_thread(on.pour, sent, per_minute=per_minute, insist=True)
        await dying
        return answers

    answers = uvloop.run(scenario())
    began = time.monotonic()
    watch.settled(within=within)
    log.info("settled after %.0f s", time.monotonic() - began)
    assert any(row.attempt > 1 for row in ledger(on.database_url))
    verdict = verify(on, answers, watch=watch, deadline=None, extra_writes=extra_writes)
    assert {"issued": len(sent)} == verdict.states


def takeovers(crashes: Iterable[Crash], rows: Iterable[Row]) -> list[float]:
    """How long each link that was left claimed took to its outcome, in seconds.

    From the crash in which its last claim but one, or the last, was lost: whoever takes over may
    die, too.
    """
    left: dict[Claim, datetime] = {}
    for crash in sorted(crashes, key=lambda crash: crash.at):
        for claim in crash.claimed:
            left.setdefault(claim, crash.at)
    last = {claim.link: left[claim] for claim in sorted(left)}
    return [
        (row.issued_at - last[row.id]).total_seconds()
        for row in rows
        if row.id in last and row.issued_at is not None
    ]


class Killing(Struct, frozen=True):
    """So many crashes at each failpoint while so many events come."""

    events: int
    per_minute: int
    crashes: int
    passage: int
    """The one that a process does not survive."""
    options: tuple[str, ...] = ()
    """Of the processes that die. Without workers they leave all takeovers to the one that lives."""
    is_timed: bool = True
    """Whether takeovers are measured: where whoever takes over dies too, leases add up."""


@pytest.mark.parametrize(
    "killing",
    [
        pytest.param(Killing(360, 3_600, 1, 12), id="short"),
        pytest.param(Killing(10_000, 5_000, 5, 50, ("--no-worker",)), id="long", marks=LONG),
        pytest.param(Killing(10_000, 5_000, 5, 50, is_timed=False), id="long-workers", marks=LONG),
    ],
)
def test_a_crash_loses_nothing_and_makes_nothing_twice(
    install: Callable[..., Installation], watch: Watch, arm: Arm, killing: Killing
) -> None:
    """For each failpoint there is a replica that dies of it again and again; one more goes on.

    Callers ask again until they have an answer. What a dead process had claimed is settled within
    half a minute by another one that lives.
    """
    count = killing.events
    on = install(
        people=count,
        slots=1,
        platform=("--limits", "none", "--latency-ms", str(LATENCY_MS)),
        settings=UNLIMITED,
    )
    triggers = [f"{name}=kill@{killing.passage}" for name in get_args(Failpoint)]
    with ThreadPoolExecutor() as starts:
        doomed = list(starts.map(lambda trigger: arm(on, trigger, *killing.options), triggers))
    usual = events(count, people=count, deadline_ms=5_000)
    hasty = events(count, people=count, deadline_ms=HASTY_MS)
    sent = [(hasty if number % 3 == 0 else usual)[number] for number in range(count)]

    async def scenario() -> tuple[list[Answer], list[Crash]]:
        """The crashes, and what the callers saw."""
        async with asyncio.TaskGroup() as group:
            dying = [
                group.create_task(revive(replica, killing.crashes, on.database_url))
                for replica in doomed
            ]
            answers = await asyncio.to_thread(
                on.pour, sent, per_minute=killing.per_minute, insist=True
            )
        return answers, [crash for task in dying for crash in task.result()]

    answers, crashes = uvloop.run(scenario())
    watch.settled(within=2 * TAKEOVER_SECONDS)
    answers += on.pour(sent, insist=True)

    rows = ledger(on.database_url)
    retaken = sum(row.attempt > 1 for row in rows)
    verdict = verify(on, answers, watch=watch, deadline=None)
    assert {"issued": count} == verdict.states
    assert 2 * count == sum(answer.is_acknowledged for answer in answers)
    took = takeovers(crashes, rows)
    log.info(
        "%d crashes, %d claims lost, longest takeover %.1f s", len(crashes), retaken, max(took)
    )
    assert retaken > 0
    assert not killing.is_timed or max(took) <= TAKEOVER_SECONDS


@pytest.mark.parametrize(
    ("failpoint", "seconds"),
    [
        pytest.param("claimed", BEGIN_SECONDS, marks=LONG),
        pytest.param("made", 0, marks=LONG),
        pytest.param("claimed", 60, marks=LONG),
        pytest.param("made", 60, marks=LONG),
    ],
)
def test_a_process_that_wakes_up_late_changes_nothing(
    install: Callable[..., Installation],
    watch: Watch,
    arm: Arm,
    failpoint: Failpoint,
    seconds: float,
) -> None:
    """It was frozen before its call, or before its settlement, and others have settled since.

    Where it was not frozen for long enough, its leases run out in the ledger alone.
    """
    on = install(people=41, slots=1, settings=UNLIMITED)
    frozen = arm(on, f"{failpoint}=stop@5")
    *sent, last = events(41, people=41)
    answers = on.pour(sent, connections=40, patience=3, insist=True)
    assert signal.SIGSTOP == frozen.wait(os.WSTOPPED)
    time.sleep(seconds)
    expire(on.database_url)
    watch.settled(within=TAKEOVER_SECONDS)
    before = ledger(on.database_url)
    made = Journal.read(on.platform.journal).writes
    assert any(row.attempt > 1 for row in before)

    frozen.thaw()
    answers += uvloop.run(pour([last], addresses=[frozen.address], key=on.key))
    frozen.stop()  # which lets all that it has begun end
    assert before == [row for row in ledger(on.database_url) if row.event_id != last.event_id]
    writes = Journal.read(on.platform.journal).writes
    assert made == [write for write in writes if write.ref != ref_of(40)]
    watch.settled(within=TAKEOVER_SECONDS)
    verify(on, answers, watch=watch, deadline=None)


@pytest.mark.battery
def test_an_event_that_kills_whoever_takes_it_is_parked(
    install: Callable[..., Installation], watch: Watch
) -> None:
    """It takes others along once or twice, then dies alone, and after some deaths nobody tries it.

    Between two deaths the leases run out in the ledger instead of on the clock.
    """
    on = install(people=20, slots=1, settings={**UNLIMITED, "FAILPOINTS": "claimed=kill#poison"})
    (replica,) = on.replicas
    sent = events(1, people=1, prefix="poison") + events(20, people=20)[1:]
    deaths = 0

    async def restart() -> None:
        """Start what has died."""
        nonlocal deaths
        assert signal.SIGKILL == await asyncio.to_thread(replica.wait)
        deaths += 1
        await asyncio.to_thread(replica.stop)
        await asyncio.to_thread(replica.start)

    async def restart_and_let_leases_run_out() -> None:
        """Start it, and let time go by."""
        while True:
            await restart()
            await asyncio.to_thread(expire, on.database_url)

    async def scenario() -> list[Answer]:
        """The deaths, and what the callers saw."""
        pouring = asyncio.create_task(asyncio.to_thread(on.pour, sent, insist=True))
        await restart()
        answers = await pouring
        await asyncio.to_thread(expire, on.database_url)
        restarting = asyncio.create_task(restart_and_let_leases_run_out())
        await asyncio.to_thread(watch.settled, within=90)
        restarting.cancel()
        await asyncio.to_thread(replica.kill)  # the thread that waits for its end would stay
        return answers

    answers = uvloop.run(scenario())
    rows = ledger(on.database_url)
    assert {("failed", "parked"): 1, ("issued", None): 19} == Counter(
        (row.state, row.rule) for row in rows
    )
    assert ["poison0"] == [row.event_id for row in rows if row.state == "failed"]
    assert PARKED_AFTER == deaths
    verify(on, answers, watch=watch, deadline=None)


def expire(database_url: str) -> None:
    """Let all that is claimed be free for others."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE links SET lease_until = now(), due_at = now() WHERE state = 'claimed'"
        )
