"""The verdicts of the battery: what the journal, the ledger and the answers must show.

The platform's journal is the witness for what was made there. It names each link by the sealed
reference that travels with the link's data, so nothing of the ledger is needed to read it; the
ledger is then held against it.

`verify` checks, at the end of every scenario, what can be seen from outside of these promises:

* every acknowledged event has exactly one link;
* the platform holds for each issued link exactly the one contact, or the one transaction in one
  batch, that its URL names, with that event's data, and nothing besides; for one that was given
  out before it knew of them, by an update;
* every answer for an event has the same URL, and it is the one that the ledger says was published;
* calls never exceed the limit in any 60 s;
* no link stays claimed or in doubt for more than two minutes while the platform answers;
* no ref, address or field of a person, and no link, is in a log or in the body of an error;
* no 5xx but a 503 that says when to come back;
* Postgres: nothing is left idle in a transaction.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import class_row, scalar_row
from tests.battery.load import MARKER, PUBLIC_URL, SECRET, Answer, Installation, seat_of

from milepost.payload import unseal

log = logging.getLogger(__name__)

SCHEDULING_SECONDS: Final = 0.1
"""What a caller's own scheduling may add to a deadline, on cores that it shares with all else."""

DOUBT_SECONDS: Final = 120.0
"""So long a link may stay claimed or unknown while the platform answers."""

LOOK_SECONDS: Final = 0.1
LOOK_SHARE: Final = 0.05
"""How long the ledger is left alone between two looks while a scenario runs; the second bounds what
part of the time a look at many links takes."""

EXAMPLES: Final = 3
"""How many examples a finding shows."""

SAMPLED: Final = 200
"""How many links are answered at the end of a scenario."""

_SECRETS: Final = re.compile(rf"{MARKER}|Q_DL=|{re.escape(PUBLIC_URL)}/l/", re.IGNORECASE)


# --- the witness ----------------------------------------------------------------------------------


class Write(Struct, frozen=True):
    """An accepted write that carries a link's data.

    The add or update of a list contact, or the creation of a transaction.
    """

    at: float
    """Seconds of the platform's clock."""
    operation: str
    effect: str | None
    link: UUID
    lookup: str
    contact: str
    place: str
    """The list, or the batch into which the transaction was put last; empty: it is in none."""
    ref: str
    seat: str
    """The one field that each event fills in its own way; empty: it was not told."""
    entries: int = 1
    """How often it was put into a batch."""


class _Body(Struct, rename="camel"):
    ext_ref: str | None = None
    private_embedded_data: dict[str, str] = {}


class _TransactionBody(Struct, rename="camel"):
    contact_id: str
    data: dict[str, str]


class _BatchBody(Struct, rename="camel"):
    transaction_ids: list[str] = []


class _Entry(Struct):
    seq: int
    at: datetime
    operation: str
    ids: dict[str, str] = {}
    body: msgspec.Raw = msgspec.Raw(b"{}")
    effect: str | None = None


class Journal(Struct, frozen=True):
    """What the platform accepted, in its order."""

    writes: list[Write]
    """Those that carry a link's data."""
    moments: list[float]
    """Of all accepted writes, in seconds."""

    @classmethod
    def read(cls, path: Path) -> Journal:
        """The journal of a simulator, up to now."""
        decode = msgspec.json.Decoder(_Entry).decode
        writes, moments = [], []
        batches: dict[str, list[str]] = defaultdict(list)
        for line in path.read_bytes().splitlines():
            entry = decode(line)
            moments.append(entry.at.timestamp())
            if entry.operation == "transaction.create":
                writes += _transactions(entry)
            if entry.operation in ("transaction_batch.create", "transaction_batch.add"):
                for each in msgspec.json.decode(entry.body, type=_BatchBody).transaction_ids:
                    batches[each].append(entry.ids["batch"])
            if entry.operation not in ("list_contact.add", "list_contact.update"):
                continue
            body = msgspec.json.decode(entry.body, type=_Body)
            sealed = body.private_embedded_data.get("milepost_ref")
            link = unseal(sealed, [SECRET.encode()]) if sealed else None
            if link is not None:
                writes.append(
                    Write(
                        at=entry.at.timestamp(),
                        operation=entry.operation,
                        effect=entry.effect,
                        link=link,
                        lookup=entry.ids["lookup"],
                        contact=entry.ids["contact"],
                        place=entry.ids["mailing_list"],
                        ref=body.ext_ref or "",
                        seat=body.private_embedded_data.get("seat", ""),
                    )
                )
        return cls([_entered(write, batches) for write in writes], moments)

    @property
    def busiest_minute(self) -> int:
        """The most writes accepted within any 60 s."""
        busiest = first = 0
        for last, at in enumerate(self.moments):
            while self.moments[first] <= at - 60:
                first += 1
            busiest = max(busiest, last - first + 1)
        return busiest

    def firsts(self, *, since: float = 0.0) -> list[UUID]:
        """The links in the order in which each was first written from a moment on."""
        return list(dict.fromkeys(write.link for write in self.writes if write.at >= since))


