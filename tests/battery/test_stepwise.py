"""Route `stepwise` in the long: processes that die after each of its calls, and before the next."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest
import uvloop
from tests.battery.load import LONG, Answer, Event, Installation, Replica, events
from tests.battery.test_crashes import UNLIMITED, assert_crashes_lose_nothing, expire
from tests.battery.verdicts import Watch, ledger, verify

from milepost.model import Fact, Route

RESOLVED_SECONDS: Final = 150.0
"""From a crash until all is settled: the lease, and where a transaction may have been lost three
looks over a minute."""


BATCHES: Final = ("transaction of", "batch of", "distribution of")
ONE_BY_ONE: Final = ("data of", "own_distribution of")
"""The steps of both forms by which links are made."""

KILLED: Final = 10
"""So many links lose the process that makes them."""


def distributions(on: Installation) -> list[tuple[str, str]]:
    """The link that each accepted distribution names, and the batch or list on which it stands."""
    entries: list[dict[str, Any]] = [
        json.loads(line) for line in on.platform.journal.read_text().splitlines()
    ]
    return [
        (
            entry["body"]["description"].split()[-1],
            entry["ids"].get("batch") or entry["ids"]["mailing_list"],
        )
        for entry in entries
        if entry["operation"] == "distribution.create"
    ]


def stepping(
    install: Callable[..., Installation], *, people: int, batches: bool, **more: Any
) -> Installation:
    """An installation with this route, on an account that takes batches or does not."""
    return install(
        people=people,
        route=Route.STEPWISE,
        platform=(
            *("--limits", "none", "--latency-ms", "50"),
            *("--fact", f"transaction_batch={str(batches).lower()}"),
        ),
        settings=UNLIMITED,
        lacking=() if batches else (Fact.TRANSACTION_BATCH,),
        **more,
    )


def assert_one_distribution_each(on: Installation, *, batches: bool) -> None:
    """Each link has one, on a batch of its own, or all on the one home list."""
    made = distributions(on)
    rows = ledger(on.database_url)
    assert {str(row.id): 1 for row in rows} == Counter(link for link, _ in made)
    assert (len(made) if batches else 1) == len({stands_on for _, stands_on in made})


@pytest.mark.parametrize(
    "failpoint",
    [
        pytest.param(trigger, marks=LONG, id=trigger)
        for trigger in (
            "claimed=kill@20",
            "joined=kill@5",
            *(f"stepped=kill#{step}" for step in (*BATCHES, *ONE_BY_ONE)),
            "made=kill@20",
        )
    ],
)
def test_a_crash_between_two_steps_makes_nothing_twice(
    install: Callable[..., Installation],
    watch: Watch,
    arm: Callable[..., Replica],
    failpoint: str,
) -> None:
    """A replica dies there ten times; for each link there is one distribution in the end.

    All events end as links, each with one transaction; of what dies after a batch, another batch.
    Data that were told and not written down are told again, the same.
    """
    count = 900
    batches = not failpoint.endswith(ONE_BY_ONE)
    at_home = not failpoint.startswith("joined")
    on = stepping(install, people=count, batches=batches, at_home=at_home)
    doomed = arm(on, failpoint, "--no-worker")
    sent = events(count, people=count, deadline_ms=5_000)

    assert_crashes_lose_nothing(
        on,
        doomed,
        sent,
        per_minute=1_200,
        watch=watch,
        within=RESOLVED_SECONDS,
        extra_writes=0 if batches else count,
    )
    assert_one_distribution_each(on, batches=batches)


@pytest.mark.parametrize(
    ("batches", "held_up"),
    [
        pytest.param(True, "transaction_batches", marks=LONG, id="before the batch"),
        pytest.param(True, "distributions", marks=LONG, id="before the distribution"),
        pytest.param(True, "links", marks=LONG, id="before the list of links"),
        pytest.param(False, "distributions", marks=LONG, id="before one's own distribution"),
        pytest.param(False, "links", marks=LONG, id="before its list of links"),
    ],
)
def test_a_crash_between_a_note_and_the_next_call_makes_nothing_twice(
    install: Callable[..., Installation], watch: Watch, *, batches: bool, held_up: str
) -> None:
    """What was made is written down, and the call after it never reaches the platform.

    It is held up on its way until its process is killed. Leases run out in the ledger.
    """
    on = stepping(install, people=KILLED, batches=batches, options=("--no-worker",))
    (replica,) = on.replicas
    fault = {"kind": "timeout", "moment": "before", "call_class": held_up, "times": 1}
    answers: list[Answer] = []
    for event in events(KILLED, people=KILLED, deadline_ms=5_000):
        on.platform.control("POST", "faults", fault)

        async def crash(event: Event = event) -> list[Answer]:
            """Kill the process as soon as it waits for that call."""
            pouring = asyncio.create_task(asyncio.to_thread(on.pour, [event], connections=1))
            while on.platform.control("GET", "faults"):
                assert not pouring.done()
                await asyncio.sleep(0.02)  # nothing else tells of it
            await asyncio.to_thread(replica.kill)
            return await pouring

        answers += uvloop.run(crash())
        replica.start()
    unmade = ledger(on.database_url)
    assert {"claimed": KILLED} == Counter(row.state for row in unmade)
    expire(on.database_url)
    answers += on.pour(events(KILLED, people=KILLED, deadline_ms=8_000), insist=True)
    watch.settled(within=30)
    verdict = verify(on, answers, watch=watch, deadline=None)
    assert {"issued": KILLED} == verdict.states
    assert all(row.attempt > 1 for row in ledger(on.database_url))
    assert_one_distribution_each(on, batches=batches)
