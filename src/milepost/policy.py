"""Pure decisions: about contacts, samples, milestones that can work, and pools.

Of pools: how many slots, when to rotate, when to try again.

What must be decided under a lock (repeat, quiet, which slot) is decided where the lock is, in
`store/sql/claim.sql`; what it needs from here is handed to it as a number, and the words for what
it decides stand here.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from milepost.errors import InvalidMilestone
from milepost.model import (
    Capabilities,
    Caution,
    Demand,
    DriftKind,
    Fact,
    Lane,
    MilestoneDefinition,
    PoolStanding,
    RegistrantDetails,
    Reminders,
    Route,
    SlotStanding,
)

DEDUP_CRITERIA: Final = ("email", "first_name", "last_name", "ref", "phone")
"""The fields by which a directory can recognise a contact, in the order they stand in a key."""


EXPLANATIONS: Final[Mapping[str, str]] = {
    "waiting/registrant-unknown": "The registrant is not known yet; the link waits for them.",
    "waiting/route-stopped": "The milestone's links are not trusted at present, and none is made: "
    "GET /v1/milestones/KEY says why.",
    "waiting/pool-empty": "No distribution of the milestone takes links; job replenish makes them.",
    "waiting/no-slot": "The registrant has a live link in every place that there is for one: one "
    "must end, or the pool grow.",
    "waiting/no-lane": "The milestone's lanes make no personal link at the time of the event.",
    "waiting/budget-spent": "The calls of this minute are spent; the link is made when there are "
    "some again.",
    "waiting/calls-under-way": "As many calls are out as may be at once; the link is made after "
    "them.",
    "waiting/upstream-away": "The platform does not answer, or not to this token; the link is made "
    "when it does.",
    "unknown/outcome-unknown": "A call may have made the link, and its distribution is not in use "
    "any more.",
    "waiting/once": "An earlier event of the registrant is to get the one link, and still waits.",
    "issued/once": "The registrant's one link of this milestone is alive, so it is given again.",
    "issued/data-too-late": "The link had ended before the platform took the event's data.",
    "issued/data-unseen": "The account's surveys do not see data that are private to a list: the "
    "platform was told none.",
    "issued/data-refused": "The registrant's membership of the list is gone, so the platform could "
    "not be told the event's data.",
    "issued/erased": "The registrant was erased before the platform was told the event's data.",
    "issued/parked": "Whoever told the platform the event's data died of it, again and again: see "
    "the logs of those moments.",
    "suppressed/once": "The registrant has finished their one survey of this milestone.",
    "suppressed/cooldown": "The registrant had a link of this milestone a short while ago.",
    "suppressed/quiet": "The registrant had enough links, of all milestones, in the last days.",
    "suppressed/no-slot": "The registrant has a live link in every slot of the milestone.",
    "suppressed/sample": "The event is outside the milestone's sample.",
    "suppressed/contact-incomplete": "The registrant lacks a value by which the directory tells "
    "contacts apart.",
    "suppressed/contact-shared": "Another registrant has the same values by which the directory "
    "tells contacts apart, and so the same contact.",
    "suppressed/opted-out": "The registrant has opted out.",
    "suppressed/erased": "The registrant was erased.",
    "suppressed/revoked": "The link was revoked before it was made.",
    "failed/parked": "Whoever made this link died of it, again and again: see the logs of the "
    "moments when it was claimed.",
    "failed/waited-too-long": "The link could not be made for as long as it would have lived.",
}
"""What a rule of `claim.sql` or `late_data_claim.sql` means to a person, by the link's state and
the rule."""

REVOKED: Final = "The link was revoked: its short URL leads nowhere any more."
"""What is said of a revoked link, in whatever state it was then."""


class Advice(Struct, frozen=True, kw_only=True):
    """What something is, and what to do about it."""

    what: str
    fix: str


DRIFT: Final[Mapping[DriftKind, Advice]] = {
    DriftKind.FOREIGN_RESPONSE: Advice(
        what="A response that came by no link of ours, names another one than it came by, or could "
        "not be read for a week.",
        fix="Leave it out of what you conclude, or delete it at the platform, unless it is one "
        "that could not be read. If there are many without a reference, see whether the survey's "
        "flow declares milepost_ref, and let the survey be answered by invitation only.",
    ),
    DriftKind.OTHER_MILESTONE: Advice(
        what="A response whose reference names a link of another milestone.",
        fix="Leave it out of what you conclude of either milestone. If there are many, see whether "
        "a survey was copied together with its links, or an app sends those of the other one.",
    ),
    DriftKind.SECOND_RESPONSE: Advice(
        what="A second response to a link that has one: a plain link was shared, or used twice.",
        fix="The first one counts. Leave this one out, or delete it at the platform.",
    ),
    DriftKind.EARLY_RESPONSE: Advice(
        what="The survey was started before the platform had the event's data: the response lacks "
        "them.",
        fix="Join the data by the link, which this response counts for. If there are many, give "
        'the milestone membership "event", or look at the backlog of job drain.',
    ),
    DriftKind.MEMBERSHIP_WITHOUT_LINK: Advice(
        what="A member of a slot's list or batch of whom no link is known: a call took effect and "
        "its link failed, the ledger was restored from before, or somebody else added them.",
        fix="Do nothing if nobody was sent a URL: an event of theirs, sent again, finds the place. "
        "If somebody else adds people to our lists, have them stop.",
    ),
    DriftKind.LINK_WITHOUT_MEMBERSHIP: Advice(
        what="A link whose member the platform does not have in the list or batch: it opens no "
        "survey.",
        fix="Revoke the link, and send its customer's event again under an event_id of its own. If "
        "there are many, see who removes contacts at the platform.",
    ),
    DriftKind.LOST_EVENT: Advice(
        what="A link that was found at the platform after a restore of the ledger, and whose event "
        "has not come again: the link opens, and nobody here knows its event's data.",
        fix="Send the event again while MILEPOST_RECOVER is set. If nobody has it any more, settle "
        "this: the link keeps its place until it ends.",
    ),
}
"""What drift of a kind is, and what to do about it."""


def contact_key(ref: str, details: RegistrantDetails, criteria: Collection[str]) -> str | None:
    """The key under which the directory would recognise this registrant's contact.

    All criteria must match for two people to be one contact, without regard to upper and lower
    case (documented). Without criteria every registrant gets a contact of their own.

    Args:
        ref: the app's id of the registrant.
        details: what is known of them.
        criteria: names out of `DEDUP_CRITERIA`; empty where the directory does not deduplicate.

    Returns:
        32 hexadecimal digits (a hash, since an index refuses values of some thousand bytes), or
        None when a value is missing: the directory cannot tell such a registrant from others.
    """
    values = {
        name: _normalised(ref if name == "ref" else getattr(details, name))
        for name in DEDUP_CRITERIA
        if name in criteria
    }
    if not all(values.values()):
        return None
    identity = msgspec.json.encode(values or {"registrant": ref})
    return hashlib.blake2b(identity, digest_size=16, person=b"milepost-contact").hexdigest()


def _normalised(value: str | None) -> str:
    return unicodedata.normalize("NFC", value or "").strip().casefold()


def sample_point(event_id: str) -> float:
    """Where an event stands in [0, 100): it is in a sample of p per cent when below p.

    It depends on the `event_id` alone, so every retry meets the same decision.
    """
    digest = hashlib.blake2b(event_id.encode(), digest_size=6, person=b"milepost-sample").digest()
    return int.from_bytes(digest) * 100 / 2**48


SOONEST_SECONDS: Final = 1.0
LATEST_SECONDS: Final = 600.0


def pause_after(age: float) -> float:
    """How long to wait before what did not succeed is tried again, in seconds.

    A quarter of its age: a short break is over soon for what is young, and what has failed for days
    costs a call every ten minutes.
    """
    return min(max(age / 4, SOONEST_SECONDS), LATEST_SECONDS)


def check_definition(definition: MilestoneDefinition) -> None:
    """See whether a milestone can work as it is defined.

    Raises:
        InvalidMilestone: with the field that stands in the way, and what to write instead.
    """
    if len(set(definition.lanes)) < len(definition.lanes):
        raise InvalidMilestone("A lane is named twice.", fix="Name it once.", field="lanes")
    if definition.lanes[-1] not in {Lane.DEFERRED, Lane.QUEUED}:
        raise InvalidMilestone(
            "The last lane must be one that always answers.",
            fix='End the list with "deferred" or "queued".',
            field="lanes",
        )
    if definition.max_slots < definition.slots:
        raise InvalidMilestone(
            f"max_slots is {definition.max_slots}, but the pool starts with {definition.slots}.",
            fix="Raise max_slots or lower slots.",
            field="max_slots",
        )
    if definition.min_link_days >= definition.link_days:
        raise InvalidMilestone(
            f"No link could live for {definition.min_link_days} days in a distribution of "
            f"{definition.link_days}.",
            fix="Raise link_days or lower min_link_days.",
            field="min_link_days",
        )
    names = [field.name for field in definition.fields]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidMilestone(
            f"Field {twice!r} is declared twice.", fix="Declare it once.", field="fields"
        )
    if reserved := next((name for name in names if name.lower() == "milepost_ref"), None):
        raise InvalidMilestone(
            f"Field {reserved!r} is written by Milepost itself.",
            fix="Choose another name.",
            field="fields",
        )
    if definition.membership == "ahead":
        _check_ahead(definition)
    if definition.reminders is not None:
        _check_reminders(definition.reminders, definition.link_days)


def _check_reminders(reminders: Reminders, link_days: int) -> None:
    """See whether a reminder can be sent at all."""
    if reminders.after_days >= link_days:
        raise InvalidMilestone(
            f"No link lives for {reminders.after_days} days in a distribution of {link_days}.",
            fix="Lower after_days or raise link_days.",
            field="reminders.after_days",
        )
    hours = reminders.quiet_hours
    if hours is not None and hours.from_ == hours.to:
        raise InvalidMilestone(
            "The quiet hours begin when they end.",
            fix="Let them end at another time, or leave quiet_hours out.",
            field="reminders.quiet_hours",
        )
    try:
        ZoneInfo(reminders.time_zone)
    except (ValueError, OSError, LookupError) as error:
        raise InvalidMilestone(
            f"There is no time zone {reminders.time_zone!r}.",
            fix='Name one such as "Europe/Vienna".',
            field="reminders.time_zone",
        ) from error


def is_quiet(reminders: Reminders, now: datetime) -> bool:
    """Whether nobody is to be reminded at this moment, by the clock of the milestone's zone."""
    hours = reminders.quiet_hours
    if hours is None:
        return False
    shown = now.astimezone(ZoneInfo(reminders.time_zone)).strftime("%H:%M")
    if hours.from_ < hours.to:
        return hours.from_ <= shown < hours.to
    return shown >= hours.from_ or shown < hours.to


