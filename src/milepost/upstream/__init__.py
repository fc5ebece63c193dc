"""The client of the survey platform, the only part of Milepost that speaks its HTTP.

`client.py` has the verbs, `wire.py` the shapes of what is sent and read, `call.py` carries one
request and says what became of it, `credentials.py` shows whose it is, `breaker.py` tells whether a
call is worth making, `errors.py` draws the tree of what can go wrong, `events.py` checks the calls
that the platform makes to us.
"""

from __future__ import annotations

from milepost.upstream.call import CALL_CLASSES, CallClass, Calls, Gate, count, counting
from milepost.upstream.client import Upstream
from milepost.upstream.credentials import SCOPES, ClientCredentials, Credentials, Token
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
    BatchEntry,
    Contact,
    ContactFields,
    CountedDistribution,
    CreatedTransactions,
    Directory,
    Distribution,
    DistributionStats,
    FoundContact,
    HistoryEntry,
    ImportProgress,
    ItemRefusal,
    ListContact,
    ListedLink,
    MailingList,
    ReadPage,
    Subscription,
    Survey,
    SurveyDefinition,
    SurveyResponse,
    Transaction,
    TransactionBatch,
    TransactionFields,
)

__all__ = [
    "CALL_CLASSES",
    "SCOPES",
    "Account",
    "AddedContact",
    "BatchEntry",
    "BudgetSpent",
    "CallClass",
    "CallFailed",
    "Calls",
    "ClientCredentials",
    "Contact",
    "ContactFields",
    "CountedDistribution",
    "CreatedTransactions",
    "Credentials",
    "Directory",
    "Distribution",
    "DistributionStats",
    "Forbidden",
    "FoundContact",
    "Gate",
    "HistoryEntry",
    "ImportProgress",
    "ItemRefusal",
    "ListContact",
    "ListedLink",
    "MailingList",
    "NotFound",
    "ReadPage",
    "Refused",
    "Subscription",
    "Survey",
    "SurveyDefinition",
    "SurveyResponse",
    "Throttled",
    "Token",
    "Transaction",
    "TransactionBatch",
    "TransactionFields",
    "Unauthorized",
    "Unavailable",
    "UnknownOutcome",
    "Unreachable",
    "Unreadable",
    "Upstream",
    "count",
    "counting",
]
