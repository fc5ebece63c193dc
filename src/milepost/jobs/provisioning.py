"""How distributions are made; `replenish` and `rotate` decide which, `canary` looks at the result.

What a call made is written down before the next one, and a later attempt looks for what an earlier
one may have left behind before it makes anything. Any run of either job goes on with whatever is
in the making.

**The first one of a list** takes four calls: the list, our probe in it, an Individual-link
distribution on it, and the list of that distribution's links, from which its template is learnt
(*calibration*). The list holds only the probe then, so that listing its links touches nobody. Where
the milestone's pool builds links of another form, the one that was made is stopped, and so is the
milestone: the platform has changed.

**Those that follow on the same list** are never listed, for there are people in it. Their template
is that of the one before, with their own id in it. That it is right is seen from a *canary*: a
distribution that is made in the same minute on the survey's canary list, which holds nobody but our
probe. Where the canary's link has another form, both are stopped as well.

So are they for a link of a form that is not known: others would have it, too, and each would be
made in vain.

**Batches** of transactions, and their distributions, are made by `jobs/batches.py`. A batch has one
distribution, which is calibrated as the first one of a list is; its survey has a canary batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from milepost import failpoints, policy
from milepost.errors import MilepostError
from milepost.jobs.batches import Batches, HomeListBusy
from milepost.model import Capabilities, Deployment, Fact, Route
from milepost.personal_link import NotAPersonalLink, PersonalLink, Template, parse
from milepost.store import Store
from milepost.store.canaries import Canary
from milepost.store.pools import NOT_LISTED, Making, TakenOver
from milepost.upstream import (
    CallFailed,
    ContactFields,
    ListedLink,
    NotFound,
    Refused,
    Throttled,
    Upstream,
)

log = logging.getLogger(__name__)

AT_ONCE: Final = 8
"""Distributions made at the same time; live events have the greater share of the calls."""

LISTED_LATE_PAUSE: Final = timedelta(minutes=10)
"""Between looks for the probe's link where links are known to be listed late: it may take days."""

SAME_MINUTE: Final = timedelta(minutes=1)
"""So much older than a distribution its canary may be."""

GONE_AFTER: Final = 3
"""Looks that did not find a list, until it counts as deleted: one answer may be that of somebody
on the way."""

KNOWN_AFTER: Final = timedelta(minutes=10)
"""So old a distribution is which the platform must know, if nobody has deleted it."""

MOST_WORDS: Final = 300
"""Characters of the platform's own sentence about a refusal that are kept."""

SEE_DOCTOR: Final = "; see: milepost doctor"
"""Behind what the platform refuses: it looks at survey, token and directory."""

NOT_AHEAD: Final = (
    "the account makes no distribution on a list that holds only our probe, so pools cannot be "
    "made ahead of events"
)


class NotListedYet(MilepostError):
    """The platform does not list the probe's link yet; lists have been seen to lag (observed)."""


class CanaryBusy(MilepostError):
    """Another process makes the survey's canary, or it has to be made anew."""


class Distrusted(MilepostError):
    """A link that the platform lists is none that may be built. Its text holds no URL.

    Attributes:
        found: The link. It is our probe's, and a credential all the same.
        distribution_id: Of which it was to be.
        lookup_id: Whose it was to be.
        made_at: When that was made; nothing that the link tells is older.
    """

    def __init__(self, sentence: str, making: Making, *, found: str) -> None:
        super().__init__(sentence)
        self.found = found
        self.distribution_id = making.distribution_id or ""
        self.lookup_id = making.probe_lookup_id or ""
        self.made_at = making.made_at


class UnknownForm(Distrusted):
    """No link of its form can be built. The form is the account's: others would have it, too."""


class Deleted(MilepostError):
    """Somebody has deleted a distribution or its list at the platform before it was ready."""


class ShortLived(MilepostError):
    """The platform lets the links of a distribution expire before they were to."""


class Changed(MilepostError):
    """The platform's links are not such as are built here. Its text holds no URL.

    Attributes:
        expected: The link as it is built here; None: none can be.
        found: As the platform has it.
        whose: Whose link that is.
    """

    def __init__(
        self, sentence: str, *, expected: str | None, found: str, whose: str = "our probe"
    ) -> None:
        super().__init__(sentence)
        self.expected = expected
        self.found = found
        self.whose = whose


