"""What the routes do differently: how a claim becomes a personal link at the platform."""

from __future__ import annotations

from milepost.routes.joining import Joining, find_or_add, join, merges
from milepost.routes.mailing_list import MailingListMaker
from milepost.routes.making import (
    ListMissing,
    Made,
    Maker,
    NothingThere,
    StillUnknown,
    Teller,
    TooLate,
    Unready,
    Untrusted,
    contact_fields,
)
from milepost.routes.stepwise import StepwiseMaker
from milepost.routes.transaction import TransactionMaker

__all__ = [
    "Joining",
    "ListMissing",
    "Made",
    "MailingListMaker",
    "Maker",
    "NothingThere",
    "StepwiseMaker",
    "StillUnknown",
    "Teller",
    "TooLate",
    "TransactionMaker",
    "Unready",
    "Untrusted",
    "contact_fields",
    "find_or_add",
    "join",
    "merges",
]