def _transactions(entry: _Entry) -> Iterator[Write]:
    """The links' transactions that a call has made, as far as it made them."""
    wanted = msgspec.json.decode(entry.body, type=dict[str, _TransactionBody])
    for key, body in wanted.items():
        made = entry.ids.get(f"transaction.{key}")
        link = unseal(body.data.get("milepost_ref", ""), [SECRET.encode()])
        if made is not None and link is not None:
            yield Write(
                at=entry.at.timestamp(),
                operation=entry.operation,
                effect=entry.effect,
                link=link,
                lookup=made,
                contact=body.contact_id,
                place="",
                ref="",
                seat=body.data.get("seat", ""),
            )


def _entered(write: Write, batches: Mapping[str, Sequence[str]]) -> Write:
    if write.operation != "transaction.create":
        return write
    entered = batches.get(write.lookup) or [""]
    return msgspec.structs.replace(write, place=entered[-1], entries=len(entered))


# --- the ledger -----------------------------------------------------------------------------------


class Row(Struct, frozen=True):
    """A link as the ledger holds it."""

    id: UUID
    event_id: str
    ref: str
    state: str
    rule: str | None
    lane: str | None
    published: str | None
    url: str | None
    short_url: str | None
    lookup_id: str | None
    reuses: UUID | None
    attempt: int
    looks: int
    upstream_calls: float
    created_at: datetime
    issued_at: datetime | None
    data_at: datetime | None
    place: str | None
    distribution_id: str | None
    route: str | None

    @property
    def answered(self) -> str | None:
        """The URL that callers are given."""
        return {"short": self.short_url, "personal": self.url, None: None}[self.published]


def ledger(database_url: str) -> list[Row]:
    """Every link, in the order of their ids."""
    with (
        psycopg.connect(database_url) as connection,
        connection.cursor(row_factory=class_row(Row)) as cursor,
    ):
        return cursor.execute(_LEDGER).fetchall()


_LEDGER: Final = """
    SELECT l.id, l.event_id, l.ref, l.state, l.rule, l.lane, l.published,
        coalesce(l.url, original.url) AS url, l.short_url, l.lookup_id, l.reuses,
        l.attempt, l.looks, l.upstream_calls, l.created_at, l.issued_at, l.data_at,
        coalesce(s.list_id, s.batch_id, l.steps->>'batch',
            CASE WHEN l.steps ? 'data' THEN home.home_list_id END) AS place,
        coalesce(d.distribution_id, l.steps->>'distribution', l.steps->>'own_distribution')
            AS distribution_id, l.route
    FROM links l
    LEFT JOIN links original ON original.id = l.reuses
    LEFT JOIN distributions d ON d.id = l.distribution_id
    LEFT JOIN slots s ON s.id = coalesce(l.slot_id, d.slot_id)
    LEFT JOIN deployment home ON true
    ORDER BY l.id"""

_UNSETTLED: Final = """
    SELECT id, state, rule FROM links WHERE due_at IS NOT NULL
    UNION ALL
    SELECT id, state, 'data' FROM links WHERE data_due_at IS NOT NULL"""

_IN_TRANSACTION: Final = """
    SELECT extract(epoch FROM now() - state_change)::float8 FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'"""


