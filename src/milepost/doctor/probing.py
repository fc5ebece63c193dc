"""Tries on the account what Milepost takes for granted of it, and writes the answers down.

A probe makes two mailing lists, four people who do not exist, some distributions, transactions and
a batch, all under its own name, and takes them away again. What is tried, in this order::

    lists, with and without our probe in them, take a distribution
    the same person, in two lists and twice in one
    the probe's link is listed, and understood: from here on links can be built
    how long a distribution may live; when a search and a list of links know somebody added just now
    transactions: how many a call takes, a batch, a distribution on it, the link of a late one
    a person who is added last of all: their link is built, opened, answered

The last person comes last because listing links may be what makes them open: none is listed between
their coming and the opening of their link. What it shows beyond opening hangs on an answered
survey, so somebody is asked to answer it (`Answerer`).

An answer is stored when the trial has shown it, at once. Where it has shown nothing (nobody
answered, a call broke off), an earlier answer stays.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final
from urllib.parse import quote

import msgspec
from msgspec import Struct

from milepost import app, settings
from milepost.doctor.assumptions import Answer, Verdict, answer
from milepost.doctor.belongings import Belongings, Remains
from milepost.doctor.opening import Answerer, Outcome
from milepost.doctor.watching import Ground, Look, Patience, Watch, learn
from milepost.errors import MilepostError
from milepost.model import Capabilities, Deployment, Fact, MilestoneDefinition
from milepost.payload import REFERENCE_FIELD
from milepost.store import Store
from milepost.upstream import (
    CallFailed,
    CreatedTransactions,
    HistoryEntry,
    ListedLink,
    NotFound,
    Refused,
    SurveyDefinition,
    Throttled,
    TransactionFields,
    UnknownOutcome,
    Upstream,
)

log = logging.getLogger(__name__)

PROBES_DAYS: Final = 7
"""How long the probe's distributions are to live: no platform takes that for too long, so that what
is refused is refused for another reason."""

EXPIRIES: Final = (3_650, 1_825, 1_095, 730, 545, 365, 270, 180, 120, 90, 60, 30)
"""Days, the most first: one after the other is asked for until one is accepted."""

MOST_TRANSACTIONS: Final = 100
"""By one call: the more there are, the more calls it takes to remove them. At 500 calls a minute
(second-hand) these would carry 50,000 events a minute."""

THROTTLING_CALLS: Final = 1_000
"""In a row, to meet a 429: the history of a distribution takes 300 a minute (second-hand)."""

THROTTLING_AT_ONCE: Final = 25

_ROUNDING: Final = timedelta(minutes=1)
"""By which a moment may come back earlier than it was sent: the platform keeps whole seconds."""

_TOO_LARGE: Final = 413
_TOO_MANY: Final = 429

_SHOWS: Final[Mapping[bool | None, str]] = {
    True: "opens as a listed one does",
    False: "shows what a link with an altered id shows",
    None: "looks to a program like a listed one, but so does one with an altered id",
}
"""What the page behind a built link shows, by whether it opens."""

_MINE: Final = "milepost"
"""What stands in a field of the contact or its link: which of them, shows who wins."""
_THEIRS: Final = "link"


class CannotProbe(MilepostError):
    """There is nothing to probe with."""


class _Late(Struct, frozen=True, kw_only=True):
    """The link that was built for a contact added late."""

    ground: Ground
    lookup_id: str
    url: str
    opens: bool | None
    """As far as a program can see; None: it cannot."""


class Report(Struct, frozen=True, kw_only=True):
    """What a probe has found, and left behind."""

    survey_id: str
    answers: tuple[Answer, ...]
    """One for each fact, in the order of `Fact`."""
    responses: tuple[str, ...]
    """The ids, `R_…`, of responses to the survey that answering has made: they stay in it."""
    unnamed_responses: int
    """How many more are said to have been made, whose ids the platform does not tell."""
    remains: tuple[Remains, ...]


async def probe(
    environment: Mapping[str, str] = os.environ,
    *,
    survey_id: str | None = None,
    answerer: Answerer | None = None,
    patience: Patience | None = None,
    throttle: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Try everything on the account of this installation.

    Args:
        environment: the settings.
        survey_id: what the links lead to; None: the survey of the first milestone that is active.
        answerer: answers it; None: nobody does.
        patience: how long is waited for what comes late.
        throttle: provoke a 429, past the budget: others who share the brand's calls feel it.
        progress: is told what is done at the moment.

    Raises:
        CannotProbe: there is no survey to do it with.
        And as `app.opened`.
    """
    given = settings.load(environment)
    with app.database(given) as url:
        async with (
            app.opened(given, url) as milepost,
            Upstream(given.upstream_url, app.credentials(given)) as past_the_budget,
        ):
            probing = Probing(
                milepost.store,
                milepost.upstream,
                milepost.deployment,
                survey_id=survey_id or await _first_survey(milepost.store),
                answerer=answerer,
                patience=patience or Patience(),
                past_the_budget=past_the_budget if throttle else None,
                progress=progress,
            )
            return await probing.run()