def _check_ahead(definition: MilestoneDefinition) -> None:
    """See whether a milestone can work whose registrants are in a list ahead of events."""
    if definition.route is not Route.LIST:
        raise InvalidMilestone(
            f"Registrants join a list ahead of events, and route {definition.route.value!r} has "
            "none for them.",
            fix='Use membership "event", or route "list".',
            field="membership",
        )
    if Lane.READY not in definition.lanes:
        raise InvalidMilestone(
            "Registrants would be put into a list ahead of events, and no link would come of it.",
            fix='Name "ready" among the lanes, or use membership "event".',
            field="lanes",
        )
    if definition.fields and not definition.late_data:
        raise InvalidMilestone(
            "With membership ahead the survey sees the fields only after the link is out.",
            fix='Say "late_data": true if that will do, or use membership "event".',
            field="late_data",
        )


_NEEDS: Final[Mapping[Route, Mapping[Fact, str]]] = {
    Route.LIST: {
        Fact.PROBE_ONLY_DISTRIBUTION: "The account makes no distribution on a list that holds only "
        "our probe, so no pool can be made ahead of events.",
        Fact.ONE_CONTACT: "The directory does not merge contacts, although it names criteria: each "
        "link would make another contact of the same person.",
    },
    Route.TRANSACTION: {
        Fact.TRANSACTION_BATCH: "The account makes no distribution on a batch of transactions, or "
        "none in which a transaction that came later has a link that opens.",
    },
    Route.STEPWISE: {},
    Route.ANONYMOUS: {
        Fact.PROBE_ONLY_DISTRIBUTION: "The account makes no distribution on a list that holds only "
        "our probe, which is where the host of the survey's links is learnt.",
    },
}
"""What has to be so for a milestone to be registered with a route, and why it is refused if not."""

