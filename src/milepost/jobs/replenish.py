"""Job `replenish`: brings the pool of every milestone to its target.

A pool starts with the milestone's `slots`. It grows by one slot while the highest one holds a live
link, which is that of a person who has one in every slot: their next event finds a place, until the
pool has `max_slots`. It never shrinks.

A slot takes four calls: its mailing list, our probe in it, an Individual-link distribution on it,
and the list of that distribution's links, from which its template is learnt (*calibration*). The
list holds only the probe then, so that listing its links touches no real person. What a call made
is written down before the next one, and a later attempt looks for what an earlier one may have
left behind before it makes anything.

On an account that has been proved to make no distribution for a probe alone, nothing is made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from milepost.errors import MilepostError
from milepost.model import Capabilities, Deployment, Fact
from milepost.personal_link import NotAPersonalLink, Template, parse
from milepost.routes import Untrusted
from milepost.store import Store
from milepost.store.pools import NOT_LISTED, PAUSE_SECONDS, Making, TakenOver
from milepost.upstream import CallFailed, ContactFields, Upstream

log = logging.getLogger(__name__)

AT_ONCE: Final = 8
"""Slots made at the same time; live events have the greater share of the calls."""


LISTED_LATE_SECONDS: Final = 600
"""Between looks for the probe's link where links are known to be listed late: it may take days."""

NOT_AHEAD: Final = (
    "the account makes no distribution on a list that holds only our probe, so pools cannot be "
    "made ahead of events"
)


class NotListedYet(MilepostError):
    """The platform does not list the probe's link yet; lists have been seen to lag (observed)."""


class Counts(Struct, kw_only=True):
    """What a run did, in slots."""

    planned: int = 0
    ready: int = 0
    stopped: int = 0
    failed: int = 0
    unfinished: int = 0
    """What is still in the making after the run: it failed lately, or somebody else is at it."""
    errors: list[str] = []


class Replenish:
    """Makes slots.

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

    async def run_once(
        self,
        stopping: asyncio.Event | None = None,
        *,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Counts:
        """Make every slot that a milestone lacks, as far as the platform lets us.

        Args:
            stopping: once it is set, no further slot is begun.
            progress: is told after each slot how many were seen to.
        """
        stopping = stopping or asyncio.Event()
        counts = Counts()
        account = await self._store.capabilities.all()
        if not account.holds(Fact.PROBE_ONLY_DISTRIBUTION):
            counts.unfinished = await self._store.pools.unfinished()
            counts.errors.append(NOT_AHEAD)
            return counts
        for milestone in await self._store.milestones.all():
            counts.planned += await self._store.pools.plan(milestone.key, self._deployment.id)
        failed: dict[int, str] = {}
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(AT_ONCE):
                    workers.create_task(self._work(account, counts, failed, progress, stopping))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        counts.unfinished = await self._store.pools.unfinished()
        return counts

    async def _work(
        self,
        account: Capabilities,
        counts: Counts,
        failed: dict[int, str],
        progress: Callable[[int], None],
        stopping: asyncio.Event,
    ) -> None:
        while not stopping.is_set() and (claimed := await self._store.pools.claim(1)):
            (making,) = claimed
            try:
                if making.id in failed:
                    # Each is tried once in a run, or one that never succeeds never lets it end.
                    await self._store.pools.release(making, failed[making.id])
                else:
                    await self._finish(making, account, counts, failed)
                    progress(1)
            except TakenOver as error:
                log.warning("%s", error)

    async def _finish(
        self, making: Making, account: Capabilities, counts: Counts, failed: dict[int, str]
    ) -> None:
        try:
            template = await self._make(making)
        except (Untrusted, NotAPersonalLink) as error:
            log.error("slot %s of %s is stopped: %s", making.number, making.milestone, error)  # noqa: TRY400  (a decision, not a crash)
            await self._store.pools.stop(making, str(error))
            counts.stopped += 1
            counts.errors.append(str(error))
        except (CallFailed, NotListedYet) as error:
            log.warning("slot %s of %s: %s", making.number, making.milestone, error)
            late = isinstance(error, NotListedYet) and not account.holds(Fact.COMPLETE_LINKS)
            pause = LISTED_LATE_SECONDS if late else PAUSE_SECONDS
            await self._store.pools.release(making, str(error), pause)
            failed[making.id] = str(error)
            counts.failed += 1
            counts.errors.append(str(error))
        else:
            await self._store.pools.ready(making, str(template))
            counts.ready += 1

    async def _make(self, making: Making) -> Template:
        again = making.attempt > 1
        if making.list_id is None:
            list_id = await self._find_list(making.list_name) if again else None
            if list_id is None:
                list_id = await self._upstream.create_mailing_list(
                    self._directory_id, making.list_name
                )
            making = await self._store.pools.note_list(making, list_id)
        list_id = making.list_id or ""
        if making.probe_lookup_id is None:
            probe = await self._find_probe(list_id) if again else None
            if probe is None:
                added = await self._upstream.add_list_contact(
                    self._directory_id, list_id, self._probe()
                )
                probe = added.contact_id, added.lookup_id
            making = await self._store.pools.note_probe(making, *probe)
        if making.distribution_id is None:
            distribution_id = await self._find_distribution(making, list_id) if again else None
            if distribution_id is None:
                distribution_id = await self._upstream.create_distribution(
                    making.survey_id, list_id, making.description, making.expires_at
                )
            making = await self._store.pools.note_distribution(making, distribution_id)
        return await self._calibrate(making)

    async def _calibrate(self, making: Making) -> Template:
        """Learn the template from the probe's link, as the platform itself lists it."""
        distribution_id = making.distribution_id or ""
        links = self._upstream.distribution_links(distribution_id, making.survey_id)
        for listed in [link async for link in links]:
            if listed.contact_id not in {making.probe_contact_id, making.probe_lookup_id}:
                continue
            link = parse(listed.link)
            for what, found, made in (
                ("survey", link.survey_id, making.survey_id),
                ("distribution", link.distribution_id, distribution_id),
                ("lookup id", link.lookup_id, making.probe_lookup_id),
            ):
                if found != made:
                    raise Untrusted(f"the probe's link names {what} {found} and not {made}")
            if listed.expires_at is not None and listed.expires_at < making.expires_at:
                raise Untrusted(
                    f"the probe's link expires at {listed.expires_at:%Y-%m-%dT%H:%M:%SZ} "
                    f"and not at {making.expires_at:%Y-%m-%dT%H:%M:%SZ}"
                )
            template = Template.of(link)
            if template.url(link.lookup_id) != listed.link:
                raise Untrusted("the probe's link cannot be rebuilt from its template")
            return template
        raise NotListedYet(NOT_LISTED)

    async def _find_list(self, name: str) -> str | None:
        lists = self._upstream.mailing_lists(self._directory_id)
        found = [known.list_id async for known in lists if known.name == name]
        return found[0] if found else None

    async def _find_probe(self, list_id: str) -> tuple[str, str] | None:
        contacts = self._upstream.list_contacts(self._directory_id, list_id)
        ours = self._probe().ref
        found = [(c.contact_id, c.lookup_id) async for c in contacts if c.ref == ours]
        return found[0] if found else None

    async def _find_distribution(self, making: Making, list_id: str) -> str | None:
        known = self._upstream.distributions(making.survey_id)
        found = [d.distribution_id async for d in known if d.list_id == list_id]
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
