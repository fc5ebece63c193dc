"""The same events and the same people at once, over 200 connections, on two replicas."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Final

import pytest
from tests.battery.load import LONG, Installation, events, ref_of
from tests.battery.verdicts import Watch, ledger, verify

from milepost.model import Cooldown, Quiet

UNLIMITED: Final = {"RATE_PER_MINUTE": "1000000", "LIMITS": "none"}
CONNECTIONS: Final = 200

PATIENT_MS: Final = 8_000
"""The longest deadline: an answer that waits for another request's call has time to be the same."""


@pytest.mark.parametrize("requests", [400, pytest.param(10_000, marks=LONG)], ids=str)
def test_one_event_is_one_link(
    install: Callable[..., Installation], watch: Watch, requests: int
) -> None:
    """One `event_id` in all requests; then each of a tenth as many in ten of them, all mixed."""
    ids = requests // 10
    installation = install(people=ids, replicas=2, settings=UNLIMITED)
    one = events(1, people=1, prefix="one", deadline_ms=PATIENT_MS) * requests
    answers = installation.pour(one, connections=CONNECTIONS)
    assert {201: 1, 200: requests - 1} == Counter(answer.status for answer in answers)
    assert 1 == len({(answer.link.id, answer.link.url) for answer in answers})
    assert 1 == installation.platform.calls()["calls"]

    ten = events(ids, people=ids, prefix="ten", deadline_ms=PATIENT_MS) * 10
    random.Random(ids).shuffle(ten)  # noqa: S311  (it is to be the same at each run)
    answers += installation.pour(ten, connections=CONNECTIONS)
    assert {201: 1 + ids, 200: 2 * requests - 1 - ids} == Counter(
        answer.status for answer in answers
    )
    assert 1 + ids == len({(answer.link.id, answer.link.url) for answer in answers})
    assert 1 + ids == installation.platform.calls()["calls"]

    verdict = verify(installation, answers, watch=watch, deadline=PATIENT_MS / 1000)
    assert {"direct": 2 * requests} == verdict.lanes
    assert {"issued": 1 + ids} == verdict.states


POLICIES: Final[Mapping[str, Mapping[str, object]]] = {
    "once": {"repeat": "once"},
    "cooldown": {"repeat": Cooldown(30)},
    "quiet": {"quiet": Quiet(1, 30)},
}


@pytest.mark.parametrize("people", [150, pytest.param(5_000, marks=LONG)], ids=str)
@pytest.mark.parametrize(
    "policy",
    ["once", *(pytest.param(policy, marks=LONG) for policy in POLICIES if policy != "once")],
)
def test_one_link_for_each_person(
    install: Callable[..., Installation], watch: Watch, policy: str, people: int
) -> None:
    """Two events of each person arrive together, and the policy allows one link."""
    installation = install(people=people, replicas=2, settings=UNLIMITED, **POLICIES[policy])
    both = events(2 * people, people=people, deadline_ms=PATIENT_MS)
    together = [event for pair in zip(both[:people], both[people:], strict=True) for event in pair]
    answers = installation.pour(together, connections=CONNECTIONS)

    assert {201: 2 * people} == Counter(answer.status for answer in answers)
    assert people == installation.platform.calls()["calls"]
    rows = ledger(installation.database_url)
    urls = defaultdict(set)
    for row in rows:
        if row.state == "issued":
            urls[row.ref].add(row.answered)
    assert {ref_of(n): 1 for n in range(people)} == {ref: len(of) for ref, of in urls.items()}
    became = Counter((row.state, row.rule) for row in rows)
    other = ("issued", "once") if policy == "once" else ("suppressed", policy)
    assert {("issued", None): people, other: people} == became
    verify(installation, answers, watch=watch, deadline=PATIENT_MS / 1000)