class Seen(Struct, frozen=True):
    """What a canary tells."""

    link: PersonalLink
    """Our probe's."""
    made_at: datetime
    """Nothing that it tells is older."""


class Counts(Struct, kw_only=True):
    """What a run did, in distributions."""

    planned: int = 0
    ready: int = 0
    stopped: int = 0
    failed: int = 0
    unfinished: int = 0
    """What is still in the making after the run: it failed lately, or somebody else is at it."""
    errors: list[str] = []


def hold(template: str, link: PersonalLink) -> None:
    """Hold the template of a distribution against a link of another one of the same survey.

    Raises:
        Changed: by that template the link would be another URL.
    """
    here = Template.parse(template).for_distribution(link.distribution_id)
    if here == link.template():
        return
    expected = here.url(f"{here.kind}_{link.lookup_id.partition('_')[2]}")
    differing = " and ".join(parse(expected).differences(link))
    raise Changed(
        f"the platform's links differ from those that are built here in their {differing}",
        expected=expected,
        found=link.url,
    )


def changed(error: Distrusted, template: str | None) -> Changed:
    """What a canary's link that is not trusted says of a distribution with this template."""
    expected = None
    if template is not None:
        here = Template.parse(template).for_distribution(error.distribution_id)
        expected = here.url(f"{here.kind}_{error.lookup_id.partition('_')[2]}")
    return Changed(str(error), expected=expected, found=error.found)