_MENDS: Final[Mapping[Fact, str]] = {
    Fact.PROBE_ONLY_DISTRIBUTION: "have the platform's support allow it, then probe again",
    Fact.ONE_CONTACT: "have merging switched on at the platform, then probe again",
    Fact.TRANSACTION_BATCH: "have the platform's support allow it, then probe again",
}

_WITH_CONTACT: Final = (Route.LIST, Route.TRANSACTION, Route.STEPWISE)
"""Routes that may stand in for another, the quickest first. A link without a contact is something
else: nobody is to come to it for lack of another."""

RESTS_ON: Final[Mapping[Route, tuple[Fact, ...]]] = {
    Route.LIST: (
        Fact.PROBE_ONLY_DISTRIBUTION,
        Fact.LATE_LINK,
        Fact.ONE_CONTACT,
        Fact.SAME_LOOKUP,
        Fact.PROMPT_SEARCH,
        Fact.PRIVATE_DATA,
        Fact.COMPLETE_LINKS,
    ),
    Route.TRANSACTION: (
        Fact.TRANSACTION_BATCH,
        Fact.TRANSACTIONS_PER_CALL,
        Fact.COMPLETE_LINKS,
    ),
    Route.STEPWISE: (Fact.TRANSACTION_BATCH, Fact.COMPLETE_LINKS),
    Route.ANONYMOUS: (Fact.PROBE_ONLY_DISTRIBUTION, Fact.COMPLETE_LINKS),
}
"""What each route is quick and right by."""

