"""Days go by: pools are renewed, people come and change, and every link is good while it lives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

import psycopg
import pytest
from msgspec import Struct
from tests.battery.days import Customers, Landing, Milestone, Town, landings, people, town
from tests.battery.days_verdicts import verify
from tests.battery.load import LONG

import milepost

DEMO: Final = Path(milepost.__file__).parent / "demo_data"
WEEK: Final = Path(__file__).parents[3] / "shared" / "data"

STAYING: Final = 14
"""Of so many people one leaves in the end, one a day."""

CUSTOMERS: Final = Customers(at_once=0.08, later=0.15, answering=0.5)

DEFER: Final = {"unknown_registrant": "defer"}

BRIEF: Final = {"link_days": 5, "min_link_days": 2, **DEFER}
"""A pool takes links for three days."""

OFTEN: Final = Milestone(key="often", percent=100, definition={**BRIEF, "slots": 2})
ONCE: Final = Milestone(
    key="once",
    percent=30,
    definition={**BRIEF, "slots": 1, "repeat": "once"},
)
COOL: Final = Milestone(
    key="cool",
    percent=30,
    definition={
        **BRIEF,
        "slots": 1,
        "repeat": {"cooldown_days": 2},
    },
)

AHEAD: Final = Milestone(
    key="ahead",
    percent=40,
    definition={**BRIEF, "slots": 1, "membership": "ahead", "late_data": True},
)


class Course(Struct, frozen=True, kw_only=True):
    """How long, where, and with how many people."""

    days: int
    folder: Path
    people: int | None
    """None: all of them."""
    milestones: tuple[Milestone, ...]
    hours: tuple[int, ...]
    warm: int
    """Days until pools know what people need."""
    generations: int
    """Of distributions, at the least, on the oldest list."""


SHORT: Final = Course(
    days=12,
    folder=DEMO,
    people=14,
    milestones=(OFTEN, ONCE, COOL, AHEAD),
    hours=(12,),
    warm=4,
    generations=5,
)

SIXTY_DAYS: Final = Course(
    days=60,
    folder=WEEK if WEEK.is_dir() else DEMO,
    people=None,
    milestones=(
        Milestone(
            key="often",
            percent=100,
            definition={"link_days": 10, "min_link_days": 3, "slots": 5, "max_slots": 60, **DEFER},
        ),
        Milestone(
            key="ahead",
            percent=15,
            definition={
                "link_days": 10,
                "min_link_days": 3,
                "slots": 2,
                "membership": "ahead",
                "late_data": True,
                **DEFER,
            },
        ),
        Milestone(key="once", percent=10, definition={"slots": 1, "repeat": "once", **DEFER}),
        Milestone(
            key="cool",
            percent=10,
            definition={
                "link_days": 20,
                "min_link_days": 5,
                "slots": 2,
                "repeat": {"cooldown_days": 5},
                **DEFER,
            },
        ),
    ),
    hours=(7, 10, 13, 16, 19, 22),
    warm=8,
    generations=9,
)


@pytest.mark.usefixtures("grants_at_once")
@pytest.mark.parametrize(
    "course",
    [
        pytest.param(SHORT, id="short"),
        pytest.param(SIXTY_DAYS, id="long", marks=LONG),
    ],
)
async def test_no_link_is_short_or_broken_over_many_days(
    database_url: str, tmp_path: Path, course: Course
) -> None:
    """Nor is a slot used against its two rules, or a due time missed, or a pool dry."""
    known, weekdays = crowd(course.folder, course.people)
    async with town(database_url, tmp_path, customers=CUSTOMERS, hours=course.hours) as on:
        for milestone in course.milestones:
            await on.register(milestone)
        gone: set[str] = set()
        for day in range(course.days):
            here = registrants(known, day)
            gone = {row["ref"] for row in on.registrants} - {row["ref"] for row in here} | gone
            landed = weekdays[day % len(weekdays)]
            await on.live([one for one in landed if one.registrant not in gone], registrants=here)
        await on.rest()
        verdict = verify(on, warm=course.warm)
    assert verdict.generations >= course.generations
    assert verdict.lanes["ready"]


def crowd(folder: Path, few: int | None) -> tuple[list[dict[str, str]], list[list[Landing]]]:
    """People, and their landings of each day that there are; of a few, each lands once a day."""
    known, days = people(folder), landings(folder)
    landed = Counter(landing.registrant for day in days for landing in day)
    if few is not None:
        known = [row for row in known if landed[row["ref"]] == 1][:few]
    refs = {row["ref"] for row in known}
    return known, [[one for one in day if one.registrant in refs] for day in days]


def registrants(known: Sequence[Mapping[str, str]], day: int) -> list[dict[str, str]]:
    """Who is in the source on a day: most at once, all after three days; then some leave.

    Some have another name than yesterday.
    """
    found = []
    for number, row in enumerate(known):
        here = number < len(known) * (0.7 + 0.1 * day)
        leaves_on = 5 + number // STAYING if number % STAYING == 0 else None
        if here and (leaves_on is None or day < leaves_on):
            is_renamed = (number + day) % STAYING == 1
            found.append({**row, "first_name": f"New {day}"} if is_renamed else dict(row))
    return found


Mended = Literal["the platform goes back", "a person resumes"]


@pytest.mark.usefixtures("grants_at_once")
@pytest.mark.parametrize(
    ("link_format", "mended"),
    [
        ("2020", "a person resumes"),
        pytest.param("2020", "the platform goes back", marks=LONG),
        pytest.param("unknown", "the platform goes back", marks=LONG),
    ],
)
async def test_no_link_is_given_in_a_format_that_changed_overnight(
    database_url: str, tmp_path: Path, link_format: str, mended: Mended
) -> None:
    """The canary stops the milestones and says why; what waits is made once that is mended."""
    known, (landed,) = crowd(DEMO, 5)
    eager = Customers(at_once=0.3, later=0.3, answering=0.5)
    async with town(database_url, tmp_path, customers=eager) as on:
        for milestone in (OFTEN, AHEAD):
            await on.register(milestone)
        for _ in range(2):
            await on.live(landed, registrants=known)

        on.travel(on.now + timedelta(hours=2))
        listed = [(on.now, on.listing())]
        write_links_as(on, link_format)
        await on.live(landed, registrants=known)
        waiting = [told for told in on.told.values() if told.day == 2 and told.url is not None]
        assert {("waiting", "deferred", "route-stopped")} == {
            (told.state, told.lane, told.rule) for told in waiting
        }
        for milestone in (OFTEN, AHEAD):
            stop = (await on.call("GET", f"/v1/milestones/{milestone.key}"))["stopped"]
            assert stop["because"]
            assert stop["expected"] != stop["found"]

        if mended == "a person resumes":
            for milestone in (OFTEN, AHEAD):
                await on.call("POST", f"/v1/milestones/{milestone.key}/resume")
                await on.work()
        else:
            write_links_as(on, "2023")
        await on.live(landed, registrants=known)
        await on.rest()
        verify(on, warm=4, listed=listed if mended == "a person resumes" else [], stops=True)


def write_links_as(on: Town, link_format: str) -> None:
    """Let the platform write links in another format from now on."""
    on.platform.control("PUT", "settings", {"facts": {"link_format": link_format}})


LIES: Final = (
    ("milestones SET min_link_days = {}", "4", "2", "lives for `min_link_days`"),
    (
        "links SET expires_at = expires_at + make_interval(days => {}) WHERE state = 'issued'",
        "1",
        "-1",
        "expires when the platform says",
    ),
    ("links SET url = {}", "url || '#'", "rtrim(url, '#')", "the one that the platform lists"),
    ("links SET event_id = {}", "'-' || event_id", "substr(event_id, 2)", "a row for each event"),
    ("links SET lookup_id = {}", "reverse(lookup_id)", "reverse(lookup_id)", "was issued there"),
    ("distributions SET state = {}", "'draining'", "'ready'", "what takes no links let go"),
)
"""What is written into the ledger instead of the truth, and what the verdict says of it."""


@pytest.mark.battery
@pytest.mark.usefixtures("grants_at_once")
async def test_what_is_wrong_with_days_is_found(database_url: str, tmp_path: Path) -> None:
    """The ledger tells a lie of each kind; what callers and people saw does not fit it then."""
    known, (landed,) = crowd(DEMO, 5)
    everybody = Customers(at_once=1, later=0, answering=0)
    async with town(database_url, tmp_path, customers=everybody) as on:
        await on.register(OFTEN)
        for _ in range(2):
            await on.live(landed, registrants=known)
        verify(on, warm=4)
        for statement, lie, truth, found in LIES:
            with psycopg.connect(database_url, autocommit=True) as database:
                database.execute(f"UPDATE {statement.format(lie)}".encode())
                with pytest.raises(AssertionError, match=found):
                    verify(on, warm=4)
                database.execute(f"UPDATE {statement.format(truth)}".encode())
        on.runs = [run for run in on.runs if run.job != "sync"]
        on.registrants = [{**row, "first_name": "Nobody"} for row in known]
        with pytest.raises(AssertionError) as caught:
            verify(on, warm=4)
    for found in ("sync once a day", "a contact for each registrant"):
        assert found in str(caught.value)
