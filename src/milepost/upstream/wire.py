"""The platform's JSON, as typed values: what is sent, and what is read of its answers.

Answers are decoded strictly in one pass: a key that is wanted must be there and have its type, an
id must have its prefix and length, a date must name its zone. Keys that are not wanted are skipped,
since the platform adds to its answers without notice. Names are ours (`ref`, `expires_at`); the
platform's stand beside them where they differ by more than case.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct, field

T = TypeVar("T")

_ID = r"[0-9A-Za-z]{15}"
_CODE: Final = re.compile(r"[0-9A-Za-z_.:-]{1,64}")

DirectoryId: TypeAlias = Annotated[str, Meta(pattern=rf"\APOOL_{_ID}\Z")]
ListId: TypeAlias = Annotated[str, Meta(pattern=rf"\ACG_{_ID}\Z")]
ContactId: TypeAlias = Annotated[str, Meta(pattern=rf"\ACID_{_ID}\Z")]
LookupId: TypeAlias = Annotated[str, Meta(pattern=rf"\ACGC_{_ID}\Z")]
DistributionId: TypeAlias = Annotated[str, Meta(pattern=rf"\AEMD_{_ID}\Z")]
TransactionId: TypeAlias = Annotated[str, Meta(pattern=rf"\ACTR_{_ID}\Z")]
BatchId: TypeAlias = Annotated[str, Meta(pattern=rf"\ABT_{_ID}\Z")]
ImportId: TypeAlias = Annotated[str, Meta(pattern=rf"\APGRS_{_ID}\Z")]
SubscriptionId: TypeAlias = Annotated[str, Meta(pattern=rf"\ASUB_{_ID}\Z")]
SurveyId: TypeAlias = Annotated[str, Meta(pattern=rf"\ASV_{_ID}\Z")]
ResponseId: TypeAlias = Annotated[str, Meta(pattern=rf"\AR_{_ID}\Z")]
# In answers about distributions of before June 2026 a contact is named by its place in a list.
AnyContactId: TypeAlias = Annotated[str, Meta(pattern=rf"\A(?:CID|CGC|MLRP)_{_ID}\Z")]
AnyLookupId: TypeAlias = Annotated[str, Meta(pattern=rf"\A(?:CGC|CTR|MLRP)_{_ID}\Z")]
# A date without a zone is Mountain Time to the platform (inferred); none is ever guessed here.
Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]
# No value of a person's has a NUL, and Postgres takes none.
Text: TypeAlias = Annotated[str, Meta(pattern=r"\A[^\x00]*\Z")]
Value: TypeAlias = Text | int | float | bool | None
"""A value of embedded or transaction data; documented as a text, and not always one (observed)."""
Count: TypeAlias = Annotated[int, Meta(ge=0)]

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


def utc_seconds(moment: datetime) -> str:
    """Write a moment as the platform reads a transaction's: in UTC, without saying so.

    Raises:
        ValueError: The moment has no zone.
    """
    return zulu(moment).replace("T", " ").removesuffix("Z")


def _moment(text: object) -> datetime | None:
    """A moment as it may stand in an answer; None: there is none, or its zone is not said."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return at if at is not None and at.tzinfo else None


def plain_code(code: object) -> str | None:
    """Keep a code that looks like one: whatever else stands in its place may be a person's data."""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None


def sentence(message: object) -> str | None:
    """Keep the platform's sentence as something that can be stored."""
    return message.replace("\0", "?") if isinstance(message, str) else None


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
    """One page of a list.

    Attributes:
        next_page: A URL, null or missing (observed, all three).
        skip_token: What a search says instead of a URL, where there is more (documented).
    """

    elements: list[T]
    next_page: str | None = None
    skip_token: str | None = None


class ReadPage(Struct, Generic[T], frozen=True):
    """One page of a list, for whoever reads a list page by page.

    Attributes:
        elements: What stands on it.
        cursor: Where the next one begins, as an opaque text; None: there is none.
    """

    elements: list[T]
    cursor: str | None


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


class ImportBody(Struct, frozen=True):
    """The body that brings many contacts into a list (seen in clients, undocumented)."""

    contacts: Sequence[ContactFields]


