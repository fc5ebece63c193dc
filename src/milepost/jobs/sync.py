"""Job `sync`: every registrant who owns a contact gets one, in the home list.

The home list is the one mailing list of the deployment that everybody is put into ahead of time:
one call makes the directory contact and its membership.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from milepost.jobs.directory import bind
from milepost.model import Deployment
from milepost.routes import contact_fields
from milepost.store import Store
from milepost.store.registrants import WithoutContact
from milepost.upstream import (
    CallFailed,
    Forbidden,
    NotFound,
    Refused,
    Throttled,
    Unauthorized,
    Upstream,
)

log = logging.getLogger(__name__)

AT_ONCE: Final = 16
"""Calls that are out at the same time."""

PAGE: Final = 2 * AT_ONCE
"""Registrants claimed at once: also a page whose calls all end at their deadline of 10 s, after two
looks of as much each, is done when its lease of a minute ends."""

MOST_ERRORS: Final = 10
"""Errors that a run tells of; it counts them all."""


class Counts(Struct, kw_only=True):
    """What a run did, in registrants."""

    made: int = 0
    failed: int = 0
    errors: list[str] = []


class Sync:
    """Makes contacts for registrants.

    Args:
        store: knows who has none.
        upstream: makes them.
        directory_id: the directory that is wanted; None: the account's default one.
    """

    def __init__(self, store: Store, upstream: Upstream, directory_id: str | None) -> None:
        self._store = store
        self._upstream = upstream
        self._directory_id = directory_id

    async def run_once(self, progress: Callable[[int], None] = lambda _: None) -> Counts:
        """Make all contacts that are missing.

        Args:
            progress: is told after each page how many registrants were seen to.

        Raises:
            UpstreamError: the directory or the home list cannot be had.
        """
        deployment = await bind(self._store, self._upstream, self._directory_id)
        home = deployment.home_list_id or await self._make_home_list(deployment)
        counts = Counts()
        if home is None:
            counts.errors.append("the home list is being made by another process")
            return counts
        gate = asyncio.Semaphore(AT_ONCE)
        while page := await self._store.registrants.claim_without_contact(PAGE):
            try:
                async with asyncio.TaskGroup() as group:
                    making = [
                        group.create_task(self._make_contact(deployment, home, registrant, gate))
                        for registrant in page
                    ]
            except BaseExceptionGroup as several:
                raise several.exceptions[0] from None
            errors = [error for task in making if (error := task.result()) is not None]
            counts.made += len(page) - len(errors)
            counts.failed += len(errors)
            told = [str(error) for error in errors]
            counts.errors = (counts.errors + told)[:MOST_ERRORS]
            progress(len(page))
            if _is_hopeless(errors, len(page)):
                break  # what is left keeps until the next run
        return counts

    async def _make_contact(
        self,
        deployment: Deployment,
        home: str,
        registrant: WithoutContact,
        gate: asyncio.Semaphore,
    ) -> CallFailed | None:
        directory = deployment.directory_id or ""
        async with gate:
            try:
                known = None
                if registrant.attempt > 1 and not deployment.dedup_criteria:
                    known = await self._find(directory, home, registrant.ref)
                if known is None:
                    added = await self._upstream.add_list_contact(
                        directory, home, contact_fields(registrant.ref, registrant.details)
                    )
                    known = added.contact_id, added.lookup_id
            except CallFailed as error:
                log.warning("a contact could not be made: %s", error)
                return error
        await self._store.registrants.settle_contact(registrant.ref, registrant.attempt, *known)
        return None

    async def _find(self, directory: str, home: str, ref: str) -> tuple[str, str] | None:
        """Where nothing merges contacts, adding again would double what an earlier call made."""
        async for hit in self._upstream.search_contacts(directory, ref=ref):
            try:
                contact = await self._upstream.get_contact(directory, hit.contact_id)
            except NotFound:
                continue
            if lookup_id := contact.memberships.get(home):
                return hit.contact_id, lookup_id
        return None

    async def _make_home_list(self, deployment: Deployment) -> str | None:
        attempt = await self._store.deployment.claim_home_list()
        if attempt is None:
            return None
        directory = deployment.directory_id or ""
        name = f"milepost {deployment.id} home"
        list_id = None
        if attempt > 1:
            lists = self._upstream.mailing_lists(directory)
            found = [known.list_id async for known in lists if known.name == name]
            list_id = found[0] if found else None
        list_id = list_id or await self._upstream.create_mailing_list(directory, name)
        await self._store.deployment.note_home_list(list_id, attempt)
        return list_id


def _is_hopeless(errors: list[CallFailed], tried: int) -> bool:
    """Whether more calls would end as these did: all failed, and not over one person's data."""
    if any(isinstance(e, Throttled | Unauthorized | Forbidden | NotFound) for e in errors):
        return True
    return len(errors) == tried and not all(isinstance(error, Refused) for error in errors)
