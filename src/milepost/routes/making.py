"""What every route has in common: a claim goes in, a personal link comes out."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from milepost.errors import MilepostError
from milepost.model import Claim


class Made(Struct, frozen=True, kw_only=True):
    """A personal link, and what the platform said on the way to it."""

    lookup_id: str
    url: str
    contact_id: str


class StillUnknown(MilepostError):
    """A look for the outcome of an earlier call found nothing, and may have come too early."""


class Maker(Protocol):
    """Makes the personal link of a claim."""

    async def make(self, claim: Claim) -> Made:
        """Do what the route does, with as few calls as it can.

        Where the claim is in doubt, it asks what became of the earlier call before it adds.

        Raises:
            UpstreamError: as the client's verbs; a write whose outcome is unknown stays unknown.
            StillUnknown: the earlier call's outcome is not known yet: ask again later.
        """
        ...
