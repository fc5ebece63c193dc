"""How a registrant gets into the home list by a call of their own, ahead of an event or at it.

Whether an earlier call has done it is a matter of the registrant, not of whoever asked for it: the
doubt, and the lease of whoever is at it, stand in their row (`store/contacts.py`).

Where the directory recognises people, an add whose outcome is unknown is repeated: it meets the
same contact. Where it does not, a second add would make a second contact, so they are looked for,
and added again only after three looks over a minute that found nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol, TypeVar

from milepost import failpoints
from milepost.errors import MilepostError
from milepost.model import Capabilities, Deployment, Fact
from milepost.routes.making import StillUnknown, TooLate, Unready, contact_fields
from milepost.store.contacts import ContactStore, WithoutContact
from milepost.store.links import LEASE_SECONDS
from milepost.upstream import CallFailed, ContactFields, NotFound, UnknownOutcome, Upstream

T = TypeVar("T")

JOINING_PAUSE: Final = 1.0
LOOKING_PAUSE: Final = 20.0
MENDING_PAUSE: Final = 30.0
"""When a registrant may be in the home list: where somebody is at it, where a search may find them
late, and where the home list is gone."""

BEGIN_SECONDS: Final = 8.0
"""From the claim of a contact on; later than that nobody is added. A call takes 10 s at the most:
it has ended when the lease of 20 s lets somebody else have the claim."""


class Pace(Protocol):
    """How calls are made: at once, or when there is room for them."""

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make one."""
        ...


