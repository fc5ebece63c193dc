"""The words of Milepost as values: frozen structs that every other module passes on.

`docs/glossary.md` says what each word means. Rows of the store become these objects at its border;
the REST layer reads and writes some of them as they stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

# --- bounded texts and numbers ------------------------------------------------------------------

# The end of the text, for Python and for JSON Schema alike: Python's `$` also matches before a last
# line break, and `\\Z` means nothing to a browser.
_END = r"(?![\s\S])"

EventId = Annotated[str, Meta(min_length=1, max_length=200, pattern=rf"^[^\x00-\x1f\x7f]+{_END}")]
"""The caller's id of an event: at most 200 bytes of UTF-8, no control characters."""
Ref = Annotated[str, Meta(min_length=1, max_length=200, pattern=rf"^[^\x00-\x1f\x7f]+{_END}")]
"""The app's own id for a registrant."""
Key = Annotated[str, Meta(pattern=rf"^[a-z0-9](?:[a-z0-9_-]{{0,58}}[a-z0-9])?{_END}")]
"""A milestone's key: lower case letters, digits, `-` and `_`, 1 to 60 of them."""
SurveyId = Annotated[str, Meta(pattern=rf"^SV_[0-9A-Za-z]{{15}}{_END}")]
ResponseId = Annotated[str, Meta(pattern=rf"^R_[0-9A-Za-z]{{15}}{_END}")]
FieldName = Annotated[str, Meta(pattern=rf"^[A-Za-z][A-Za-z0-9_.-]{{0,99}}{_END}")]
Email = Annotated[str, Meta(max_length=254, pattern=rf"^(?:[^@\s]+@[^@\s]+)?{_END}")]
"""Whether mail arrives there, only mail can tell; an empty one is none."""
Name = Annotated[str, Meta(max_length=200)]
"""Names are cut off by the platform beyond 200 characters (documented)."""
TimeOfDay = Annotated[str, Meta(pattern=rf"^(?:[01][0-9]|2[0-3]):[0-5][0-9]{_END}")]
"""What a clock on the wall shows, from 00:00 to 23:59."""
DeadlineMs = Annotated[int, Meta(ge=1, le=8_000)]
Days = Annotated[int, Meta(ge=1, le=3_650)]

MAX_VALUE_LENGTH = 1_024
"""The longest embedded value that the platform keeps, in characters (documented)."""

Scalar = str | int | float | bool
"""A value of an event's data, as JSON types it. `null` means absent and is dropped at the door."""


# --- who may call -------------------------------------------------------------------------------


class Scope(StrEnum):
    """What an API key may do."""

    ISSUE = "issue"
    SYNC = "sync"
    READ = "read"
    ADMIN = "admin"


class Caller(Struct, frozen=True):
    """The owner of an API key, as far as the key tells."""

    key_id: str
    name: str
    scopes: frozenset[Scope]

    def may(self, *scopes: Scope) -> bool:
        """Whether the key has one of these scopes; `admin` has all."""
        return Scope.ADMIN in self.scopes or not self.scopes.isdisjoint(scopes)


# --- milestones ---------------------------------------------------------------------------------


class Route(StrEnum):
    """How an event becomes a link at the platform."""

    LIST = "list"
    TRANSACTION = "transaction"
    ANONYMOUS = "anonymous"
    STEPWISE = "stepwise"


class Lane(StrEnum):
    """How the caller gets the URL."""

    READY = "ready"
    DIRECT = "direct"
    DEFERRED = "deferred"
    QUEUED = "queued"


class Purpose(StrEnum):
    """What calls to the platform are made for, the most urgent first."""

    CLICK = "click"
    """A person waits in front of the browser."""
    DIRECT = "direct"
    """An app waits for the link of an event."""
    DRAIN = "drain"
    """A link is out already, and its calls are to follow."""
    PROVISIONING = "provisioning"
    """Work ahead of events: pools, and contacts of registrants."""
    RECONCILE = "reconcile"
    """Looking at what became of links."""


# --- what the account allows --------------------------------------------------------------------