class Watch:
    """Looks at the ledger all the time, from a thread of its own.

    Attributes:
        unsettled: How many links had no outcome at the last look, by state and rule; and how many
            have one, while their data are still to follow.
        longest_doubt: The longest that a link stayed claimed or unknown, in seconds.
    """

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._looked = threading.Condition()
        self._ended = threading.Event()
        self._since: dict[UUID, float] = {}
        self._looks = 0
        self._failed: BaseException | None = None
        self.unsettled: Counter[str] = Counter()
        self.longest_doubt = 0.0

    def forget(self) -> None:
        """Count doubt from now on: until now the platform did not answer."""
        with self._looked:
            self._since.clear()
            self.longest_doubt = 0.0

    def settled(self, *, within: float) -> float:
        """Wait until every link has its outcome; returns how many seconds it took.

        Raises:
            AssertionError: some have none after `within` seconds.
        """
        begun = time.monotonic()
        with self._looked:
            fresh = self._looks + 1  # a look that is under way may have begun before the call
            is_over = self._looked.wait_for(
                lambda: self._failed or (self._looks > fresh and not self.unsettled), within
            )
            if self._failed:
                raise self._failed
            assert is_over, (
                f"expected: every link settled within {within:.0f} s; came: "
                f"{self.unsettled.total()} unsettled, {dict(self.unsettled)}"
            )
        took = time.monotonic() - begun
        log.info("settled after %.1f s", took)
        return took

    def look(self, connection: psycopg.Connection) -> None:
        """Look once."""
        found = connection.execute(_UNSETTLED).fetchall()
        now = time.monotonic()
        with self._looked:
            doubtful = {link for link, state, _ in found if state in ("claimed", "unknown")}
            self._since = {link: self._since.get(link, now) for link in doubtful}
            oldest = min(self._since.values(), default=now)
            self.longest_doubt = max(self.longest_doubt, now - oldest)
            self.unsettled = Counter(f"{state}/{rule}" for _, state, rule in found)
            self._looks += 1
            self._looked.notify_all()

    def run(self) -> None:
        """Look until it is told to end. Postgres may restart meanwhile."""
        try:
            while not self._ended.is_set():
                try:
                    with psycopg.connect(self._database_url, autocommit=True) as connection:
                        pause = LOOK_SECONDS
                        while not self._ended.wait(pause):
                            begun = time.monotonic()
                            self.look(connection)
                            pause = max(LOOK_SECONDS, (time.monotonic() - begun) / LOOK_SHARE)
                except psycopg.OperationalError:
                    self._ended.wait(LOOK_SECONDS)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            with self._looked:
                self._failed = error
                self._looked.notify_all()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()


@contextmanager
def watching(database_url: str) -> Iterator[Watch]:
    """A watch over a ledger while the block runs."""
    watch = Watch(database_url)
    thread = threading.Thread(target=watch.run, name="watch")
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()


# --- the verdict ----------------------------------------------------------------------------------


class Verdict(Struct, frozen=True, kw_only=True):
    """What a scenario came to, in numbers."""

    answers: int
    statuses: dict[int, int]
    lanes: dict[str, int]
    median_ms: float
    p99_ms: float
    longest_ms: float
    poured_seconds: float
    states: dict[str, int]
    writes: int
    extra_writes: int
    throttled: int
    busiest_minute: int
    busiest_minute_of_writes: int
    longest_doubt_seconds: float


def verify(
    installation: Installation,
    answers: Sequence[Answer],
    *,
    watch: Watch,
    deadline: float | None = 1.5,
    extra_writes: int = 0,
    throttled: int = 0,
    busiest_minute: int | None = None,
) -> Verdict:
    """Hold what came against what is promised, and tell all that differs.

    Args:
        installation: what ran; it must still run.
        answers: all that its callers got.
        watch: the watch over its ledger since the beginning.
        deadline: seconds inside which each answer must come; None: it is not looked at.
        extra_writes: how many writes the platform may have accepted beyond one for each issued
            link, all of them repetitions that changed nothing.
        throttled: how many calls may have been answered 429.
        busiest_minute: the most calls that may have reached the platform within any 60 s.

    Raises:
        AssertionError: names every promise that was not kept, with counts and examples.
    """
    rows = ledger(installation.database_url)
    journal = Journal.read(installation.platform.journal)
    brand = installation.platform.calls()
    seconds = sorted(answer.seconds for answer in answers)
    issued = sum(row.state == "issued" and row.reuses is None for row in rows)
    verdict = Verdict(
        answers=len(answers),
        statuses=dict(Counter(answer.status for answer in answers)),
        lanes=dict(Counter(answer.link.lane or "none" for answer in answers)),
        median_ms=round(1000 * _part(seconds, 0.5), 1),
        p99_ms=round(1000 * _part(seconds, 0.99), 1),
        longest_ms=round(1000 * _part(seconds, 1), 1),
        poured_seconds=round(_span(answers), 1),
        states=dict(Counter(row.state for row in rows)),
        writes=len(journal.writes),
        extra_writes=len(journal.writes) - issued,
        throttled=brand["throttled"],
        busiest_minute=brand["busiest_minute"],
        busiest_minute_of_writes=journal.busiest_minute,
        longest_doubt_seconds=round(watch.longest_doubt, 1),
    )
    log.info("%s", msgspec.json.encode(verdict).decode())
    differences = [
        *_in_time(answers, deadline),
        *_no_error(answers),
        *_one_link_for_each_event(answers, rows),
        *_one_url_for_each_event(answers, rows),
        *_true_at_the_platform(rows, journal, extra_writes),
        *_within_limits(verdict, throttled, busiest_minute),
        *_never_long_in_doubt(verdict),
        *_nobody_named(installation, answers),
        *_nothing_idle_in_transaction(installation.database_url),
    ]
    assert not differences, "\n".join(
        ["", *differences, f"in numbers: {msgspec.to_builtins(verdict)}"]
    )
    return verdict