_PROBE: Final = "Run: milepost doctor --probe"

_BY_AN_ANSWER: Final = {Fact.LATE_LINK, Fact.HISTORY_LINKS, Fact.PRIVATE_DATA, Fact.URL_WINS}
"""What a probe finds out only where somebody answers its survey."""


def probing(untried: Collection[Fact], *, survey: str = "") -> str:
    """What is to be done about facts that were never tried.

    Args:
        untried: the facts.
        survey: the option that names one, where none is known.
    """
    if _BY_AN_ANSWER.issuperset(untried):
        return f"{_PROBE}{survey}, without --wait 0, and answer the survey that it shows."
    return f"{_PROBE}{survey}"


def check_account(
    definition: MilestoneDefinition,
    account: Capabilities,
    earlier: MilestoneDefinition | None = None,
) -> None:
    """See whether the account allows what a milestone is to do.

    Args:
        definition: of the milestone.
        account: what has been proved of it; what was never tried is allowed.
        earlier: what the milestone was until now. On the same route with the same survey it goes on
            as well as it can.

    Raises:
        InvalidMilestone: with the reason, and with what the account does allow.
    """
    known = earlier is not None and (definition.route, definition.survey_id) == (
        earlier.route,
        earlier.survey_id,
    )
    for fact, reason in _NEEDS[definition.route].items():
        if not known and not account.holds(fact):
            mend = _MENDS[fact]
            instead = " or ".join(
                f'"{route}"'
                for route in _WITH_CONTACT
                if all(account.holds(need) for need in _NEEDS[route])
            )
            raise InvalidMilestone(reason, fix=f"Use route {instead}, or {mend}.", field="route")
    if definition.membership == "ahead" and not account.holds(Fact.LATE_LINK):
        raise InvalidMilestone(
            "On this account a link opens only after the platform has listed it, so it cannot be "
            "known ahead of the event.",
            fix='Use membership "event".',
            field="membership",
        )
    longest = account.get(Fact.LONGEST_EXPIRY)
    unchanged = known and earlier is not None and definition.link_days == earlier.link_days
    if (
        longest
        and longest.figure is not None
        and definition.link_days > longest.figure
        and not unchanged
    ):
        raise InvalidMilestone(
            f"The account takes no distribution that lives longer than {longest.figure} days.",
            fix=f"Lower link_days to {longest.figure} or less.",
            field="link_days",
        )


