"""Job `recover`: after a restore, what the platform knows and the ledger does not.

It runs where `MILEPOST_RECOVER` is set, before anything else is done; until it has ended, events
that the ledger does not know are answered 503. It reads, and makes nothing but a canary::

    lists          of pools, known by their names; so is the home list
    batches        of pools, by the probe's transaction in each; others are links' own
    distributions  by the list, or the batch, that they stand on; their templates from a canary
    members        of each list and batch: whoever is there without a link's or a membership's
                   knowing carries the reference of a link that the ledger has lost
    chains         of route `stepwise`: a batch with one transaction, and its distribution

Each link that is found is written down in its place (`store/recovered.py`). All of it may be done
again: what was found before is known then.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

from msgspec import Struct

from milepost.errors import DatabaseError
from milepost.jobs.batches import CALIBRATION
from milepost.jobs.filling import paced, patiently
from milepost.jobs.provisioning import CanaryBusy, Distrusted, NotListedYet, Provisioning
from milepost.jobs.run import NotNow, Run
from milepost.model import Deployment, RegistrantDetails, Route
from milepost.payload import REFERENCE_FIELD, moment, unseal_whole
from milepost.personal_link import Template, parse
from milepost.store import Store
from milepost.store.contacts import listed_key
from milepost.store.links import CONTACT
from milepost.store.recovered import FoundLink, Place, Standing
from milepost.store.runs import Finding
from milepost.upstream import (
    BatchEntry,
    Distribution,
    ListContact,
    NotFound,
    ReadPage,
    Refused,
    Throttled,
    Unauthorized,
    Upstream,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

NAME: Final = "recover"
ASKED_BY: Final = "MILEPOST_RECOVER"

AT_ONCE: Final = 8
"""Calls for single contacts that are out at the same time."""

MARGIN: Final = timedelta(hours=1)
"""So much before the last event that the ledger knows a batch may be that of a later one: clocks
differ, and so does what they say of summer."""

LOOK_SECONDS: Final = 1.0
"""Between looks whether it is over, in every process."""

AGAIN_AFTER: Final = timedelta(seconds=30)
"""After a run that failed or stopped, the next one is asked for."""


class Counts(Struct, kw_only=True):
    """What was found at the platform, and is in the ledger now."""

    since: str | None = None
    """When the last event came that the ledger knew before; batches of single links that are older
    are not looked at. Null: it knew none."""
    lists: int = 0
    batches: int = 0
    distributions: int = 0
    links: int = 0
    """Whose events are to come again."""
    settled: int = 0
    """Links that were on their way when the backup was taken."""
    unnamed: int = 0
    """Members of lists, and transactions, which name no link: they come of an import, or a call
    whose event will be added again under the same lookup id."""


class _Found(Struct, frozen=True):
    """A member or a transaction that names a link."""

    link: UUID
    is_short: bool
    ref: str
    contact_key: str
    lookup_id: str


class _Chain(Struct, frozen=True):
    """A batch that is one link's own."""

    batch_id: str
    entry: BatchEntry


