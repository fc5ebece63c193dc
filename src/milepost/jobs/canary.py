"""Job `canary`: whether the links that are built here are those of the platform.

Their format is undocumented and has changed before, so that once a day, for each survey, and apart
for its milestones of route `transaction`, whose links have a form of their own,

1. a canary is made, a distribution that holds nobody but our probe, and the link that the platform
   lists for it is held against the template of every distribution in use;
2. the links that the platform's history tells of are held against those that were given out since
   they were last found right, where history is known to tell of them.

A milestone whose links differ is stopped: it gives no personal link until the platform has gone
back, which the next canary sees, or until a person has resumed it. Then the canary's link is
learnt: the templates of the survey's distributions are made anew after it. That it was resumed
stands in the milestone until a canary has answered it, however late that is listed. A form that is
not known can never be learnt.

What a canary tells is as old as the canary is: it ends no stop that is newer, and answers nobody
who has resumed a milestone after such a stop. So none is looked at that is older than a stop.

The two URLs that differ are credentials. They stand in the run's findings and in the milestone, for
admins; no log and no error has them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Final

from msgspec import Struct

from milepost import policy
from milepost.budget import for_purpose
from milepost.jobs.batches import HomeListBusy
from milepost.jobs.provisioning import (
    CanaryBusy,
    Changed,
    Distrusted,
    NotListedYet,
    Provisioning,
    Seen,
    changed,
    hold,
)
from milepost.jobs.run import NeedsAPerson, NotNow, Run
from milepost.model import Capabilities, Fact, Milestone, Purpose, Route
from milepost.personal_link import NotAPersonalLink, PersonalLink, parse
from milepost.store import Store
from milepost.store.canaries import Given, Learnt
from milepost.store.runs import Finding
from milepost.upstream import (
    Forbidden,
    HistoryEntry,
    Refused,
    Throttled,
    Unauthorized,
    Upstream,
)

log = logging.getLogger(__name__)

PAGE: Final = 100
"""Entries of a history that are held against the ledger at once: as many as a page of it has."""

MOST_ENTRIES: Final = 2_000
"""How much of one distribution's history is read: twenty calls. It is there to show the form of
links, and one would do; but it begins with those who are in the list for longest."""

MOST_DISTRIBUTIONS: Final = 25
"""Of how many distributions of a milestone: at the limit of 300 calls a minute that is two minutes
at the most."""


class Counts(Struct, kw_only=True):
    """What a run did, in all its attempts."""

    surveys: int = 0
    templates: int = 0
    """Held against a canary."""
    links: int = 0
    """That history told of, held against those that were given out."""
    unlisted: int = 0
    """Surveys whose canary is not listed yet, so that it tells nothing."""
    busy: int = 0
    """Surveys whose canary was being made elsewhere when they were looked at last."""
    learnt: int = 0
    """Templates that were made anew."""
    stopped: int = 0
    """Milestones whose links differ."""
    resumed: int = 0
    """Milestones that were stopped, and whose links are right again."""
    deleted: int = 0
    """Canaries that newer ones have replaced."""
    failed: int = 0
    """Looks that the platform refused."""


class _Look(Struct, frozen=True, kw_only=True):
    """One survey that is looked at."""

    survey_id: str
    route: Route
    """`transaction`: only milestones of this route are looked at; `list`: only the others."""
    keys: Sequence[str]
    """Of the milestones that have it now."""
    since: datetime
    """When the run began: its canary is no older."""
    resumed: Mapping[str, datetime]
    """Those of them that a person has resumed although they are stopped, and when."""


class _Verdicts(Struct, kw_only=True):
    """What was seen of the milestones, by key."""

    wrong: dict[str, Changed] = {}
    well: set[str] = set()
    notes: list[str] = []
    """What could not be seen, and why."""


class Canary:
    """Holds links against the platform's.

    Args:
        store: knows the templates, and the links that were given out.
        upstream: tells the history.
        provisioning: makes the canaries.
    """

    def __init__(self, store: Store, upstream: Upstream, provisioning: Provisioning) -> None:
        self._store = store
        self._upstream = upstream
        self._provisioning = provisioning

    async def run_once(self, run: Run) -> Counts:
        """Look at each survey of an active milestone, from the run's position on.

        Raises:
            NeedsAPerson: a milestone is stopped, still or again.
            NotNow: a canary is being made elsewhere; all surveys are looked at once more.
            And as `Job`.
        """
        counts = Counts(**{name: run.counts.get(name, 0) for name in Counts.__struct_fields__})
        if run.position is None:
            counts.busy = 0
        account = await self._store.capabilities.all()
        # Of the others the platform lists each link itself: nothing is built that could be wrong.
        milestones = [
            milestone
            for milestone in await self._store.milestones.all()
            if milestone.definition.route is not Route.STEPWISE
        ]
        surveys = sorted({_looked_at(m) for m in milestones if m.state == "active"})
        for done, (survey_id, route) in enumerate(surveys, 1):
            position = survey_id if route is Route.LIST else f"{survey_id} {route}"
            if run.position is not None and position <= run.position:
                continue
            if run.stopping.is_set():
                return counts
            theirs = [m for m in milestones if _looked_at(m) == (survey_id, route)]
            look = _Look(
                survey_id=survey_id,
                route=route,
                keys=[m.key for m in theirs],
                since=run.record.started_at or run.record.created_at,
                resumed={m.key: m.stop.resumed_at for m in theirs if m.stop and m.stop.resumed_at},
            )
            findings = await self._look_at(look, account, counts)
            counts.surveys += 1
            await run.commit(
                position,
                stage="surveys",
                done=done,
                total=len(surveys),
                counts=counts,
                findings=findings,
            )
        if counts.busy:
            await run.commit(None, stage="surveys", done=0, counts=counts)
            raise NotNow("another process makes a canary, or it was deleted: see the findings")
        stopped = [m.key for m in await self._store.milestones.all() if m.stop]
        if stopped:
            raise NeedsAPerson(
                f"the links of these milestones are not trusted, and they are stopped: "
                f"{', '.join(stopped)}; GET /v1/milestones/KEY says why"
            )
        return counts

    async def _look_at(self, look: _Look, account: Capabilities, counts: Counts) -> list[Finding]:
        """Look at one survey, and stop or trust its milestones; returns what there is to tell."""
        at = await self._store.runs.now()
        verdicts = _Verdicts()
        has_canary = look.route in policy.routes_made_ahead(account)
        seen = await self._canary(look, account, verdicts, counts) if has_canary else None
        # At once: to read the history may take long, and links are given out meanwhile.
        findings = [await self._stop(look, key, wrong) for key, wrong in verdicts.wrong.items()]
        counts.stopped += len(findings)
        stopped = set(verdicts.wrong)
        if not has_canary and look.resumed:
            # Nothing tells what links look like: the person's word must do.
            verdicts.well.update(look.resumed)
        elif account.holds(Fact.HISTORY_LINKS) and (seen or not has_canary):
            with for_purpose(Purpose.RECONCILE):
                compared = await self._history(look, seen, verdicts, counts)
            if not has_canary:
                verdicts.well.update(compared)
        known_at = seen.made_at if seen else at
        findings += [Finding(reason=note) for note in verdicts.notes]
        for key in look.keys:
            if key in stopped:
                continue
            if (wrong := verdicts.wrong.get(key)) is not None:
                findings.append(await self._stop(look, key, wrong))
                counts.stopped += 1
            elif key in verdicts.well and await self._store.milestones.trust(
                key, known_at, survey_id=look.survey_id, given_until=at
            ):
                log.warning("milestone %s gives links again: they are as the platform's", key)
                counts.resumed += 1
        return findings

    async def _stop(self, look: _Look, key: str, wrong: Changed) -> Finding:
        log.error("milestone %s is stopped: %s", key, wrong)
        await self._store.milestones.stop(
            key,
            str(wrong),
            survey_id=look.survey_id,
            expected=wrong.expected,
            found=wrong.found,
        )
        expected = wrong.expected or "none that can be built"
        return Finding(
            reason=f"milestone {key} is stopped: {wrong}; the link of {wrong.whose}, a credential: "
            f"expected {expected}, found {wrong.found}"
        )

    # --- by a canary ----------------------------------------------------------------------------

    async def _canary(
        self, look: _Look, account: Capabilities, verdicts: _Verdicts, counts: Counts
    ) -> Seen | None:
        """Hold templates against a canary, or learn them from it; returns what it tells."""
        routes = set(Route) - {Route.TRANSACTION} if look.route is Route.LIST else {look.route}
        learnt: Sequence[Learnt] = await self._store.canaries.learnt(look.survey_id, routes)
        try:
            seen = await self._provisioning.canary(
                look.survey_id, account, since=look.since, is_patient=True, route=look.route
            )
        except (CanaryBusy, HomeListBusy) as error:
            verdicts.notes.append(f"survey {look.survey_id}: {error}")
            counts.busy += 1
            return None
        except NotListedYet as error:
            verdicts.notes.append(f"survey {look.survey_id}: {error}")
            counts.unlisted += 1
            return None
        except Distrusted as error:
            for key in look.keys:
                template = next((one.template for one in learnt if one.milestone == key), None)
                verdicts.wrong[key] = changed(error, template)
            await self._answer(look, error.made_at or look.since)
            return None
        except Refused as error:
            _note(error, f"survey {look.survey_id}", verdicts, counts)
            return None
        try:
            counts.deleted += await self._provisioning.clear_canaries(look.survey_id, look.route)
        except Refused as error:
            _note(error, f"survey {look.survey_id}", verdicts, counts)
        if look.resumed:
            learnt = await self._learn(learnt, seen.link, counts)
            await self._answer(look, seen.made_at)
        verdicts.well.update(look.keys)
        for one in learnt:
            counts.templates += 1
            try:
                hold(one.template, seen.link)
            except Changed as error:
                verdicts.wrong.setdefault(one.milestone, error)
        return seen

    async def _answer(self, look: _Look, at: datetime) -> None:
        for key, resumed_at in look.resumed.items():
            await self._store.milestones.answer(key, resumed_at, at)

    async def _learn(
        self, learnt: Sequence[Learnt], link: PersonalLink, counts: Counts
    ) -> Sequence[Learnt]:
        """Make templates anew after a canary's link; returns them as they are then."""
        wanted = {
            one.id: str(link.template().for_distribution(one.distribution_id)) for one in learnt
        }
        anew = {one.id: wanted[one.id] for one in learnt if one.template != wanted[one.id]}
        await self._store.canaries.learn(anew)
        counts.learnt += len(anew)
        return [
            Learnt(
                id=one.id,
                milestone=one.milestone,
                distribution_id=one.distribution_id,
                template=wanted[one.id],
            )
            for one in learnt
        ]

    # --- by history -----------------------------------------------------------------------------

    async def _history(
        self, look: _Look, seen: Seen | None, verdicts: _Verdicts, counts: Counts
    ) -> set[str]:
        """Hold what was given out against history; returns the milestones that it told of."""
        told: set[str] = set()
        try:
            is_literal = seen is None or await self._is_literal(seen.link)
        except Refused as error:
            _note(error, f"survey {look.survey_id}", verdicts, counts)
            return told
        if not is_literal:
            verdicts.notes.append(
                f"survey {look.survey_id}: history does not tell the canary's link as it is "
                "listed, or not yet, so that nothing was held against it"
            )
            return told
        for key in look.keys:
            for given in (await self._store.canaries.given(key))[:MOST_DISTRIBUTIONS]:
                try:
                    compared = await self._compare(given)
                except Changed as error:
                    verdicts.wrong.setdefault(key, error)
                except Refused as error:
                    _note(error, f"milestone {key}", verdicts, counts)
                else:
                    counts.links += compared
                    told |= {key} if compared else set()
        return told

    async def _is_literal(self, link: PersonalLink) -> bool:
        """Whether the canary's history tells its link as it is listed."""
        async with aclosing(self._upstream.history(link.distribution_id)) as entries:
            async for entry in entries:
                if entry.lookup_id == link.lookup_id and entry.link is not None:
                    return entry.link == link.url
        return False

    async def _compare(self, given: Given) -> int:
        """Hold the links of one distribution against its history; returns how many.

        Raises:
            Changed: one of them differs.
        """
        compared = 0
        page: list[HistoryEntry] = []
        async with aclosing(self._upstream.history(given.distribution_id)) as entries:
            read = 0
            async for entry in entries:
                page.append(entry)
                read += 1
                if len(page) == PAGE:
                    compared += await self._compare_page(given, page)
                    page.clear()
                if read == MOST_ENTRIES:
                    break
        return compared + await self._compare_page(given, page)

    async def _compare_page(self, given: Given, page: Sequence[HistoryEntry]) -> int:
        told = {entry.lookup_id: entry.link for entry in page if entry.lookup_id and entry.link}
        urls = await self._store.canaries.urls(given, list(told))
        for lookup_id, url in urls.items():
            if told[lookup_id] != url:
                raise _differs(url, told[lookup_id])
        return len(urls)


def _looked_at(milestone: Milestone) -> tuple[str, Route]:
    """By which canary a milestone's links are judged."""
    is_batch = milestone.definition.route is Route.TRANSACTION
    return milestone.definition.survey_id, Route.TRANSACTION if is_batch else Route.LIST


def _differs(given: str, told: str) -> Changed:
    """That history tells of another link than the one that was given out."""
    try:
        parts = " and ".join(parse(given).differences(parse(told)))
        how = f"differs in its {parts} from the one that was given out"
    except NotAPersonalLink as error:
        how = f"has a form that is not known: {error.reason}"
    sentence = f"a link that the platform's history tells of {how}"
    return Changed(sentence, expected=given, found=told, whose="a registrant")


def _note(error: Refused, what: str, verdicts: _Verdicts, counts: Counts) -> None:
    """Note that the platform refused a look, and go on with the others.

    Raises:
        Refused: of the others it would be the same.
    """
    if isinstance(error, Throttled | Unauthorized | Forbidden):
        raise error
    verdicts.notes.append(f"{what}: {error}")
    counts.failed += 1