class Provisioning:
    """Makes distributions.

    Args:
        store: knows which are wanted, and what is there of each.
        upstream: makes them.
        deployment: bound to its directory.
    """

    def __init__(self, store: Store, upstream: Upstream, deployment: Deployment) -> None:
        self._store = store
        self._upstream = upstream
        self._deployment = deployment
        self._directory_id = deployment.directory_id or ""
        self._batches = Batches(store, upstream, self._directory_id)
        self._at_canary: defaultdict[tuple[str, Route], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def make_all(
        self,
        account: Capabilities,
        counts: Counts,
        stopping: asyncio.Event,
        progress: Callable[[int], None],
    ) -> None:
        """Make what is in the making, each distribution once, as far as the platform lets us.

        Args:
            account: what it allows.
            counts: what is done is added to these.
            stopping: once it is set, no further one is begun.
            progress: is told after each.
        """
        tried: set[int] = set()
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(AT_ONCE):
                    workers.create_task(self._work(account, counts, tried, stopping, progress))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        counts.unfinished = await self._store.pools.unfinished()

    async def canary(
        self,
        survey_id: str,
        account: Capabilities,
        *,
        since: datetime,
        is_patient: bool = False,
        route: Route = Route.LIST,
    ) -> Seen:
        """The probe's link of the survey's canary, which tells what links look like now.

        Args:
            survey_id: the survey.
            account: how late it lists links.
            since: the canary was made then at the earliest; where there is none, it is made.
            is_patient: one that was made before will do, if its link was not listed until now; but
                none that is older than a stop of a milestone of the survey.
            route: `list`, or `transaction` for the canary that stands on a batch.

        Raises:
            Distrusted: the link is none that may be built.
            NotListedYet: it is not listed yet.
            CanaryBusy: another process is at it; or it was deleted, and has to be made anew.
            CallFailed: as the client's verbs.
        """
        async with self._at_canary[survey_id, route]:
            taken = await self._store.canaries.take(
                survey_id, self._deployment.id, since=since, is_patient=is_patient, route=route
            )
            if taken is None:
                raise CanaryBusy("another process makes the canary")
            if isinstance(taken, Canary):
                link = parse(Template.parse(taken.template).url(taken.probe_lookup_id))
                return Seen(link, taken.made_at)
            try:
                return await self._see_canary(taken, account, since)
            except (TakenOver, Deleted) as error:
                # This befell the canary, and not what it is looked at for.
                raise CanaryBusy(str(error)) from error

    async def _see_canary(self, taken: Making, account: Capabilities, since: datetime) -> Seen:
        try:
            made = await self._make(taken)
            link = await self._calibrate(made)
        except (CallFailed, NotListedYet, HomeListBusy) as error:
            await self._store.pools.release(taken, _told(error), _pause(error, taken, account))
            raise
        except (Distrusted, Deleted) as error:
            await self._store.pools.stop(taken, str(error))
            raise
        await self._store.pools.ready(taken, str(link.template()))
        return Seen(link, made.made_at or since)

    async def clear_canaries(self, survey_id: str, route: Route = Route.LIST) -> int:
        """Delete the canaries that a newer one has replaced; returns how many."""
        old = await self._store.canaries.old(survey_id, route)
        for canary, distribution_id in old.items():
            if distribution_id is not None:
                with suppress(NotFound):  # an earlier run has, and could not write it down
                    await self._upstream.delete_distribution(distribution_id)
            await self._store.canaries.forget(canary)
        return len(old)

    # --- one of them ----------------------------------------------------------------------------

    async def _work(
        self,
        account: Capabilities,
        counts: Counts,
        tried: set[int],
        stopping: asyncio.Event,
        progress: Callable[[int], None],
    ) -> None:
        while not stopping.is_set():
            routes = policy.routes_made_ahead(account)
            claimed = await self._store.pools.claim(1, without=tried, routes=routes)
            if not claimed:
                return
            (making,) = claimed
            tried.add(making.id)
            try:
                await self._finish(making, account, counts)
            except TakenOver as error:
                log.warning("%s", error)
            progress(1)

    async def _finish(self, making: Making, account: Capabilities, counts: Counts) -> None:
        try:
            template = await self._template(await self._make(making), account)
        except (Distrusted, Changed, Deleted, ShortLived) as error:
            log.error("%s is stopped: %s", making.name, error)  # noqa: TRY400  (a decision, not a crash)
            await self._store.pools.stop(making, str(error))
            wrong = changed(error, making.inherited) if isinstance(error, UnknownForm) else error
            if isinstance(wrong, Changed) and making.milestone is not None:
                await self._store.milestones.stop(
                    making.milestone,
                    str(wrong),
                    survey_id=making.survey_id,
                    expected=wrong.expected,
                    found=wrong.found,
                )
                # Others have the same survey, or the same account.
                await self._store.runs.ask("canary", asked_by="a distribution that differs")
            counts.stopped += 1
            counts.errors.append(f"{making.name}: {error}")
        except (CallFailed, NotListedYet, CanaryBusy, HomeListBusy) as error:
            log.warning("%s: %s", making.name, error)
            await self._store.pools.release(making, _told(error), _pause(error, making, account))
            counts.failed += 1
            counts.errors.append(f"{making.name}: {_told(error)}")
        else:
            await self._store.pools.ready(making, str(template))
            counts.ready += 1

    async def _template(self, making: Making, account: Capabilities) -> Template:
        """The template of what was made: learnt from it, or inherited and seen to be right."""
        if not making.is_filled:
            link = await self._calibrate(making)
            if making.inherited is not None:
                hold(making.inherited, link)
            return link.template()
        since = (making.made_at or making.expires_at) - SAME_MINUTE
        try:
            link = (await self.canary(making.survey_id, account, since=since)).link
        except Distrusted as error:
            raise changed(error, making.inherited) from error
        if making.inherited is not None:
            hold(making.inherited, link)
        distribution_id = making.distribution_id or ""
        async with self._unless_deleted(making):
            made = await self._upstream.distribution(distribution_id, making.survey_id)
        _check_life(made.expires_at, making)
        return link.template().for_distribution(distribution_id)

    async def _make(self, making: Making) -> Making:
        """Make what is not there yet; returns it as it is then."""
        if making.route is Route.TRANSACTION:
            return await self._batches.make(making, self._probe())
        again = making.attempt > 1
        is_old = making.generation > 1 or again
        if is_old and making.list_id is not None and making.distribution_id is None:
            making = await self._see_list(making, making.list_id)
        if making.list_id is None:
            list_id = await self._find_list(making.list_name) if again else None
            if list_id is None:
                list_id = await self._upstream.create_mailing_list(
                    self._directory_id, making.list_name
                )
                failpoints.reach("provisioned", f"list of {making.name}")
            making = await self._store.pools.note_list(making, list_id)
        list_id = making.list_id or ""
        if making.probe_lookup_id is None:
            probe = await self._find_probe(list_id) if again else None
            probe = probe or await self._add_probe(making, list_id)
            making = await self._store.pools.note_probe(making, *probe)
        if making.distribution_id is None:
            distribution_id = await self._find_distribution(making, list_id) if again else None
            if distribution_id is None:
                distribution_id = await self._upstream.create_distribution(
                    making.survey_id, list_id, making.description, making.expires_at
                )
                failpoints.reach("provisioned", f"distribution of {making.name}")
            making = await self._store.pools.note_distribution(making, distribution_id)
        return making

    async def _calibrate(self, making: Making) -> PersonalLink:
        """The probe's link, as the platform itself lists it. Nobody else may be in the list."""
        async with self._unless_deleted(making):
            listed = await self._listed(making)
            if making.list_id is not None and (listed is None or not _names_probe(listed, making)):
                seen = await self._see_probe(making, making.list_id)
                if seen != making:
                    making = seen
                    listed = await self._listed(making)
        if listed is None:
            raise NotListedYet(NOT_LISTED)
        return _trusted(listed, making)

    async def _listed(self, making: Making) -> ListedLink | None:
        links = self._upstream.distribution_links(making.distribution_id or "", making.survey_id)
        ours = {making.probe_contact_id, making.probe_lookup_id}
        listed = [
            link
            async for link in links
            if link.contact_id in ours or link.transaction_id == making.probe_lookup_id
        ]
        # That of a lookup id which it had before it was put back may be there as well.
        listed.sort(key=lambda link: not _names_probe(link, making))
        return listed[0] if listed else None

    @asynccontextmanager
    async def _unless_deleted(self, making: Making) -> AsyncIterator[None]:
        """Ask for what was made, or for the list that it stands on.

        Raises:
            Deleted: one of them is not there any more.
            NotFound: one of them is not there, and may be too new.
        """
        try:
            yield
        except NotFound as error:
            now = await self._store.runs.now()
            if making.made_at is not None and now < making.made_at + KNOWN_AFTER:
                raise
            raise Deleted("the distribution or its list was deleted at the platform") from error

    async def _see_list(self, making: Making, list_id: str) -> Making:
        """See that a list is there which was made before; where it is gone, leave it."""
        try:
            await self._upstream.mailing_list(self._directory_id, list_id)
        except NotFound:
            misses = await self._store.pools.note_list_look(making, is_there=False)
            if misses < GONE_AFTER or list_id in await self._lists(making.list_name):
                raise
            log.error("%s: its mailing list was deleted at the platform", making.name)  # noqa: TRY400  (as above)
            return await self._store.pools.leave_list(making, "its mailing list was deleted")
        await self._store.pools.note_list_look(making, is_there=True)
        # Where others are in the list, nothing is learnt by the probe any more.
        if making.is_filled or making.probe_contact_id is None:
            return making
        return await self._see_probe(making, list_id)

    async def _see_probe(self, making: Making, list_id: str) -> Making:
        """See that our probe is in its list; where somebody has deleted it, put it back."""
        noted = making.probe_contact_id or "", making.probe_lookup_id or ""
        try:
            found = await self._upstream.get_list_contact(self._directory_id, list_id, noted[0])
            probe: tuple[str, str] | None = (found.contact_id, found.lookup_id)
        except NotFound:
            probe = await self._find_probe(list_id)
        if probe == noted:
            return making
        log.warning("%s: its probe was deleted at the platform, and is put back", making.name)
        probe = probe or await self._add_probe(making, list_id)
        return await self._store.pools.note_probe(making, *probe)

    async def _add_probe(self, making: Making, list_id: str) -> tuple[str, str]:
        added = await self._upstream.add_list_contact(self._directory_id, list_id, self._probe())
        failpoints.reach("provisioned", f"probe of {making.name}")
        return added.contact_id, added.lookup_id

    async def _lists(self, name: str) -> list[str]:
        lists = self._upstream.mailing_lists(self._directory_id)
        return [known.list_id async for known in lists if known.name == name]

    async def _find_list(self, name: str) -> str | None:
        """What an earlier attempt may have made: nobody but our probe can be in it.

        A list with others was the slot's before, and was taken for gone.
        """
        for list_id in await self._lists(name):
            if not await self._holds_others(list_id):
                return list_id
        return None

    async def _holds_others(self, list_id: str) -> bool:
        ours = self._probe().ref
        async for contact in self._upstream.list_contacts(self._directory_id, list_id):
            if contact.ref != ours:
                return True
        return False

    async def _find_probe(self, list_id: str) -> tuple[str, str] | None:
        contacts = self._upstream.list_contacts(self._directory_id, list_id)
        ours = self._probe().ref
        found = [(c.contact_id, c.lookup_id) async for c in contacts if c.ref == ours]
        return found[0] if found else None

    async def _find_distribution(self, making: Making, list_id: str) -> str | None:
        """What an earlier attempt may have made: on its list, unknown, and of the same dates."""
        known = self._upstream.distributions(making.survey_id)
        found = [
            distribution.distribution_id
            async for distribution in known
            if distribution.list_id == list_id
            and distribution.distribution_id not in making.known
            and distribution.expires_at in {None, making.expires_at}
        ]
        return found[0] if found else None

    def _probe(self) -> ContactFields:
        """Our own contact in every list, with a value for whatever a directory may merge by."""
        deployment = self._deployment.id
        return ContactFields(
            first_name="Milepost",
            last_name=f"Probe {deployment}",
            email=f"milepost-probe.{deployment}@example.com",
            phone="+15550100" if "phone" in (self._deployment.dedup_criteria or ()) else None,
            ref=f"milepost-probe-{deployment}",
            language="EN",
        )


def _told(error: MilepostError) -> str:
    """What an admin is told of a failure: with the platform's words, if it has any.

    They may echo what was sent, and that is our own probe's. Logs do without.
    """
    if not isinstance(error, CallFailed):
        return str(error)
    words = " ".join((error.upstream_message or "").split())[:MOST_WORDS]
    said = f'{error}; the platform says: "{words}"' if words else str(error)
    is_refused = isinstance(error, Refused) and not isinstance(error, Throttled)
    return f"{said}{SEE_DOCTOR}" if is_refused else said


def _names_probe(listed: ListedLink, making: Making) -> bool:
    """Whether a link has our probe's present lookup id in it, in whatever form."""
    return (making.probe_lookup_id or "").partition("_")[2] in listed.link


def _trusted(listed: ListedLink, making: Making) -> PersonalLink:
    """The probe's link, if it names what was made, and lives and is built as it should.

    Raises:
        Distrusted: it does not, or cannot.
        ShortLived: it expires too soon.
    """
    try:
        link = parse(listed.link)
    except NotAPersonalLink as error:
        sentence = f"the probe's link has a form that is not known: {error.reason}"
        raise UnknownForm(sentence, making, found=listed.link) from error
    for what, found, made in (
        ("survey", link.survey_id, making.survey_id),
        ("distribution", link.distribution_id, making.distribution_id),
        ("lookup id", link.lookup_id, making.probe_lookup_id),
    ):
        if found != made:
            sentence = f"the probe's link names {what} {found} and not {made}"
            raise Distrusted(sentence, making, found=listed.link)
    if link.template().url(link.lookup_id) != listed.link:
        sentence = "the probe's link has a form that is not known: it cannot be rebuilt"
        raise UnknownForm(sentence, making, found=listed.link)
    if making.milestone is not None:  # a canary is there to show the form of links
        _check_life(listed.expires_at, making)
    return link


def _check_life(expires_at: datetime | None, making: Making) -> None:
    """See that links live for as long as was asked for, if that is said.

    Raises:
        ShortLived: they do not.
    """
    if expires_at is not None and expires_at < making.expires_at:
        raise ShortLived(
            f"the distribution expires at {expires_at:%Y-%m-%dT%H:%M:%SZ} "
            f"and not at {making.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        )


def _pause(error: MilepostError, making: Making, account: Capabilities) -> timedelta:
    """How long a distribution is left alone after this."""
    if isinstance(error, NotListedYet) and not account.holds(Fact.COMPLETE_LINKS):
        return LISTED_LATE_PAUSE
    return (
        policy.FIRST_PAUSE
        if isinstance(error, CanaryBusy | HomeListBusy)
        else policy.making_pause(making.attempt)
    )
