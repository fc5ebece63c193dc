"""Route `stepwise` in the long: processes that die after each of its calls."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest
from tests.battery.load import LONG, Installation, Replica, events
from tests.battery.test_crashes import UNLIMITED, assert_crashes_lose_nothing
from tests.battery.verdicts import Watch, ledger

from milepost.model import Route

RESOLVED_SECONDS: Final = 150.0
"""From a crash until all is settled: the lease, and where a transaction may have been lost three
looks over a minute."""


def distributions(on: Installation) -> list[tuple[str, str]]:
    """The link that each accepted distribution names, and the batch on which it stands."""
    entries: list[dict[str, Any]] = [
        json.loads(line) for line in on.platform.journal.read_text().splitlines()
    ]
    return [
        (entry["body"]["description"].split()[-1], entry["ids"]["batch"])
        for entry in entries
        if entry["operation"] == "distribution.create"
    ]


@pytest.mark.parametrize(
    "failpoint",
    [
        pytest.param(trigger, marks=LONG, id=trigger)
        for trigger in (
            "claimed=kill@20",
            "joined=kill@5",
            "stepped=kill#transaction of",
            "stepped=kill#batch of",
            "stepped=kill#distribution of",
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
    """
    count = 900
    on = install(
        people=count,
        route=Route.STEPWISE,
        at_home=not failpoint.startswith("joined"),
        platform=("--limits", "none", "--latency-ms", "50"),
        settings=UNLIMITED,
    )
    doomed = arm(on, failpoint, "--no-worker")
    sent = events(count, people=count, deadline_ms=5_000)

    assert_crashes_lose_nothing(
        on, doomed, sent, per_minute=1_200, watch=watch, within=RESOLVED_SECONDS
    )
    made = Counter(link for link, _ in distributions(on))
    assert {str(row.id): 1 for row in ledger(on.database_url)} == made
    batches = [batch for _, batch in distributions(on)]
    assert len(batches) == len(set(batches))
