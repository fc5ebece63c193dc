"""The bodies that the API takes, as strict as the platform: an unknown key is refused by name.

`UNSET` is a key that was not sent; `None` is a `null` that was. Both matter: a change touches only
what was sent. Documented limits: names 200 characters, values 1,024, a list's name 100.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

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
    """Links to be generated for a mailing list, or for one contact of it (observed)."""

    survey_id: Value
    link_type: Literal["Individual", "Multiple", "Anonymous"]
    description: Value
    action: Literal["CreateDistribution"]
    mailing_list_id: Value
    contact_id: Value | UnsetType | None = UNSET
    expiration_date: Value | UnsetType | None = UNSET


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


class WorldSettings(_Body):
    """The switches that belong to the account, and so are kept with its state."""

    deduplication_criteria: dict[str, bool] | UnsetType = UNSET
    survey_active: bool | UnsetType = UNSET
    declared_fields: list[FieldName] | UnsetType = UNSET
    undeclared_fields: Literal["recorded", "dropped"] | UnsetType = UNSET


class ClockSetting(_Body):
    """How far the account's clock is ahead of the real one, in milliseconds."""

    offset_ms: int
