"""The pages of links: what was decided about an event or a person, and by which rule.

A link's URL is a credential, and explains nothing: it is on no page.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery

from milepost.admin.frame import Frame
from milepost.api.access import needs
from milepost.api.requests import StrictRequest, checked
from milepost.errors import UnknownLink
from milepost.model import EventId, Ref, Scope
from milepost.store import Store

AT_ONCE: Final = 50
"""Links on a page; a person has a few."""


def handlers(store: Store, frame: Frame) -> list[HTTPRouteHandler]:
    """The page on which links are looked for, and that of each link."""

    @get("/links", opt=needs(Scope.READ))
    async def search(
        request: StrictRequest,
        *,
        registrant: FromQuery[str] = "",
        event_id: FromQuery[str] = "",
        after: FromQuery[UUID | None] = None,
    ) -> Response[bytes]:
        """Look for the links of a person, or for that of an event."""
        found = []
        if registrant or event_id:
            page = await store.links.page(
                ref=checked(registrant, Ref, "registrant") if registrant else None,
                event_id=checked(event_id, EventId, "event_id") if event_id else None,
                after=after,
                limit=AT_ONCE,
            )
            records = await store.links.records([link.id for link in page])
            found = [records[link.id] for link in page]
        asked = {"registrant": registrant, "event_id": event_id}
        following = urlencode(asked | {"after": str(found[-1].id)}) if found else ""
        return frame.show(
            request,
            "links.html",
            links=found,
            registrant=registrant,
            event_id=event_id,
            following=following if len(found) == AT_ONCE else None,
        )

    @get("/links/{link_id:uuid}", opt=needs(Scope.READ))
    async def read(request: StrictRequest, link_id: FromPath[UUID]) -> Response[bytes]:
        """Look at one link: the rule that decided, and its moments."""
        link = await store.links.find(link_id)
        if link is None:
            raise UnknownLink
        moments = {
            "asked for": link.created_at,
            "occurred": link.occurred_at,
            "issued": link.issued_at,
            "delivered": link.delivered_at,
            "clicked": link.clicked_at,
            "opened": link.opened_at,
            "started": link.started_at,
            "finished": link.finished_at,
            "revoked": link.revoked_at,
            "waits at most until": link.waiting_until if link.unsettled else None,
            "expires": link.expires_at,
        }
        return frame.show(
            request,
            "link.html",
            link=link,
            moments={name: at for name, at in moments.items() if at is not None},
        )

    return [search, read]
