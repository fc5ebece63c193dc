"""Route `list`: the registrant is added to the slot's list, and the URL is built from the answer.

One call. The list holds a distribution and its probe since long before the event; the answer holds
the registrant's lookup id; the rest of the URL is the distribution's template. Where the registrant
is in the list since long before as well, the URL goes out without a call, and the call follows with
the data.

Where a probe has found that the account is otherwise, the route does with what there is: it looks
for the link in the platform's own list, sends no data that the survey would not see, and asks more
often before it adds again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from milepost import payload
from milepost.model import Capabilities, Claim, Deployment, Fact, LateData, Place
from milepost.personal_link import PersonalLink, Template, parse
from milepost.routes.joining import members, membership
from milepost.routes.making import (
    ListMissing,
    Made,
    NothingThere,
    StillUnknown,
    TooLate,
    Untrusted,
    contact_fields,
    looking,
)
from milepost.upstream import (
    CallFailed,
    ContactFields,
    NotFound,
    Upstream,
)

LISTING_SECONDS: Final = 10.0
"""How long links are listed, from the last moment at which the add could begin: as long as that may
take, so that nobody has taken the claim over yet."""


class MailingListMaker:
    """Makes links by adding contacts to mailing lists.

    Args:
        upstream: the client.
        directory_id: where the lists are.
        deployment: says whether the directory recognises a contact that it has already. It is asked
            only for a claim in doubt, and each time: a person may change that at the platform.
        capabilities: says what the account has been proved to accept.
        secret: signs the reference by which a response is matched to its link.
    """

    call_class = "list_contacts"
    carries = 1
    calls = 1

    def __init__(
        self,
        upstream: Upstream,
        *,
        directory_id: str,
        deployment: Callable[[], Awaitable[Deployment]],
        capabilities: Callable[[], Awaitable[Capabilities]],
        secret: bytes,
    ) -> None:
        self._upstream = upstream
        self._directory_id = directory_id
        self._deployment = deployment
        self._capabilities = capabilities
        self._secret = secret

    async def make(self, claim: Claim, *, begin_by: float) -> Made:
        """Add the registrant to the claim's list; in doubt, ask first. See `Maker`."""
        place, list_id = _place(claim)
        account = await self._capabilities()
        contact = self._contact(claim, account)
        found = await self._ask(claim, account, begin_by) if claim.in_doubt else None
        if found is None:
            _refuse_after(begin_by)
            added = await self._upstream.add_list_contact(self._directory_id, list_id, contact)
            found = added.contact_id, added.lookup_id
        elif found[1] in claim.lookups_before:
            # They were in the list before this event: that they are tells nothing of its data.
            _refuse_after(begin_by)
            await self._upstream.update_list_contact(self._directory_id, list_id, found[0], contact)
        contact_id, lookup_id = found
        url = Template.parse(place.template).url(lookup_id)
        if not account.holds(Fact.LATE_LINK):
            await self._see_listed(parse(url), begin_by + LISTING_SECONDS)
        return Made(
            lookup_id=lookup_id, url=url, contact_id=contact_id, expires_at=place.expires_at
        )

    async def tell(self, late: LateData, *, begin_by: float) -> bool:
        """Write the data to the registrant's membership. See `Maker`."""
        if not (await self._capabilities()).holds(Fact.PRIVATE_DATA):
            return False
        reference = payload.seal(late.link_id, self._secret)
        private = payload.embedded(late.data, late.details.attributes, late.fields, reference)
        # The contact may be somebody else's by now: what is known of the registrant is not theirs.
        contact = (
            contact_fields(late.ref, late.details, private)
            if late.is_theirs
            else ContactFields(private_embedded_data=private)
        )
        _refuse_after(begin_by)
        try:
            await self._upstream.update_list_contact(
                self._directory_id, late.list_id, late.contact_id, contact
            )
        except NotFound:
            await self._see_list(late.list_id)
            raise
        return True

    async def _see_list(self, list_id: str) -> None:
        """Tell a list that is gone from one that a contact has left: it concerns all its links."""
        try:
            await self._upstream.mailing_list(self._directory_id, list_id)
        except NotFound as error:
            raise ListMissing(str(error)) from error

    async def _see_listed(self, link: PersonalLink, until: float) -> None:
        """Have the platform list the link, where a link opens only after it was listed.

        Listing updates the frequency rules of all people in the list (documented).

        Raises:
            StillUnknown: it is not listed yet, or not so soon.
            Untrusted: it is listed otherwise than it was built.
        """
        try:
            async with asyncio.timeout_at(until):
                listed = await self._listed(link)
        except TimeoutError:
            raise StillUnknown("listing the links takes too long", looked=False) from None
        except CallFailed as error:
            # The add was accepted: whatever went wrong since, it is not to be made again.
            raise StillUnknown(f"the links cannot be listed: {error}", looked=False) from error
        if listed is None:
            raise StillUnknown("the platform does not list the link yet", looked=False)
        if listed != link.url:
            raise Untrusted("the platform lists another link than the one that was built")

    async def _listed(self, link: PersonalLink) -> str | None:
        listing = self._upstream.distribution_links(link.distribution_id, link.survey_id)
        async for listed in listing:
            if link.lookup_id in listed.link:
                return listed.link
        return None

    async def _ask(
        self, claim: Claim, account: Capabilities, until: float
    ) -> tuple[str, str] | None:
        """Find out what became of an earlier call; None: nothing, so that it may be made."""
        async with looking("an earlier call", until=until):
            return await self._look(claim, account)

    async def _look(self, claim: Claim, account: Capabilities) -> tuple[str, str] | None:
        _, list_id = _place(claim)
        merges = (
            claim.may_add
            and account.holds(Fact.ONE_CONTACT)
            and bool((await self._deployment()).dedup_criteria)
        )
        if merges and claim.contact_id is not None:
            lookup_id = await membership(
                self._upstream, self._directory_id, list_id, claim.contact_id
            )
            return (claim.contact_id, lookup_id) if lookup_id else None
        async for found in members(self._upstream, self._directory_id, list_id, claim.ref):
            if merges or found[1] not in claim.lookups_before:
                return found
        if merges and account.holds(Fact.SAME_LOOKUP):
            # A search may find a contact late. An add that is repeated meets it all the same.
            return None
        if not claim.looked_enough:
            raise StillUnknown("the contact of an earlier call is not found yet", looked=True)
        if not claim.may_add:
            raise NothingThere("the registrant's contact has changed, and no earlier call made it")
        return None

    def _contact(self, claim: Claim, account: Capabilities) -> ContactFields:
        if not account.holds(Fact.PRIVATE_DATA):
            return contact_fields(claim.ref, claim.details)
        reference = payload.reference(claim.link, self._secret)
        private = payload.embedded(claim.data, claim.details.attributes, claim.fields, reference)
        return contact_fields(claim.ref, claim.details, private)


def _place(claim: Claim) -> tuple[Place, str]:
    """The place of a claim of this route, which has one, and the list that it is in."""
    if claim.place is None or claim.place.list_id is None:
        raise TypeError("a claim of route list without a list")
    return claim.place, claim.place.list_id


def _refuse_after(moment: float) -> None:
    if asyncio.get_running_loop().time() > moment:
        raise TooLate("the claim is too old for a call")
