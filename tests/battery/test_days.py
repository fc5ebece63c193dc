"""Days go by: pools are renewed, people come and change, and every link is good while it lives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest
from msgspec import Struct
from tests.battery.days import Customers, Milestone, landings, people, town, verify

import milepost

DEMO: Final = Path(milepost.__file__).parent / "demo_data"
WEEK: Final = Path(__file__).parents[3] / "shared" / "data"

CUSTOMERS: Final = Customers(at_once=0.1, later=0.2, answering=0.5)

BRIEF: Final = {"link_days": 5, "min_link_days": 2}
"""A pool takes links for three days."""

OFTEN: Final = Milestone(
    key="often", percent=100, definition={**BRIEF, "slots": 2, "unknown_registrant": "defer"}
)
ONCE: Final = Milestone(
    key="once",
    percent=30,
    definition={**BRIEF, "slots": 1, "repeat": "once", "unknown_registrant": "defer"},
)
COOL: Final = Milestone(
    key="cool",
    percent=30,
    definition={
        **BRIEF,
        "slots": 1,
        "repeat": {"cooldown_days": 2},
        "unknown_registrant": "defer",
    },
)


class Course(Struct, frozen=True, kw_only=True):
    """How long, where, and with how many people."""

    days: int
    folder: Path
    people: int | None
    """None: all of them."""
    milestones: tuple[Milestone, ...]
    warm: int


SHORT: Final = Course(days=12, folder=DEMO, people=25, milestones=(OFTEN, ONCE, COOL), warm=4)


@pytest.mark.usefixtures("grants_at_once")
@pytest.mark.parametrize("course", [pytest.param(SHORT, id="short")])
async def test_no_link_is_short_or_broken_over_many_days(
    database_url: str, tmp_path: Path, course: Course
) -> None:
    """Nor is a slot used against its two rules, or a due time missed, or a pool dry."""
    known = people(course.folder)[: course.people]
    refs = {row["ref"] for row in known}
    weekdays = [[one for one in day if one.registrant in refs] for day in landings(course.folder)]
    async with town(database_url, tmp_path, customers=CUSTOMERS) as on:
        for milestone in course.milestones:
            await on.register(milestone)
        for day in range(course.days):
            await on.live(weekdays[day % len(weekdays)], registrants=list(grown(known, day)))
        verdict = verify(on, warm=course.warm)
    assert verdict.generations >= course.days // 3


def grown(known: Sequence[Mapping[str, str]], day: int) -> Iterator[dict[str, str]]:
    """Who is known on a day: more every day, and some with another name than yesterday."""
    for number, row in enumerate(known):
        if number < len(known) * (0.7 + 0.1 * day):
            married = (
                f"{row['first_name']} {day}" if (number + day) % 20 == 0 else row["first_name"]
            )
            yield {**row, "first_name": married}
