"""Job `reconcile`: what became of the links, and in what ledger and platform differ.

It goes through three stages:

1. the distributions of pools that may have live links. One call tells what the platform counts;
   only where that has moved, and once behind its end, its history is read, 100 links to a call;
2. links of route `stepwise`, each of which has a distribution of its own: those that are not
   finished, at growing distances, the first a quarter of an hour behind their issue;
3. the responses that were heard of, be it by an event call or by a history, and were not read.

Each page of a history is written before the next one is read, and where it stands is committed with
it, beside what the platform counted before the first one. That is written down last, so that a
history that was not read to its end is read again, as is one in which somebody came further behind
whoever read it.

Where history is known not to tell of links that were built here, the first stage is left out: by
which link a response came is then told by its reference alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

from msgspec import Struct

from milepost.budget import for_purpose
from milepost.errors import ConfigurationError
from milepost.jobs.responses import Responses
from milepost.jobs.run import Run
from milepost.model import Fact, Purpose
from milepost.store import Store
from milepost.store.outcomes import (
    LATEST_LOOK,
    LOOKS_AT_AN_AGE,
    SOONEST_LOOK,
    Entry,
    Look,
    StepwiseLook,
    Told,
)
from milepost.store.runs import Finding
from milepost.upstream import (
    DistributionStats,
    Forbidden,
    HistoryEntry,
    NotFound,
    Refused,
    Throttled,
    Unauthorized,
    Upstream,
)

THOROUGH: Final = "thorough"
"""The option of a run that reads every history, moved or not: what is added to a list, or taken
away, moves no count."""

AT_ONCE: Final = 50
"""Distributions that are looked up together."""

MOST_STEPWISE: Final = 500
"""Links of route `stepwise` that one run looks at, a call each, those that are due for the longest
first. The next run goes on; where there are always more, all are looked at less often."""

MOST_MEMBERS: Final = 100_000
"""Of a distribution with more it is not seen which links lack their membership: they would have to
be remembered while its history is read."""

_FINISHED: Final = "SurveyFinished"


class Counts(Struct, kw_only=True):
    """What a run did, in all its attempts."""

    moved: int = 0
    """Distributions whose history was read."""
    entries: int = 0
    """Of histories."""
    opened: int = 0
    started: int = 0
    finished: int = 0
    """Links that became that."""
    read: int = 0
    """Responses that were matched."""
    unread: int = 0
    """Responses that could not be read; most are tried again."""
    drift: int = 0
    """Facts that were not known in which ledger and platform differ."""
    failed: int = 0
    """Looks that the platform refused."""


class _Sight(Struct):
    """What this token may see, as far as an attempt has found out."""

    has_seen: bool = False
    """The platform has told of something."""
    barred: Forbidden | None = None
    """It has said of something that it is not this token's to see."""


