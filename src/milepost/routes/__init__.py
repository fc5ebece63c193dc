"""What the routes do differently: how a claim becomes a personal link at the platform."""

from __future__ import annotations

from milepost.routes.mailing_list import MailingListMaker
from milepost.routes.making import (
    ListMissing,
    Made,
    Maker,
    NothingThere,
    StillUnknown,
    Teller,
    TooLate,
    Untrusted,
    contact_fields,
)

__all__ = [
    "ListMissing",
    "Made",
    "MailingListMaker",
    "Maker",
    "NothingThere",
    "StillUnknown",
    "Teller",
    "TooLate",
    "Untrusted",
    "contact_fields",
]