class TransactionFields(Struct, frozen=True, kw_only=True):
    """What we say about something that a person did.

    Attributes:
        contact_id: Whose it is, `CID_…`; they must be in the list (seen in clients).
        list_id: `CG_…`.
        at: When it was; sent in UTC and in whole seconds.
        data: Its values, as texts.
    """

    contact_id: str
    list_id: str
    at: datetime
    data: Mapping[str, str]


class TransactionBody(Struct, frozen=True, rename="camel"):
    """One of the transactions of a call; the call's body has them under keys of our choice."""

    contact_id: str
    mailing_list_id: str
    transaction_date: str
    data: Mapping[str, str]


class TransactionIdsBody(Struct, frozen=True, rename="camel"):
    """The body that makes a batch of transactions, or adds to one."""

    transaction_ids: Sequence[str]


class DistributionBody(Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """The body that makes a distribution of personal links that nobody is sent."""

    survey_id: str
    description: str
    expiration_date: str
    action: str
    link_type: str
    mailing_list_id: str | None = None
    contact_id: str | None = None
    transaction_batch_id: str | None = None


class SubscriptionBody(Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """The body that asks for calls about events."""

    topics: str
    publication_url: str
    encrypt: bool
    shared_key: str | None = None


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
    """Whose token it is.

    Attributes:
        datacenter: Where the account lives, such as `fra1`: the base URL is to name it.
    """

    user_id: Text
    brand_id: Text | None = None
    datacenter: Text | None = None


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
    name: Text


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


class ListContact(Struct, frozen=True, rename="camel"):
    """A contact as one of its lists sees it: who it is, and their place in the list.

    Attributes:
        unsubscribed: Opted out of the directory.
        list_unsubscribed: Opted out of this list.
        embedded_data: Where it was asked for; empty otherwise.
        private_data: Values of this membership alone, where one contact was asked for (inferred: no
            answer that shows them is on record).
    """

    contact_id: ContactId
    lookup_id: LookupId = field(name="contactLookupId")
    ref: Text | None = field(default=None, name="extRef")
    email: Text | None = None
    first_name: Text | None = None
    last_name: Text | None = None
    phone: Text | None = None
    language: Text | None = None
    unsubscribed: bool = False
    list_unsubscribed: bool = field(default=False, name="mailingListUnsubscribed")
    _embedded_data: dict[Text, Value] | None = field(default=None, name="embeddedData")
    _private_data: dict[Text, Value] | None = field(default=None, name="privateEmbeddedData")

    @property
    def embedded_data(self) -> Mapping[str, Value]:
        """Values of the directory contact, where they were asked for."""
        return self._embedded_data or {}

    @property
    def private_data(self) -> Mapping[str, Value]:
        """Values of this membership alone."""
        return self._private_data or {}


class _Membership(Struct, frozen=True):
    lookup_id: LookupId = field(name="contactLookupId")


class Contact(Struct, frozen=True, rename="camel", kw_only=True):
    """A contact as the directory sees it, with the lists that it is in."""

    _membership: dict[ListId, _Membership] | None = field(name="mailingListMembership")
    ref: Text | None = field(default=None, name="extRef")
    email: Text | None = None
    first_name: Text | None = None
    last_name: Text | None = None
    phone: Text | None = None
    language: Text | None = None
    _unsubscribed: bool = field(default=False, name="unsubscribed")
    _directory_unsubscribed: bool = field(default=False, name="directoryUnsubscribed")
    _embedded_data: dict[Text, Value] | None = field(default=None, name="embeddedData")

    @property
    def memberships(self) -> Mapping[str, str]:
        """Lookup ids by mailing list: the proof that an add took effect."""
        return {
            list_id: membership.lookup_id
            for list_id, membership in (self._membership or {}).items()
        }

    @property
    def unsubscribed(self) -> bool:
        """Whether they opted out of the directory; both names of it have been seen in clients."""
        return self._unsubscribed or self._directory_unsubscribed

    @property
    def embedded_data(self) -> Mapping[str, Value]:
        """Values that every list sees."""
        return self._embedded_data or {}


class _ImportCount(Struct, frozen=True):
    added: Count = 0
    updated: Count = 0
    failed: Count = 0


class _ImportContacts(Struct, frozen=True):
    count: _ImportCount = _ImportCount()


class ImportProgress(Struct, frozen=True, rename="camel", kw_only=True):
    """How far an import is (seen in clients, undocumented).

    Attributes:
        percent_complete: From 0 to 100.
        status: Such as `complete`.
    """

    percent_complete: Annotated[float, Meta(ge=0, le=100)]
    status: Text | None = None
    _contacts: _ImportContacts = field(default=_ImportContacts(), name="contacts")

    @property
    def done(self) -> bool:
        """Whether nothing more will come of it."""
        return self.percent_complete == 100 or self.status in {"complete", "failed"}  # noqa: PLR2004  (percent)

    @property
    def added(self) -> int:
        """How many contacts it made."""
        return self._contacts.count.added

    @property
    def updated(self) -> int:
        """How many contacts it found and changed."""
        return self._contacts.count.updated

    @property
    def failed(self) -> int:
        """How many contacts it did not take."""
        return self._contacts.count.failed


class _NamedTransaction(Struct, frozen=True, kw_only=True):
    """Something with a transaction's id, which has been called both names."""

    id: TransactionId | None = None
    _transaction_id: TransactionId | None = field(default=None, name="transactionId")

    def __post_init__(self) -> None:
        if self.id is None and self._transaction_id is None:
            raise ValueError("a transaction without an id")

    @property
    def transaction_id(self) -> str:
        """The transaction, `CTR_…`."""
        return self._transaction_id or self.id or ""


class BatchEntry(_NamedTransaction, frozen=True, kw_only=True, rename="camel"):
    """A transaction's place in a batch (its form is undocumented).

    Attributes:
        contact_id: Whose it is, where that is said (inferred).
        data: Its values; None where they are not said (inferred).
    """

    contact_id: ContactId | None = None
    data: dict[Text, Value] | None = None


class TransactionBatch(Struct, frozen=True):
    """A batch of transactions; its form is undocumented, and its id may have either name."""

    id: BatchId | None = None
    _batch_id: BatchId | None = field(default=None, name="batchId")
    _created_at: Text | None = field(default=None, name="creationDate")

    def __post_init__(self) -> None:
        """Refuse one that has no id."""
        if self.id is None and self._batch_id is None:
            raise ValueError("a batch without an id")

    @property
    def batch_id(self) -> str:
        """The batch, `BT_…`."""
        return self._batch_id or self.id or ""

    @property
    def created_at(self) -> datetime | None:
        """When it was made; None where that is not said, or without a zone."""
        return _moment(self._created_at)


class Transaction(_NamedTransaction, frozen=True, kw_only=True, rename="camel"):
    """Something that a person did.

    Attributes:
        contact_id: Whose it is; None where the answer leaves it out.
        list_id: The list in which they were.
    """

    contact_id: ContactId | None = None
    list_id: ListId | None = field(default=None, name="mailingListId")
    _at: Annotated[datetime, Meta(tz=False)] = field(name="transactionDate")
    _data: dict[Text, Value] | None = field(default=None, name="data")

    @property
    def at(self) -> datetime:
        """When it was, in whole seconds; the platform writes it in UTC and without a zone."""
        return self._at.replace(tzinfo=UTC)

    @property
    def data(self) -> Mapping[str, Value]:
        """Its values."""
        return self._data or {}


@dataclasses.dataclass(frozen=True, slots=True)
class ItemRefusal:
    """Why one item of a call was not taken, although the others were.

    Attributes:
        code: The platform's code, where there is one that looks like one.
        upstream_message: The platform's sentence. May hold personal data: not for logs.
    """

    code: str | None
    upstream_message: str | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def read(cls, note: object) -> ItemRefusal:
        """Take what can be taken from a note of any form: it has been seen in clients only."""
        told: Mapping[object, object] = note if isinstance(note, dict) else {}
        message = told.get("errorMessage")
        return cls(plain_code(told.get("error")), sentence(message))


class TransactionAnswers(Struct, frozen=True, rename="camel"):
    """What became of each transaction of one call, under the keys of its body."""

    created_transactions: dict[Text, Made[TransactionId]] | None = None
    unprocessed_transactions: dict[Text, object] | None = None

    def __post_init__(self) -> None:
        """Refuse an answer that tells of nothing."""
        if self.created_transactions is None and self.unprocessed_transactions is None:
            raise ValueError("no transactions, neither created nor unprocessed")


class CreatedTransactions(Struct, frozen=True):
    """What became of each transaction of one call, under the keys that it was given.

    Attributes:
        created: The ids, `CTR_…`.
        refused: Those that are not made, and why.
        untold: Those of which the answer says nothing: whether they are made is not known.
    """

    created: Mapping[str, str]
    refused: Mapping[str, ItemRefusal]
    untold: frozenset[str]


class _Recipients(Struct, frozen=True, rename="camel"):
    mailing_list_id: Text | None = None
    contact_id: Text | None = None
    transaction_batch_id: Text | None = None


class _SurveyLink(Struct, frozen=True, rename="camel"):
    expiration_date: Text | None = None


class Distribution(Struct, frozen=True, kw_only=True):
    """A distribution of a survey, with the list that it stands on, if it stands on one."""

    distribution_id: DistributionId = field(name="id")
    _recipients: _Recipients = field(name="recipients")
    _created_date: Text | None = field(default=None, name="createdDate")
    _survey_link: _SurveyLink | None = field(default=None, name="surveyLink")

    @property
    def list_id(self) -> str | None:
        """The mailing list, `CG_…`; None for a batch's distribution."""
        return self._recipients.mailing_list_id

    @property
    def lookup_id(self) -> str | None:
        """The one contact of the list that it is for, `CGC_…`, where that is said (inferred)."""
        return self._recipients.contact_id

    @property
    def batch_id(self) -> str | None:
        """The transaction batch that it stands on, `BT_…`, where that is said (inferred)."""
        return self._recipients.transaction_batch_id

    @property
    def expires_at(self) -> datetime | None:
        """When its links expire (documented); None where that is not said, or without a zone."""
        return _moment((self._survey_link or _SurveyLink()).expiration_date)

    @property
    def created_at(self) -> datetime | None:
        """When it was made (inferred); None where that is not said, or without a zone."""
        return _moment(self._created_date)


class DistributionStats(Struct, frozen=True):
    """What became of a distribution's links, as counts."""

    sent: Count
    failed: Count
    started: Count
    bounced: Count
    opened: Count
    skipped: Count
    finished: Count
    complaints: Count
    blocked: Count


class CountedDistribution(Distribution, frozen=True):
    """A distribution that was asked for by its id."""

    stats: DistributionStats


class FoundContact(Struct, frozen=True):
    """A contact that a search found, or that opted out.

    The form of a hit is undocumented and its id has been called both names, so either is taken.
    """

    id: ContactId | None = None
    _contact_id: ContactId | None = field(default=None, name="contactId")
    ref: Text | None = field(default=None, name="extRef")

    def __post_init__(self) -> None:
        """Refuse a hit that names no contact."""
        if self.id is None and self._contact_id is None:
            raise ValueError("a hit without an id")

    @property
    def contact_id(self) -> str:
        """The directory contact, `CID_…`."""
        return self.id or self._contact_id or ""


class ListedLink(Struct, frozen=True, rename="camel"):
    """A link that the platform itself lists. The link is a credential: not for logs.

    Attributes:
        transaction_id: `CTR_…` in the distribution of a batch.
    """

    contact_id: AnyContactId
    link: Text
    expires_at: Moment | None = field(name="linkExpiration")
    transaction_id: TransactionId | None = None


class HistoryEntry(Struct, frozen=True, rename="camel"):
    """What became of one link.

    Its moments are observed. One that is missing, of another form or without a zone is None, so
    that it does not take the page along on which it stands.

    Attributes:
        lookup_id: Of the contact in the list, `CGC_…`; `CTR_…` for a transaction (inferred).
        response_id: The response to it, once there is one.
        status: Such as `Pending`, `SurveyStarted` and `SurveyFinished`.
        link: The link itself, as the platform would list it. A credential: not for logs.
        contact_id: Whose link it is; `CID_…` in every entry that was seen.
    """

    lookup_id: AnyLookupId | None = field(name="contactLookupId")
    response_id: ResponseId | None = None
    status: Text | None = None
    link: Text | None = field(default=None, name="surveyLink")
    contact_id: Text | None = None
    _opened_at: object = field(default=None, name="openedAt")
    _started_at: object = field(default=None, name="responseStartedAt")
    _completed_at: object = field(default=None, name="responseCompletedAt")

    @property
    def opened_at(self) -> datetime | None:
        """When the link was opened first."""
        return _moment(self._opened_at)

    @property
    def started_at(self) -> datetime | None:
        """When its survey was started."""
        return _moment(self._started_at)

    @property
    def completed_at(self) -> datetime | None:
        """When its response was completed."""
        return _moment(self._completed_at)


class Survey(Struct, frozen=True, rename="camel"):
    """A survey of the account."""

    survey_id: SurveyId = field(name="id")
    name: Text
    active: bool = field(name="isActive")


class Subscription(Struct, frozen=True, rename="camel"):
    """A wish for calls about events.

    Attributes:
        topics: Such as `surveyengine.completedResponse.SV_…`.
        publication_url: Where the calls go.
    """

    subscription_id: SubscriptionId = field(name="id")
    topics: Text
    publication_url: Text


class _FlowField(Struct, frozen=True, rename="pascal"):
    field: Text


class _FlowElement(Struct, frozen=True, rename="pascal"):
    type: Text
    flow: list[_FlowElement] = []
    embedded_data: list[_FlowField] = []


class _SurveyOptions(Struct, frozen=True, rename="pascal"):
    survey_protection: Text | None = None


class SurveyDefinition(Struct, frozen=True, rename="pascal", kw_only=True):
    """A survey, as far as its links and its data are concerned.

    Attributes:
        base_url: Where the brand's survey pages are, as the platform says it.
    """

    base_url: Text | None = field(default=None, name="BrandBaseURL")
    _status: Text = field(name="SurveyStatus")
    _flow: _FlowElement = field(name="SurveyFlow")
    _options: _SurveyOptions | None = field(default=None, name="SurveyOptions")

    @property
    def active(self) -> bool:
        """Whether it takes responses; a distribution needs that (documented)."""
        return self._status == "Active"

    @property
    def invitation_only(self) -> bool | None:
        """Whether it takes responses from personal links alone; None where nothing is said.

        That `SurveyProtection` is `ByInvitation` then is known from exported surveys (inferred).
        """
        protection = None if self._options is None else self._options.survey_protection
        return None if protection is None else protection == "ByInvitation"

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
    """A response: `values` holds answers, embedded data and moments under the survey's names.

    By which link it came is not among them, but for what the channel says and whose contact it was.
    """

    values: dict[Text, object]

    @property
    def channel(self) -> str | None:
        """How it was answered: `anonymous` by the survey's plain link, `gl` by a personal one.

        That these are the words is inferred from those that stand in links.
        """
        return self._text("distributionChannel")

    @property
    def ref(self) -> str | None:
        """The app's own id of the contact whose personal link it was (documented).

        None where there was no contact, or where the survey makes its responses anonymous.
        """
        return self._text("externalDataReference")

    @property
    def started_at(self) -> datetime | None:
        """When the survey was started, in whole seconds; None where no zone is told, or nothing."""
        return _moment(self.values.get("startDate"))

    @property
    def completed_at(self) -> datetime | None:
        """When it was recorded, or ended; None where that is not told, or without a zone."""
        return _moment(self.values.get("recordedDate")) or _moment(self.values.get("endDate"))

    def _text(self, name: str) -> str | None:
        value = self.values.get(name)
        return value if isinstance(value, str) and value else None

    def __post_init__(self) -> None:
        """Refuse what no `Text` would hold, however deep it stands."""
        waiting: list[object] = [self.values]
        while waiting:
            match waiting.pop():
                case str() as text if "\0" in text:
                    raise ValueError("a NUL in an answer")
                case list() as items:
                    waiting.extend(items)
                case dict() as items:
                    waiting.extend(items)
                    waiting.extend(items.values())
