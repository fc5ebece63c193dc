"""What days came to: the verdicts on a town, at its end.

The platform's journal is the witness for what was made and opened there, its lists of links for
what it takes for somebody's link, and its pages for what people saw. The ledger is held against
them, and so is what callers were told.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import class_row
from tests.battery.days import DAY, Listing, Town
from tests.battery.load import SECRET

from milepost.payload import unseal

log = logging.getLogger(__name__)

T = TypeVar("T")


# --- the witness ----------------------------------------------------------------------------------


class _Body(Struct, rename="camel"):
    expiration_date: datetime | None = None
    private_embedded_data: dict[str, str] = {}


class _Entry(Struct):
    at: datetime
    operation: str
    ids: dict[str, str] = {}
    body: msgspec.Raw = msgspec.Raw(b"{}")


class Written(Struct, frozen=True):
    """A link's data came to the platform."""

    at: datetime
    link: UUID
    data: Mapping[str, str]


class Witness(Struct, frozen=True):
    """What the platform's journal holds."""

    expires: dict[str, datetime]
    """When links of a distribution expire, by its id."""
    deleted: set[str]
    """Distributions that were deleted."""
    writes: dict[str, list[Written]]
    """By lookup id, in order."""
    opened: dict[tuple[str, str], tuple[datetime, Written | None]]
    """When a link was opened first, and what the survey saw then, by distribution and lookup id."""
    completed: dict[tuple[str, str], datetime]
    """When the survey was answered, likewise."""

    @classmethod
    def read(cls, path: Path) -> Witness:
        """The journal of a simulator, up to now."""
        found = cls({}, set(), defaultdict(list), {}, {})
        decode = msgspec.json.Decoder(_Entry).decode
        for line in path.read_bytes().splitlines():
            entry = decode(line)
            place = (entry.ids.get("distribution", ""), entry.ids.get("lookup", ""))
            match entry.operation:
                case "distribution.create":
                    body = msgspec.json.decode(entry.body, type=_Body)
                    assert body.expiration_date is not None, line
                    found.expires[place[0]] = body.expiration_date
                case "distribution.delete":
                    found.deleted.add(place[0])
                case "list_contact.add" | "list_contact.update":
                    data = msgspec.json.decode(entry.body, type=_Body).private_embedded_data
                    sealed = data.get("milepost_ref")
                    link = unseal(sealed, [SECRET.encode()]) if sealed else None
                    if link is not None:
                        found.writes[place[1]].append(Written(entry.at, link, data))
                case "session.start":
                    written = found.writes.get(place[1])
                    found.opened[place] = (entry.at, written[-1] if written else None)
                case "response.complete":
                    found.completed[place] = entry.at
                case _:
                    pass
        return found


# --- the ledger -----------------------------------------------------------------------------------


class Row(Struct, frozen=True):
    """A link as the ledger holds it."""

    id: UUID
    event_id: str
    milestone: str
    ref: str
    state: str
    rule: str | None
    lane: str | None
    published: str | None
    url: str | None
    short_url: str | None
    lookup_id: str | None
    reuses: UUID | None
    created_at: datetime
    issued_at: datetime | None
    expires_at: datetime | None
    data_at: datetime | None
    distribution_id: str | None
    min_link_days: int

    @property
    def answered(self) -> str | None:
        """The URL that callers are given."""
        return {"short": self.short_url, "personal": self.url, None: None}[self.published]

    @property
    def place(self) -> tuple[str, str]:
        """What its URL names."""
        return (self.distribution_id or "", self.lookup_id or "")

    @property
    def is_own(self) -> bool:
        """It has a place of its own at the platform."""
        return self.state == "issued" and self.reuses is None


class Generation(Struct, frozen=True):
    """A distribution of a pool."""

    milestone: str
    number: int
    generation: int
    state: str
    distribution_id: str | None
    calibrated_at: datetime | None
    takes_until: datetime
    expires_at: datetime


_LEDGER: Final = """
    SELECT l.id, l.event_id, l.milestone, l.ref, l.state, l.rule, l.lane, l.published,
        coalesce(l.url, original.url) AS url, l.short_url, l.lookup_id, l.reuses,
        l.created_at, l.issued_at, l.expires_at, l.data_at, d.distribution_id, m.min_link_days
    FROM links AS l
    JOIN milestones AS m ON m.key = l.milestone
    LEFT JOIN links AS original ON original.id = l.reuses
    LEFT JOIN distributions AS d ON d.id = l.distribution_id
    ORDER BY l.id"""

