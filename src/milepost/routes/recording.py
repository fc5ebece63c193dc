"""How an event is recorded as a transaction of its registrant's contact, and found again.

The reference in a transaction's data is its name: a transaction has no other of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from milepost import payload
from milepost.model import Claim
from milepost.upstream import (
    CreatedTransactions,
    NotFound,
    Refused,
    TransactionFields,
    UnknownOutcome,
    Upstream,
)
from milepost.upstream.errors import Facts

_VERB: Final = "create_transactions"


def embedded(claim: Claim, secret: bytes) -> dict[str, str]:
    """What the survey is to know of a claim's event, with its reference."""
    reference = payload.reference(claim.link, secret)
    return payload.embedded(claim.data, claim.details.attributes, claim.fields, reference)


def transaction_fields(
    claim: Claim, contact_id: str, list_id: str, secret: bytes
) -> TransactionFields:
    """What the platform is told of a claim's event.

    Args:
        claim: of the event.
        contact_id: the registrant's contact.
        list_id: a list that it is in, the home list.
        secret: signs the reference.
    """
    return TransactionFields(
        contact_id=contact_id, list_id=list_id, at=claim.at, data=embedded(claim, secret)
    )


def told_of(answer: CreatedTransactions, key: str) -> str:
    """The id of the transaction that was to be made under a key.

    Raises:
        Refused: the platform refuses this one.
        UnknownOutcome: the answer does not tell of it.
    """
    if (refusal := answer.refused.get(key)) is not None:
        facts = Facts(error_code=refusal.code, upstream_message=refusal.upstream_message)
        raise Refused(_VERB, "the platform refuses the transaction", facts)
    if key in answer.untold:
        raise UnknownOutcome(_VERB, "the answer does not tell of the transaction", "no-result")
    return answer.created[key]


async def find_transaction(
    upstream: Upstream,
    directory_id: str,
    contact_id: str,
    claim: Claim,
    *,
    secrets: Sequence[bytes],
) -> str | None:
    """The transaction of a contact that an earlier call has made for a claim; None: there is none.

    Raises:
        CallFailed: as the client's verbs; with a contact its transactions are gone.
    """
    try:
        async for each in upstream.contact_transactions(directory_id, contact_id):
            reference = each.data.get(payload.REFERENCE_FIELD)
            if isinstance(reference, str) and payload.unseal(reference, secrets) == claim.link.id:
                return each.transaction_id
    except NotFound:
        return None
    return None