class Reconcile:
    """Brings in what became of links.

    Args:
        store: the ledger.
        upstream: counts, histories.
        responses: reads those that are heard of.
    """

    def __init__(self, store: Store, upstream: Upstream, responses: Responses) -> None:
        self._store = store
        self._upstream = upstream
        self._responses = responses

    async def run_once(self, run: Run) -> Counts:
        """Go through all of it, from the run's position on. See `Job`.

        Raises:
            ConfigurationError: the token may see none of it.
        """
        counts = Counts(**{name: run.counts.get(name, 0) for name in Counts.__struct_fields__})
        sight = _Sight()
        position: Mapping[str, Any] = run.position or {"stage": "distributions", "after": 0}
        with for_purpose(Purpose.RECONCILE):
            if position["stage"] == "distributions":
                account = await self._store.capabilities.all()
                if account.holds(Fact.HISTORY_LINKS):
                    await self._distributions(run, counts, sight, position)
                position = {"stage": "links"}
            if position["stage"] == "links" and not run.stopping.is_set():
                await run.commit(position, stage="links", done=0, counts=counts)
                await self._stepwise(run, counts, sight)
        if not run.stopping.is_set():
            await run.commit({"stage": "responses"}, stage="responses", done=0, counts=counts)
            if run.options.get(THOROUGH):
                await self._store.responses.read_again()
            told = await self._responses.run_once(run.stopping, progress=run.advance)
            for name in ("read", "unread", "started", "finished", "drift"):
                setattr(counts, name, getattr(counts, name) + getattr(told, name))
        if not run.stopping.is_set():
            counts.drift += await self._store.responses.flag_unexplained()
            if sight.barred is not None and not sight.has_seen:
                raise ConfigurationError(
                    f"the user of the platform's token may see none of our distributions; share "
                    f"the surveys with them: {sight.barred}"
                )
        return counts

    # --- the distributions of pools ------------------------------------------------------------

    async def _distributions(
        self, run: Run, counts: Counts, sight: _Sight, position: Mapping[str, Any]
    ) -> None:
        after, done = int(position["after"]), run.record.done if run.position else 0
        while looks := await self._store.outcomes.due(after=after, limit=AT_ONCE):
            for look in looks:
                if run.stopping.is_set():
                    return
                findings = []
                begun = position if position.get("in") == look.id else None
                try:
                    await self._look(run, look, counts, after=after, done=done, begun=begun)
                    sight.has_seen = True
                except Refused as error:
                    _see_that_it_is_this(error, sight)
                    findings = [await self._refused(look, error, counts)]
                after, done = look.id, done + 1
                if run.stopping.is_set() and not findings:
                    return
                await run.commit(
                    {"stage": "distributions", "after": after},
                    stage="distributions",
                    done=done,
                    counts=counts,
                    findings=findings,
                )

    async def _look(
        self,
        run: Run,
        look: Look,
        counts: Counts,
        *,
        after: int,
        done: int,
        begun: Mapping[str, Any] | None,
    ) -> None:
        """Look at one distribution, and read its history where that may tell something.

        Args:
            run: whose position is written with each page.
            look: at which.
            counts: what the run did.
            after: the distribution before this one.
            done: distributions before this one.
            begun: the position, if it is within this history.
        """
        cursor = None if begun is None else begun["cursor"]
        # Who came further since the first page was read may stand on one that is not read again.
        if begun is None:
            there = await self._upstream.distribution(look.distribution_id, look.survey_id)
            opened, started, finished = _figures(there.stats)
        else:
            opened, started, finished = begun["counted"]
        has_moved = (look.opened, look.started, look.finished) != (opened, started, finished)
        if has_moved or look.is_last or cursor is not None or run.options.get(THOROUGH):
            counts.moved += cursor is None
            members: set[str] | None = set() if cursor is None else None
            links = 0
            async with aclosing(
                self._upstream.history_pages(look.distribution_id, cursor=cursor)
            ) as pages:
                async for page in pages:
                    told = await self._store.outcomes.tell(look, _entries(page.elements))
                    _count(counts, told, len(page.elements))
                    links += told.links
                    if members is not None:
                        members.update(e.lookup_id for e in page.elements if e.lookup_id)
                        members = members if len(members) <= MOST_MEMBERS else None
                    if page.cursor is None:
                        break
                    await run.commit(
                        {
                            "stage": "distributions",
                            "after": after,
                            "in": look.id,
                            "cursor": page.cursor,
                            "counted": (opened, started, finished),
                        },
                        stage="distributions",
                        done=done,
                        counts=counts,
                    )
                    if run.stopping.is_set():
                        return
            # One that tells of no link at all may be of an account whose history never does.
            if members is not None and links:
                counts.drift += await self._store.outcomes.flag_lacking(look, frozenset(members))
        await self._store.outcomes.looked(
            look.id, opened=opened, started=started, finished=finished
        )

    async def _refused(self, look: Look, error: Refused, counts: Counts) -> Finding:
        """Note that the platform refused a look."""
        is_gone = isinstance(error, NotFound) and look.is_over
        if is_gone or look.is_last:
            await self._store.outcomes.give_up(look.id)
        counts.failed += not is_gone
        return Finding(
            reason=f"distribution {look.distribution_id} of milestone {look.milestone}: {error}"
        )

    # --- links with a distribution of their own -------------------------------------------------

    async def _stepwise(self, run: Run, counts: Counts, sight: _Sight) -> None:
        looks = await self._store.outcomes.stepwise_due(MOST_STEPWISE)
        for done, look in enumerate(looks, 1):
            if run.stopping.is_set():
                return
            findings, is_finished = [], look.is_finished
            is_told = is_finished
            if not is_finished and look.distribution_id is not None:
                try:
                    is_finished = await self._look_at_link(look, look.distribution_id, counts)
                    is_told = sight.has_seen = True
                except Refused as error:
                    _see_that_it_is_this(error, sight)
                    findings.append(Finding(reason=f"link {look.link_id}: {error}"))
                    counts.failed += 1
            pause = min(max(look.age / LOOKS_AT_AN_AGE, SOONEST_LOOK), LATEST_LOOK)
            await self._store.outcomes.look_again(
                look.link_id, None if is_finished or look.is_last else pause, is_told=is_told
            )
            await run.commit(
                {"stage": "links"},
                stage="links",
                done=done,
                total=len(looks),
                counts=counts,
                findings=findings,
            )

    async def _look_at_link(self, look: StepwiseLook, distribution_id: str, counts: Counts) -> bool:
        """Look at the distribution of one link; returns whether the link is finished."""
        counted = (await self._upstream.distribution(distribution_id, look.survey_id)).stats
        known = (look.is_opened, look.is_started, look.is_finished)
        # Whoever has started counts as having opened, also where the platform counts no opening.
        if look.is_last or any(figure > known[at] for at, figure in enumerate(_figures(counted))):
            counts.moved += 1
            async with aclosing(self._upstream.history_pages(distribution_id)) as pages:
                async for page in pages:
                    told = await self._store.outcomes.tell(look, _entries(page.elements))
                    _count(counts, told, len(page.elements))
                    if any(link.is_finished for link in told.changed):
                        return True
        return False


def _see_that_it_is_this(error: Refused, sight: _Sight) -> None:
    """Go on where one distribution cannot be looked at; not where none can, for a while or ever.

    Raises:
        Refused: of the others it would be the same.
    """
    if isinstance(error, Throttled | Unauthorized):
        raise error
    if isinstance(error, Forbidden):
        sight.barred = error


def _figures(counted: DistributionStats) -> tuple[int, int, int]:
    return counted.opened, counted.started, counted.finished


def _entries(told: list[HistoryEntry]) -> list[Entry]:
    """What histories tell of members; an entry without a lookup id is nobody's (observed)."""
    return [
        Entry(
            lookup_id=one.lookup_id,
            contact_id=one.contact_id,
            opened_at=one.opened_at,
            started_at=one.started_at,
            finished_at=one.completed_at,
            # One that is not completed may still become another.
            response_id=one.response_id
            if one.completed_at is not None or one.status == _FINISHED
            else None,
        )
        for one in told
        if one.lookup_id is not None
    ]


def _count(counts: Counts, told: Told, entries: int) -> None:
    counts.entries += entries
    counts.opened += sum(link.is_opened for link in told.changed)
    counts.started += sum(link.is_started for link in told.changed)
    counts.finished += sum(link.is_finished for link in told.changed)
    counts.drift += told.drift