_GENERATIONS: Final = """
    SELECT s.milestone, s.number, d.generation, d.state, d.distribution_id, d.calibrated_at,
        d.takes_until, d.expires_at
    FROM distributions AS d JOIN slots AS s ON s.id = d.slot_id
    WHERE s.milestone IS NOT NULL
    ORDER BY s.milestone, s.number, d.generation"""


def _rows(database_url: str, statement: str, kind: type[T]) -> list[T]:
    with (
        psycopg.connect(database_url) as connection,
        connection.cursor(row_factory=class_row(kind)) as cursor,
    ):
        return cursor.execute(statement.encode()).fetchall()


# --- the verdict ----------------------------------------------------------------------------------

CLOCKS: Final = timedelta(seconds=2)
"""By which the clocks of the database and the platform may differ, and a call be out."""

LOOKS: Final = timedelta(hours=1)
"""Between two looks of job `rotate`."""

EXAMPLES: Final = 3


class Verdict(Struct, frozen=True, kw_only=True):
    """What the days came to, in numbers."""

    days: int
    events: int
    links: int
    lanes: dict[str, int]
    rules: dict[str, int]
    visits: dict[str, int]
    distributions: int
    generations: int
    """Of the slot that has most."""
    slots: dict[str, int]
    headroom_days: float
    """The least that a pool had at the end of a day."""
    shortest_days: float
    """That a link had left when it was made."""
    calls: int
    runs: dict[str, int]


def verify(
    town: Town,
    *,
    warm: int,
    listed: Sequence[tuple[datetime, Listing]] = (),
    stops: bool = False,
) -> Verdict:
    """Hold what came against what is promised, and tell all that differs.

    Args:
        town: as it is after its days.
        warm: days in which an event may find no place, until pools know what people need.
        listed: what the platform listed, up to a moment each; what it lists now holds for the rest.
        stops: whether milestones were stopped, so that events had to wait and runs asked for
            somebody.

    Raises:
        AssertionError: with all that differs.
    """
    calls = town.platform.calls()["calls"]
    rows = _rows(town.database_url, _LEDGER, Row)
    pools = _rows(town.database_url, _GENERATIONS, Generation)
    witness = Witness.read(town.platform.journal)
    own = [row for row in rows if row.is_own]
    lost = [*_of_events(town, rows)]
    assert not lost, "\n".join(lost)
    differing = [
        *_as_told(town, rows),
        *_settled(rows),
        *_long_enough(own, witness),
        *_in_place(own, witness),
        *_with_their_data(town, own, witness),
        *_pages(town, rows),
        *_listed(own, [*listed, (datetime.max.replace(tzinfo=UTC), town.listing())]),
        *_let_go(town, pools, witness, stops=stops),
        *([] if stops else _renewed(town, pools)),
        *([] if stops else _never_dry(town, warm)),
        *_run_once(town, stops=stops),
        *_in_step(town),
    ]
    assert not differing, "\n".join(differing)
    latest = {(one.milestone, one.number): one.generation for one in pools}
    verdict = Verdict(
        days=town.day,
        events=len(rows),
        links=len(own),
        lanes=Counter(str(row.lane) for row in own),
        rules=Counter(f"{row.state}/{row.rule}" for row in rows),
        visits=Counter(visit.state for visit in town.visits),
        distributions=len(pools),
        generations=max(latest.values()),
        slots=Counter(milestone for milestone, _ in latest),
        headroom_days=min(left for _, _, left in town.headroom),
        shortest_days=min(_left(row, witness) / DAY for row in own),
        calls=calls,
        runs=Counter(run.job for run in town.runs),
    )
    log.info("%s", verdict)
    return verdict


def _differ(expected: str, of: Sequence[str], count: int) -> Iterator[str]:
    if of:
        yield f"expected: {expected}; came: {len(of)} of {count} others, such as {of[:EXAMPLES]}"


def _of_events(town: Town, rows: Sequence[Row]) -> Iterator[str]:
    """What all else rests on."""
    kept = {row.event_id for row in rows}
    yield from _differ("a row for each event", sorted(town.told.keys() - kept), len(town.told))
    yield from _differ("no row but for an event", sorted(kept - town.told.keys()), len(rows))


def _as_told(town: Town, rows: Sequence[Row]) -> Iterator[str]:
    by_event = {row.event_id: row for row in rows}
    other = [
        told.event_id
        for told in town.told.values()
        if told.url is not None and told.url != by_event[told.event_id].answered
    ]
    yield from _differ("what was told first is what is told for ever", other, len(town.told))


