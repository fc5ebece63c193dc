"""What every route has in common: a claim goes in, a personal link comes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, Protocol

from msgspec import Struct

from milepost.errors import MilepostError
from milepost.model import Claim, LateData, RegistrantDetails
from milepost.policy import pause_after
from milepost.upstream import ContactFields, Forbidden, Refused, Throttled, Unauthorized

BY_THEMSELVES: Final = (Throttled, Unauthorized, Forbidden)
"""Refusals of any call at present, whatever it asks for."""


class Made(Struct, frozen=True, kw_only=True):
    """A personal link, and what the platform said on the way to it."""

    lookup_id: str
    """`CGC_…` of the contact in a list, or `CTR_…` of a transaction."""
    url: str
    contact_id: str | None
    """The registrant's `CID_…`; None: it is known already."""
    expires_at: datetime


class StillUnknown(MilepostError):
    """What became of an earlier call is not known yet: ask again later.

    Attributes:
        looked: The platform was asked and knew of nothing, which may have been too early; otherwise
            it gave no answer to the question.
    """

    def __init__(self, detail: str, *, looked: bool) -> None:
        super().__init__(detail)
        self.looked = looked


class NothingThere(MilepostError):
    """No earlier call made anything, and this claim may not: the event is to be decided anew."""


class Unready(MilepostError):
    """Something that a link is made from is not there yet, and no call was made that needs it.

    Attributes:
        rule: What the link waits for, as its reason says it.
        pause: Seconds after which it may be there.
        is_resolved: What was in doubt of an earlier call is known by now.
        leaves: It is the link's place that takes nothing more: another one is to be made, and the
            link waits for that.
    """

    def __init__(
        self,
        rule: str,
        detail: str,
        *,
        pause: float,
        is_resolved: bool = False,
        leaves: bool = False,
    ) -> None:
        super().__init__(detail)
        self.rule = rule
        self.pause = pause
        self.is_resolved = is_resolved
        self.leaves = leaves


class Untrusted(MilepostError):
    """The platform's own link is not what was asked for or built: none may be given out."""


class ListMissing(MilepostError):
    """The platform does not know the list any more on which a link stands."""


class TooLate(MilepostError):
    """The claim is too old for a call that changes something; none was made."""


@asynccontextmanager
async def looking(
    what: str,
    *,
    until: float,
    passing: tuple[type[Refused], ...] = BY_THEMSELVES,
    over_counts: bool = False,
) -> AsyncIterator[None]:
    """Look for what an earlier call may have made; what keeps the look from its end is no answer.

    Args:
        what: is looked for.
        until: the moment of the event loop's clock at which the look is broken off.
        passing: refusals that say by themselves what to do.
        over_counts: one that took too long counts as one that found nothing: it always would.

    Raises:
        StillUnknown: the look took too long, or was refused.
    """
    try:
        async with asyncio.timeout_at(until):
            yield
    except TimeoutError:
        raise StillUnknown(f"looking for {what} takes too long", looked=over_counts) from None
    except Refused as error:
        if isinstance(error, passing):
            raise
        raise StillUnknown(f"a look was refused: {error}", looked=False) from error


def contact_fields(
    ref: str, details: RegistrantDetails, private: Mapping[str, str] | None = None
) -> ContactFields:
    """What the platform is told of a registrant, with data for one list alone.

    All that is known goes into every call: what the directory's criteria need must be in it, or the
    platform would make another contact (documented).
    """
    return ContactFields(
        first_name=details.first_name,
        last_name=details.last_name,
        email=details.email,
        phone=details.phone,
        ref=ref,
        language=details.language,
        private_embedded_data=private,
    )


def pause_of(claim: Claim) -> float:
    """How long a link waits for what is not there: a quarter of its age, in seconds."""
    return pause_after((claim.claimed_at - claim.link.created_at).total_seconds())


class Maker(Protocol):
    """Makes the personal link of a claim.

    Attributes:
        call_class: The endpoints whose limit decides whether a call can be made now.
        calls: How many calls it takes, of all endpoints, until that one has made its links.
    """

    call_class: str
    calls: int

    @property
    def carries(self) -> int:
        """How many links one call makes at present."""
        ...

    async def make(self, claim: Claim, *, begin_by: float) -> Made:
        """Do what the route does, with as few calls as it can.

        Where the claim is in doubt, it asks what became of the earlier call before it adds, and it
        adds only if the claim `may_add`.

        Args:
            claim: what to make.
            begin_by: the moment of the event loop's clock after which no call begins that changes
                something, so that none is still out when somebody else may take the claim over.

        Raises:
            UpstreamError: as the client's verbs; a write whose outcome is unknown stays unknown.
            StillUnknown: the earlier call's outcome is not known yet.
            NothingThere: it made nothing, and the claim may only find.
            Unready: something else must be there first.
            TooLate: `begin_by` has passed.
        """
        ...


class Teller(Protocol):
    """Tells the platform what it does not know yet of links that are out."""

    async def tell(self, late: LateData, *, begin_by: float) -> bool:
        """Tell the platform the data of a link that is out; the same again changes nothing.

        Args:
            late: of a link that is alive, and the only live one of its membership.
            begin_by: as of `make`.

        Returns:
            False where the account's surveys would not see them, and none were told.

        Raises:
            UpstreamError: as the client's verbs.
            ListMissing: there is nothing of what the link stands on.
            TooLate: `begin_by` has passed.
        """
        ...
