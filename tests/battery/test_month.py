"""A month of links: what is counted is what happened, and what is flagged is what was planted."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest
from msgspec import Struct
from tests.battery.days import NOBODY, Milestone, town
from tests.battery.load import LONG
from tests.battery.month import EVENTS_KEY, Month, Postman
from tests.battery.month_verdicts import verify
from tests.battery.test_days import DEMO, WEEK, crowd

from milepost.model import DriftKind
from milepost.payload import REFERENCE_FIELD

log = logging.getLogger(__name__)

DEFER: Final = {"unknown_registrant": "defer"}


def landed(percent: int, **definition: object) -> Milestone:
    """Personal links of a list: `direct`, unless the definition says otherwise."""
    return Milestone(key="landed", percent=percent, definition={**DEFER, **definition})


def boarded(percent: int, **definition: object) -> Milestone:
    """Personal links of transactions."""
    return Milestone(key="boarded", percent=percent, definition={**DEFER, **definition})


def lounge(percent: int, **definition: object) -> Milestone:
    """Plain links, of four events out of five."""
    plain = {"route": "anonymous", "sample_percent": 80}
    return Milestone(key="lounge", percent=percent, definition={**DEFER, **plain, **definition})


BRIEF: Final = {"link_days": 6, "min_link_days": 2, "slots": 8, "max_slots": 60}
"""A pool takes links for four days, so that it is renewed several times in a month."""
AHEAD: Final = {"membership": "ahead", "late_data": True}
SHORT_URLS: Final = {"lanes": ["deferred"]}
STEPWISE: Final = {"route": "stepwise", "repeat": "once"}
TRANSACTION: Final = {"route": "transaction", "repeat": {"cooldown_days": 1}}


class Course(Struct, frozen=True, kw_only=True):
    """How long, where, with how many people, and what milestones are from a day on."""

    days: int
    folder: Path
    people: int | None
    """None: all of them."""
    later_days: float
    schedule: str
    """Of jobs that are due at other times than usual."""
    hours: tuple[int, ...]
    milestones: Mapping[int, Sequence[Milestone]]
    meddled: int
    """The day on which somebody meddles with lists."""
    events: int
    """At the least."""


SHORT: Final = Course(
    days=3,
    folder=DEMO,
    people=60,
    later_days=0.4,
    schedule='{"canary": "30 4 1 * *"}',
    hours=(4,),
    milestones={
        0: (landed(80, slots=3, **AHEAD), boarded(10, **STEPWISE), lounge(80)),
        1: (landed(80, slots=3), boarded(80, **TRANSACTION)),
        2: (landed(80, slots=3, **SHORT_URLS),),
    },
    meddled=1,
    events=300,
)

THIRTY_DAYS: Final = Course(
    days=30,
    folder=WEEK if WEEK.is_dir() else DEMO,
    people=None,
    later_days=4,
    schedule="{}",
    hours=(0, 9, 23),
    milestones={
        0: (landed(61, **BRIEF, **AHEAD), boarded(3, **STEPWISE), lounge(64)),
        3: (boarded(64, **BRIEF, **TRANSACTION),),
        10: (landed(61, **BRIEF),),
        20: (landed(61, **BRIEF, **SHORT_URLS),),
    },
    meddled=0,
    events=50_000,
)


OF_A_RESTORE: Final = {DriftKind.LOST_EVENT.value}
"""What is flagged of a ledger that was restored, and of no other."""


@asynccontextmanager
async def lived(database_url: str, folder: Path, course: Course) -> AsyncIterator[Month]:
    """A month at its end."""
    known, weekdays = crowd(course.folder, course.people)
    async with (
        Postman() as postman,
        town(
            database_url,
            folder,
            customers=NOBODY,
            hours=course.hours,
            settings={"EVENTS_KEY": EVENTS_KEY, "SCHEDULE": course.schedule},
        ) as on,
    ):
        on.platform.control("PUT", "settings", {"declared_fields": [REFERENCE_FIELD]})
        on.write(known)
        month = Month(on, postman, course.later_days)
        await month.subscribe()
        for day in range(course.days):
            milestones = course.milestones.get(day, ())
            await month.live(weekdays[day % len(weekdays)], milestones=milestones)
            if day == course.meddled:
                month.meddle(3)
        await month.rest()
        yield month


@pytest.mark.usefixtures("grants_at_once")
@pytest.mark.parametrize(
    "course", [pytest.param(SHORT, id="short"), pytest.param(THIRTY_DAYS, id="long", marks=LONG)]
)
async def test_what_is_counted_is_what_happened(
    database_url: str, tmp_path: Path, course: Course
) -> None:
    """To the last response; and each that is not the link's own is flagged, and nothing else is."""
    begun = time.monotonic()
    async with lived(database_url, tmp_path, course) as month:
        verdict = await verify(month)
    log.info("%s in %.0f s", verdict, time.monotonic() - begun)
    assert verdict.events >= course.events
    assert {"ready", "direct", "deferred"} <= verdict.lanes.keys()
    assert {kind.value for kind in DriftKind} - OF_A_RESTORE == verdict.planted.keys()
    assert {"boarded": 1, "landed": 1, "lounge": 0} == verdict.reconciled
    assert all(verdict.letters[fate] for fate in ("brought", "lost", "delayed"))


LIES: Final = (
    ("links SET response_id = reverse(response_id)", "each link as what became of it"),
    ("funnel SET finished = -finished", "each figure of each funnel"),
    ("drift SET response_id = reverse(response_id)", "each plant flagged as what it is"),
    ("drift SET lookup_id = reverse(lookup_id)", "nothing flagged but what was planted"),
    ("drift SET rule = reverse(rule)", "each plant flagged with its link"),
    (
        "drift SET settled_at = CASE WHEN settled_at IS NULL THEN first_seen_at END",
        "no false alarm that went by itself",
    ),
)
"""What is written into the ledger instead of the truth, and what the verdict says of it. Done twice
it is the truth again."""


@pytest.mark.battery
@pytest.mark.usefixtures("grants_at_once")
async def test_what_is_wrong_with_a_month_is_found(database_url: str, tmp_path: Path) -> None:
    """The ledger tells a lie of each kind; then what the platform says of itself is not so."""
    async with lived(database_url, tmp_path, SHORT) as month:
        await verify(month)
        for statement, found in LIES:
            with psycopg.connect(database_url, autocommit=True) as database:
                database.execute(f"UPDATE {statement}".encode())
                with pytest.raises(AssertionError, match=found):
                    await verify(month)
                database.execute(f"UPDATE {statement}".encode())
        session = month.answered.pop()
        with pytest.raises(AssertionError, match="each that was sent off"):
            await verify(month)
        month.answered.append(session)
        month.plants.pop(next(iter(month.sessions.keys() & month.plants.keys())))
        with pytest.raises(AssertionError, match="each response what it was meant to be"):
            await verify(month)
