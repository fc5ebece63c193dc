"""What the world holds, and the two ways in which it is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, TypeVar

from msgspec import Struct, field

from milepost.simulator.shapes import ImportedContact
from milepost.simulator.survey import DEFAULT_LANGUAGE
from milepost.simulator.wire import Ordered, place_after

Thing = TypeVar("Thing", bound=Ordered)


class Shelf(Generic[Thing]):
    """Things by id, and in the order in which they were made."""

    __slots__ = ("_by_id", "in_order")

    def __init__(self) -> None:
        self._by_id: dict[str, Thing] = {}
        self.in_order: list[Thing] = []

    def add(self, thing_id: str, thing: Thing) -> None:
        """Put a thing that was just made at the end."""
        self._by_id[thing_id] = thing
        self.in_order.append(thing)

    def get(self, thing_id: str) -> Thing | None:
        """The thing of that id."""
        return self._by_id.get(thing_id)

    def __getitem__(self, thing_id: str) -> Thing:
        return self._by_id[thing_id]

    def remove(self, thing_id: str) -> None:
        """Take a thing away."""
        take_out(self.in_order, self._by_id.pop(thing_id))

    def __iter__(self) -> Iterator[Thing]:
        return iter(self.in_order)


def take_out(things: list[Thing], thing: Thing) -> None:
    """Remove a thing from a list in order of making."""
    del things[place_after(things, thing.ordinal - 1)]


class Membership(Struct, gc=False):
    """The fact that a contact is in a list. `id` is the lookup id."""

    id: str
    ordinal: int
    contact_id: str
    list_id: str
    added_at: int
    private: dict[str, str] | None = None


class Contact(Struct, gc=False):
    """A person in the directory. Names are as sent; an empty string counts as absent."""

    id: str
    ordinal: int
    created_at: int
    modified_at: int
    first_name: str | None = None
    last_name: str | None = None
    email: str | None = None
    phone: str | None = None
    ext_ref: str | None = None
    language: str | None = None
    unsubscribed: bool = False
    embedded: dict[str, str] | None = None
    memberships: tuple[Membership, ...] = ()
    transactions: tuple[str, ...] = ()
    times_listed: int = 0

    def membership_in(self, list_id: str) -> Membership | None:
        """The contact's membership in a list; a contact is in few lists, so it is looked for."""
        return next((one for one in self.memberships if one.list_id == list_id), None)


class MailingList(Struct):
    """A list; its members stand in the order in which they were added."""

    id: str
    ordinal: int
    name: str
    owner_id: str
    created_at: int
    modified_at: int
    members: list[Membership] = field(default_factory=list)


class Transaction(Struct, gc=False):
    """What happened to a contact; `date` is as sent. It may be in any number of batches."""

    id: str
    ordinal: int
    contact_id: str
    list_id: str
    date: str
    data: dict[str, str]
    batch_ids: tuple[str, ...] = ()


class BatchEntry(Struct, gc=False):
    """The fact that a transaction is in a batch. `id` is the transaction's."""

    id: str
    ordinal: int
    contact_id: str
    added_at: int


class Batch(Struct):
    """A transaction batch; its entries stand in the order in which they were added."""

    id: str
    ordinal: int
    created_at: int
    entries: Shelf[BatchEntry]


Recipient = Membership | BatchEntry
"""Who can have a link: `id` is what the link names, a lookup id or a transaction's."""


class Session(Struct):
    """One visit to the survey: what it captured at its start, and its answers once it ended."""

    id: str
    survey_id: str
    started_at: int
    data: dict[str, str]
    recipient: dict[str, str]
    language: str
    distribution_id: str | None = None
    recipient_id: str | None = None
    response_id: str | None = None
    completed_at: int | None = None
    answers: dict[str, int | str] | None = None

    def is_of(
        self, survey: Survey, distribution: Distribution | None, recipient: Recipient | None
    ) -> bool:
        """Whether this session was started by that link."""
        return (
            self.survey_id == survey.id
            and self.distribution_id == (distribution and distribution.id)
            and self.recipient_id == (recipient and recipient.id)
        )


