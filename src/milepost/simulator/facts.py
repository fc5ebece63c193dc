"""What nobody knows of the platform, as switches: each can be answered either way.

The defaults are the answers that a client hopes for. A careful client is ready for the others, and
this is where it can try whether it is. Lags and ages go by the account's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

LinkFormat = Literal[
    "2019", "2020", "2020-channel-first", "2023", "2023-no-emd", "double-slash", "unknown"
]
"""The shapes in which personal links have been seen, and one in which they have not."""

Status = Literal[
    "Pending",
    "Success",
    "Error",
    "Opened",
    "Complaint",
    "Skipped",
    "Blocked",
    "Failure",
    "Unknown",
    "SoftBounce",
    "HardBounce",
    "SurveyStarted",
    "SurveyPartiallyFinished",
    "SurveyFinished",
    "SurveyScreenedOut",
    "SessionExpired",
]
"""What history can say of a link (documented)."""

Seconds = Annotated[float, Meta(ge=0, le=365 * 86_400)]


class Facts(Struct, frozen=True, forbid_unknown_fields=True):
    """The answers of this account.

    Attributes:
        probe_only_distribution: Whether a distribution can stand on a list with a single contact;
            otherwise it needs two.
        empty_distribution: Whether it can stand on an empty list.
        late_link: Whether the link of a contact who joined the list after the distribution was made
            opens at once; otherwise only after the platform itself has listed it.
        history_links: Whether such a link appears in history without having been listed.
        same_lookup: Whether a contact added again to the same list keeps the lookup id; otherwise
            they get another, and links with the former one stop to work.
        private_data: Whether private data reach the survey.
        transaction_batch: Whether a distribution can stand on a transaction batch.
        late_transaction: Whether a transaction added to the batch after the distribution was made
            has a link; otherwise it has none.
        transactions_per_call: How many transactions one call may name; more are a 413.
        longest_expiry_days: How far ahead a distribution's expiration date may be.
        url_wins: Whether a declared field in the query string wins over the contact's own value.
        merges: Whether an added contact is taken for the one that matches the directory's criteria;
            otherwise the criteria are reported and nobody is ever merged.
        search_lag_seconds: How long after they were made contacts are found by a search.
        links_lag_seconds: How long after contact and distribution were made, or the contact joined,
            a link is listed.
        import_seconds: How long an import takes.
        any_email: Whether any text is taken for an e-mail address; otherwise it needs an `@`.
        throttle: How a 429 is answered: in the usual envelope, without a body, or as a page.
        link_format: The shape of a contact's link. Whatever it is, links of all shapes open.
        frequency_rule: For how many distributions a contact may be listed before lists of links
            flag them with `exceededContactFrequency`; 0 is no rule.
        unopened_status: What history calls a link that nobody has opened (`Pending`: observed).
    """

    probe_only_distribution: bool = True
    empty_distribution: bool = True
    late_link: bool = True
    history_links: bool = True
    same_lookup: bool = True
    private_data: bool = True
    transaction_batch: bool = True
    late_transaction: bool = True
    transactions_per_call: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    longest_expiry_days: Annotated[int, Meta(ge=1, le=100_000)] = 730
    url_wins: bool = True
    merges: bool = True
    search_lag_seconds: Seconds = 0.0
    links_lag_seconds: Seconds = 0.0
    import_seconds: Seconds = 0.0
    any_email: bool = True
    throttle: Literal["envelope", "empty", "html"] = "envelope"
    link_format: LinkFormat = "2023"
    frequency_rule: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    unopened_status: Status = "Pending"

    def but(self, changes: Mapping[str, object]) -> Facts:
        """These facts with some answered otherwise.

        Args:
            changes: By name; a value may also be its text, as on a command line.

        Raises:
            ValueError: A name is unknown, or a value is not one of that fact; it names the fact.
        """
        unknown = changes.keys() - set(self.__struct_fields__)
        if unknown:
            known = ", ".join(self.__struct_fields__)
            raise ValueError(f"unknown fact {min(unknown)!r}; there are {known}")
        try:
            wanted = {**msgspec.structs.asdict(self), **changes}
            return msgspec.convert(wanted, Facts, strict=False)
        except msgspec.ValidationError as error:
            name = str(error).rpartition("$.")[2].rstrip("`")
            is_switch = isinstance(getattr(self, name, None), bool)
            wrong = f"{name} is true or false" if is_switch else f"wrong value of a fact: {error}"
            raise ValueError(wrong) from error
