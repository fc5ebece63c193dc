"""The platform away for a whole run: every event is answered, and made good afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import pytest
from msgspec import Struct
from tests.battery.load import LONG, Installation, events
from tests.battery.verdicts import Journal, Watch, ledger, verify

IN_FLIGHT = {"frozen": 200, "refusing": 64}
"""Links that may come before a clicked one, at the most: what sets out in the moment of the return
(32 calls at once, by two jobs), and what a platform that was only frozen had taken in: 100 calls,
then one every two seconds to find out whether it is back. It does them when it thaws."""


class Outage(Struct, frozen=True):
    """The platform away while so many events come."""

    events: int
    per_minute: int
    clicked: int
    """How many of their owners open their short URL while the platform is away."""
    calls_per_minute: int
    true_within: float
    """Seconds from its return on."""


@pytest.mark.parametrize("form", ["frozen", pytest.param("refusing", marks=LONG)])
@pytest.mark.parametrize(
    "outage",
    [
        pytest.param(Outage(400, 12_000, 20, 6_000, 40), id="short"),
        pytest.param(Outage(20_000, 18_000, 300, 6_000, 600), id="long", marks=LONG),
    ],
)
def test_an_outage_delays_links_and_no_caller(
    install: Callable[..., Installation],
    watch: Watch,
    outage: Outage,
    form: Literal["frozen", "refusing"],
) -> None:
    """Whether it takes calls and is silent, or refuses connections: all get a URL in time.

    When it is back all links settle, those first whose owner has asked for theirs meanwhile.
    """
    rate = str(outage.calls_per_minute)
    on = install(
        people=outage.events // 2,
        slots=4,
        platform=("--limits", "none", "--rate-per-minute", rate),
        settings={"RATE_PER_MINUTE": rate, "LIMITS": "none"},
    )
    if form == "frozen":
        on.platform.freeze()
    else:
        on.platform.kill()
    sent = events(outage.events, people=outage.events // 2)
    answers = on.pour(sent, connections=600, per_minute=outage.per_minute)
    # The last ones: whoever goes by age alone would make them last.
    urls = {answer.event_id: answer.link.url for answer in answers}
    clicked = [urls[event.event_id] or "" for event in sent[-outage.clicked :]]
    pages = on.click(clicked)
    watch.forget()
    back = time.time()
    if form == "frozen":
        on.platform.thaw()
    else:
        on.platform.start()
    watch.settled(within=outage.true_within)
    verdict = verify(
        on,
        answers,
        watch=watch,
        extra_writes=IN_FLIGHT[form] if form == "frozen" else 0,
        throttled=3,
    )
    assert {"deferred": outage.events} == verdict.lanes
    assert {201: outage.events} == verdict.statuses
    assert {"issued": outage.events} == verdict.states
    assert {None} == {page.headers.get("location") for page in pages.values()}
    assert_clicked_came_first(on, set(clicked), back, IN_FLIGHT[form])


def assert_clicked_came_first(on: Installation, clicked: set[str], back: float, slack: int) -> None:
    """By the order in the platform's journal, from its return on."""
    short = {row.id: row.short_url for row in ledger(on.database_url)}
    order = [short[link] for link in Journal.read(on.platform.journal).firsts(since=back)]
    ranks = sorted(rank for rank, url in enumerate(order, 1) if url in clicked)
    assert len(clicked) == len(ranks), "every clicked link is made after the return"
    others_before = ranks[-1] - len(clicked)
    assert others_before <= slack, (
        f"expected: the {len(clicked)} clicked links before all others but {slack}; came: "
        f"{others_before} others before the last of them, of {len(order)} links; "
        f"the median clicked one was number {ranks[len(ranks) // 2]}"
    )