class Distribution(Struct):
    """Links for a list, for its one member `only`, or for a batch.

    `sessions` holds each link's latest. `listed_up_to` is the ordinal of the last recipient whose
    link a list of links has shown.
    """

    id: str
    ordinal: int
    survey_id: str
    list_id: str | None
    batch_id: str | None
    link_type: Literal["Individual", "Multiple", "Anonymous"]
    description: str
    created_at: int
    expires_at: int
    only: str | None = None
    listed_up_to: int = 0
    started: int = 0
    finished: int = 0
    sessions: dict[str, Session] = field(default_factory=dict)


class Survey(Struct):
    """The survey's switches; its questions never change."""

    id: str
    created_at: int
    active: bool = True
    invitation_only: bool = False
    declared_fields: list[str] = field(default_factory=list)


class Import(Struct):
    """One import.

    Attributes:
        id: `PGRS_…`.
        list_id: Where the contacts go.
        started_at: Milliseconds since the epoch.
        ends_at: When the last contact is due to be in; it can be later, never earlier.
        total: How many contacts there are.
        waiting: Those that are not in yet.
        added: How many were not in the list before.
        updated: How many were.
        failed: How many were not taken.
        batch_id: The batch into which their transactions go, if one was named.
        fields: The transaction data that count; `None` are all.
        transactions: How many were made.
    """

    id: str
    list_id: str
    started_at: int
    ends_at: int
    total: int
    waiting: list[ImportedContact] = field(default_factory=list)
    added: int = 0
    updated: int = 0
    failed: int = 0
    batch_id: str | None = None
    fields: list[str] | None = None
    transactions: int = 0

    @property
    def done(self) -> int:
        """How many contacts it has gone through."""
        return self.total - len(self.waiting)

    def due(self, at: int) -> int:
        """How many contacts should be in at a moment."""
        if at >= self.ends_at:
            return self.total
        return self.total * max(0, at - self.started_at) // (self.ends_at - self.started_at)


class Subscription(Struct, frozen=True):
    """A wish for calls about the completed responses of a survey."""

    id: str
    ordinal: int
    topics: str
    url: str
    survey_id: str
    shared_key: str | None


class Closed(Exception):
    """A survey link that does not open, and why."""

    def __init__(
        self,
        reason: Literal["incorrect", "invitation", "inactive", "expired", "taken"],
        language: str = DEFAULT_LANGUAGE,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.language = language


class Visit(Struct, frozen=True):
    """What a survey link leads to. `session` is the one to be resumed, if there is one."""

    survey: Survey
    distribution: Distribution | None = None
    recipient: Recipient | None = None
    session: Session | None = None
    language: str = DEFAULT_LANGUAGE


class Act(Struct):
    """One write: when, about what, with what, and where the ids of made things come from."""

    at: int
    ids: dict[str, str]
    body: Any
    mint: Callable[[str], str]


class Outcome(Struct, frozen=True):
    """What a verb did: the API's `result`, the ids that the journal names, and in a word what."""

    result: object | None = None
    ids: dict[str, str] = {}
    effect: str | None = None


class Index:
    """From a value to the contacts that have it; most values have one, so one is kept bare."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[str, str | tuple[str, ...]] = {}

    def add(self, value: str | None, contact_id: str) -> None:
        """A contact takes the value; `None` is no value."""
        if value is not None:
            held = self._found.get(value)
            if held is None:
                self._found[value] = contact_id
            else:
                self._found[value] = ((held,) if isinstance(held, str) else held) + (contact_id,)

    def discard(self, value: str | None, contact_id: str) -> None:
        """A contact loses the value."""
        if value is not None:
            rest = tuple(one for one in self.find(value) if one != contact_id)
            if not rest:
                self._found.pop(value, None)
            else:
                self._found[value] = rest[0] if len(rest) == 1 else rest

    def find(self, value: str) -> tuple[str, ...]:
        """The contacts with that value, first taker first."""
        held = self._found.get(value, ())
        return (held,) if isinstance(held, str) else held