class Fact(StrEnum):
    """What a route rests on and nobody has proved of the platform: it is tried on the account.

    Those with a figure say what it counts.
    """

    PROBE_ONLY_DISTRIBUTION = "probe_only_distribution"
    """A distribution can be made on a list that holds only our probe."""
    LATE_LINK = "late_link"
    """A link that was built for a contact added later opens, and its response is attributed."""
    ONE_CONTACT = "one_contact"
    """The same person in two lists is one contact: merging is really on."""
    SAME_LOOKUP = "same_lookup"
    """The same person added to the same list again keeps their lookup id."""
    PROMPT_SEARCH = "prompt_search"
    """A search finds a contact at once. Its figure: after how many seconds it does."""
    PRIVATE_DATA = "private_data"
    """Data that are private to a list are seen by the survey."""
    TRANSACTION_BATCH = "transaction_batch"
    """A batch takes a distribution, and the built link of a transaction added later opens."""
    COMPLETE_LINKS = "complete_links"
    """A contact's link is listed at once. Its figure: after how many seconds it is."""
    HISTORY_LINKS = "history_links"
    """Links that were built here stand in the distribution's history."""
    URL_WINS = "url_wins"
    """Of a field both in the contact and in the query string, the latter's value is recorded."""
    TRANSACTIONS_PER_CALL = "transactions_per_call"
    """Several transactions can be made by one call. Its figure: how many were."""
    LONGEST_EXPIRY = "longest_expiry"
    """A distribution lives as long as milestones say. Its figure: the most days accepted."""
    THROTTLE = "throttle"
    """A 429 says when to come back."""


class Capability(Struct, frozen=True, kw_only=True):
    """What a probe has found out about a fact."""

    fact: Fact
    holds: bool
    figure: int | None = None
    evidence: str
    """What was seen, in a sentence."""
    probed_at: datetime


class Capabilities(Struct, frozen=True):
    """All that is known of the account. What was never tried counts as true."""

    known: Mapping[Fact, Capability] = {}

    def holds(self, fact: Fact) -> bool:
        """Whether one may rely on it."""
        found = self.known.get(fact)
        return found is None or found.holds

    def get(self, fact: Fact) -> Capability | None:
        """What a probe has found; None: it was never tried."""
        return self.known.get(fact)

    @property
    def unprobed(self) -> tuple[Fact, ...]:
        """What was never tried."""
        return tuple(fact for fact in Fact if fact not in self.known)


class FieldType(StrEnum):
    """The type of a declared transaction field."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"


class Field(Struct, frozen=True, forbid_unknown_fields=True):
    """One declared transaction field of a milestone."""

    name: FieldName
    type: FieldType = FieldType.TEXT
    required: bool = False
    max_length: Annotated[int, Meta(ge=1, le=MAX_VALUE_LENGTH)] = MAX_VALUE_LENGTH


class Cooldown(Struct, frozen=True, forbid_unknown_fields=True):
    """At most one link of the milestone for a registrant in this many days."""

    cooldown_days: Days


class Quiet(Struct, frozen=True, forbid_unknown_fields=True):
    """At most `links` links for a registrant, over all milestones, in `days` days."""

    links: Annotated[int, Meta(ge=1, le=1_000)]
    days: Days


class QuietHours(Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """The hours of the day at which nobody is reminded; they may go over midnight."""

    from_: TimeOfDay
    to: TimeOfDay


class Reminders(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When registrants are to be reminded of links that they have not answered."""

    after_days: Annotated[int, Meta(ge=0, le=365)]
    """A link gets its reminder so many days after it was made; 0: as soon as it is looked at."""
    quiet_hours: QuietHours | None = None
    time_zone: Annotated[str, Meta(max_length=64)] = "UTC"
    """In which the quiet hours are meant, such as `Europe/Vienna`."""


Repeat = Literal["once", "every_event"] | Cooldown


class MilestoneDefinition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an admin says of a milestone: the body of `PUT /v1/milestones/{key}`."""

    survey_id: SurveyId
    name: Annotated[str, Meta(min_length=1, max_length=100)] | UnsetType = UNSET
    route: Route = Route.LIST
    membership: Literal["event", "ahead"] = "event"
    lanes: Annotated[tuple[Lane, ...], Meta(min_length=1, max_length=4)] = (
        Lane.READY,
        Lane.DIRECT,
        Lane.DEFERRED,
    )
    repeat: Repeat = "every_event"
    sample_percent: Annotated[float, Meta(ge=0, le=100)] = 100
    slots: Annotated[int, Meta(ge=1, le=500)] = 3
    max_slots: Annotated[int, Meta(ge=1, le=500)] = 25
    when_full: Literal["deferred", "suppressed"] = "deferred"
    link_days: Days = 60
    min_link_days: Annotated[int, Meta(ge=0, le=3_650)] = 14
    fields: Annotated[tuple[Field, ...], Meta(max_length=100)] = ()
    quiet: Quiet | None = None
    unknown_registrant: Literal["reject", "defer"] = "reject"
    late_data: bool = False
    deadline_ms: DeadlineMs = 1_500
    reminders: Reminders | None = None


class Stop(Struct, frozen=True, kw_only=True):
    """Why a milestone gives no personal links: those that it built would be wrong ones."""

    at: datetime
    because: str
    """A sentence without URLs."""
    expected: str | None
    """The URL that is built here. Links are credentials: for admins, and for no log."""
    found: str | None
    """The URL that the platform gives in its place; the same holds."""
    resumed_at: datetime | None
    """A person has resumed it then: what the platform lists next for a canary is learnt."""


class Milestone(Struct, frozen=True, kw_only=True):
    """A point in a customer's course at which one survey is due."""

    key: str
    definition: MilestoneDefinition
    state: Literal["active", "paused"]
    stop: Stop | None
    created_at: datetime
    updated_at: datetime