class Recovery:
    """Whether a restored ledger is still to be brought up to what the platform knows.

    One for each process; any of them may ask for the run, and one that has a worker does it.

    Args:
        store: knows when it is done.
        is_wanted: this process was told that the database was restored.
    """

    def __init__(self, store: Store, *, is_wanted: bool) -> None:
        self._store = store
        self._is_wanted = is_wanted
        self._over = asyncio.Event()
        if not is_wanted:
            self._over.set()

    def is_under_way(self) -> bool:
        """Whether it is."""
        return not self._over.is_set()

    async def over(self) -> None:
        """Wait until this process knows that it is done."""
        await self._over.wait()

    def holds(self, job: str) -> bool:
        """Whether a job has to wait for it."""
        return self.is_under_way() and job != NAME

    def after(
        self, work: Callable[[asyncio.Event], Awaitable[T]]
    ) -> Callable[[asyncio.Event], Awaitable[T | None]]:
        """Work that is done only when it is over."""

        async def held(stopping: asyncio.Event) -> T | None:
            return None if self.is_under_way() else await work(stopping)

        return held

    async def forget(self, _stopping: asyncio.Event | None = None) -> None:
        """Where nobody recovers any more, let the next restore be recovered anew.

        It is to be said again and again: a run by hand beside this process ends with the word that
        the ledger is recovered, which must not be in the backups from then on.
        """
        if not self._is_wanted:
            await self._store.recovered.forget()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """While the block runs, see that it is done, and notice when it is."""
        if not self._is_wanted:
            yield
            return
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait({watch})

    async def _watch(self) -> None:
        is_said = False
        while True:
            with suppress(DatabaseError):  # it is looked at again
                if await self._store.recovered.is_over():
                    self._over.set()
                    left = await self._store.recovered.lost()
                    log.warning("recovered: %d links wait for their events to come again", left)
                    return
                if not is_said:
                    log.warning(
                        "restored: until job recover has ended, new events are answered 503"
                    )
                    is_said = True
                await self._ask()
            await asyncio.sleep(LOOK_SECONDS)

    async def _ask(self) -> None:
        known = (await self._store.runs.records([NAME])).get(NAME)
        run = known and known.run
        if known and run and (run.ended_at is None or known.now < run.ended_at + AGAIN_AFTER):
            return
        await self._store.runs.ask(NAME, asked_by=ASKED_BY)