async def at_once(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call without waiting for anything."""
    return await call()


def merges(deployment: Deployment, account: Capabilities) -> bool:
    """Whether who is added to a list again is the same contact, under the same lookup id."""
    return (
        bool(deployment.dedup_criteria)
        and account.holds(Fact.ONE_CONTACT)
        and account.holds(Fact.SAME_LOOKUP)
    )


async def members(
    upstream: Upstream, directory_id: str, list_id: str, ref: str
) -> AsyncIterator[tuple[str, str]]:
    """The contacts with this ref that are in a list, each with its lookup id there.

    A search may find a contact late.
    """
    async for hit in upstream.search_contacts(directory_id, ref=ref):
        if lookup_id := await membership(upstream, directory_id, list_id, hit.contact_id):
            yield hit.contact_id, lookup_id


async def membership(
    upstream: Upstream, directory_id: str, list_id: str, contact_id: str
) -> str | None:
    """The lookup id of a contact in a list; None: they are not in it."""
    try:
        contact = await upstream.get_contact(directory_id, contact_id)
    except NotFound:
        return None
    return contact.memberships.get(list_id)


async def find_or_add(
    upstream: Upstream,
    directory_id: str,
    list_id: str,
    contact: ContactFields,
    *,
    pace: Pace = at_once,
) -> tuple[str, str]:
    """The contact with the ref of `contact` in a list, and its lookup id; put into it if need be.

    Raises:
        CallFailed: as the client's verbs.
    """
    known = await pace(lambda: _first(upstream, directory_id, list_id, contact.ref or ""))
    if known is not None:
        return known
    return await pace(lambda: _add(upstream, directory_id, list_id, contact))


async def join(
    upstream: Upstream,
    directory_id: str,
    list_id: str,
    claimed: WithoutContact,
    *,
    merges: bool,
    begin_by: float = math.inf,
    pace: Pace = at_once,
) -> tuple[str, str]:
    """Put a registrant into the home list; returns their contact and its lookup id there.

    Args:
        upstream: the client.
        directory_id: of the list.
        list_id: the home list.
        claimed: whom.
        merges: whether the platform knows a contact again that is added a second time.
        begin_by: the moment of the event loop's clock after which nobody is added, so that no add
            is still out when somebody else may have the claim.
        pace: how the calls are made.

    Raises:
        CallFailed: the platform did not make it, or may have.
        StillUnknown: what became of an earlier call is not known yet.
        TooLate: `begin_by` has passed.
    """
    if claimed.in_doubt and not merges:
        known = await pace(lambda: _first(upstream, directory_id, list_id, claimed.ref))
        if known is not None:
            return known
        if not claimed.looked_enough:
            raise StillUnknown("the contact of an earlier call is not found yet", looked=True)
    contact = contact_fields(claimed.ref, claimed.details)

    async def add() -> tuple[str, str]:
        if asyncio.get_running_loop().time() > begin_by:
            raise TooLate("the claim of the contact is too old for a call")
        return await _add(upstream, directory_id, list_id, contact)

    return await pace(add)


class Joining:
    """Has registrants of events in the home list, each by one call for all of their links.

    Args:
        upstream: the client.
        contacts: knows who is in it.
        directory_id: where it is.
    """

    def __init__(self, upstream: Upstream, contacts: ContactStore, *, directory_id: str) -> None:
        self._upstream = upstream
        self._contacts = contacts
        self._directory_id = directory_id
        self._under_way: dict[str, asyncio.Task[tuple[str, str]]] = {}

    async def member(self, ref: str, list_id: str, *, merges: bool) -> tuple[str, str]:
        """Have a registrant in the home list; returns their contact and its lookup id there.

        Args:
            ref: of the registrant.
            list_id: the home list.
            merges: whether the platform knows a contact again that is added a second time.

        Raises:
            CallFailed: no call can be made now, or the platform refuses this person.
            Unready: they are not in it yet, or it is not known.
        """
        task = self._under_way.get(ref)
        if task is None:
            task = asyncio.create_task(self._joined(ref, list_id, merges=merges))
            self._under_way[ref] = task
            task.add_done_callback(lambda _: self._under_way.pop(ref, None))
        return await task

    async def miss(self, ref: str, lookup_id: str) -> None:
        """The platform does not know a registrant's place in the home list any more."""
        await self._contacts.miss(ref, lookup_id)

    async def miss_if_gone(self, ref: str, list_id: str, contact_id: str, lookup_id: str) -> bool:
        """See whether a call was refused because a registrant's place in the home list is gone.

        Args:
            ref: of the registrant.
            list_id: the home list.
            contact_id: theirs, as far as it is known.
            lookup_id: its place in that list.

        Returns:
            True when it is gone; they are put into the list anew then, by whoever needs it next.

        Raises:
            CallFailed: it cannot be asked now.
        """
        if await membership(self._upstream, self._directory_id, list_id, contact_id):
            return False  # they are there: it is the event that is refused
        await self.miss(ref, lookup_id)
        return True

    async def _joined(self, ref: str, list_id: str, *, merges: bool) -> tuple[str, str]:
        begin_by = asyncio.get_running_loop().time() + BEGIN_SECONDS
        claimed = await self._contacts.claim_one(ref, lease=LEASE_SECONDS)
        if isinstance(claimed, tuple):
            return claimed
        if claimed is None:
            detail = "the registrant's contact is being made elsewhere"
            raise Unready("contact-missing", detail, pause=JOINING_PAUSE)
        try:
            found = await join(
                self._upstream,
                self._directory_id,
                list_id,
                claimed,
                merges=merges,
                begin_by=begin_by,
            )
        except (CallFailed, StillUnknown, TooLate) as error:
            raise await self._set_back(claimed, error) from error
        failpoints.reach("joined", ref)
        if not await self._contacts.settle(claimed, *found):
            detail = "the registrant's contact is made by somebody else by now"
            raise Unready("contact-missing", detail, pause=JOINING_PAUSE)
        return found

    async def _set_back(
        self, claimed: WithoutContact, error: CallFailed | StillUnknown | TooLate
    ) -> MilepostError:
        """Write down that somebody was not put into the home list; returns what their links do."""
        looked = isinstance(error, StillUnknown) and error.looked
        await self._contacts.set_back(
            claimed,
            outcome_unknown=isinstance(error, UnknownOutcome),
            looked=looked,
            rests=False,
        )
        if isinstance(error, NotFound):
            return Unready("home-list-missing", str(error), pause=MENDING_PAUSE)
        if isinstance(error, StillUnknown | UnknownOutcome | TooLate):
            # The doubt is the registrant's: the link may go on as soon as they are found.
            pause = LOOKING_PAUSE if looked else JOINING_PAUSE
            return Unready("contact-missing", str(error), pause=pause)
        return error


async def _first(
    upstream: Upstream, directory_id: str, list_id: str, ref: str
) -> tuple[str, str] | None:
    async for found in members(upstream, directory_id, list_id, ref):
        return found
    return None


async def _add(
    upstream: Upstream, directory_id: str, list_id: str, contact: ContactFields
) -> tuple[str, str]:
    added = await upstream.add_list_contact(directory_id, list_id, contact)
    return added.contact_id, added.lookup_id