async def _first_survey(store: Store) -> str:
    for milestone in await store.milestones.all():
        if milestone.state == "active":
            return milestone.definition.survey_id
    raise CannotProbe(
        "there is no active milestone whose survey could be used; name a survey that is active: "
        "milepost doctor --probe --survey SV_0123456789abcde"
    )


class Probing:
    """One probe.

    Args:
        store: remembers the answers.
        upstream: within the budget.
        deployment: bound to its directory.
        survey_id: what the links lead to.
        answerer: answers it; None: nobody does.
        patience: how long is waited for what comes late.
        past_the_budget: provokes a 429; None: none is provoked.
        progress: is told what is done at the moment.
    """

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        deployment: Deployment,
        *,
        survey_id: str,
        answerer: Answerer | None = None,
        patience: Patience,
        past_the_budget: Upstream | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._past_the_budget = past_the_budget
        self._directory_id = deployment.directory_id or ""
        self._survey_id = survey_id
        self._progress = progress
        self._belongings = Belongings(
            upstream,
            self._directory_id,
            survey_id,
            deployment.id,
            now=datetime.now(UTC),
            throttled=self._note_throttled,
        )
        self._watch = Watch(
            upstream,
            self._directory_id,
            survey_id,
            self._belongings,
            patience=patience,
            answerer=answerer,
        )
        self._answers: dict[Fact, Answer] = {}
        self._earlier = Capabilities()
        self._throttled: Throttled | None = None
        self._responses: list[str] = []
        self._unnamed = 0
        self._with_phone = False

    async def run(self) -> Report:
        """Try everything, store what was shown, and take away what was made.

        Raises:
            CannotProbe: the survey takes no distribution; nothing was made.
            UpstreamError: the platform does not answer at all, or not to this token.
        """
        self._earlier = await self._store.capabilities.all()
        survey = await self._survey()
        directories = await self._upstream.directories()
        self._with_phone = any(
            "phone" in directory.dedup_criteria
            for directory in directories
            if directory.directory_id == self._directory_id
        )
        try:
            with suppress(CallFailed):  # the next probe looks again
                await self._belongings.find_forgotten()
            async with self._trying(*Fact):
                await self._try_all(survey)
        except BaseException:  # such as Ctrl-C: nobody gets a report
            for left in await self._take_away():
                log.warning("left at the platform: %s %s (%s)", left.kind, left.id, left.because)
            raise
        remains = await self._take_away()
        return Report(
            survey_id=self._survey_id,
            answers=tuple(self._answers[fact] for fact in Fact),
            responses=tuple(self._responses),
            unnamed_responses=self._unnamed,
            remains=tuple(remains),
        )

    async def _take_away(self) -> list[Remains]:
        self._progress("taking away what was made")
        return await self._belongings.take_away()

    async def _survey(self) -> SurveyDefinition:
        try:
            survey = await self._upstream.survey_definition(self._survey_id)
        except NotFound as error:
            raise CannotProbe(
                f"the token's user sees no survey {self._survey_id}: share it with that user, or "
                "name another with --survey"
            ) from error
        if not survey.active:
            raise CannotProbe(
                f"survey {self._survey_id} is not active, so it takes no distribution: activate "
                "it, or name another with --survey"
            )
        return survey

    async def _try_all(self, survey: SurveyDefinition) -> None:
        watch = self._watch
        list_id = await self._belongings.mailing_list()
        probe_id, lookup_id, distribution_id = await self._distribute(list_id)
        await self._merge(list_id)
        ground: Ground | None = None
        why = "no distribution could be made"
        if distribution_id is not None:
            self._progress("waiting until the probe's link is listed")
            listed = await watch.until(
                lambda: watch.listed(distribution_id, lookup_id), watch.patience.links
            )
            ground, why = learn(distribution_id, lookup_id, listed)
            await self._live_long(list_id, lookup_id, listed)
            await self._sight(list_id, distribution_id, listed)
        await self._transact(probe_id, list_id)
        await self._come_late(list_id, ground, why, survey)
        await self._overdo(distribution_id)
        await self._leave_open(Fact, "no distribution could be made")

    # --- what there is to try -------------------------------------------------------------------

    async def _distribute(self, list_id: str) -> tuple[str, str, str | None]:
        """Make a distribution for the probe alone; returns the probe's ids and the distribution."""
        self._progress("making a distribution on a list that holds only the probe")
        empty = "accepted, too"
        try:
            await self._belongings.distribution(list_id, _days(PROBES_DAYS))
        except Refused as error:
            empty = _because(error)
        probe = self._belongings.person("a", with_phone=self._with_phone)
        contact_id, lookup_id = await self._belongings.contact(list_id, probe)
        try:
            made = await self._belongings.distribution(list_id, _days(PROBES_DAYS))
        except Refused as error:
            if not _is_no(error):
                raise
            refusal = _because(error)
        else:
            evidence = f"it was accepted; on an empty list: {empty}"
            await self._say(Fact.PROBE_ONLY_DISTRIBUTION, "yes", evidence)
            return contact_id, lookup_id, made
        # Everything else can be tried all the same, if company is what the platform asks for.
        company = self._belongings.person("b", with_phone=self._with_phone)
        await self._belongings.contact(list_id, company)
        distribution_id, second = None, "accepted"
        verdict: Verdict = "no"
        try:
            distribution_id = await self._belongings.distribution(list_id, _days(PROBES_DAYS))
        except Refused as error:
            verdict, second = "not known", _because(error)  # company is not what it lacks
        evidence = f"it was {refusal}; with a second contact in the list: {second}"
        await self._say(Fact.PROBE_ONLY_DISTRIBUTION, verdict, evidence)
        return contact_id, lookup_id, distribution_id

    async def _merge(self, list_id: str) -> None:
        """Add one person to two lists, and to the second one again."""
        self._progress("adding the same person to two lists, and twice to one")
        async with self._trying(Fact.ONE_CONTACT, Fact.SAME_LOOKUP):
            person = self._belongings.person("c", with_phone=self._with_phone)
            other_list = await self._belongings.mailing_list()
            first, _ = await self._belongings.contact(list_id, person)
            second, lookup = await self._belongings.contact(other_list, person)
            is_one = first == second
            evidence = "one contact" if is_one else "two contacts"
            await self._say(Fact.ONE_CONTACT, _verdict(is_one), f"the two lists hold {evidence}")
            third, again = await self._belongings.contact(other_list, person)
            is_same = (second, lookup) == (third, again)
            evidence = (
                "the second add was answered with the ids of the first"
                if is_same
                else "the second add was answered with another "
                + ("lookup id" if second == third else "contact")
            )
            await self._say(Fact.SAME_LOOKUP, _verdict(is_same), evidence)

    async def _live_long(self, list_id: str, lookup_id: str, probes: Look[ListedLink]) -> None:
        """Ask for distributions that live long, the longest first."""
        watch = self._watch
        async with self._trying(Fact.LONGEST_EXPIRY):
            milestones = await self._store.milestones.all()
            wanted = {milestone.definition.link_days for milestone in milestones}
            needed = max(wanted, default=_usual_link_days())
            refused = None
            for days in sorted(wanted | {*EXPIRIES}, reverse=True):
                self._progress(f"making a distribution that lives for {days} days")
                expires_at = _days(days)
                try:
                    made = await self._belongings.distribution(list_id, expires_at)
                except Refused as error:
                    if not _is_no(error):
                        raise
                    refused = f", {days} {_because(error)}"
                    continue
                patience = watch.patience.links if probes.found is not None else 0.0
                listed = await watch.until(partial(watch.listed, made, lookup_id), patience)
                evidence = f"{days} days were accepted{refused or ''}"
                if listed.found is None or listed.found.expires_at is None:
                    told = f"{evidence}; that its links live as long is not told"
                    await self._say(Fact.LONGEST_EXPIRY, "not known", told)
                    return
                kept = _days_kept(days, expires_at, listed.found.expires_at)
                lives = "as long" if kept == days else f"for {kept}"
                evidence += f", and its links live {lives}"
                evidence += f"; the milestones ask for {needed}" if wanted else ""
                await self._say(
                    Fact.LONGEST_EXPIRY, _verdict(kept >= needed), evidence, figure=kept
                )
                return
            await self._say(Fact.LONGEST_EXPIRY, "not known", "no length of life was accepted")

    async def _sight(self, list_id: str, distribution_id: str, probes: Look[ListedLink]) -> None:
        """See when a search and a list of links know somebody who was added just now."""
        watch = self._watch
        self._progress("looking for a contact that was added just now")
        async with self._trying(Fact.PROMPT_SEARCH, Fact.COMPLETE_LINKS):
            person = self._belongings.person("d", with_phone=self._with_phone)
            contact_id, lookup_id = await self._belongings.contact(list_id, person)
            # If the probe was not listed in all that time, nobody will be now.
            patience = watch.patience.links if probes.found is not None else 0.0
            try:
                async with asyncio.TaskGroup() as looks:
                    search = looks.create_task(
                        watch.until(
                            lambda: watch.searched(person.ref or "", contact_id),
                            watch.patience.search,
                        )
                    )
                    listing = looks.create_task(
                        watch.until(lambda: watch.listed(distribution_id, lookup_id), patience)
                    )
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
            sought, listed = search.result(), listing.result()
            await self._say(
                Fact.PROMPT_SEARCH,
                _verdict(sought.at_once),
                sought.told("the contact"),
                figure=sought.after,
            )
            waits = [probes.after, listed.after]
            all_found = probes.found is not None and listed.found is not None
            is_late = False in (probes.at_once, listed.at_once)
            is_told = None not in (probes.at_once, listed.at_once)
            await self._say(
                Fact.COMPLETE_LINKS,
                "no" if is_late else "yes" if is_told else "not known",
                f"{probes.told('the link of the probe')}; {listed.told('that of a late contact')}",
                figure=max((each for each in waits if each is not None), default=None)
                if all_found
                else None,
            )

    async def _transact(self, contact_id: str, list_id: str) -> None:
        """Make transactions, a batch, a distribution on it, and a transaction that comes late."""
        wanted = TransactionFields(
            contact_id=contact_id, list_id=list_id, at=datetime.now(UTC), data={_MINE: "probe"}
        )
        async with self._trying(Fact.TRANSACTION_BATCH):
            self._progress("making a distribution on a batch of transactions")
            evidence, opens = await self._try_batch(wanted)
            await self._say(Fact.TRANSACTION_BATCH, _verdict(opens), evidence)
        async with self._trying(Fact.TRANSACTIONS_PER_CALL):
            self._progress("making many transactions by one call")
            n, refused = MOST_TRANSACTIONS, ""
            while n > 1:
                try:
                    made = len((await self._belongings.transactions(wanted, n)).created)
                except (Refused, UnknownOutcome) as error:
                    if not _is_no(error):
                        raise
                    made = 0
                if made > 1:
                    told = f"{made} were made by one call{refused}"
                    await self._say(Fact.TRANSACTIONS_PER_CALL, "yes", told, figure=made)
                    return
                refused = f", {n} were not"
                n //= 2
            told = "two transactions by one call were not made"
            await self._say(Fact.TRANSACTIONS_PER_CALL, "no", told, figure=1)

    async def _try_batch(self, wanted: TransactionFields) -> tuple[str, bool | None]:
        """Whether route transaction would work, and what shows it."""
        watch = self._watch
        first = await self._belongings.transactions(wanted, 1)
        if not first.created:
            return _none_made("no transaction can be made of a contact in a list", first)
        (transaction_id,) = first.created.values()
        try:
            batch_id = await self._belongings.batch(transaction_id)
            distribution_id = await self._belongings.batch_distribution(
                batch_id, _days(PROBES_DAYS)
            )
        except Refused as error:
            if not _is_no(error):
                raise
            return f"a distribution on a batch is {_because(error)}", False
        listed = await watch.until(
            lambda: watch.listed(distribution_id, transaction_id), watch.patience.links
        )
        ground, why = learn(distribution_id, transaction_id, listed)
        if ground is None:
            return f"a distribution on a batch is accepted; {why}", None
        return await self._come_late_to(batch_id, ground, wanted)

    async def _come_late_to(
        self, batch_id: str, ground: Ground, wanted: TransactionFields
    ) -> tuple[str, bool | None]:
        """Whether the built link of a transaction opens that is added to a batch last of all."""
        watch = self._watch
        second = await self._belongings.transactions(wanted, 1)
        if not second.created:
            return _none_made("a second transaction is not made", second)
        (late_id,) = second.created.values()
        try:
            await self._belongings.patiently(
                lambda: self._upstream.add_to_batch(self._directory_id, batch_id, [late_id])
            )
        except Refused as error:
            if not _is_no(error):
                raise
            return f"a late transaction in the batch is {_because(error)}", False
        url = ground.template.url(late_id)
        opens = await watch.opens(ground, url)
        told = f"the late transaction's link {_SHOWS[opens]}"
        if opens is not None:
            return told, opens
        outcome = await watch.ask(url, lambda: watch.attributed(ground, late_id, 0))
        if outcome != "answered":
            shut = "somebody found the late transaction's link shut"
            return (shut, False) if outcome == "shut" else (told, None)
        attributed = await watch.until(
            lambda: watch.attributed(ground, late_id, 0), watch.patience.attribution
        )
        if not attributed.found:
            return f"{told}; it is said to be answered, and no response is counted", None
        await self._note_response(ground, late_id)
        return "somebody answered the survey behind the late transaction's link", True

    async def _come_late(
        self, list_id: str, ground: Ground | None, why: str, survey: SurveyDefinition
    ) -> None:
        """Add a person last of all, build their link, open it and have it answered."""
        watch = self._watch
        facts = (Fact.LATE_LINK, Fact.HISTORY_LINKS, Fact.PRIVATE_DATA, Fact.URL_WINS)
        async with self._trying(*facts):
            if ground is None:
                await self._leave_open(facts, why)
                return
            self._progress("opening the link of a contact that was added late")
            private, both = _choose_fields(survey)
            person = msgspec.structs.replace(
                self._belongings.person("e", with_phone=self._with_phone),
                private_embedded_data={private: _MINE} if private else None,
                embedded_data={both: _MINE} if both else None,
            )
            _, lookup_id = await self._belongings.contact(list_id, person)
            url = ground.template.url(lookup_id)
            # A survey reads the query when it is first opened, by us or by anybody.
            asked = f"{url}&{quote(both)}={_THEIRS}" if both else url
            opens = await watch.opens(ground, asked)
            late = _Late(ground=ground, lookup_id=lookup_id, url=url, opens=opens)
            if opens is False:
                await self._say(Fact.LATE_LINK, "no", f"it {_SHOWS[opens]}")
                await self._leave_open([Fact.HISTORY_LINKS], "the link had to be listed to open")
                await self._have_listed(late)
            self._progress("waiting until somebody has answered the survey")
            finished = await watch.finished(ground)
            outcome = await watch.ask(asked, lambda: watch.attributed(ground, lookup_id, finished))
            if outcome != "answered":
                await self._conclude_unanswered(late, outcome)
                return
            await self._conclude_answered(late, finished)
            values, why = await self._response(late)
            if values is None:
                await self._leave_open([Fact.PRIVATE_DATA, Fact.URL_WINS], why)
                return
            await self._conclude_private(private, values)
            await self._conclude_url(both, values)

    async def _conclude_unanswered(self, late: _Late, outcome: Outcome) -> None:
        is_shut = outcome == "shut"
        if Fact.LATE_LINK not in self._answers:
            if is_shut:
                await self._say(Fact.LATE_LINK, "no", "somebody who opened it found no survey")
            else:
                told = f"it {_SHOWS[late.opens]}; nobody answered, so no response was attributed"
                await self._say(Fact.LATE_LINK, "not known", told)
        if Fact.HISTORY_LINKS not in self._answers and not is_shut:
            entry = await self._watch.history(late.ground, late.lookup_id)
            if entry is not None:
                await self._say(Fact.HISTORY_LINKS, "yes", _echo(entry, late.url))
        open_yet = (Fact.HISTORY_LINKS, Fact.PRIVATE_DATA, Fact.URL_WINS)
        await self._leave_open(open_yet, "nobody answered the survey")

    async def _conclude_answered(self, late: _Late, finished: int) -> None:
        watch = self._watch
        self._progress("waiting until the response is attributed")
        attributed = await watch.until(
            lambda: watch.attributed(late.ground, late.lookup_id, finished),
            watch.patience.attribution,
        )
        counted = "its response is counted"
        if Fact.LATE_LINK not in self._answers:
            opened = (
                f"it {_SHOWS[True]}" if late.opens else "somebody answered the survey behind it"
            )
            if attributed.found:
                await self._say(Fact.LATE_LINK, "yes", f"{opened}; {counted}")
            else:
                told = f"it was answered; after {attributed.seconds:.0f} s no response is counted"
                await self._say(Fact.LATE_LINK, "not known", told)
        if Fact.HISTORY_LINKS in self._answers:
            return
        seen = await watch.until(
            lambda: watch.history(late.ground, late.lookup_id), watch.patience.attribution
        )
        if seen.found is not None:
            await self._say(Fact.HISTORY_LINKS, "yes", _echo(seen.found, late.url))
        elif attributed.found:
            told = f"{counted}; after {seen.seconds:.0f} s the history does not tell of the link"
            await self._say(Fact.HISTORY_LINKS, "no", told)
        else:
            await self._leave_open([Fact.HISTORY_LINKS], "no response is counted")

    async def _have_listed(self, late: _Late) -> None:
        """Have the platform list the link, which may be what it waits for."""
        self._progress("waiting until the late contact's link is listed")
        await self._watch.until(
            lambda: self._watch.listed(late.ground.distribution_id, late.lookup_id),
            self._watch.patience.links,
        )

    async def _response(self, late: _Late) -> tuple[Mapping[str, object] | None, str]:
        """What the response holds; or why that is not to be had."""
        watch = self._watch
        if self._answers[Fact.HISTORY_LINKS].answer != "yes":
            await self._have_listed(late)  # then it may tell
        answered = await watch.until(
            lambda: watch.answered_entry(late.ground, late.lookup_id), watch.patience.attribution
        )
        if answered.found is None or answered.found.response_id is None:
            self._unnamed += 1
            return None, "the history does not tell which response it is"
        response_id = answered.found.response_id
        self._responses.append(response_id)
        read = await watch.until(lambda: watch.values(response_id), watch.patience.attribution)
        return read.found, read.told("the response")

    async def _note_response(self, ground: Ground, id_: str) -> None:
        """Remember a response that stays in the survey."""
        try:
            entry = await self._belongings.patiently(
                lambda: self._watch.answered_entry(ground, id_)
            )
        except CallFailed:
            entry = None
        if entry is None or entry.response_id is None:
            self._unnamed += 1
        else:
            self._responses.append(entry.response_id)

    async def _conclude_private(self, name: str | None, values: Mapping[str, object]) -> None:
        if name is None:
            undeclared = f"the survey's flow declares no field; {REFERENCE_FIELD} is needed"
            await self._say(Fact.PRIVATE_DATA, "not known", undeclared)
        elif values.get(name) == _MINE:
            await self._say(Fact.PRIVATE_DATA, "yes", f"the response holds {name} as it was sent")
        else:
            await self._say(Fact.PRIVATE_DATA, "no", f"the response does not hold {name}")

    async def _conclude_url(self, name: str | None, values: Mapping[str, object]) -> None:
        if name is None:
            undeclared = "the survey's flow declares no second field"
            await self._say(Fact.URL_WINS, "not known", undeclared)
            return
        shown: Mapping[str, tuple[Verdict, str]] = {
            _THEIRS: ("yes", "the link's"),
            _MINE: ("no", "the contact's"),
        }
        verdict, whose = shown.get(str(values.get(name)), ("not known", "neither"))
        await self._say(Fact.URL_WINS, verdict, f"the response holds {whose} {name}")

    async def _overdo(self, distribution_id: str | None) -> None:
        """Make calls until one is refused as one too many, if that is wanted."""
        if self._throttled is None and self._past_the_budget is not None and distribution_id:
            self._progress("calling until there is a 429")
            for _ in range(THROTTLING_CALLS // THROTTLING_AT_ONCE):
                ended = await asyncio.gather(
                    *(
                        self._overcall(self._past_the_budget, distribution_id)
                        for _ in range(THROTTLING_AT_ONCE)
                    ),
                    return_exceptions=True,  # none goes on behind the others' end
                )
                for error in ended:
                    if isinstance(error, CallFailed) and error.http_status == _TOO_MANY:
                        await self._conclude_throttle(error)
                        return
                for error in ended:
                    if error is not None:
                        raise error
            told = f"{THROTTLING_CALLS:,} calls in a row were answered"
            await self._say(Fact.THROTTLE, "not known", told)
        elif self._throttled is not None:
            await self._conclude_throttle(self._throttled)
        else:
            told = "no call was refused as one too many; --throttle provokes it"
            await self._say(Fact.THROTTLE, "not known", told)

    async def _overcall(self, upstream: Upstream, distribution_id: str) -> None:
        async for _ in upstream.history(distribution_id):
            break

    async def _conclude_throttle(self, error: CallFailed) -> None:
        if not isinstance(error, Throttled):
            told = "the 429 is not in the form of the platform's answers, and nothing in it is read"
            await self._say(Fact.THROTTLE, "no", told)
        elif error.retry_after is None:
            await self._say(Fact.THROTTLE, "no", "the 429 has no Retry-After")
        else:
            told = f"the 429 has a Retry-After, of {error.retry_after:.0f} s then"
            await self._say(Fact.THROTTLE, "yes", told)

    # --- telling --------------------------------------------------------------------------------

    def _note_throttled(self, error: Throttled) -> None:
        self._throttled = error

    @asynccontextmanager
    async def _trying(self, *facts: Fact) -> AsyncIterator[None]:
        """A trial of these facts: where a call breaks it off, they stay open."""
        try:
            yield
        except CallFailed as error:
            await self._leave_open(facts, f"the trial broke off: {error}")

    async def _leave_open(self, facts: Iterable[Fact], why: str) -> None:
        for fact in facts:
            if fact not in self._answers:
                await self._say(fact, "not known", why)

    async def _say(
        self, fact: Fact, verdict: Verdict, evidence: str, *, figure: int | None = None
    ) -> None:
        """Tell what was found; what is certain is written down."""
        self._answers[fact] = answer(fact, verdict, evidence, figure, self._earlier.get(fact))
        if verdict != "not known":
            await self._store.capabilities.note(
                fact, holds=verdict == "yes", figure=figure, evidence=evidence
            )


def _none_made(what: str, made: CreatedTransactions) -> tuple[str, bool | None]:
    """That a transaction was refused; or that the answer does not tell of it."""
    if not made.refused:
        return f"{what}: the answer does not tell of it", None
    codes = ", ".join(refusal.code or "no code" for refusal in made.refused.values())
    return f"{what} ({codes})", False


def _echo(entry: HistoryEntry, url: str) -> str:
    if entry.link is None or entry.link == url:
        return "the history tells of it" + (" as it was built" if entry.link else "")
    return "the history tells of it, in another form than it was built in"


def _choose_fields(survey: SurveyDefinition) -> tuple[str | None, str | None]:
    """A field for private data, best our own, and one that contact and link shall both have."""
    names = sorted(survey.fields, key=lambda name: (name != REFERENCE_FIELD, name))
    return (names[0] if names else None), (names[1] if len(names) > 1 else None)


def _days(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def _days_kept(days: int, expires_at: datetime, listed: datetime) -> int:
    """How many of the days that were asked for a link has, as it is listed."""
    lost = expires_at - listed
    return days if lost < _ROUNDING else days - math.ceil(lost / timedelta(days=1))


def _usual_link_days() -> int:
    return MilestoneDefinition(survey_id=f"SV_{'0' * 15}").link_days


def _verdict(is_so: bool | None) -> Verdict:  # noqa: FBT001  (the name says all)
    return "not known" if is_so is None else "yes" if is_so else "no"


def _is_no(error: CallFailed) -> bool:
    """Whether the platform takes what it was sent for impossible, and not for forbidden or late."""
    return type(error) is Refused or error.http_status == _TOO_LARGE


def _because(error: CallFailed) -> str:
    code = f", {error.error_code}" if error.error_code else ""
    return f"refused ({error.http_status}{code})"
