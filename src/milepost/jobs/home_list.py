"""The home list, as a list to be filled: everybody who owns a contact is in it ahead of time.

Where the directory recognises people, an add whose outcome is unknown is repeated: it meets the
same contact. Where it does not, or has been proved not to, a second add would make a second
contact, so the registrant is looked for, once in a run, and added again only after three runs over
a minute that found nothing; whoever may have been imported, not before a day is over.

Once in a while, and whenever it is read anyway, the list is compared with what is known here:
contacts that somebody has merged, moved or deleted at the platform are noticed by that. Where a
second add would double somebody, a listing alone does not tell that they are gone: each of their
contacts is asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from milepost.jobs.filling import AT_ONCE, Counts, Single, is_bulk, paced
from milepost.jobs.run import Run
from milepost.routes import StillUnknown, join
from milepost.store.connections import persistently
from milepost.store.contacts import MOST, ContactStore, Outlook, Owner, WithoutContact
from milepost.store.registrants import CHUNK
from milepost.upstream import CallFailed, NotFound, UnknownOutcome, Upstream

log = logging.getLogger(__name__)

COMPARED_DAYS: Final = 7
"""So often the list is read to its end, at a call for each hundred people in it. Who is deleted or
merged at the platform meanwhile gets links all the same: the next one makes the contact anew."""

MOST_LOST: Final = 0.10
FEW_LOST: Final = 10
"""A greater part of the list's people is not forgotten without a word, unless it is so few: a list
that lacks a tenth of them was emptied by mistake, or is not read rightly."""

SETTLE_SECONDS: Final = 20.0
"""For how long it is tried to write down what became of a call while Postgres is away. What is not
written in the end is asked for by a later run."""


class HomeList:
    """Fills the home list. See `filling.Target`.

    Args:
        contacts: knows who is missing.
        upstream: where the list is.
        directory_id: of which directory.
        list_id: the home list.
        counts: take what was done.
        merges: whether the platform knows a contact again that is added a second time.
        run: what it is for.
        ask: is told what a person must decide.
    """

    name = "contacts"

    def __init__(
        self,
        contacts: ContactStore,
        upstream: Upstream,
        directory_id: str,
        list_id: str,
        counts: Counts,
        *,
        merges: bool,
        run: Run,
        ask: Callable[[str], None],
    ) -> None:
        self.list_id = list_id
        self._contacts = contacts
        self._upstream = upstream
        self._directory_id = directory_id
        self._counts = counts
        self._merges = merges
        self._run = run
        self._ask = ask

    async def outlook(self) -> Outlook:
        """How it stands."""
        return await self._contacts.outlook(merges=self._merges)

    def is_to_be_read(self, outlook: Outlook) -> bool:
        """Whether it is to be read before anybody is added."""
        is_bulk_now = is_bulk(outlook.addable, outlook.listed)
        if not self._merges:
            in_doubt = outlook.missing - outlook.addable
            if is_bulk_now or is_bulk(in_doubt, outlook.listed):
                return True
        age = outlook.since_listed
        is_old = age is None or age >= timedelta(days=COMPARED_DAYS)
        # Whom an import brings in, a listing has to show: then it is read anyway.
        return outlook.listed > 0 and is_old and not is_bulk_now

    async def chunk(self, after: int) -> tuple[list[Owner], int]:
        """Who is to be imported next."""
        owners = await self._contacts.to_import(after=after, merges=self._merges)
        return owners, owners[-1].id if owners else after

    async def singles(self, limit: int, after: int, upto: int | None) -> tuple[list[Single], int]:
        """Who is to be added next, one by one."""
        claimed = await self._contacts.claim(
            limit,
            after=after,
            upto=MOST if upto is None else upto,
            # Whoever had the run before has left claims behind.
            anybody=self._run.record.attempt > 1,
        )
        singles = [Single(each.id, each.ref, partial(self._add, each)) for each in claimed]
        return singles, claimed[-1].id if claimed else after

    async def missing(self, after: int) -> list[Owner]:
        """Who is missing."""
        return await self._contacts.missing(after=after)

    async def opted_out(self, contacts: Sequence[str], refs: Sequence[str]) -> None:
        """These are listed as opted out."""
        self._counts.opted_out += await self._contacts.opt_out(contacts, refs)

    async def take_over(self, refs: Sequence[str], told_at: datetime | None) -> None:
        """Take over how these stand in the listing."""
        taken = await self._contacts.take_over(
            self.list_id, refs, merges=self._merges, told_at=told_at
        )
        self._counts.made += taken.made
        self._counts.moved += taken.moved

    async def not_imported(self, owners: Sequence[Owner]) -> None:
        """They are not in doubt any more."""
        await self._contacts.note_not_imported(owners)

    async def compare(self, listing_began: datetime, refused: int) -> bool:
        """Forget who is not in the listing; where that is too many, ask."""
        if not self._merges:
            outlook = await self.outlook()
            in_doubt = outlook.missing - outlook.addable
            await self._contacts.note_not_listed(refused=0 < in_doubt <= refused)
        known, lost = await self._contacts.count_losses(self.list_id, listing_began)
        if lost > max(FEW_LOST, MOST_LOST * known) and not self._run.options.get("accept_losses"):
            self._ask(
                f"the home list lacks {lost} of the {known} registrants who were put into it; if "
                "that is so, and their contacts are to be made anew: milepost run sync "
                "--accept-losses"
            )
            return True
        if lost and not await self.forget(listing_began, ask=not self._merges):
            return False
        await self._contacts.note_listed(listing_began)
        return True

    async def forget(self, before: datetime, *, ask: bool) -> bool:
        """Forget the contacts of who came into the list before a moment and is not listed.

        Args:
            before: when the listing began.
            ask: whether the platform is asked for each, and those stay whom it has in the list.

        Returns:
            False: the run is to stop before it is done.

        Raises:
            CallFailed: the platform does not say what became of somebody.
        """
        after: str | None = ""
        while after is not None:
            contacts, after = await self._contacts.lost(self.list_id, before, after=after)
            refs = list(contacts)
            size = AT_ONCE if ask else CHUNK
            for first in range(0, len(refs), size):
                if self._run.stopping.is_set():
                    return False
                page = refs[first : first + size]
                if ask:
                    is_there = await asyncio.gather(
                        *(self._is_in_the_list(contacts[ref]) for ref in page)
                    )
                    page = [ref for ref, there in zip(page, is_there, strict=True) if not there]
                self._counts.lost += await self._contacts.forget(self.list_id, before, page)
        return True

    async def _is_in_the_list(self, contact_id: str) -> bool:
        try:
            contact = await paced(
                self._run, lambda: self._upstream.get_contact(self._directory_id, contact_id)
            )
        except NotFound:
            return False
        return self.list_id in contact.memberships

    async def _add(self, claimed: WithoutContact) -> bool:
        """Make one contact; False when somebody else has the claim by now.

        Raises:
            CallFailed: the platform did not make it, or may have.
            StillUnknown: what became of an earlier call is not known yet.
            DatabaseBusy: what became of this one could not be written down.
        """
        try:
            known = await join(
                self._upstream,
                self._directory_id,
                self.list_id,
                claimed,
                merges=self._merges,
                pace=partial(paced, self._run),
            )
        except (CallFailed, StillUnknown) as error:
            log.warning("a contact could not be made: %s", error)
            unknown = isinstance(error, UnknownOutcome)
            looked = isinstance(error, StillUnknown) and error.looked
            await persistently(
                lambda: self._contacts.set_back(claimed, outcome_unknown=unknown, looked=looked),
                SETTLE_SECONDS,
            )
            raise
        is_made = await persistently(lambda: self._contacts.settle(claimed, *known), SETTLE_SECONDS)
        self._counts.made += is_made
        return is_made
