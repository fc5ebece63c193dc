"""The list of a milestone's first slot, filled ahead of events: `membership: ahead`.

Whoever is in it has a link that needs no call. It holds everybody who is in the home list, but for
those whom an event is about to put into it: their link's data are private to the list, and nothing
is known of what an import leaves of them.

An add whose outcome is unknown is made again by a later run, and meets the same contact: it is done
only where the directory recognises people.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from milepost.jobs.filling import Compared, Counts, Single, paced
from milepost.jobs.run import Run
from milepost.routes import contact_fields
from milepost.store import Store
from milepost.store.contacts import Outlook, Owner
from milepost.store.memberships import AheadSlot, Membership
from milepost.store.registrants import CHUNK
from milepost.upstream import AddedContact, CallFailed, Upstream

log = logging.getLogger(__name__)


class AheadList:
    """Fills the list of a slot. See `filling.Target`.

    Args:
        store: knows who is missing.
        upstream: where the list is.
        directory_id: of which directory.
        slot: whose list.
        counts: take what was done.
        run: what it is for.
    """

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        directory_id: str,
        slot: AheadSlot,
        counts: Counts,
        *,
        run: Run,
    ) -> None:
        self.name = f"memberships of {slot.milestone}"
        self.list_id = slot.list_id
        self._slot_id = slot.slot_id
        self._memberships = store.memberships
        self._contacts = store.contacts.under(run.record)
        self._upstream = upstream
        self._directory_id = directory_id
        self._counts = counts
        self._run = run

    async def outlook(self) -> Outlook:
        """How it stands."""
        listed = missing = 0
        after: int | None = 0
        while after is not None:
            there, lacking, after = await self._memberships.tidy(self._slot_id, after=after)
            listed += there
            missing += lacking
        now = await self._memberships.now()
        return Outlook(missing=missing, addable=missing, listed=listed, now=now)

    def is_to_be_read(self, outlook: Outlook) -> bool:
        """Never: an add that is made again meets the contact of the first."""
        del outlook
        return False

    async def chunk(self, after: int) -> tuple[list[Owner], int]:
        """Who is to be imported next."""
        return await self._memberships.lacking(self._slot_id, CHUNK, after=after)

    async def singles(self, limit: int, after: int, upto: int | None) -> tuple[list[Single], int]:
        """Who is to be added next, one by one."""
        owners, end = await self._memberships.lacking(self._slot_id, limit, after=after, upto=upto)
        return [Single(each.id, each.ref, partial(self._add, each)) for each in owners], end

    async def missing(self, after: int) -> list[Owner]:
        """Who is missing."""
        owners, _ = await self._memberships.lacking(self._slot_id, CHUNK, after=after)
        return owners

    async def opted_out(self, contacts: Sequence[str], refs: Sequence[str]) -> None:
        """These are listed as opted out."""
        self._counts.opted_out += await self._contacts.opt_out(contacts, refs)

    async def take_over(self, refs: Sequence[str], told_at: datetime | None) -> None:
        """Take over how these stand in the listing."""
        del told_at  # what the platform knows of people stands with their contact
        self._counts.memberships += await self._memberships.take_over(
            self._slot_id, self.list_id, refs
        )

    async def not_imported(self, owners: Sequence[Owner]) -> None:
        """They are lacking as before."""
        del owners

    async def compare(self, listing_began: datetime, after: str) -> Compared:
        """Forget the memberships that are not in the listing: the next run makes them anew."""
        del listing_began, after
        await self._memberships.forget_not_listed(self._slot_id, self.list_id, self._run.record)
        return Compared(None)

    async def looked_in_vain(self, refused: int) -> None:
        """They are lacking as before."""
        del refused

    async def _add(self, owner: Owner) -> bool:
        try:
            added = await paced(self._run, partial(self._call, owner))
        except CallFailed as error:
            log.warning("a membership could not be made: %s", error)
            raise
        member = Membership(
            registrant_id=owner.id,
            contact_key=owner.contact_key,
            contact_id=added.contact_id,
            lookup_id=added.lookup_id,
        )
        is_made = await self._memberships.put(self._slot_id, self.list_id, [member])
        self._counts.memberships += is_made
        return bool(is_made)

    async def _call(self, owner: Owner) -> AddedContact:
        return await self._upstream.add_list_contact(
            self._directory_id, self.list_id, contact_fields(owner.ref, owner.details)
        )