class Recover:
    """Brings a restored ledger up to what the platform knows.

    Args:
        store: the ledger.
        upstream: is asked.
        provisioning: makes canaries.
        deployment: bound to its directory.
        secrets: those with which references were signed.
    """

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        provisioning: Provisioning,
        deployment: Deployment,
        secrets: Sequence[bytes],
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._provisioning = provisioning
        self._directory_id = deployment.directory_id or ""
        self._deployment_id = deployment.id
        self._criteria = deployment.dedup_criteria or frozenset()
        self._secrets = secrets
        self._probe_ref = f"milepost-probe-{deployment.id}"
        self._name = re.compile(
            rf"milepost {deployment.id} (?P<milestone>\S+) (?P<survey>\w{{15}})"
            r"(?: (?P<route>transaction|anonymous))?(?: (?P<number>\d+))?"
        )

    async def run_once(self, run: Run) -> Counts:
        """See `Job`. It is over when this has come to its end."""
        since = await self._since(run)
        way = _Way(run, since)
        if run.record.asked_by == ASKED_BY and await self._store.recovered.is_over():
            return way.counts  # two processes have asked for it at once
        await self._take_lists(way)
        chains = await self._take_batches(way, since)
        standing = await self._take_distributions(way, chains)
        places = [place for place in await self._store.recovered.places() if place.ready]
        await way.note("members", total=len(places))
        for place in places:
            try:
                await self._take_members(way, place)
            except Refused as error:
                _see_that_it_is_this(error)
                way.find(place.list_name, f"what the slot stands on cannot be read: {error}")
            await way.note("members", step=1)
        await way.note("chains", total=len(chains))
        for chain in chains:
            try:
                await self._take_chain(way, chain, standing.get(chain.batch_id))
            except Refused as error:
                _see_that_it_is_this(error)
                way.find(chain.batch_id, f"it cannot be read: {error}")
            await way.note("chains", step=1)
        await self._store.recovered.finish()
        return way.counts

    async def _since(self, run: Run) -> datetime | None:
        """When the last event came that the ledger knew before anything was brought into it.

        What came in since, by a recovery or by events, is later than what is still to be found: so
        runs after the same restore have it from each other.
        """
        known = run.counts
        if "since" not in known:
            before = await self._store.runs.page(NAME, before=run.record.id, limit=1)
            is_same = await self._store.recovered.is_over()
            known = before[0].counts if before and (is_same or before[0].state != "done") else {}
        if "since" not in known:
            return await self._store.recovered.latest()
        return None if known["since"] is None else datetime.fromisoformat(known["since"])

    # --- lists, batches, distributions ------------------------------------------------------------

    async def _take_lists(self, way: _Way) -> None:
        """Lists of pools that were made since, and the home list, by their names."""
        await way.note("lists")
        home = f"milepost {self._deployment_id} home"
        mine = self._upstream.mailing_lists(self._directory_id)
        lists = {known.name: known.list_id async for known in mine if self._is_ours(known.name)}
        deployment = await self._store.deployment.load()
        if deployment.home_list_id is None and home in lists:
            attempt = await self._store.deployment.claim_home_list()
            if attempt is None:
                raise NotNow("another process makes the home list")
            await self._store.deployment.note_home_list(lists[home], attempt)
            way.counts.lists += 1
        taken = {place.list_id for place in await self._store.recovered.places()}
        for name, list_id in lists.items():
            if list_id not in taken and await self._take_slot(way, name, list_id=list_id):
                way.counts.lists += 1

    def _is_ours(self, name: str) -> bool:
        return name.startswith(f"milepost {self._deployment_id} ")

    async def _take_slot(
        self,
        way: _Way,
        name: str,
        *,
        list_id: str | None = None,
        batch_id: str | None = None,
        probe: tuple[str, str] | None = None,
    ) -> bool:
        told = self._name.fullmatch(name)
        if told is None:
            return False
        is_canary = told["milestone"] == "canary" and told["number"] is None
        milestone = None if is_canary else told["milestone"]
        known = {each.key for each in await self._store.milestones.all()}
        if milestone is not None and (milestone not in known or told["number"] is None):
            what = f"milestone {milestone} is not registered: register it, and run recover again"
            way.find(name, what)
            return False
        return await self._store.recovered.take_slot(
            name=name,
            milestone=milestone,
            survey_id=f"SV_{told['survey']}",
            route=Route(told["route"] or "list"),
            number=int(told["number"] or 1),
            list_id=list_id,
            batch_id=batch_id,
            probe=probe,
        )

    async def _take_batches(self, way: _Way, since: datetime | None) -> list[_Chain]:
        """Batches of pools that were made since; and those that are a single link's."""
        await way.note("batches")
        places = await self._store.recovered.places()
        taken = {place.batch_id for place in places if place.batch_id}
        routes = {each.definition.route for each in await self._store.milestones.all()}
        if not taken and routes.isdisjoint({Route.TRANSACTION, Route.STEPWISE}):
            return []
        chains = []
        async for batch in self._upstream.batches(self._directory_id):
            made_at = batch.created_at
            if batch.batch_id in taken or (made_at and since and made_at < since - MARGIN):
                continue
            try:
                entry = await self._first_entry(way, batch.batch_id)
            except Refused as error:
                _see_that_it_is_this(error)
                way.find(batch.batch_id, f"it cannot be read: {error}")
                continue
            named = str(entry.data.get(REFERENCE_FIELD, "")) if entry and entry.data else ""
            if entry is None or not named:
                continue
            if named.startswith(f"{CALIBRATION} "):
                name = named.removeprefix(f"{CALIBRATION} ")
                probe = (entry.contact_id or "", entry.transaction_id)
                if self._is_ours(name) and await self._take_slot(
                    way, name, batch_id=batch.batch_id, probe=probe
                ):
                    way.counts.batches += 1
            elif not await self._store.recovered.known([entry.transaction_id]):
                chains.append(_Chain(batch.batch_id, entry))
        return chains

    async def _first_entry(self, way: _Way, batch_id: str) -> BatchEntry | None:
        """The transaction that a batch was made with, with its data."""
        async for page in self._entries(way, batch_id):
            for entry in page.elements[:1]:
                return await self._with_data(way, entry)
        return None

    def _entries(self, way: _Way, batch_id: str) -> AsyncIterator[ReadPage[BatchEntry]]:
        return patiently(
            way.run,
            lambda cursor: self._upstream.batch_pages(self._directory_id, batch_id, cursor=cursor),
            None,
        )

    async def _with_data(self, way: _Way, entry: BatchEntry) -> BatchEntry:
        """A transaction with its data, which the batch may not tell."""
        if entry.data is not None and entry.contact_id is not None:
            return entry
        read = partial(self._upstream.transaction, self._directory_id, entry.transaction_id)
        whole = await paced(way.run, read)
        return BatchEntry(
            id=entry.transaction_id, contact_id=whole.contact_id, data=dict(whole.data)
        )

    async def _take_distributions(
        self, way: _Way, chains: Sequence[_Chain]
    ) -> Mapping[str, tuple[str, Distribution]]:
        """Distributions that were made since.

        Returns:
            Those of batches that are a single link's, by the batch, with the survey.
        """
        await way.note("distributions")
        places = [place for place in await self._store.recovered.places() if place.milestone]
        on = {place.list_id or place.batch_id: place for place in places}
        own = {chain.batch_id for chain in chains}
        standing = {}
        surveys = {place.survey_id for place in places} | {
            *(await self._store.recovered.surveys() if own else ())
        }
        for survey_id in sorted(surveys):
            since: list[tuple[Distribution, Place]] = []
            async for known in self._upstream.distributions(survey_id):
                if known.batch_id in own:
                    standing[known.batch_id or ""] = survey_id, known
                elif place := on.get(known.list_id or known.batch_id):
                    since.append((known, place))
            ids = [known.distribution_id for known, _ in since]
            there = await self._store.pools.known_distributions(ids)
            lacking = [
                (known, place)
                for known, place in since
                if known.distribution_id not in there or known.distribution_id in place.unready
            ]
            await self._take_those(way, survey_id, lacking)
        return standing

    async def _take_those(
        self, way: _Way, survey_id: str, lacking: Iterable[tuple[Distribution, Place]]
    ) -> None:
        templates: dict[Route, Template] = {}
        for known, place in sorted(lacking, key=lambda each: _made_at(*each)):
            if known.expires_at is None:
                way.find(place.list_name, f"when {known.distribution_id} ends is not told")
                continue
            route = Route.TRANSACTION if place.route is Route.TRANSACTION else Route.LIST
            if route not in templates:
                templates[route] = await self._template(survey_id, route)
            await self._store.recovered.take_distribution(
                place.slot_id,
                known.distribution_id,
                template=str(templates[route].for_distribution(known.distribution_id)),
                made_at=_made_at(known, place),
                expires_at=known.expires_at,
            )
            way.counts.distributions += 1

    async def _template(self, survey_id: str, route: Route) -> Template:
        """How links of a survey are built, as its canary shows: others may be in every list."""
        account, now = await self._store.capabilities.current(), await self._store.runs.now()
        try:
            seen = await self._provisioning.canary(survey_id, account, since=now, route=route)
        except (CanaryBusy, Distrusted, NotListedYet) as error:
            raise NotNow(f"the canary of {survey_id}: {error}") from error
        return seen.link.template()

    # --- links ------------------------------------------------------------------------------------

    async def _take_members(self, way: _Way, place: Place) -> None:
        """Who is in a list, or which transactions are in a batch, without the ledger's knowing."""
        if place.route is Route.LIST and place.list_id is not None:
            lists, list_id = self._upstream.list_contact_pages, place.list_id
            read = partial(lists, self._directory_id, list_id)
            async for page in patiently(way.run, lambda cursor: read(cursor=cursor), None):
                await self._see_probe(place, page.elements)
                ours = [each for each in page.elements if each.ref != self._probe_ref]
                there = await self._store.recovered.known(
                    [each.lookup_id for each in ours], place.slot_id
                )
                unknown = [each for each in ours if each.lookup_id not in there]
                await self._hold_all(
                    way, place, [partial(self._member, way, list_id, each) for each in unknown]
                )
        elif place.route is Route.TRANSACTION and place.batch_id is not None:
            async for entries in self._entries(way, place.batch_id):
                ids = [each.transaction_id for each in entries.elements]
                there = await self._store.recovered.known(ids) | {place.probe_lookup_id or ""}
                new = [each for each in entries.elements if each.transaction_id not in there]
                await self._hold_all(
                    way, place, [partial(self._transaction, way, each) for each in new]
                )

    async def _see_probe(self, place: Place, members: Iterable[ListContact]) -> None:
        for each in members:
            if place.probe_lookup_id is None and each.ref == self._probe_ref:
                await self._store.recovered.note_probe(
                    place.slot_id, each.contact_id, each.lookup_id
                )

    async def _hold_all(
        self, way: _Way, place: Place, looks: Sequence[Callable[[], Awaitable[_Found | None]]]
    ) -> None:
        for first in range(0, len(looks), AT_ONCE):
            some = await asyncio.gather(*(look() for look in looks[first : first + AT_ONCE]))
            for found in some:
                if found is None:
                    way.counts.unnamed += 1
                    continue
                at = datetime.fromtimestamp(moment(found.link) / 1_000, UTC)
                standing = place.standing(at)
                if found.is_short and place.ready:
                    standing = place.ready[-1]  # its call came later than its event
                if standing is not None:
                    await self._hold(way, _on(place, standing, found))

    async def _hold(self, way: _Way, found: FoundLink) -> None:
        match await self._store.recovered.hold(found):
            case True:
                way.counts.links += 1
            case False:
                way.counts.settled += 1
            case None if not await self._store.recovered.is_issued(found.id):
                reason = f"link {found.id} has ended, or another one is in its place"
                way.find(found.route.value, reason, ref=found.ref)

    async def _member(self, way: _Way, list_id: str, listed: ListContact) -> _Found | None:
        """What a member of a list says of its link."""
        read = partial(
            self._upstream.get_list_contact, self._directory_id, list_id, listed.contact_id
        )
        try:
            member = await paced(way.run, read)
        except NotFound:
            return None
        named = self._unsealed(member.private_data)
        if named is None:
            return None
        details = RegistrantDetails(
            email=member.email,
            first_name=member.first_name,
            last_name=member.last_name,
            phone=member.phone,
        )
        ref, key = listed_key(member.ref, details, self._criteria)
        return _Found(
            *named,
            ref=ref or member.contact_id,
            contact_key=key or member.contact_id,
            lookup_id=member.lookup_id,
        )

    async def _transaction(self, way: _Way, entry: BatchEntry) -> _Found | None:
        """What a transaction says of its link."""
        entry = await self._with_data(way, entry)
        named = self._unsealed(entry.data or {})
        if named is None or entry.contact_id is None:
            return None
        contact_id = entry.contact_id
        ref = (await self._store.recovered.refs([contact_id])).get(contact_id)
        if ref is None:
            read = partial(self._upstream.get_contact, self._directory_id, contact_id)
            with suppress(NotFound):
                ref = (await paced(way.run, read)).ref
        return _Found(
            *named, ref=ref or contact_id, contact_key=contact_id, lookup_id=entry.transaction_id
        )

    def _unsealed(self, data: Mapping[str, object]) -> tuple[UUID, bool] | None:
        return unseal_whole(str(data.get(REFERENCE_FIELD, "")), self._secrets)

    async def _take_chain(
        self, way: _Way, chain: _Chain, standing: tuple[str, Distribution] | None
    ) -> None:
        """A link that has a batch and a distribution of its own."""
        found = await self._transaction(way, chain.entry)
        if found is None:
            return  # it is somebody else's, or none of ours
        if standing is None or standing[1].expires_at is None:
            way.find(chain.batch_id, f"link {found.link} was not finished", ref=found.ref)
            return
        survey_id, distribution = standing
        link = await self._listed(distribution.distribution_id, survey_id, found.lookup_id)
        if link is None:
            way.find(chain.batch_id, f"link {found.link} is not listed", ref=found.ref)
            return
        end = standing[1].expires_at
        steps = {
            CONTACT: chain.entry.contact_id or found.contact_key,
            "transaction": found.lookup_id,
            "batch": chain.batch_id,
            "end": f"{end.isoformat()} {survey_id}",
            "distribution": distribution.distribution_id,
        }
        milestones = (await self._store.recovered.surveys()).get(survey_id)
        if milestones is None:
            reason = f"link {found.link}: no milestone of route stepwise has survey {survey_id}"
            way.find(chain.batch_id, reason, ref=found.ref)
            return
        await self._hold(
            way,
            FoundLink(
                id=found.link,
                is_short=found.is_short,
                milestone=milestones[0],
                survey_id=survey_id,
                route=Route.STEPWISE,
                slot_id=None,
                distribution_id=None,
                ref=found.ref,
                contact_key=None,
                lookup_id=found.lookup_id,
                url=link,
                expires_at=end,
                steps=steps,
            ),
        )

    async def _listed(self, distribution_id: str, survey_id: str, lookup_id: str) -> str | None:
        """The link as the platform lists it: nobody else's is in that distribution."""
        async for listed in self._upstream.distribution_links(distribution_id, survey_id):
            if parse(listed.link).lookup_id == lookup_id:
                return listed.link
        return None