def _settled(rows: Sequence[Row]) -> Iterator[str]:
    fine = {
        ("issued", None),
        ("issued", "once"),
        ("issued", "data-too-late"),
        ("suppressed", "once"),
        ("suppressed", "cooldown"),
    }
    other = [
        f"{row.event_id}: {row.state}/{row.rule}"
        for row in rows
        if (row.state, row.rule) not in fine
    ]
    yield from _differ("every event issued, or left out by its milestone's rule", other, len(rows))


def _made_at(row: Row, witness: Witness) -> datetime:
    """When a link was made at the platform, or given out if that was before."""
    written = (one.at for one in witness.writes.get(row.place[1], ()) if one.link == row.id)
    return min(filter(None, (next(written, None), row.issued_at)))


def _left(row: Row, witness: Witness) -> timedelta:
    return witness.expires[row.place[0]] - _made_at(row, witness)


def _long_enough(own: Sequence[Row], witness: Witness) -> Iterator[str]:
    short = [
        f"{row.event_id}: {_left(row, witness)}"
        for row in own
        if _left(row, witness) < row.min_link_days * DAY - CLOCKS
    ]
    yield from _differ("each link lives for `min_link_days` when it is made", short, len(own))
    untrue = [row.event_id for row in own if row.expires_at != witness.expires[row.place[0]]]
    yield from _differ("each link expires when the platform says", untrue, len(own))


def _in_place(own: Sequence[Row], witness: Witness) -> Iterator[str]:
    """The two rules of a slot, by the journal."""
    of_place = Counter(row.place for row in own)
    of_person = Counter((row.place[0], row.ref) for row in own)
    twice = [
        row.event_id
        for row in own
        if of_place[row.place] > 1 or of_person[row.place[0], row.ref] > 1
    ]
    yield from _differ("one link for each distribution and registrant", twice, len(own))
    by_lookup: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(own, key=lambda row: _made_at(row, witness)):
        by_lookup[row.place[1]].append(row)
    overlapping = []
    for rows in by_lookup.values():
        for earlier, later in itertools.pairwise(rows):
            ended = min(
                witness.expires[earlier.place[0]],
                witness.completed.get(earlier.place, datetime.max.replace(tzinfo=UTC)),
            )
            if _made_at(later, witness) < ended - CLOCKS:
                overlapping.append(f"{earlier.event_id} and {later.event_id}")
    yield from _differ("one live link for each list and registrant", overlapping, len(own))


def _with_their_data(town: Town, own: Sequence[Row], witness: Witness) -> Iterator[str]:
    by_id = {row.id: row for row in own}
    strange, wrong = [], []
    for lookup, writes in witness.writes.items():
        for written in writes:
            row = by_id.get(written.link)
            if row is None or row.lookup_id != lookup:
                strange.append(str(written.link))
            elif any(
                written.data.get(name) != (None if value is None else str(value))
                for name, value in town.told[row.event_id].data.items()
            ):
                wrong.append(row.event_id)
    yield from _differ("no data but of a link that was issued there", strange, len(own))
    yield from _differ("each link's data are its event's", wrong, len(own))
    unwritten = [
        row.event_id
        for row in own
        if not any(one.link == row.id for one in witness.writes.get(row.place[1], ()))
        and (row.rule != "data-too-late" or row.place not in witness.completed)
    ]
    yield from _differ("each link's data are at the platform", unwritten, len(own))
    mixed = []
    by_place = {row.place: row for row in own}
    for place, (at, written) in witness.opened.items():
        row = by_place.get(place)
        if row is None:
            mixed.append(" ".join(place))
            continue
        is_late = row.lane == "ready" and (row.data_at is None or row.data_at > at - CLOCKS)
        if (written is None or written.link != row.id) and not is_late:
            mixed.append(row.event_id)
    yield from _differ("a survey that is opened shows its own event's data", mixed, len(own))


def _pages(town: Town, rows: Sequence[Row]) -> Iterator[str]:
    """What people saw: the survey while their link lives, and once."""
    by_event = {row.event_id: row for row in rows}
    answered = {visit.url: visit for visit in town.visits if visit.answered}
    begun: set[str | None] = set()
    wrong = []
    for visit in town.visits:
        row, expected = by_event[visit.event_id], set[str]()
        # Whoever has begun before a link expired may end (inferred of the platform).
        if (
            row.expires_at is not None and visit.at < row.expires_at + CLOCKS
        ) or visit.url in begun:
            expected |= {"open"}
        if row.expires_at is None or visit.by > row.expires_at - CLOCKS:
            expected |= {"410" if visit.url is None else "expired"}
        if (answer := answered.get(visit.url)) not in (None, visit):
            # By somebody else who was given it, too.
            expected = {"taken"} if answer.by < visit.at else expected | {"taken"}
        if visit.state == "open":
            begun.add(visit.url)
        if visit.state not in expected or visit.url not in (row.url, None):
            wrong.append(f"{visit.event_id}: {visit.state}, not {expected}, at {visit.at}")
    yield from _differ("links open while they live, once", wrong, len(town.visits))


