"""Calls whose outcome nobody knows: no link is made twice, and none stays in doubt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest
from msgspec import Struct
from tests.battery.load import LONG, Installation, events
from tests.battery.verdicts import Journal, Watch, verify

KINDS = ("timeout", "reset", "html", "truncated", "without_result", "status")
"""What the caller of an accepted call gets instead of its answer."""

SHARE = 0.2
"""Of accepted calls that are answered so."""


class Doubt(Struct, frozen=True):
    """So many adds, a fifth of them without an answer."""

    events: int
    per_minute: int
    silence: float
    """Seconds that a timeout is silent before the connection ends."""
    resolved_within: float


@pytest.mark.parametrize("dedup", ["on", "off"])
@pytest.mark.parametrize(
    "doubt",
    [
        pytest.param(Doubt(240, 3_000, 0.5, 60), id="short"),
        pytest.param(Doubt(5_000, 3_000, 15, 300), id="long", marks=LONG),
    ],
)
def test_a_call_in_doubt_is_never_made_twice(
    install: Callable[..., Installation], watch: Watch, doubt: Doubt, dedup: str
) -> None:
    """Whoever takes it up asks before it adds; at the end each link is issued, and there once.

    Where the directory recognises people, an add may be repeated, since it meets the same contact
    and the same lookup id. Where it does not, a second add would be a second person.
    """
    on = install(
        people=doubt.events,
        slots=1,
        platform=("--limits", "none", "--dedup", dedup),
        settings={"RATE_PER_MINUTE": "100000", "LIMITS": "none"},
    )
    chance = 1 - (1 - SHARE) ** (1 / len(KINDS))
    for kind in KINDS:
        fault = {"kind": kind, "moment": "after", "call_class": "list_contacts"}
        fault |= {"probability": chance, "seconds": doubt.silence}
        on.platform.control("POST", "faults", fault)
    answers = on.pour(
        events(doubt.events, people=doubt.events), connections=200, per_minute=doubt.per_minute
    )
    watch.settled(within=doubt.resolved_within)
    struck = sum(fault["struck"] for fault in on.platform.control("GET", "faults"))
    assert struck > doubt.events * SHARE / 2
    verdict = verify(on, answers, watch=watch, extra_writes=struck if dedup == "on" else 0)
    assert {201: doubt.events} == verdict.statuses
    assert {"issued": doubt.events} == verdict.states
    assert_once(Journal.read(on.platform.journal), doubt.events)


def assert_once(journal: Journal, people: int) -> None:
    """Every person is one contact at the platform, with one membership."""
    contacts: dict[str, set[str]] = defaultdict(set)
    memberships: dict[str, set[str]] = defaultdict(set)
    for write in journal.writes:
        contacts[write.ref].add(write.contact)
        memberships[write.ref].add(write.lookup)
    assert people == len(contacts)
    for what, made in (("contact", contacts), ("membership", memberships)):
        double = [ref for ref, ids in made.items() if len(ids) > 1]
        assert not double, f"expected: one {what} for each of {people} people; came: {len(double)} "
        f"with more, such as {double[:3]}"
