"""Calendars: when a job is due, in whichever zone, also in the nights in which clocks are set."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import given
from hypothesis import strategies as st

from milepost.calendars import MOST_COUNTED, Always, At, Calendar, Due, Every

SECOND = timedelta(seconds=1)
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",  # sets its clock at midnight
    "Australia/Lord_Howe",  # by half an hour
    "Asia/Kathmandu",
    "Pacific/Apia",
)
LINES = (
    *("30 2 * * *", "0 0 * * *", "59 23 * * *", "10,50 2,3 * * *", "*/20 1-3 * * *"),
    *("7 * * * *", "0 3 * * 0", "15 4 1 * *"),
)

CHANGES = (
    datetime(2026, 3, 29, 1, tzinfo=UTC),  # Berlin, forward and back
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 3, 8, 5, tzinfo=UTC),  # Havana and New York
    datetime(2026, 11, 1, 5, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),  # Lord Howe
    datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
    datetime(2026, 7, 1, tzinfo=UTC),  # nowhere
)
"""Moments at which clocks are set."""

zones = st.sampled_from(ZONES)
moments = st.builds(
    lambda change, before: change - before,
    st.sampled_from(CHANGES),
    st.timedeltas(timedelta(0), timedelta(hours=30)),
)
lines = st.builds(At.parse, st.sampled_from(LINES), zones)
calendars = lines | st.builds(Every, st.sampled_from([900, 3600, 86_400]))


def following(calendar: Calendar, since: datetime, until: datetime) -> Iterator[datetime]:
    """The due times after the one moment and up to the other, one after the other."""
    while (due := calendar.following(since)) is not None and due <= until:
        yield due
        since = due


@given(zones, moments, st.integers(0, 23), st.integers(0, 59))
def test_a_line_for_once_a_day_is_due_once_each_day(
    zone: str, since: datetime, hour: int, minute: int
) -> None:
    """On the days on which the clock is set, too; and it shows that time, if it ever does."""
    calendar = At.parse(f"{minute} {hour} * * *", zone)
    here = ZoneInfo(zone)
    first = since.astimezone(here).date() + timedelta(days=1)
    days = [first + timedelta(days=n) for n in range(20)]
    midnight = datetime.combine(first, datetime.min.time(), here)
    until = datetime.combine(days[-1], datetime.max.time(), here)
    found = [due.astimezone(here) for due in following(calendar, midnight - SECOND, until)]
    assert days == [due.date() for due in found]
    for due in found:
        before = due - timedelta(hours=2)
        is_usual = before.utcoffset() == (due + timedelta(hours=2)).utcoffset()
        assert not is_usual or (hour, minute) == (due.hour, due.minute)


@given(calendars, moments, st.lists(st.timedeltas(timedelta(0), timedelta(days=2)), max_size=8))
def test_no_due_time_is_missed_or_comes_twice_however_often_one_looks(
    calendar: Calendar, since: datetime, steps: list[timedelta]
) -> None:
    """What several looks see one after the other, is what one look at the whole time sees."""
    until = since + sum(steps, timedelta(0))
    expected = [*following(calendar, since, until)]
    seen: list[datetime] = []
    accounted, now = since, since
    for step in steps:
        now += step
        due = calendar.between(accounted, now)
        if due is not None:
            stood_for = [*following(calendar, accounted, due.at)]
            assert Due(stood_for[-1], len(stood_for) - 1) == due
            seen += stood_for
            accounted = due.at
    assert expected == seen


@pytest.mark.parametrize(
    ("line", "zone", "day", "expected"),
    [
        ("30 2 * * *", "Europe/Berlin", date(2026, 3, 29), ["01:00"]),  # never shown: 03:00 there
        ("30 2 * * *", "Europe/Berlin", date(2026, 10, 25), ["00:30"]),  # shown twice: the first
        ("*/30 2 * * *", "Europe/Berlin", date(2026, 3, 29), ["01:00"]),
        ("*/30 2,3 * * *", "Europe/Berlin", date(2026, 3, 29), ["01:00", "01:30"]),
        ("*/30 2 * * *", "Europe/Berlin", date(2026, 10, 25), ["00:00", "00:30"]),
        ("15 * * * *", "Europe/Berlin", date(2026, 10, 25), ["00:15", "02:15"]),
        ("10,35 2 * * *", "Australia/Lord_Howe", date(2026, 10, 4), ["15:30", "15:35"]),
        ("30 2 * * *", "America/New_York", date(2026, 3, 8), ["07:00"]),
    ],
)
def test_the_nights_in_which_the_clock_is_set(
    line: str, zone: str, day: date, expected: list[str]
) -> None:
    """What is never shown is due when the clock jumps, what is shown twice at the first time."""
    here = ZoneInfo(zone)
    begin = datetime.combine(day, datetime.min.time(), here).replace(hour=1, minute=45)
    end = begin.replace(hour=4)
    found = following(At.parse(line, zone), begin.astimezone(UTC), end.astimezone(UTC))
    assert expected == [f"{due:%H:%M}" for due in found][: len(expected)]


@pytest.mark.parametrize(
    ("weekdays", "expected"),
    [
        ("0", "sun"),
        ("7", "sun"),
        ("1", "mon"),
        ("1-5", "mon tue wed thu fri"),
        ("5-7", "sun fri sat"),
        ("*/2", "sun tue thu sat"),
        ("1-5/2", "mon wed fri"),
        ("6,0", "sun sat"),
        ("sat,sun", "sun sat"),
        ("Mon-Wed", "mon tue wed"),
    ],
)
def test_weekdays_are_those_of_crontab(weekdays: str, expected: str) -> None:
    """0 and 7 are Sunday, whatever APScheduler counts."""
    sunday = datetime(2026, 11, 1, tzinfo=UTC)
    calendar = At.parse(f"0 12 * * {weekdays}", "UTC")
    found = [f"{due:%a}".lower() for due in following(calendar, sunday, sunday + timedelta(days=7))]
    assert expected.split() == found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "0 fields"),
        ("30 2 * *", "4 fields"),
        ("@daily", "1 fields"),
        ("60 2 * * *", "60"),
        ("0 0 30 2 *", "no such day"),
        ("0 0 1 * 1", "a day of the month and one of the week"),
        ("0 0 * * 8", "weekdays from 0 to 7"),
        ("0 0 * * 5-2", "weekdays from 0 to 7"),
        ("0 0 * * */0", "weekdays from 0 to 7"),
        ("0 0 * * so", "so"),
    ],
)
def test_what_is_no_crontab_line_is_refused(line: str, said: str) -> None:
    """And one that names no day that there is, or that others read otherwise."""
    with pytest.raises(ValueError, match=said):
        At.parse(line, "UTC")


def test_a_long_absence_is_made_up_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody walks through years of minutes: the last is found, and so many are counted."""
    looked_at: list[datetime] = []
    following = CronTrigger.get_next_fire_time

    def counted(self: CronTrigger, last: datetime | None, wall: datetime) -> datetime | None:
        """Look for one more."""
        looked_at.append(wall)
        following_it: datetime | None = following(self, last, wall)
        return following_it

    monkeypatch.setattr(CronTrigger, "get_next_fire_time", counted)
    now = datetime(2026, 11, 26, 12, 0, 30, tzinfo=UTC)
    minutes = At.parse("* * * * *", "Europe/Berlin")
    due = minutes.between(now - timedelta(days=3_000), now)
    assert Due(now.replace(second=0), MOST_COUNTED) == due
    assert len(looked_at) < 1_100
    yearly = At.parse("0 0 1 1 *", "UTC")
    since = datetime(2024, 6, 1, tzinfo=UTC)
    assert Due(datetime(2026, 1, 1, tzinfo=UTC), 1) == yearly.between(since, now)
    assert None is yearly.between(datetime(2026, 1, 1, tzinfo=UTC), now)


def test_what_never_ends_has_no_run_that_is_due() -> None:
    """It is due all the time, so that it is late as soon as nobody is at it."""
    now = datetime(2026, 11, 26, tzinfo=UTC)
    assert (None, now) == (Always().between(now, now + SECOND), Always().following(now))


@pytest.mark.parametrize(
    ("calendar", "words"),
    [
        (Always(), "always"),
        (Every(30), "every 30 s"),
        (Every(120), "every 2 min"),
        (At("30 2 * * *", "Europe/Berlin"), "every day at 02:30 (Europe/Berlin)"),
        (At("7 * * * *", "UTC"), "every hour at :07"),
        (At("0 3 * * 1", "UTC"), "crontab 0 3 * * 1 (UTC)"),
        (At("*/5 * * * *", "UTC"), "every 5 min"),
        (At("*/7 * * * *", "UTC"), "crontab */7 * * * * (UTC)"),
    ],
)
def test_a_calendar_says_itself_in_words(calendar: Calendar, words: str) -> None:
    """For people who look at the jobs."""
    assert words == str(calendar)