def _part(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


def _span(answers: Sequence[Answer]) -> float:
    begun = [answer.begun for answer in answers]
    return max(begun) - min(begun) if begun else 0.0


def _differ(expected: str, count: int, of: int, came: str, examples: Iterable[object]) -> str:
    shown = "; ".join(str(example) for _, example in zip(range(EXAMPLES), examples, strict=False))
    return f"expected: {expected}; came: {count} of {of} {came}, such as {shown}"


def _in_time(answers: Sequence[Answer], deadline: float | None) -> Iterator[str]:
    if deadline is None:
        return
    late = [a for a in answers if a.seconds > deadline + SCHEDULING_SECONDS]
    if late:
        late.sort(key=lambda answer: -answer.seconds)
        yield _differ(
            f"every answer within {deadline} s",
            len(late),
            len(answers),
            "later",
            (f"{a.event_id}: {a.seconds:.2f} s (status {a.status}, {a.link.lane})" for a in late),
        )


def _no_error(answers: Sequence[Answer]) -> Iterator[str]:
    wrong = [
        answer
        for answer in answers
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        and not (answer.status == HTTPStatus.SERVICE_UNAVAILABLE and answer.retry_after)
    ]
    if wrong:
        yield _differ(
            "no 5xx but a 503 with Retry-After",
            len(wrong),
            len(answers),
            "others",
            (f"{a.event_id}: {a.status} {a.problem[:200]}" for a in wrong),
        )


def _one_link_for_each_event(answers: Sequence[Answer], rows: Sequence[Row]) -> Iterator[str]:
    acknowledged = {answer.event_id for answer in answers if answer.is_acknowledged}
    written = Counter(row.event_id for row in rows)
    if lost := sorted(acknowledged - written.keys()):
        yield _differ(
            "every acknowledged event in the ledger", len(lost), len(acknowledged), "not", lost
        )
    if double := [event_id for event_id, count in written.items() if count > 1]:
        yield _differ("one link for each event", len(double), len(written), "with more", double)


def _one_url_for_each_event(answers: Sequence[Answer], rows: Sequence[Row]) -> Iterator[str]:
    published = {row.event_id: row.answered for row in rows}
    other = [
        f"{answer.event_id}: answered {answer.link.url}, published {published.get(answer.event_id)}"
        for answer in answers
        if answer.link.url is not None and answer.link.url != published.get(answer.event_id)
    ]
    if other:
        yield _differ(
            "every answer with the URL that was published", len(other), len(answers), "not", other
        )


def _true_at_the_platform(
    rows: Sequence[Row], journal: Journal, extra_writes: int
) -> Iterator[str]:
    of_link: Mapping[UUID, list[Write]] = defaultdict(list)
    holder: dict[str, UUID] = {}
    for write in journal.writes:
        of_link[write.link].append(write)
        holder[write.lookup] = write.link
    known = {row.id for row in rows}
    issued = [row for row in rows if row.state == "issued" and row.reuses is None]
    untrue: dict[str, list[str]] = defaultdict(list)
    for row in issued:
        for what in _untruths(row, of_link.get(row.id, []), holder):
            untrue[what].append(row.event_id)
    for what, events in untrue.items():
        yield _differ("the platform as the ledger says", len(events), len(issued), what, events)
    if strange := of_link.keys() - known:
        yield _differ(
            "no write but for a link", len(strange), len(of_link), "for none", sorted(strange)
        )
    extra = len(journal.writes) - len(issued)
    if not 0 <= extra <= extra_writes:
        twice = [link for link, writes in of_link.items() if len(writes) > 1]
        yield _differ(
            f"one accepted write for each of {len(issued)} issued links, {extra_writes} more at "
            "the most",
            extra,
            len(journal.writes),
            "extra",
            twice or sorted(of_link.keys() - {row.id for row in issued}),
        )


def _untruths(row: Row, writes: Sequence[Write], holder: Mapping[str, UUID]) -> Iterator[str]:
    """What of an issued link is not true at the platform."""
    if not writes:
        yield "without any accepted write"
        return
    last = writes[-1]
    if len({write.lookup for write in writes}) > 1:
        yield "made twice at the platform"
    if row.lane == "ready" and row.data_at is None:
        yield "with data that the ledger does not know to be there"
    if row.lane == "ready" and {write.operation for write in writes} != {"list_contact.update"}:
        yield "added, although they were there before"
    # A batch that was lost has no name to be asked for, and has no distribution.
    if last.entries > 1 and row.route != "stepwise":
        yield "put into batches twice"
    if (last.lookup, last.place) != (row.lookup_id, row.place):
        yield "at another place at the platform"
    if any(write.seat != seat_of(row.event_id) for write in writes):
        yield "with the data of another event"
    if holder[last.lookup] != row.id:
        yield "whose data another link has overwritten"
    parts = (row.lookup_id, row.distribution_id)
    if not all(part and part.partition("_")[2] in (row.url or "") for part in parts):
        yield "with a URL of another contact or distribution"


def _within_limits(verdict: Verdict, throttled: int, busiest_minute: int | None) -> Iterator[str]:
    if verdict.throttled > throttled:
        yield f"expected: {throttled} calls answered 429; came: {verdict.throttled}"
    if busiest_minute is not None and verdict.busiest_minute > busiest_minute:
        yield (
            f"expected: at most {busiest_minute} calls in any 60 s; came: "
            f"{verdict.busiest_minute}, {verdict.busiest_minute_of_writes} of them accepted writes"
        )


def _never_long_in_doubt(verdict: Verdict) -> Iterator[str]:
    if verdict.longest_doubt_seconds > DOUBT_SECONDS:
        yield (
            f"expected: no link claimed or unknown for more than {DOUBT_SECONDS:.0f} s; came: "
            f"{verdict.longest_doubt_seconds} s"
        )


def _nobody_named(installation: Installation, answers: Sequence[Answer]) -> Iterator[str]:
    said = {
        f"{replica.log.name}:{number}: {line[:200]}"
        for replica in installation.replicas
        for number, line in enumerate(replica.log.read_text(errors="replace").splitlines(), 1)
        if _SECRETS.search(line)
    }
    said |= {
        f"the answer for {answer.event_id}: {answer.problem[:200]}"
        for answer in answers
        if answer.status and _SECRETS.search(answer.problem)
    }
    if said:
        yield _differ("no person and no link in logs and errors", len(said), 0, "", sorted(said))


def _nothing_idle_in_transaction(database_url: str) -> Iterator[str]:
    """Between two statements of a transaction a connection is idle in it, but never for long."""
    with (
        psycopg.connect(database_url, autocommit=True) as connection,
        connection.cursor(row_factory=scalar_row) as cursor,
    ):
        idle: list[Any] = [s for s in cursor.execute(_IN_TRANSACTION).fetchall() if s > 1]
    if idle:
        yield f"expected: nothing idle in transaction; came: {len(idle)}, for {max(idle):.1f} s"


def assert_responses_show_their_own_data(installation: Installation) -> None:
    """Answer some of the links, evenly taken, as their owners would.

    Raises:
        AssertionError: names the links whose response has the data of another event, or none.
    """
    issued = [row for row in ledger(installation.database_url) if row.state == "issued"]
    sample = {row.url or "": row.event_id for row in issued[:: max(1, len(issued) // SAMPLED)]}
    shown = installation.answer(sample)
    other = [
        f"{sample[url]}: {seat}" for url, seat in shown.items() if seat != seat_of(sample[url])
    ]
    assert not other, _differ(
        "each response with the data of its own event", len(other), len(sample), "not", other
    )
