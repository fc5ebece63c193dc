"""The platform's JSON, as typed values: what is sent, and what is read of its answers.

Answers are decoded strictly in one pass: a key that is wanted must be there and have its type, an
id must have its prefix and length, a date must name its zone. Keys that are not wanted are skipped,
since the platform adds to its answers without notice. Names are ours (`ref`, `expires_at`); the
platform's stand beside them where they differ by more than case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct, field

T = TypeVar("T")

_ID = r"[0-9A-Za-z]{15}"

DirectoryId: TypeAlias = Annotated[str, Meta(pattern=rf"\APOOL_{_ID}\Z")]
ListId: TypeAlias = Annotated[str, Meta(pattern=rf"\ACG_{_ID}\Z")]
ContactId: TypeAlias = Annotated[str, Meta(pattern=rf"\ACID_{_ID}\Z")]
LookupId: TypeAlias = Annotated[str, Meta(pattern=rf"\ACGC_{_ID}\Z")]
DistributionId: TypeAlias = Annotated[str, Meta(pattern=rf"\AEMD_{_ID}\Z")]
# In answers about distributions of before June 2026 a contact is named by its place in a list.
AnyContactId: TypeAlias = Annotated[str, Meta(pattern=rf"\A(?:CID|MLRP)_{_ID}\Z")]
AnyLookupId: TypeAlias = Annotated[str, Meta(pattern=rf"\A(?:CGC|CTR|MLRP)_{_ID}\Z")]
# A date without a zone is Mountain Time to the platform (inferred); none is ever guessed here.
Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]

_PATH_ID: Final = re.compile(rf"([A-Z]+)_{_ID}")


def path_id(prefix: str, text: str) -> str:
    """Let an id into a path, if it is one: anything else could name another resource.

    Raises:
        ValueError: The text is not `prefix`, `_` and 15 base62 characters.
    """
    match = _PATH_ID.fullmatch(text)
    if match is None or match[1] != prefix:
        raise ValueError(f"not an id of the form {prefix}_ and 15 letters or digits")
    return text


def zulu(moment: datetime) -> str:
    """Write a moment as the platform reads it, in whole seconds, always with `Z`.

    Raises:
        ValueError: The moment has no zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a moment without a zone cannot be sent")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- the envelope -----------------------------------------------------------------------------


class ErrorNote(Struct, frozen=True, rename="camel"):
    """`meta.error` of a refusal; either half may be missing (observed)."""

    error_message: str | None = None
    error_code: str | None = None


class AnswerMeta(Struct, frozen=True, rename="camel"):
    """`meta`: `notice` comes from a wrong data centre that answers by proxy (observed).

    Attributes:
        http_status: Such as `404 - Not Found`; in every recorded answer (observed).
    """

    http_status: str | None = None
    request_id: str | None = None
    notice: str | None = None
    error: ErrorNote | None = None


class Bare(Struct, frozen=True):
    """An answer of which only the envelope matters: deletions, updates and errors."""

    meta: AnswerMeta


class Envelope(Bare, Generic[T], frozen=True):
    """An answer with a result. A 200 without one has been seen in production: it fails here."""

    result: T


class Page(Struct, Generic[T], frozen=True, rename="camel"):
    """One page of a list; `next_page` is a URL, null or missing (observed, all three)."""

    elements: list[T]
    next_page: str | None = None


# --- what is sent -----------------------------------------------------------------------------