class Caution(Struct, frozen=True, kw_only=True):
    """What an admin should know of a milestone that works all the same."""

    code: str
    detail: str
    fix: str


# --- pools --------------------------------------------------------------------------------------


class SlotStanding(Struct, frozen=True, kw_only=True):
    """How far a slot can be relied on."""

    slot_id: int
    number: int
    planned_at: datetime
    """Since when it is to be made."""
    generation: int
    """Of its newest distribution."""
    takes_until: datetime | None
    """Until then a distribution on it takes links; None: none that is ready."""
    ready_at: datetime | None
    """Since when the latest of those does."""
    was_ready: bool
    """One has taken links before, be it long ago."""
    is_making: bool
    stops: int
    """Of its newest distributions so many in a row were stopped before they took a link."""
    stopped_at: datetime | None
    """When the last of those was begun."""
    links: int = 0
    """Of the newest transaction batch: how many it holds at the most, counted up to
    `policy.BATCH_LINKS`."""
    lately: int = 0
    """Of these, how many were asked for within the last `policy.REPLENISH_SECONDS`."""
    was_missed: bool = False
    """The platform did not know the list or batch when it was asked last, or took no more."""


class PoolStanding(Struct, frozen=True, kw_only=True):
    """A milestone's pool for its present survey, and what the milestone says of it."""

    now: datetime
    """The database's time."""
    survey_id: str
    route: Route
    least: int
    """Slots that it starts with."""
    most: int
    """Slots that it may come to have."""
    link_days: int
    min_link_days: int
    is_tended: bool
    """The milestone is neither paused nor stopped, so that something is made for it."""
    slots: tuple[SlotStanding, ...]
    """By number."""


class Demand(Struct, frozen=True):
    """What one person needs of a milestone's places."""

    held: int
    """Places that they have a live link in, and events of theirs that wait for one."""
    recent: int
    """Events of theirs, in the last `policy.RECENT_DAYS`, that took a place or wanted one."""


# --- registrants --------------------------------------------------------------------------------