def _listed(own: Sequence[Row], listed: Sequence[tuple[datetime, Listing]]) -> Iterator[str]:
    wrong = []
    for row in own:
        assert row.issued_at is not None
        listing = next(listing for until, listing in listed if row.issued_at < until)
        if listing.get(row.place) != row.url:
            wrong.append(f"{row.event_id}: {row.url}, not {listing.get(row.place)}")
    yield from _differ("each link is the one that the platform lists", wrong, len(own))


def _renewed(town: Town, pools: Sequence[Generation]) -> Iterator[str]:
    of_slot: dict[tuple[str, int], list[Generation]] = defaultdict(list)
    for one in pools:
        of_slot[one.milestone, one.number].append(one)
    wrong = []
    for slot, generations in of_slot.items():
        first = generations[0]
        assert first.calibrated_at is not None, slot
        age, takes = town.now - first.calibrated_at, first.takes_until - first.calibrated_at
        least = max(age - LOOKS, timedelta()) // takes + 1
        most = max(age + LOOKS, timedelta()) // (takes * 3 / 4) + 1
        if not least <= len(generations) <= most:
            wrong.append(f"{slot}: {len(generations)}, not {least} to {most}")
    yield from _differ("each slot renewed in time, and not too often", wrong, len(of_slot))


def _let_go(
    town: Town, pools: Sequence[Generation], witness: Witness, *, stops: bool
) -> Iterator[str]:
    wrong = []
    for one in pools:
        if one.takes_until > town.now:
            # What was made while links had another form is stopped, and gave none.
            fine = {"ready", "stopped"} if stops else {"ready"}
        elif one.expires_at > town.now:
            fine = {"draining", "retired"}
        else:
            fine = {"retired"}
        if one.state not in fine:
            wrong.append(f"{one.milestone} {one.number} g{one.generation}: {one.state}")
    yield from _differ("what takes no links let go, and nothing else", wrong, len(pools))
    deleted = [str(one) for one in pools if one.distribution_id in witness.deleted]
    yield from _differ("no distribution of a pool deleted", deleted, len(pools))


def _never_dry(town: Town, warm: int) -> Iterator[str]:
    yield from _differ(
        "a distribution on each slot", [str(one) for one in town.dry], len(town.runs)
    )
    none = [f"{key}, day {day}" for day, key, left in town.headroom if left <= 0]
    yield from _differ("days of headroom for each pool", none, len(town.headroom))
    without = [
        f"{told.event_id}: {told.rule}"
        for told in town.told.values()
        if told.day >= warm and told.rule in ("no-slot", "pool-empty")
    ]
    yield from _differ(f"a place for every event from day {warm} on", without, len(town.told))


def _run_once(town: Town, *, stops: bool) -> Iterator[str]:
    """Every due time had its run, and one run."""
    fine = {"done", "stopped"} if stops else {"done"}
    broken = [f"{run.job} {run.due_at}: {run.error}" for run in town.runs if run.state not in fine]
    yield from _differ("every run done", broken, len(town.runs))
    for job, every in (("sync", DAY), ("canary", DAY), ("rotate", timedelta(hours=1))):
        due = [run for run in town.runs if run.job == job and run.asked_by is None]
        passed = sum(1 + run.coalesced for run in due[1:])
        expected = round((due[-1].due_at - due[0].due_at) / every) if due else -1
        # In the night in which the clock is set forward 02:07 counts as well, at 03:00.
        is_whole = expected <= passed <= expected + (every < DAY)
        if not is_whole or len({run.due_at for run in due}) != len(due):
            yield f"expected: {expected} due times of {job} after the first; came: {passed}"
        if every == DAY and (len(due) != town.day or any(run.coalesced for run in due)):
            yield f"expected: {job} once a day; came: {len(due)} times in {town.day} days"


def _in_step(town: Town) -> Iterator[str]:
    """The platform knows everybody who is in the source, by the name that they have there."""
    known = town.contacts()
    other = [
        f"{row['ref']}: {known.get(row['ref'])}, not {row['first_name']}"
        for row in town.registrants
        if known.get(row["ref"]) != row["first_name"]
    ]
    yield from _differ("a contact for each registrant, as they are", other, len(town.registrants))