_NO_POOL: Final = Caution(
    code="pool-not-ahead",
    detail="The account makes no distribution on a list that holds only our probe: no slot is "
    "added to the pool.",
    fix=f"Have the platform's support allow it, then probe again. {_PROBE}",
)
_LISTED_LATE: Final = Caution(
    code="links-listed-late",
    detail="The platform lists links late: a pool may take up to 72 hours until it is ready.",
    fix="Register the milestone three days before its first event.",
)

_CAUTIONS: Final[Mapping[Route, Mapping[Fact, Caution]]] = {
    Route.LIST: {
        Fact.PROBE_ONLY_DISTRIBUTION: _NO_POOL,
        Fact.ONE_CONTACT: Caution(
            code="contacts-not-merged",
            detail="The directory does not merge contacts: each link makes another contact of the "
            "same person, and an unknown outcome takes a minute to resolve.",
            fix=f"Have merging switched on at the platform, then probe again. {_PROBE}",
        ),
        Fact.LATE_LINK: Caution(
            code="links-listed",
            detail="A link opens only after the platform has listed it: each takes one call more "
            "for every 100 people in its list, and listing counts towards their contact frequency.",
            fix="Keep lists short: raise slots.",
        ),
        Fact.PRIVATE_DATA: Caution(
            code="data-not-in-survey",
            detail="The survey does not see data that are private to a list, so none are sent: "
            "responses are joined with events by the ledger alone.",
            fix="Join responses with events by the ledger, or use a route whose data are a "
            "transaction's, where the account takes those.",
        ),
        Fact.COMPLETE_LINKS: _LISTED_LATE,
    },
    Route.TRANSACTION: {
        Fact.TRANSACTION_BATCH: Caution(
            code="batches-refused",
            detail="The account makes no distribution on a batch of transactions: the pool gets no "
            "further one.",
            fix=f"Have the platform's support allow it, then probe again. {_PROBE}",
        ),
        Fact.TRANSACTIONS_PER_CALL: Caution(
            code="transactions-one-by-one",
            detail="The account makes one transaction by a call: each link takes two calls.",
            fix=f"Have the platform's support raise it, then probe again. {_PROBE}",
        ),
        Fact.COMPLETE_LINKS: _LISTED_LATE,
    },
    Route.STEPWISE: {
        Fact.TRANSACTION_BATCH: Caution(
            code="one-link-at-a-time",
            detail="The account takes no distribution of a transaction batch, so the data of a "
            "link stand in the home list, which has room for those of one: a person holds one live "
            "link of this route at a time, over all milestones, and further events wait for its "
            "end.",
            fix='Use route "list" where the account allows it, or lower link_days.',
        ),
        Fact.COMPLETE_LINKS: Caution(
            code="links-listed-late",
            detail="The platform lists links late: each one may be had only up to 72 hours after "
            "its event.",
            fix="Let the app send the short link, which leads to the personal one when it is "
            "there.",
        ),
    },
    Route.ANONYMOUS: {
        Fact.PROBE_ONLY_DISTRIBUTION: _NO_POOL,
        Fact.COMPLETE_LINKS: _LISTED_LATE,
    },
}
"""What an admin is told where a fact does not hold, by the route that it concerns."""


