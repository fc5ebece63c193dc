"""Route `list`: the registrant is added to the slot's list, and the URL is built from the answer.

One call. The list holds a distribution and its probe since long before the event; the answer holds
the registrant's lookup id; the rest of the URL is the distribution's template.
"""

from __future__ import annotations

from milepost import payload
from milepost.model import Claim
from milepost.personal_link import Template
from milepost.routes.making import Made, StillUnknown
from milepost.upstream import ContactFields, NotFound, Upstream


class MailingListMaker:
    """Makes links by adding contacts to mailing lists.

    Args:
        upstream: the client.
        directory_id: where the lists are.
        deduplicates: whether the directory recognises a contact that it has already.
        secret: signs the reference by which a response is matched to its link.
    """

    def __init__(
        self, upstream: Upstream, *, directory_id: str, deduplicates: bool, secret: bytes
    ) -> None:
        self._upstream = upstream
        self._directory_id = directory_id
        self._deduplicates = deduplicates
        self._secret = secret

    async def make(self, claim: Claim) -> Made:
        """Add the registrant to the claim's list; in doubt, ask first. See `Maker`."""
        if claim.in_doubt and (made := await self._resolve(claim)):
            return made
        added = await self._upstream.add_list_contact(
            self._directory_id, claim.place.list_id, self._contact(claim)
        )
        return _made(claim, added.contact_id, added.lookup_id)

    async def _resolve(self, claim: Claim) -> Made | None:
        """Find out what became of an earlier call; None: nothing did, so that it may be made."""
        if self._deduplicates:
            # An add that is repeated meets the same contact: nothing doubles. It is asked all the
            # same where the contact is known, for a call that was accepted needs no second one.
            candidates = [claim.contact_id] if claim.contact_id else []
        else:
            hits = self._upstream.search_contacts(self._directory_id, ref=claim.ref)
            candidates = [hit.contact_id async for hit in hits]
        for contact_id in candidates:
            lookup_id = await self._membership(contact_id, claim.place.list_id)
            if lookup_id is None:
                continue
            if lookup_id not in claim.lookups_before:
                return _made(claim, contact_id, lookup_id)
            if self._deduplicates:
                await self._upstream.update_list_contact(
                    self._directory_id, claim.place.list_id, contact_id, self._contact(claim)
                )
                return _made(claim, contact_id, lookup_id)
        if not self._deduplicates and not claim.looked_enough:
            raise StillUnknown("the contact of an earlier call is not found yet")
        return None

    async def _membership(self, contact_id: str, list_id: str) -> str | None:
        try:
            contact = await self._upstream.get_contact(self._directory_id, contact_id)
        except NotFound:
            return None
        return contact.memberships.get(list_id)

    def _contact(self, claim: Claim) -> ContactFields:
        details = claim.details
        return ContactFields(
            first_name=details.first_name,
            last_name=details.last_name,
            email=details.email,
            phone=details.phone,
            ref=claim.ref,
            language=details.language,
            private_embedded_data=payload.embedded(
                claim.data,
                details.attributes,
                claim.fields,
                payload.seal(claim.link.id, self._secret),
            ),
        )


def _made(claim: Claim, contact_id: str, lookup_id: str) -> Made:
    url = Template.parse(claim.place.template).url(lookup_id)
    return Made(lookup_id=lookup_id, url=url, contact_id=contact_id)
