"""The client of the survey platform, the only part of Milepost that speaks its HTTP.

`client.py` has the verbs, `wire.py` the shapes of what is sent and read, `call.py` carries one
request and says what became of it, `breaker.py` tells whether a call is worth making, `errors.py`
draws the tree of what can go wrong.
"""

from __future__ import annotations

from milepost.upstream.call import CALL_CLASSES, CallClass, Calls, Gate, counting
from milepost.upstream.client import Upstream
from milepost.upstream.errors import (
    BudgetSpent,
    CallFailed,
    Forbidden,
    NotFound,
    Refused,
    Throttled,
    Unauthorized,
    Unavailable,
    UnknownOutcome,
    Unreachable,
    Unreadable,
)
from milepost.upstream.wire import (
    Account,
    AddedContact,
    Contact,
    ContactFields,
    Directory,
    Distribution,
    FoundContact,
    HistoryEntry,
    ListContact,
    ListedLink,
    MailingList,
    SurveyDefinition,
    SurveyResponse,
)

__all__ = [
    "CALL_CLASSES",
    "Account",
    "AddedContact",
    "BudgetSpent",
    "CallClass",
    "CallFailed",
    "Calls",
    "Contact",
    "ContactFields",
    "Directory",
    "Distribution",
    "Forbidden",
    "FoundContact",
    "Gate",
    "HistoryEntry",
    "ListContact",
    "ListedLink",
    "MailingList",
    "NotFound",
    "Refused",
    "SurveyDefinition",
    "SurveyResponse",
    "Throttled",
    "Unauthorized",
    "Unavailable",
    "UnknownOutcome",
    "Unreachable",
    "Unreadable",
    "Upstream",
    "counting",
]
