"""Links that go out before their calls: whoever dies in between, the platform learns of all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import pytest
import uvloop
from msgspec import Struct
from tests.battery.load import LONG, Answer, Installation, Replica, events
from tests.battery.test_crashes import TAKEOVER_SECONDS, UNLIMITED, revive
from tests.battery.verdicts import Watch, ledger, verify

from milepost.failpoints import Failpoint
from milepost.jobs.flow import AT_ONCE


class Killing(Struct, frozen=True):
    """So many crashes at each failpoint while so many events come."""

    events: int
    per_minute: int
    crashes: int
    passage: int
    """The one that a process does not survive."""
    failpoints: tuple[Failpoint, ...]
    is_hasty: bool = False
    """Leases run out in the ledger instead of on the clock."""


@pytest.mark.parametrize(
    "killing",
    [
        pytest.param(Killing(100, 3_000, 1, 5, ("claimed", "made"), is_hasty=True), id="short"),
        pytest.param(
            Killing(10_000, 6_000, 5, 100, ("settled", "claimed", "made")),
            id="long",
            marks=LONG,
        ),
    ],
)
def test_data_follow_whoever_dies_in_between(
    install: Callable[..., Installation],
    watch: Watch,
    arm: Callable[..., Replica],
    killing: Killing,
) -> None:
    """After the claim, before the call that tells them, and before it is written down.

    What was told and not written down is told again, the same, and overwrites nobody's.
    """
    count = killing.events
    on = install(people=count, slots=1, membership="ahead", late_data=True, settings=UNLIMITED)
    doomed = [arm(on, f"{name}=kill@{killing.passage}") for name in killing.failpoints]
    sent = events(count, people=count)

    async def scenario() -> list[Answer]:
        """The crashes, and what the callers saw."""
        async with asyncio.TaskGroup() as group:
            for replica in doomed:
                group.create_task(revive(replica, killing.crashes, on.database_url))
            return await asyncio.to_thread(
                on.pour, sent, per_minute=killing.per_minute, insist=True
            )

    answers = uvloop.run(scenario())
    if killing.is_hasty:
        expire(on.database_url)
    watch.settled(within=2 * TAKEOVER_SECONDS)
    answers += on.pour(sent, insist=True)

    crashes = killing.crashes * len(doomed)
    verdict = verify(on, answers, watch=watch, deadline=None, extra_writes=crashes * AT_ONCE)
    assert {"issued": count} == verdict.states
    rows = ledger(on.database_url)
    assert {"ready"} == {row.lane for row in rows}
    assert any(row.attempt > 1 for row in rows)


def expire(database_url: str) -> None:
    """Let all data whose teller has died be free for others."""
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE links SET data_due_at = now() WHERE data_due_at IS NOT NULL")