class RegistrantDetails(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the app tells of a registrant, besides the `ref`."""

    email: Email | None = None
    first_name: Name | None = None
    last_name: Name | None = None
    phone: Annotated[str, Meta(max_length=40)] | None = None
    language: Annotated[str, Meta(max_length=20)] | None = None
    attributes: Annotated[Mapping[FieldName, str], Meta(max_length=100)] = msgspec.field(
        default_factory=dict[str, str]
    )


class Registrant(Struct, frozen=True, kw_only=True):
    """The person, in our source of truth."""

    ref: str
    details: RegistrantDetails
    contact: Literal["own", "shared", "incomplete"]
    """Whether the registrant has a contact of their own under the directory's dedup criteria."""
    contact_id: str | None
    removed_at: datetime | None
    """When their source stopped listing them; to events they are unknown until they come back."""
    opted_out_at: datetime | None
    erased_at: datetime | None
    created_at: datetime
    updated_at: datetime


# --- events and links ---------------------------------------------------------------------------


class Event(Struct, frozen=True, kw_only=True):
    """What happened to a registrant. `data` holds no nulls."""

    event_id: str
    milestone: str
    ref: str
    data: Mapping[str, Scalar]
    occurred_at: datetime | None
    asked_by: str
    """The name of the API key that asked."""
    details: RegistrantDetails | None = None
    """Create a registrant that is not known yet; never change one that is."""


class LinkState(StrEnum):
    """What is true of a link at the platform.

    ::

        claimed ──▶ issued          the call came back
           │  ▲
           │  └──── waiting         no call is out; the next one may go as if it were the first
           ├──────▶ waiting         upstream refused for now, or could not be reached
           ├──────▶ unknown ──▶ …   the call went out and nobody knows: ask before it is repeated
           └──────▶ failed          upstream refused for good
        suppressed                  a policy decided: no call, ever
    """

    CLAIMED = "claimed"
    WAITING = "waiting"
    UNKNOWN = "unknown"
    ISSUED = "issued"
    SUPPRESSED = "suppressed"
    FAILED = "failed"


_UNSETTLED = frozenset({LinkState.CLAIMED, LinkState.WAITING, LinkState.UNKNOWN})


class Reason(Struct, frozen=True):
    """The rule that decided, until when it holds, and a sentence for a person."""

    rule: str
    until: datetime | None = None
    detail: str | None = None


class Link(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event's link: its state and what the caller was given."""

    id: UUID
    event_id: str
    milestone: str
    registrant: str
    state: LinkState
    lane: Lane | None
    route: Route | None
    url: str | None
    """The published URL, personal or short: None until there is one."""
    expires_at: datetime | None
    reused: bool
    reason: Reason | None
    upstream_calls: float
    created_at: datetime
    data_at: datetime | None
    """From when on the survey sees the event's data."""
    left_behind: str | None = None
    """What the way to it has left at the platform, or may have, that is no part of it: said only
    where there is such a thing."""

    @property
    def unsettled(self) -> bool:
        """Whether its URL, or that there will be none, is still to come."""
        return self.state in _UNSETTLED


class LinkRecord(Link, frozen=True, kw_only=True):
    """A link with its moments, for whoever asks what became of it."""

    occurred_at: datetime | None
    attempt: int
    """How often somebody has claimed it."""
    lease_until: datetime | None
    """Until then it is its taker's, or nobody tries it again."""
    waiting_until: datetime | None
    issued_at: datetime | None
    finished_at: datetime | None
    """When its response was completed, as the platform has it."""
    clicked_at: datetime | None
    """When the short URL was first opened by a person."""
    revoked_at: datetime | None
    data_due_at: datetime | None
    """When the platform is to be told the data of a link that went out before it knew of them."""
    delivered_at: datetime | None
    """When the app says that its customer was shown the link."""
    opened_at: datetime | None
    started_at: datetime | None
    """When its survey was opened and started, as the platform has it."""
    response_id: str | None
    """The response to it, `R_…`."""
    other_url: str | None
    """The personal URL behind a published short one; for admins."""


class DriftKind(StrEnum):
    """In what the ledger and the platform differ; `policy.DRIFT` says what to do about each."""

    FOREIGN_RESPONSE = "foreign-response"
    OTHER_MILESTONE = "other-milestone"
    SECOND_RESPONSE = "second-response"
    EARLY_RESPONSE = "early-response"
    MEMBERSHIP_WITHOUT_LINK = "membership-without-link"
    LINK_WITHOUT_MEMBERSHIP = "link-without-membership"
    LOST_EVENT = "lost-event"


class Outcome(Struct, frozen=True, kw_only=True):
    """What the platform says became of a link, as far as it says it."""

    link_id: UUID
    opened_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    response_id: str | None = None
    """`R_…`."""


# --- webhooks -----------------------------------------------------------------------------------

MessageId = Annotated[str, Meta(pattern=rf"^msg_[0-9a-f]{{32}}{_END}")]
"""A message's id, as receivers are told it in `webhook-id`."""


class MessageType(StrEnum):
    """What a message tells."""

    LINK_ISSUED = "link.issued"
    """A link has its personal URL."""
    LINK_FAILED = "link.failed"
    """There will be none for a link, although its caller was not told so by the answer."""
    SURVEY_STARTED = "survey.started"
    SURVEY_FINISHED = "survey.finished"
    POOL_LOW = "pool.low"
    """A milestone's pool will soon give no more links, and nothing has been made in time."""
    MILESTONE_STOPPED = "milestone.stopped"
    """A milestone gives no personal links any more: the platform's have changed."""
    JOB_FAILED = "job.failed"
    """A run of a job has ended without its work: a person must mend or decide something."""


class Endpoint(Struct, frozen=True, kw_only=True):
    """Where messages go."""

    id: UUID
    url: str
    types: tuple[MessageType, ...] | None
    """Of which types it wants messages; null: of all, also of those that come to be later."""
    description: str
    state: Literal["active", "disabled"]
    """What is disabled is sent nothing, and no further messages are written for it."""
    disabled_because: str | None
    secret_before_until: datetime | None
    """Until then the secret before the present one signs as well."""
    created_at: datetime
    delivered_at: datetime | None
    """When it took a message last."""
    failed_at: datetime | None
    """When it did not take one last."""


class Attempt(Struct, frozen=True, kw_only=True):
    """One try to deliver a message."""

    number: int
    """From 1 on. One that is missing was made by a process that died of something."""
    at: datetime
    seconds: float
    code: int | None
    """The status of the answer; None: there was none."""
    error: str | None
    """Why there was none."""
    said: str | None
    """How the answer's body begins."""


class Message(Struct, frozen=True, kw_only=True):
    """What an endpoint was sent, or is to be."""

    id: UUID
    type: MessageType
    state: Literal["waiting", "delivered", "parked"]
    """`parked`: all attempts were in vain; it can be replayed."""
    link_id: UUID | None
    """The link that it tells of, as it is when it is sent."""
    data: dict[str, Any] | None
    """What it tells where it is of no link."""
    created_at: datetime
    due_at: datetime | None
    """When the next attempt is due."""
    attempts: tuple[Attempt, ...]


# --- the installation ---------------------------------------------------------------------------


class Deployment(Struct, frozen=True, kw_only=True):
    """This installation, as the platform sees it: whatever we make there carries its id."""

    id: str
    fingerprint_key: bytes
    directory_id: str | None
    dedup_criteria: frozenset[str] | None
    """Names out of `policy.DEDUP_CRITERIA`; empty: the directory does not deduplicate."""
    home_list_id: str | None


class Place(Struct, frozen=True, kw_only=True):
    """Where a link is made: a slot, and the distribution that stands on it."""

    slot_id: int
    list_id: str | None
    """`CG_…`; None under route `transaction`."""
    batch_id: str | None
    """`BT_…` under route `transaction`."""
    distribution_id: int
    """Of ours, not the platform's."""
    template: str
    expires_at: datetime
    has_rested: bool
    """The platform has once not known the list, and no call since then has found it."""


class Claim(Struct, frozen=True, kw_only=True):
    """The time-boxed right to make one link, and all that making it needs."""

    link: Link
    claimed_at: datetime
    """By the database's clock."""
    attempt: int
    """Fences the settlement: a claim taken over by somebody else changes nothing any more."""
    route: Route
    purpose: Purpose
    """What its calls are for."""
    at: datetime
    """When it happened, as far as it is known: else when it was told of."""
    in_doubt: bool
    """An earlier call of this link may have been accepted: ask before adding."""
    may_add: bool
    """The registrant owns the contact under which the place was taken, and the link is not revoked.
    Otherwise what an earlier call made may be found, but nothing may be added."""
    looked_enough: bool
    """Three looks over a minute found nothing: where looking is all one can do, add again."""
    place: Place | None
    """None under route `stepwise`, which makes one for each link."""
    steps: Mapping[str, str]
    """What earlier attempts have made on the way to the link, by the names that its route gives."""
    survey_id: str
    link_days: int
    ref: str
    details: RegistrantDetails
    contact_key: str
    """What the directory recognises the contact by, as it was when the place was taken."""
    contact_id: str | None
    """The registrant's `CID_…`, where it is known."""
    home_lookup_id: str | None
    """Their lookup id in the home list, `CGC_…`; None: they are not known to be in it."""
    lookups_before: frozenset[str]
    """The registrant's lookup ids in the slot's list from earlier links: that they are in the list
    under one of these proves nothing. Known only where `in_doubt`."""
    data: Mapping[str, Scalar]
    fields: tuple[Field, ...]


class LateData(Struct, frozen=True, kw_only=True):
    """The data of a link that went out before the platform knew of them, claimed to be told."""

    link_id: UUID
    event_id: str
    attempt: int
    """Fences what is written of them, as a claim's does."""
    route: Route
    slot_id: int
    list_id: str
    contact_id: str
    """`CID_…`, whose membership of the list the link names; empty where that is not known."""
    ref: str
    details: RegistrantDetails
    is_theirs: bool | None
    """The registrant still owns that contact."""
    data: Mapping[str, Scalar]
    fields: tuple[Field, ...]
    age: float
    """Seconds since the link went out."""
    alone: bool
    """Whoever took them died, twice: to be told with nothing else of the job under way."""
    ended: str | None
    """The rule by which there is nothing to tell any more."""