def cautions(definition: MilestoneDefinition, account: Capabilities) -> list[Caution]:
    """What an admin should know of a milestone on this account, although it works."""
    route = definition.route
    found = [caution for fact, caution in _CAUTIONS[route].items() if not account.holds(fact)]
    if route is Route.STEPWISE and not account.holds(Fact.TRANSACTION_BATCH):
        # Then, and only then, its data are a list's.
        unseen = _CAUTIONS[Route.LIST][Fact.PRIVATE_DATA]
        found += [] if account.holds(Fact.PRIVATE_DATA) else [unseen]
    if route is Route.ANONYMOUS and definition.fields:
        found.append(
            Caution(
                code="fields-in-ledger-alone",
                detail="An anonymous link carries a reference and nothing else: the survey does "
                "not see the fields, and responses are joined with them by milepost_ref.",
                fix="Use a route with a contact if the survey is to show or branch on them.",
            )
        )
    longest = account.get(Fact.LONGEST_EXPIRY)
    if longest and longest.figure is not None and definition.link_days > longest.figure:
        found.append(
            Caution(
                code="expiry-refused",
                detail=f"The account takes no distribution that lives {definition.link_days} days: "
                "none is made.",
                fix=f"Lower link_days to {longest.figure} or less.",
            )
        )
    untried = [fact for fact in RESTS_ON[route] if account.get(fact) is None]
    if untried:
        found.append(
            Caution(
                code="not-probed",
                detail="What the route rests on was not tried on this account: "
                f"{', '.join(untried)}.",
                fix=probing(untried),
            )
        )
    return found


# --- pools ----------------------------------------------------------------------------------------

RECENT_DAYS: Final = 7
"""How far back a person's pace is taken from: a week has each of its days once."""

AHEAD: Final = timedelta(days=1)
"""How far ahead a pool grows. Making slots takes a minute; the day is for an outage in between."""

LISTED_LATE: Final = timedelta(hours=72)
"""How long lists of links have been seen to lag (more than 48 h were observed)."""

LONGEST_LEAD: Final = LISTED_LATE
"""How long before a distribution takes no more links its successor is begun, at the most."""

GIVEN_UP_AFTER: Final = 3
"""A slot so many of whose first distributions were stopped counts as not there: the pool gets
another one in its place. Each may be stopped for a reason of its own, but hardly three in a row."""

REPLENISH_SECONDS: Final = 15
"""How often it is looked whether a pool lacks anything: see `BATCH_LINKS`."""

BATCH_LINKS: Final = 10_000
"""Transactions in a batch, until another one is made: an add whose outcome is unknown is looked for
in the whole batch, 100 to a call, in the 18 s that a claim has for it, which are 12,000 at 150 ms.
What comes until the next look is counted in, as many as came since the last: at 30,000 events a
minute 7,500, so that each look makes a batch, and they hold some 8,500. One that such a peak meets
when it is nearly full holds up to 18,500."""

FIRST_PAUSE: Final = timedelta(seconds=5)
LONGEST_PAUSE: Final = timedelta(minutes=2)
"""After an error a distribution is left alone, so that a run ends instead of insisting; each time
for twice as long, so that what can never be made costs few calls."""

MADE_WITHIN: Final = timedelta(hours=1)
"""A pool that can give no link by then since it was planned is said to be low. The first slot takes
a minute, and that the platform is away for a while is not for each milestone to tell."""