class ContactFields(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What we say about a person; what is None is left out of the call.

    Subscription is never part of it: to send it for somebody who exists could opt them in again
    (inferred). Values of data are texts of at most 1,024 characters, names of at most 200
    (documented); an empty value is not stored (observed).

    Attributes:
        ref: The app's own id of the person (`extRef`).
        embedded_data: Values of the directory contact, seen by every list.
        private_embedded_data: Values of this membership alone (seen in two clients, undocumented).
    """

    first_name: str | None = None
    last_name: str | None = None
    email: str | None = None
    phone: str | None = None
    ref: str | None = field(default=None, name="extRef")
    language: str | None = None
    embedded_data: Mapping[str, str] | None = None
    private_embedded_data: Mapping[str, str] | None = None


class MailingListBody(Struct, frozen=True):
    """The body that makes a mailing list."""

    name: str


class DistributionBody(Struct, frozen=True, rename="camel", kw_only=True):
    """The body that makes a distribution of personal links that nobody is sent."""

    survey_id: str
    mailing_list_id: str
    description: str
    expiration_date: str
    link_type: str = "Individual"
    action: str = "CreateDistribution"


class RefFilter(Struct, frozen=True, rename="camel"):
    """A search's filter: contacts whose `extRef` is exactly this value."""

    value: str
    filter_type: str = "extRef"
    comparison: str = "eq"


class SearchBody(Struct, frozen=True):
    """The body that looks for the contacts of one `ref` (the form is undocumented)."""

    filter: RefFilter


# --- what is read -----------------------------------------------------------------------------


class Account(Struct, frozen=True, rename="camel"):
    """Whose token it is."""

    user_id: str


class _DedupCriteria(Struct, frozen=True, rename="camel"):
    email: bool = False
    first_name: bool = False
    last_name: bool = False
    ref: bool = field(default=False, name="externalDataReference")
    phone: bool = False


class Directory(Struct, frozen=True, rename="camel"):
    """A directory, and by what it tells one person from another."""

    directory_id: DirectoryId
    is_default: bool
    _criteria: _DedupCriteria = field(name="deduplicationCriteria")

    @property
    def dedup_criteria(self) -> frozenset[str]:
        """The fields of `ContactFields` that make two contacts one, if merging is on at all.

        That the criteria are set does not prove that contacts are merged.
        """
        return frozenset(name for name, on in msgspec.structs.asdict(self._criteria).items() if on)


class MailingList(Struct, frozen=True):
    """A mailing list of a directory."""

    list_id: ListId = field(name="mailingListId")
    name: str


class Made(Struct, Generic[T], frozen=True):
    """What a call made: its id and nothing else."""

    id: T


class AddedContact(Struct, frozen=True):
    """The answer of the one call: who it is, and their place in the list.

    Attributes:
        contact_id: The directory contact, made or matched.
        lookup_id: Per contact and list (observed), usable in a link at once (observed).
    """

    contact_id: ContactId = field(name="id")
    lookup_id: LookupId = field(name="contactLookupId")


class ListContact(Struct, frozen=True):
    """A contact as one of its lists sees it: who it is, and their place in the list."""

    contact_id: ContactId = field(name="contactId")
    lookup_id: LookupId = field(name="contactLookupId")
    ref: str | None = field(default=None, name="extRef")


class _Membership(Struct, frozen=True):
    lookup_id: LookupId = field(name="contactLookupId")


class Contact(Struct, frozen=True):
    """A contact as the directory sees it: the lists that it is in."""

    _membership: dict[ListId, _Membership] | None = field(name="mailingListMembership")

    @property
    def memberships(self) -> Mapping[str, str]:
        """Lookup ids by mailing list: the proof that an add took effect."""
        return {
            list_id: membership.lookup_id
            for list_id, membership in (self._membership or {}).items()
        }


class _Recipients(Struct, frozen=True, rename="camel"):
    mailing_list_id: str | None = None


class Distribution(Struct, frozen=True):
    """A distribution of a survey, with the list that it stands on, if it stands on one."""

    distribution_id: DistributionId = field(name="id")
    _recipients: _Recipients = field(name="recipients")

    @property
    def list_id(self) -> str | None:
        """The mailing list, `CG_…`; None for a batch's distribution."""
        return self._recipients.mailing_list_id


class FoundContact(Struct, frozen=True):
    """A contact that a search found.

    The form of a hit is undocumented and its id has been called both names, so either is taken.
    """

    id: ContactId | None = None
    _contact_id: ContactId | None = field(default=None, name="contactId")

    def __post_init__(self) -> None:
        """Refuse a hit that names no contact."""
        if self.id is None and self._contact_id is None:
            raise ValueError("a hit without an id")

    @property
    def contact_id(self) -> str:
        """The directory contact, `CID_…`."""
        return self.id or self._contact_id or ""


class ListedLink(Struct, frozen=True, rename="camel"):
    """A link that the platform itself lists. The link is a credential: not for logs."""

    contact_id: AnyContactId
    link: str
    expires_at: Moment | None = field(name="linkExpiration")


class HistoryEntry(Struct, frozen=True, rename="camel"):
    """What became of one link: the response to it, once there is one."""

    lookup_id: AnyLookupId | None = field(name="contactLookupId")
    response_id: str | None = None


class _FlowField(Struct, frozen=True, rename="pascal"):
    field: str


class _FlowElement(Struct, frozen=True, rename="pascal"):
    type: str
    flow: list[_FlowElement] = []
    embedded_data: list[_FlowField] = []


class SurveyDefinition(Struct, frozen=True, rename="pascal", kw_only=True):
    """A survey, as far as its links and its data are concerned."""

    _status: str = field(name="SurveyStatus")
    _flow: _FlowElement = field(name="SurveyFlow")

    @property
    def active(self) -> bool:
        """Whether it takes responses; a distribution needs that (documented)."""
        return self._status == "Active"

    @property
    def fields(self) -> frozenset[str]:
        """The embedded-data fields that its flow declares, at any depth.

        Only declared fields are recorded with a response (documented).
        """
        found: set[str] = set()
        waiting = [self._flow]
        while waiting:
            element = waiting.pop()
            found.update(declared.field for declared in element.embedded_data)
            waiting.extend(element.flow)
        return frozenset(found)


class SurveyResponse(Struct, frozen=True):
    """A response: `values` holds answers, embedded data and moments under the survey's names."""

    values: dict[str, object]
