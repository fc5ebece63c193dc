"""The home list, as a list to be filled: everybody who owns a contact is in it ahead of time.

Where the directory recognises people, an add whose outcome is unknown is repeated: it meets the
same contact. Where it does not, or has been proved not to, a second add would make a second
contact, so the registrant is looked for, once in a run, and added again only after three runs over
a minute that found nothing; whoever may have been imported, not before a day is over.

Once in a while, and whenever it is read anyway, the list is compared with what is known here:
contacts that somebody has merged, moved or deleted at the platform are noticed by that. Where a
second add would double somebody, a listing alone does not tell that they are gone: each of their
contacts is asked for, and one of which the platform does not say stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from milepost.jobs.filling import AT_ONCE, Compared, Counts, Single, is_bulk, paced
from milepost.jobs.run import Run
from milepost.routes import StillUnknown, join
from milepost.store.connections import persistently
from milepost.store.contacts import MOST, ContactStore, Marked, Outlook, Owner, WithoutContact
from milepost.store.registrants import CHUNK
from milepost.store.runs import Finding
from milepost.upstream import (
    CallFailed,
    Forbidden,
    NotFound,
    Refused,
    Throttled,
    Unauthorized,
    UnknownOutcome,
    Unreadable,
    Upstream,
)

log = logging.getLogger(__name__)

COMPARED_DAYS: Final = 7
"""So often the list is read to its end, at a call for each hundred people in it. Who is deleted or
merged at the platform meanwhile gets links all the same: the next one makes the contact anew."""

MOST_LOST: Final = 0.10
FEW_LOST: Final = 10
"""A greater part of the list's people is not forgotten without a word, unless it is so few: a list
that lacks a tenth of them was emptied by mistake, or is not read rightly."""

UNTOLD: Final = (
    "the home list does not show their contact, and the platform does not say what became of it"
)

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

    async def chunk(self, after: int) -> tuple[list[Marked], int]:
        """Who is to be imported next."""
        marked = await self._contacts.to_import(after=after, merges=self._merges)
        return marked, marked[-1].id if marked else after

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

    async def not_imported(self, owners: Sequence[Marked]) -> None:
        """They are in no more doubt than before."""
        await self._contacts.note_not_imported(owners)

    async def compare(self, listing_began: datetime, after: str) -> Compared:
        """Forget some of who is not in the listing; where they are too many in all, ask."""
        lost = 0
        if not after:
            known, lost = await self._contacts.count_losses(self.list_id, listing_began)
            is_much = lost > max(FEW_LOST, MOST_LOST * known)
            if is_much and not self._run.options.get("accept_losses"):
                self._ask(
                    f"the home list lacks {lost} of the {known} registrants who were put into it; "
                    "if that is so, and their contacts are to be made anew: milepost run sync "
                    "--accept-losses"
                )
                return Compared(None)
        compared = Compared(None)
        if after or lost:
            compared = await self._forget_some(listing_began, after)
        if compared.behind is None:
            await self._contacts.note_listed(listing_began)
        return compared

    async def looked_in_vain(self, refused: int) -> None:
        """It counts as a look for whoever is in doubt, where that makes a difference."""
        if not self._merges:
            outlook = await self.outlook()
            in_doubt = outlook.missing - outlook.addable
            await self._contacts.note_not_listed(refused=0 < in_doubt <= refused)

    async def forget_everybody(self, before: datetime) -> None:
        """Forget all contacts of a list that is gone; only some where the run is to stop.

        Args:
            before: when an empty listing of it began.
        """
        after: str | None = ""
        while after is not None and not self._run.stopping.is_set():
            lost, after = await self._contacts.lost(self.list_id, before, after=after, limit=CHUNK)
            self._counts.lost += await self._contacts.forget(self.list_id, before, list(lost))

    async def _forget_some(self, before: datetime, after: str) -> Compared:
        """Forget a page of contacts that are not listed.

        Where a second add would double somebody, the platform is asked for each of them, and those
        stay whom it has in the list, or of whom it does not say.

        Raises:
            CallFailed: the platform is away, or takes no such calls at the moment.
        """
        limit = CHUNK if self._merges else AT_ONCE
        lost, behind = await self._contacts.lost(self.list_id, before, after=after, limit=limit)
        findings: list[Finding] = []
        if not self._merges:
            try:
                async with asyncio.TaskGroup() as looks:
                    looking = {
                        ref: looks.create_task(self._is_in_the_list(contact_id))
                        for ref, contact_id in lost.items()
                    }
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
            found = {ref: look.result() for ref, look in looking.items()}
            lost = {ref: lost[ref] for ref, is_there in found.items() if is_there is False}
            findings = [
                Finding(reason=f"{UNTOLD}: {error}", ref=ref)
                for ref, error in found.items()
                if isinstance(error, CallFailed)
            ]
        self._counts.lost += await self._contacts.forget(self.list_id, before, list(lost))
        return Compared(behind, findings)

    async def _is_in_the_list(self, contact_id: str) -> bool | CallFailed:
        """Whether a contact is; or why the platform does not say so, and never will."""
        try:
            contact = await paced(
                self._run, lambda: self._upstream.get_contact(self._directory_id, contact_id)
            )
        except NotFound:
            return False
        except (Throttled, Unauthorized, Forbidden):
            raise
        except (Refused, Unreadable) as error:
            return error
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