FIRST_REST: Final = timedelta(hours=1)
LONGEST_REST: Final = timedelta(days=1)
"""The same, after one was stopped because its links are not trusted: the platform has changed its
mind, or a person has, and neither does so in minutes."""


def pool_size(definition: MilestoneDefinition) -> tuple[int, int]:
    """How many slots a milestone's pool starts with, and may come to have at a time.

    Those of route `transaction` follow each other, and route `stepwise` makes nothing ahead.
    """
    match definition.route:
        case Route.LIST:
            return definition.slots, definition.max_slots
        case Route.TRANSACTION | Route.ANONYMOUS:
            return 1, 1
        case Route.STEPWISE:
            return 0, 0


def slots_needed(demand: Demand, ahead: timedelta) -> int:
    """How many slots a person's next event and those after it need, until `ahead` is over.

    One more than the links that they have alive by then, at the pace of the last days and if none
    of them ends before.
    """
    coming = demand.recent / RECENT_DAYS * (ahead / timedelta(days=1))
    return math.floor(demand.held + coming) + 1


def highest(pool: PoolStanding) -> SlotStanding | None:
    """The highest slot that counts; None: there is none."""
    return max(
        (slot for slot in pool.slots if not is_given_up(slot)),
        key=lambda slot: slot.number,
        default=None,
    )


def is_given_up(slot: SlotStanding) -> bool:
    """Whether a slot counts as not there, because its links are never trusted."""
    return not slot.was_ready and slot.stops >= GIVEN_UP_AFTER


def slots_wanted(
    pool: PoolStanding, people: Sequence[Demand], making: timedelta, *, is_full: bool
) -> int:
    """How many slots a pool is to have.

    As many as it starts with; as many as anybody needs until a slot that is begun now, and a day,
    are over; and one more than there are when somebody is in the highest. But while the highest
    takes no links, none is added: a platform whose links are not trusted would be given one list
    after the other.

    Args:
        pool: what is there.
        people: who are likely to need most.
        making: how long making a slot takes.
        is_full: somebody has a live link in the highest slot that counts, or waits for a place.

    Returns:
        Not less than there are: a pool never shrinks.
    """
    counted = [slot for slot in pool.slots if not is_given_up(slot)]
    needed = pool.least
    top = highest(pool)
    if top is not None and top.ready_at is not None:
        needed = max(needed, *(slots_needed(one, AHEAD + making) for one in people), 0)
        if is_full:
            needed = max(needed, len(counted) + 1)
    wanted = needed + len(pool.slots) - len(counted)
    return max(len(pool.slots), min(wanted, pool.most))


def rotation_lead(link_days: int, min_link_days: int, *, listed_late: bool) -> timedelta:
    """How long before a distribution takes no more links its successor is begun.

    Three days, in which lists of links that lag have come, and a quarter of the time for which it
    takes links where that is less. Where they are known to lag, three days all the same; but
    successors are begun a day apart at the least.
    """
    takes = timedelta(days=link_days - min_link_days)
    lead = min(LONGEST_LEAD, takes / 4)
    return max(lead, min(LISTED_LATE, takes - timedelta(days=1))) if listed_late else lead


def needs_successor(slot: SlotStanding, now: datetime, lead: timedelta) -> bool:
    """Whether another distribution is to be made on a slot's list.

    Args:
        slot: how it stands.
        now: the moment.
        lead: how long one that takes links must go on doing so.
    """
    if slot.is_making or (slot.takes_until is not None and slot.takes_until > now + lead):
        return False
    if slot.stops == 0 or slot.stopped_at is None:
        return True
    return slot.stopped_at + min(FIRST_REST * (1 << min(slot.stops - 1, 10)), LONGEST_REST) <= now


