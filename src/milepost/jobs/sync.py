"""Job `sync`: every registrant who owns a contact gets one, in the home list.

The home list is the one mailing list of the deployment that everybody is put into ahead of time:
one call makes the directory contact and its membership.

Where the directory recognises people, an add whose outcome is unknown is repeated: it meets the
same contact. Where it does not, or has been proved not to, a second add would make a second
contact, so the registrant is looked for, once in a run, and added again only after three runs over
a minute that found nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct

from milepost.errors import DatabaseBusy
from milepost.jobs.directory import bind
from milepost.model import Deployment, Fact
from milepost.routes import StillUnknown, contact_fields
from milepost.store import Store
from milepost.store.registrants import WithoutContact
from milepost.upstream import (
    CallFailed,
    Forbidden,
    NotFound,
    Refused,
    Throttled,
    Unauthorized,
    UnknownOutcome,
    Upstream,
)

log = logging.getLogger(__name__)

AT_ONCE: Final = 16
"""Calls that are out at the same time."""

PAGE: Final = 2 * AT_ONCE
"""Registrants claimed at once: also a page whose calls all end at their deadline of 10 s, after two
looks of as much each, is done when its lease of a minute ends."""

SETTLE_SECONDS: Final = 20.0
SETTLE_PAUSE_SECONDS: Final = 0.5
"""How long, and how often, what became of a call is written down while Postgres is away: a restart
takes a few seconds. What is not written in the end is asked for by a later run."""

MOST_ERRORS: Final = 10
"""Errors that a run tells of; it counts them all."""


class Counts(Struct, kw_only=True):
    """What a run did, in registrants; one that another run took over meanwhile is not counted."""

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
            DatabaseBusy: Postgres is away for longer than a restart takes.
        """
        deployment = await bind(self._store, self._upstream, self._directory_id)
        home = deployment.home_list_id or await self._make_home_list(deployment)
        counts = Counts()
        if home is None:
            counts.errors.append("the home list is being made by another process")
            return counts
        account = await self._store.capabilities.all()
        merges = (
            bool(deployment.dedup_criteria)
            and account.holds(Fact.ONE_CONTACT)
            and account.holds(Fact.SAME_LOOKUP)
        )
        directory = deployment.directory_id or ""
        gate = asyncio.Semaphore(AT_ONCE)
        after = 0
        while page := await self._store.registrants.claim_without_contact(PAGE, after=after):
            after = page[-1].id
            # All of them end by themselves, whatever happens to one: a call that is cut off may
            # have been accepted.
            outcomes = await asyncio.gather(
                *(self._make_contact(directory, home, claimed, gate, merges) for claimed in page),
                return_exceptions=True,
            )
            errors: list[CallFailed | StillUnknown] = []
            for outcome in outcomes:
                if isinstance(outcome, CallFailed | StillUnknown):
                    errors.append(outcome)
                elif isinstance(outcome, BaseException):
                    raise outcome
                else:
                    counts.made += outcome
            counts.failed += len(errors)
            told = [str(error) for error in errors]
            counts.errors = (counts.errors + told)[:MOST_ERRORS]
            progress(len(page))
            if _is_hopeless(errors, len(page)):
                break  # what is left keeps until the next run
        return counts

    async def _make_contact(
        self,
        directory: str,
        home: str,
        claimed: WithoutContact,
        gate: asyncio.Semaphore,
        merges: bool,  # noqa: FBT001  (of the directory: what a second add would meet)
    ) -> bool:
        """Make one contact; False when somebody else has the claim by now.

        Raises:
            CallFailed: the platform did not make it, or may have.
            StillUnknown: what became of an earlier call is not known yet.
            DatabaseBusy: what became of this one could not be written down.
        """
        registrants = self._store.registrants
        looked = False
        async with gate:
            try:
                known = None
                if claimed.in_doubt and not merges:
                    known = await self._find(directory, home, claimed.ref)
                    looked = known is None
                    if looked and not claimed.looked_enough:
                        raise StillUnknown(  # noqa: TRY301  (handled as the calls' errors are)
                            "the contact of an earlier call is not found yet", looked=True
                        )
                if known is None:
                    added = await self._upstream.add_list_contact(
                        directory, home, contact_fields(claimed.ref, claimed.details)
                    )
                    known = added.contact_id, added.lookup_id
            except (CallFailed, StillUnknown) as error:
                log.warning("a contact could not be made: %s", error)
                unknown = isinstance(error, UnknownOutcome)
                await _persistently(
                    lambda: registrants.set_back_contact(
                        claimed, outcome_unknown=unknown, looked=looked
                    )
                )
                raise
        return await _persistently(
            lambda: registrants.settle_contact(claimed.ref, claimed.attempt, *known)
        )

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
        is_ours = await self._store.deployment.note_home_list(list_id, attempt)
        return list_id if is_ours else None


async def _persistently(write: Callable[[], Awaitable[bool]]) -> bool:
    """Write an outcome down, also past a restart of Postgres."""
    clock = asyncio.get_running_loop().time
    give_up = clock() + SETTLE_SECONDS
    while True:
        try:
            return await write()
        except DatabaseBusy:
            if clock() > give_up:
                raise
        await asyncio.sleep(SETTLE_PAUSE_SECONDS)


def _is_hopeless(errors: list[CallFailed | StillUnknown], tried: int) -> bool:
    """Whether more calls would end as these did: all failed, and not over one person's data."""
    if any(isinstance(e, Throttled | Unauthorized | Forbidden | NotFound) for e in errors):
        return True
    return len(errors) == tried and not all(
        isinstance(error, Refused | StillUnknown) for error in errors
    )