class _Way:
    """How far a run is."""

    def __init__(self, run: Run, since: datetime | None) -> None:
        self.run = run
        so_far = {name: run.counts.get(name, 0) for name in Counts.__struct_fields__}
        self.counts = Counts(**so_far | {"since": since and since.isoformat()})
        self._findings: list[Finding] = []
        self._done = 0
        self._total: int | None = None

    def find(self, source: str, reason: str, *, ref: str | None = None) -> None:
        """List what could not be brought in."""
        self._findings.append(Finding(reason=reason, source=source, ref=ref))

    async def note(self, stage: str, *, step: int = 0, total: int | None = None) -> None:
        """Write down how far it is: `step` further in a stage, or at its beginning."""
        if step == 0:
            self._done, self._total = 0, total
        self._done += step
        findings, self._findings = self._findings, []
        await self.run.commit(
            None,
            stage=stage,
            done=self._done,
            total=self._total,
            counts=self.counts,
            findings=findings,
        )


def _see_that_it_is_this(error: Refused) -> None:
    """Go on where one thing cannot be read; not where nothing can, for a while or for this token.

    Whoever made a thing may have it to themselves, or have taken it away by now.
    """
    if isinstance(error, Throttled | Unauthorized):
        raise error


def _made_at(distribution: Distribution, place: Place) -> datetime:
    """When a distribution was made; where that is not told, by how long its links live."""
    if distribution.created_at is not None:
        return distribution.created_at
    end = distribution.expires_at or datetime.now(UTC)
    return end - timedelta(days=place.link_days or 0)


def _on(place: Place, standing: Standing, found: _Found) -> FoundLink:
    is_listed = place.route is Route.LIST
    return FoundLink(
        id=found.link,
        is_short=found.is_short,
        milestone=place.milestone or "",
        survey_id=place.survey_id,
        route=place.route,
        slot_id=place.slot_id if is_listed else None,
        distribution_id=standing.id,
        ref=found.ref,
        contact_key=found.contact_key if is_listed else None,
        lookup_id=found.lookup_id,
        url=Template.parse(standing.template).url(found.lookup_id),
        expires_at=standing.expires_at,
    )