def batches_wanted(pool: PoolStanding, lead: timedelta) -> int:
    """How many transaction batches a pool is to have had; the newest takes all links.

    Another one is made when its distribution soon takes no more, when it will hold `BATCH_LINKS`
    before it is looked at again, and when the platform did not know it or took no more.
    """
    newest = pool.slots[-1] if pool.slots else None
    if newest is None:
        return 1
    is_filled = newest.takes_until is not None and newest.links + newest.lately >= BATCH_LINKS
    wants = needs_successor(newest, pool.now, lead) or (
        (is_filled or newest.was_missed) and not newest.is_making
    )
    return newest.number + wants


_MADE_BY: Final[Mapping[Route, Fact]] = {
    Route.LIST: Fact.PROBE_ONLY_DISTRIBUTION,
    Route.ANONYMOUS: Fact.PROBE_ONLY_DISTRIBUTION,
    Route.TRANSACTION: Fact.TRANSACTION_BATCH,
}
"""What has to be so for the pool of a route to be made; route `stepwise` has none."""


def routes_made_ahead(account: Capabilities) -> frozenset[Route]:
    """The routes whose pools the account lets us make ahead of events."""
    return frozenset(route for route, fact in _MADE_BY.items() if account.holds(fact))


def making_pause(attempt: int) -> timedelta:
    """How long a distribution is left alone after an attempt that failed; the first is 1."""
    return min(FIRST_PAUSE * (1 << min(attempt - 1, 10)), LONGEST_PAUSE)


def headroom_days(pool: PoolStanding, people: Sequence[Demand]) -> float | None:
    """For how many days a pool can go on giving links, at the present pace and left to itself.

    That is until a slot has no distribution that takes links, if none were rotated; or until the
    busiest person has a live link in each of the `max_slots`, if none of theirs ended; whichever
    is sooner. Only under route `list` do people take up places. A slot that is in the making for
    the first time does not count, unless there is no other. None: there is no pool.
    """
    if not pool.slots:
        return None
    day = timedelta(days=1)
    counted = [slot for slot in pool.slots if slot.was_ready] or pool.slots[:1]
    left = [((slot.takes_until or pool.now) - pool.now) / day for slot in counted]
    if pool.route is Route.LIST:
        left += [(pool.most - one.held) * RECENT_DAYS / one.recent for one in people if one.recent]
    return max(0.0, round(min(left), 2))


def is_low(pool: PoolStanding, headroom: float | None) -> bool:
    """Whether a pool will soon give no more links although it is tended.

    A successor is begun by half of the remaining time at the latest: where more than that has
    passed, making it goes wrong, or people take places faster than the pool can grow. One that has
    never given a link is low where making it takes longer than `MADE_WITHIN`.

    Args:
        pool: how it stands.
        headroom: as `headroom_days`.
    """
    if headroom is None:
        return False
    if not any(slot.was_ready for slot in pool.slots):
        return pool.now - min(slot.planned_at for slot in pool.slots) > MADE_WITHIN
    lead = rotation_lead(pool.link_days, pool.min_link_days, listed_late=False)
    return headroom < lead / 2 / timedelta(days=1)


# --- webhooks -------------------------------------------------------------------------------------

ATTEMPTS_AFTER: Final = tuple(
    timedelta(seconds=seconds) for seconds in (5, 300, 1_800, 7_200, 18_000, 36_000, 36_000)
)
"""After an attempt to deliver a message that failed the next one follows so much later: a hiccup is
over in 5 s, a deployment in minutes, and who is away for a night gets it within a day. Then it is
parked."""

MOST_JITTER: Final = 0.1
"""By which share of the pause an attempt may be later, so that what failed together does not come
back together."""


def next_attempt(
    tries: int, chance: float, schedule: Sequence[timedelta] = ATTEMPTS_AFTER
) -> timedelta | None:
    """How long after a failed attempt the next one is due; None: there is none any more.

    Args:
        tries: attempts so far, from 1 on.
        chance: in [0, 1), by the dice of the caller.
        schedule: the pauses.
    """
    if tries > len(schedule):
        return None
    return schedule[tries - 1] * (1 + MOST_JITTER * chance)
