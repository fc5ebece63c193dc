"""The bodies that the API takes, as strict as the platform: an unknown key is refused by name.

`UNSET` is a key that was not sent; `None` is a `null` that was. Both matter: a change touches only
what was sent. Documented limits: names 200 characters, values 1,024, a list's name 100.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

VALUE_LENGTH = 1024
"""Characters of a value (documented)."""

Name = Annotated[str, Meta(max_length=200)]
Value = Annotated[str, Meta(max_length=VALUE_LENGTH)]
FieldName = Annotated[str, Meta(min_length=1, max_length=200)]
ListName = Annotated[str, Meta(min_length=1, max_length=100)]

# A number is taken and kept as its text; a boolean is refused (observed: it must be a string).
Embedded = dict[FieldName, Value | int | float | None]

DEDUPLICATION_FIELDS = {
    "email": "email",
    "firstName": "first_name",
    "lastName": "last_name",
    "externalDataReference": "ext_ref",
    "phone": "phone",
}
"""The criteria of a directory (documented), and our name for the contact's field of each."""


class _Body(Struct, forbid_unknown_fields=True, rename="camel", omit_defaults=True, gc=False):
    """A JSON object without keys that we do not know."""


class ContactBody(_Body):
    """What both a directory contact and a list contact have (documented)."""

    first_name: Name | UnsetType | None = UNSET
    last_name: Name | UnsetType | None = UNSET
    email: Value | UnsetType | None = UNSET
    phone: Value | UnsetType | None = UNSET
    ext_ref: Value | UnsetType | None = UNSET
    language: Value | UnsetType | None = UNSET
    unsubscribed: bool | UnsetType | None = UNSET
    embedded_data: Embedded | UnsetType | None = UNSET


class ListContactBody(ContactBody):
    """A contact added to a list. Private data belong to this list alone (seen in two clients)."""

    private_embedded_data: Embedded | UnsetType | None = UNSET


class ContactChange(ContactBody):
    """A changed directory contact; `email: null` is refused (observed)."""

    email: Value | UnsetType = UNSET


class ListContactChange(ListContactBody):
    """A changed list contact; `email: null` is refused (observed)."""

    email: Value | UnsetType = UNSET


class MailingListBody(_Body):
    """A mailing list to be made (documented)."""

    name: ListName
    owner_id: Value | UnsetType = UNSET
    prioritize_list_metadata: bool | UnsetType = UNSET


class MailingListChange(_Body):
    """A changed mailing list."""

    name: ListName | UnsetType = UNSET
    owner_id: Value | UnsetType = UNSET
    prioritize_list_metadata: bool | UnsetType = UNSET


class DistributionBody(_Body):
    """Links to be generated for a mailing list or one contact of it (observed), or for a batch.

    The client that was seen to make distributions on a batch writes `action` in its own case and
    names a mailing list as well: both are taken, the list is of no consequence (inferred). Another
    client names the directory in each, which is of no consequence either (inferred).
    """

    survey_id: Value
    link_type: Literal["Individual", "Multiple", "Anonymous"]
    description: Value
    action: Value
    mailing_list_id: Value | UnsetType = UNSET
    contact_id: Value | UnsetType | None = UNSET
    transaction_batch_id: Value | UnsetType = UNSET
    expiration_date: Value | UnsetType | None = UNSET
    directory_id: Value | UnsetType = UNSET


class Listing(_Body):
    """A page of a distribution's links that was given out, up to the recipient of this ordinal."""

    distribution: str
    up_to: int


class TransactionBody(_Body):
    """What happened to a contact (seen in several clients). `data` are embedded data in form."""

    contact_id: Value
    mailing_list_id: Value
    transaction_date: Value
    data: Embedded | UnsetType | None = UNSET


Transactions = Annotated[dict[Value, TransactionBody], Meta(min_length=1)]
"""Transactions to be made, under keys of the caller's choice (seen in several clients)."""


class TransactionChange(_Body):
    """A changed transaction; `data` replace the former ones as a whole (inferred)."""

    transaction_date: Value | UnsetType = UNSET
    data: Embedded | UnsetType | None = UNSET


class TransactionAppendix(_Body):
    """Data that a transaction is given in addition (inferred)."""

    data: Embedded


class BatchBody(_Body):
    """A transaction batch to be made; the body may be empty (seen in several clients)."""

    transaction_ids: list[Value] | UnsetType = UNSET
    creation_date: Value | UnsetType = UNSET


class BatchAddition(_Body):
    """Transactions to be added to a batch (seen in one client)."""

    transaction_ids: Annotated[list[Value], Meta(min_length=1)]


class Condition(_Body):
    """One test of a contact's field."""

    filter_type: Literal["email", "firstName", "lastName", "extRef", "phone", "language"]
    comparison: Literal["eq"]
    value: Value


class Conjunction(_Body):
    """Several tests, of which all or any must hold (seen in one client)."""

    conjunction: Literal["and", "or"]
    filters: Annotated[list[Condition], Meta(min_length=1, max_length=50)]


class Search(_Body):
    """What contacts to look for. `filter` is one condition or a conjunction of several."""

    filter: dict[str, object]


class ImportedContact(ContactBody):
    """A contact of an import (seen in clients). Private data are not known to be taken."""

    transaction_data: Embedded | UnsetType | None = UNSET


class TransactionMeta(_Body):
    """What the transactions of an import have in common.

    That `fields` names the data which count is inferred.
    """

    batch_id: Value | UnsetType = UNSET
    fields: list[FieldName] | UnsetType = UNSET


class ImportBody(_Body):
    """Contacts for a list. Chunks of 1,000 are in use; that 10,000 are the most is ours."""

    contacts: Annotated[list[ImportedContact], Meta(min_length=1, max_length=10_000)]
    transaction_meta: TransactionMeta = field(default_factory=TransactionMeta)


class Advance(_Body):
    """How many more contacts of an import come in."""

    contacts: int


class SubscriptionBody(_Body):
    """A wish for calls about events (documented)."""

    topics: Value
    publication_url: Annotated[str, Meta(pattern=r"^https?://[!-~]+$", max_length=2048)]
    encrypt: bool | UnsetType = UNSET
    shared_key: Annotated[str, Meta(min_length=1, max_length=1024)] | UnsetType | None = UNSET


class Nothing(_Body):
    """A write whose whole meaning is in its path."""


class Opening(_Body):
    """A survey link opened in a browser: the query string's fields, without the link's own."""

    query: dict[str, str]


class Answers(_Body):
    """A survey page sent off: question id to what was chosen or written."""

    values: dict[str, int | str]


class Founding(_Body):
    """What an account is when it is made."""

    dedup: bool
    declared_fields: list[FieldName]
    invitation_only: bool = False


class WorldSettings(_Body):
    """The switches that belong to the account, and so are kept with its state."""

    deduplication_criteria: dict[str, bool] | UnsetType = UNSET
    survey_active: bool | UnsetType = UNSET
    invitation_only: bool | UnsetType = UNSET
    declared_fields: list[FieldName] | UnsetType = UNSET
    undeclared_fields: Literal["recorded", "dropped"] | UnsetType = UNSET
    facts: dict[str, object] | UnsetType = UNSET


class ClockSetting(_Body):
    """How far the account's clock is ahead of the real one, in milliseconds."""

    offset_ms: int
