"""What a month came to: what Milepost counts and flags, held against what happened.

What happened is known from two sides, and neither is Milepost: callers and customers remember what
they were told and what they did, and the platform counts its own sessions and responses. First
these two must agree. Then all must be what they say: each link of the ledger, each figure of each
funnel on each day, and the list of what differs.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import class_row
from tests.battery.days import BEGINS
from tests.battery.load import peak_kb
from tests.battery.month import Link, Month

from milepost.payload import REFERENCE_FIELD
from milepost.personal_link import parse

log = logging.getLogger(__name__)

EXAMPLES: Final = 5

FIGURES: Final = ("requested", "eligible", "issued", "delivered", "clicked", "started", "finished")
"""Of a funnel, in their order."""

RULES: Final[Mapping[str, Collection[str | None]]] = {
    "second-response": {None},
    "early-response": {"no-reference"},
    "foreign-response": {"other-registrant", "other-link", "personal-link"},
    "other-milestone": {"other-registrant", "other-link", "personal-link"},
}
"""Why what was planted at a personal link, or sent off twice, is not of the link that it names."""

Place = tuple[str | None, str | None]
"""A personal link, by its distribution and recipient; (None, None) is the plain one."""


class Session(Struct, frozen=True):
    """A visit to the survey, as the platform has it."""

    id: str
    data: dict[str, str]
    started_at: datetime
    distribution: str | None
    recipient: str | None
    completed_at: datetime | None
    response: str | None

    @property
    def place(self) -> Place:
        """By which link it came."""
        return self.distribution, self.recipient


class _Page(Struct):
    last: int
    sessions: list[Session]


def sessions(month: Month) -> list[Session]:
    """All visits that the platform has seen."""
    found: list[Session] = []
    while True:
        told = month.on.platform.control("GET", f"sessions?after={len(found)}")
        page = msgspec.convert(told, _Page)
        found += page.sessions
        if len(found) == page.last:
            return found


class Became(Struct, frozen=True):
    """What became of a link."""

    clicked: bool = False
    started: bool = False
    response: str | None = None


class Verdict(Struct, frozen=True, kw_only=True):
    """What a month came to, in numbers."""

    days: int
    events: int
    lanes: dict[str, int]
    rules: dict[str, int]
    deeds: dict[str, int]
    letters: dict[str, int]
    sessions: int
    responses: int
    planted: dict[str, int]
    calls: dict[str, int]
    """By call class."""
    runs: dict[str, int]
    seconds: dict[str, int]
    """That jobs took, one after the other."""
    memory_mb: dict[str, int]
    """The most that each process held; two Mileposts run in that of the test."""
    funnel: Mapping[str, Mapping[str, int]]
    reconciled: Mapping[str, float | None]
    """Of how many issued links the funnel says that the platform was asked."""


async def verify(month: Month) -> Verdict:
    """Hold what Milepost counts and flags against what happened, and tell all that differs.

    Raises:
        AssertionError: with all that differs.
    """
    stats = month.on.platform.control("GET", "stats")
    visits = sessions(month)
    disagreeing = [*_both_sides(month, visits)]
    assert not disagreeing, "\n".join(disagreeing)
    became = {key: _became(month, link, of) for key, link, of in _by_link(month, visits)}
    counted = _counted(month, became)
    funnels = await _told(month)
    differing = [
        *_ledger(month, became),
        *_funnels(funnels, counted),
        *_moments(month, funnels),
        *(await _drift(month, visits)),
    ]
    assert not differing, "\n".join(differing)
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for (milestone, _), figures in counted.items():
        totals[milestone] += figures
    told = month.on.told.values()
    return Verdict(
        days=month.on.day,
        events=len(told),
        lanes=Counter(str(one.lane) for one in told),
        rules=Counter(f"{one.state}/{one.rule}" for one in told),
        deeds=month.deeds,
        letters=month.letters,
        sessions=len(visits),
        responses=sum(one.response is not None for one in visits),
        planted=Counter(one.kind for one in month.plants.values()),
        calls={name: one["calls"] for name, one in stats["classes"].items()},
        runs=Counter(run.job for run in month.on.runs),
        seconds=_seconds(month),
        memory_mb={
            "serve": month.on.replica.peak_kb // 1024,
            "simulate": month.on.platform.peak_kb // 1024,
            "test": peak_kb(os.getpid()) // 1024,
        },
        funnel=totals,
        reconciled={
            key: one["total"]["finished"]["reconciled"] for key, one in sorted(funnels.items())
        },
    )


def _seconds(month: Month) -> dict[str, int]:
    taken: dict[str, float] = defaultdict(float)
    for run in month.on.runs:
        if run.started_at is not None and run.ended_at is not None:
            taken[run.job] += (run.ended_at - run.started_at).total_seconds()
    return {job: round(seconds) for job, seconds in taken.items()}


def _differ(expected: str, of: Collection[str], count: int) -> Iterator[str]:
    if of:
        some = "".join(f"\n    {one}" for one in list(of)[:EXAMPLES])
        yield f"expected: {expected}; otherwise {len(of)} of {count}, such as:{some}"


# --- what happened --------------------------------------------------------------------------------


def _place(url: str) -> Place:
    if "Q_DL" not in url:
        return None, None
    link = parse(url)
    return link.distribution_id, link.lookup_id


def _both_sides(month: Month, visits: Sequence[Session]) -> Iterator[str]:
    """The platform has seen what customers did, and each plant is what it was meant to be."""
    known, seen = set(month.sessions), {one.id for one in visits}
    yield from _differ("sessions that somebody began", seen - known, len(seen))
    yield from _differ("a session for each that was begun", known - seen, len(known))
    sent = {one.id for one in visits if one.response is not None}
    yield from _differ("each that was sent off", set(month.answered) ^ sent, len(sent))
    elsewhere, other = [], []
    first: dict[str, str] = {}
    ended = sorted(
        (one for one in visits if one.completed_at), key=lambda one: str(one.completed_at)
    )
    for one in ended:
        link = month.links[month.sessions[one.id]]
        if one.place != _place(month.urls[link.event_id]):
            elsewhere.append(f"{link.event_id}: {one.place}")
        plant = month.plants.get(one.id)
        reference = one.data.get(REFERENCE_FIELD)
        is_own = reference == month.reference(link)
        is_first = first.setdefault(link.event_id, one.id) == one.id if is_own else True
        if is_own:
            fits = {None} if is_first else {"second-response"}
        elif reference is None and not link.is_plain:
            fits = {"early-response"}
        else:
            fits = {"foreign-response", "other-milestone"}
        if (plant and plant.kind) not in fits:
            other.append(f"{link.event_id}: {plant}, not one of {fits}")
    yield from _differ("each session by the link that was opened", elsewhere, len(ended))
    yield from _differ("each response what it was meant to be", other, len(ended))


def _by_link(
    month: Month, visits: Sequence[Session]
) -> Iterator[tuple[str, Link, Sequence[Session]]]:
    of: dict[str, list[Session]] = defaultdict(list)
    for one in visits:
        of[month.sessions[one.id]].append(one)
    for event_id, link in month.links.items():
        yield event_id, link, of[event_id]


def _became(month: Month, link: Link, visits: Sequence[Session]) -> Became:
    """What became of a link, as far as the platform can tell of it.

    It tells of every session of a personal link, and who has answered there has answered, whatever
    they put into it. Of a plain link it tells the response alone, and whose that is its reference.
    """
    own = [
        one
        for one in visits
        if not link.is_plain or (one.response is not None and one.id not in month.plants)
    ]
    response = [one.response for one in own if one.response is not None]
    assert len(response) <= 1, (link, response)
    return Became(
        clicked=link.event_id in month.clicked,
        started=bool(own),
        response=response[0] if response else None,
    )


Counted = defaultdict[tuple[str, date], Counter[str]]
"""Figures by milestone and day."""


def _counted(month: Month, became: Mapping[str, Became]) -> Counted:
    """The funnel of each milestone and day, by what happened."""
    counted: Counted = defaultdict(Counter)
    for told in month.on.told.values():
        figures = counted[told.milestone, told.at.astimezone(UTC).date()]
        figures["requested"] += 1
        if told.state == "suppressed" or told.event_id in month.again:
            continue
        figures["eligible"] += 1
        figures["issued"] += 1
        link = became.get(told.event_id, Became())
        figures["delivered"] += told.event_id in month.delivered
        figures["clicked"] += link.clicked
        figures["started"] += link.started
        figures["finished"] += link.response is not None
    return counted


# --- what Milepost says ---------------------------------------------------------------------------


class _Row(Struct, frozen=True):
    event_id: str
    state: str
    rule: str | None
    is_clicked: bool
    is_started: bool
    is_finished: bool
    response_id: str | None


_LEDGER: Final = """
    SELECT event_id, state, rule, response_id, clicked_at IS NOT NULL AS is_clicked,
        started_at IS NOT NULL AS is_started, finished_at IS NOT NULL AS is_finished
    FROM links
    ORDER BY id"""


def _ledger(month: Month, became: Mapping[str, Became]) -> Iterator[str]:
    with (
        psycopg.connect(month.on.database_url) as connection,
        connection.cursor(row_factory=class_row(_Row)) as cursor,
    ):
        rows = {row.event_id: row for row in cursor.execute(_LEDGER.encode())}
    yield from _differ("a row for each event", rows.keys() ^ month.on.told.keys(), len(rows))
    other = []
    for event_id, row in rows.items():
        truth = became.get(event_id, Became())
        found = Became(row.is_clicked, row.is_started, row.response_id)
        if found != truth or row.is_finished != (truth.response is not None):
            told = month.on.told[event_id]
            other.append(
                f"{event_id}, {told.state}/{told.rule} and now {row.state}/{row.rule}: "
                f"{found}, not {truth}"
            )
    yield from _differ("each link as what became of it", other, len(rows))


async def _told(month: Month) -> Mapping[str, Any]:
    """The funnels, as Milepost tells them."""
    days = f"from={BEGINS.date()}&to={month.on.now.date()}"
    return {
        one.key: await month.on.call("GET", f"/v1/milestones/{one.key}/funnel?{days}")
        for one in month.on.milestones
    }


def _funnels(funnels: Mapping[str, Any], counted: Counted) -> Iterator[str]:
    wrong = [
        f"{milestone} {day['day']} {figure}: {came}, not {happened}"
        for milestone, told in funnels.items()
        for day in told["days"]
        for figure in FIGURES
        if (came := day[figure]["links"])
        != (happened := counted[milestone, date.fromisoformat(day["day"])][figure])
    ]
    cells = len(FIGURES) * sum(len(told["days"]) for told in funnels.values())
    yield from _differ("each figure of each funnel as counted by hand", wrong, cells)


def _moments(month: Month, funnels: Mapping[str, Any]) -> Iterator[str]:
    """Each figure that is known of any link says of which moment, and that has been."""
    wrong = []
    until = month.on.now + timedelta(hours=1)  # clocks go on while it is looked at
    for milestone, told in funnels.items():
        for figure, one in ((name, told["total"][name]) for name in FIGURES):
            at = one["as_of"] and datetime.fromisoformat(one["as_of"])
            if (at is None) != (one["reconciled"] == 0) or (at and not BEGINS < at < until):
                wrong.append(f"{milestone} {figure}: {one}")
    yield from _differ("a moment of which each figure is", wrong, len(FIGURES) * len(funnels))


async def _drift(month: Month, visits: Sequence[Session]) -> list[str]:
    responses = {one.id: one.response for one in visits}
    planted = {
        (plant.kind, responses.get(key) or key): plant for key, plant in month.plants.items()
    }
    found, gone = await _flagged(month), await _flagged(month, "&settled=true")
    unseen = [f"{kind}: {planted[kind, of]}" for kind, of in planted.keys() - found.keys()]
    invented = [str(found[key]) for key in found.keys() - planted.keys()]
    elsewhere = [
        f"{planted[key]}: {found[key]}"
        for key in planted.keys() & found.keys()
        if not _is_of_its_link(found[key], month.links.get(planted[key].of))
    ]
    return [
        *_differ("each plant flagged as what it is", sorted(unseen), len(planted)),
        *_differ("each plant flagged with its link", sorted(elsewhere), len(planted)),
        *_differ("nothing flagged but what was planted", sorted(invented), len(found)),
        *_differ("no false alarm that went by itself", sorted(map(str, gone.values())), len(gone)),
    ]


async def _flagged(month: Month, of: str = "") -> Mapping[tuple[str, str], Any]:
    """What is flagged, by its kind and what it is about."""
    found: dict[tuple[str, str], Any] = {}
    cursor = ""
    while True:
        page = await month.on.call("GET", f"/v1/drift?limit=100{of}{cursor}")
        for one in page["drift"]:
            found[one["kind"], one["response_id"] or one["lookup_id"]] = one
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


def _is_of_its_link(flagged: Mapping[str, Any], link: Link | None) -> bool:
    """Whether it is told whose link a response came by, and why it is not of the one it names.

    By which plain link a foreign response came nobody can tell.
    """
    if link is None:  # of a member
        return (flagged["link_id"] is None) == (flagged["kind"] == "membership-without-link")
    if link.is_plain and flagged["kind"] == "foreign-response":
        return flagged["rule"] in {"no-reference", "not-signed", "plain-link"}
    rules = RULES[flagged["kind"]]
    told = (flagged["link_id"], flagged["milestone"])
    return flagged["rule"] in rules and told == (str(link.told.id), link.told.milestone)
