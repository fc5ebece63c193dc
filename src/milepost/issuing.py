"""The path of an event, from what the app sent to the link that its customer gets.

::

    issue ─▶ claim ─▶ make ─▶ settle ─▶ answer
            (tx 1)   (no tx)  (tx 2)

`claim` writes the event down with its decision before any call goes out; `make` is the route's
call; `settle` writes the outcome, fenced by the claim's attempt number. A request that finds an
unfinished link goes in by the same door, and so do the jobs and a customer who opens a short URL
(`take_up`, `click`). No transaction and no connection is held while a call is out.

Where the registrant's place in the list is known beforehand, the claim is all there is: it writes
the personal URL, and the answer holds it (lane `ready`). The call follows, with the event's data:
job `drain` has it made (`tell`).

Any other link needs a call, and a call a permit of the budget. An event that gets none is deferred
by its claim, which is then all there is: one write, and the answer holds the short URL. A link
whose call is still out when the caller's deadline comes near is handed over the same way, and the
call goes on by itself: what it brings is found behind the short URL, or by the next request.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from milepost import failpoints, payload
from milepost.budget import Budget, Denied, Permit, spending
from milepost.errors import (
    DatabaseBusy,
    InvalidData,
    MilepostError,
    Recovering,
    UnknownMilestone,
    UnknownRegistrant,
)
from milepost.model import (
    Claim,
    Event,
    Lane,
    LateData,
    Link,
    LinkState,
    MilestoneDefinition,
    Purpose,
    Route,
)
from milepost.personal_link import MalformedId, NotAPersonalLink
from milepost.policy import pause_after
from milepost.routes import (
    ListMissing,
    Made,
    Maker,
    NothingThere,
    StillUnknown,
    Teller,
    Unready,
    Untrusted,
)
from milepost.store import Store
from milepost.store.connections import persistently
from milepost.store.links import LEASE_SECONDS, Asked, LookupTaken, Opened, Settlement, Telling
from milepost.store.remembering import Remembered
from milepost.upstream import (
    BudgetSpent,
    Forbidden,
    NotFound,
    Refused,
    Throttled,
    Unauthorized,
    UnknownOutcome,
    counting,
)

log = logging.getLogger(__name__)

FIRST_POLL_SECONDS: Final = 0.05
LONGEST_POLL_SECONDS: Final = 0.4
"""How often a request looks again for a link that another process has claimed. Postgres could tell
(NOTIFY), but it would serialise every commit of the path for the sake of a rare wait."""

PAUSE_SECONDS: Final = 1.0
"""After a refusal or a failure that may pass, nobody tries the link again for this long."""

PAUSE_AFTER_LOOK_SECONDS: Final = 20.0
"""Between looks for a contact that a search may find late: three of them take a minute."""

PAUSE_UNTIL_MENDED_SECONDS: Final = 30.0
"""Where a person must mend something (a token, a list), trying sooner is a storm."""

LONGEST_PAUSE_SECONDS: Final = 60.0
"""However long upstream asks for: its limits are by the minute (documented), and a mistaken answer
must not put a link to sleep for days."""

BEGIN_SECONDS: Final = 8.0
"""From the claim on; later than that no call begins that changes something. It takes 10 s at the
most, so it has ended when the lease of 20 s lets somebody else take the link up, who would not see
what it does."""

HAND_OVER_SECONDS: Final = 0.3
"""Before its caller's deadline, or half the time that it gave where that is less, a link without a
URL is handed over: the write and the answer take their time too, most of all when many are late."""

NO_LANE: Final = "no-lane"
"""Why no call is made for a milestone that wants none at the time of the event."""

DIRECT_AT_ONCE: Final = 128
"""Calls of this process that are under way for events of a route, from their grant to their
settlement, each with as many events as it carries. The client has 100 calls out at a time; whoever
came after these would wait for them, often in vain, so they get their short link at once."""

GRANT_SECONDS: Final = 0.3
"""How long an event waits at least to hear whether there is budget for its call. Usually the
process knows; otherwise it takes a round trip to Postgres."""

GRANT_SHARE: Final = 0.25
"""Of the time that is left, which an event with a longer deadline waits to hear it."""

NOTE_SECONDS: Final = 0.05
"""After the settlement a registrant's contact is written down: begun at once, it would hold up the
answer (by a sixth of its time, measured), and so several are written together."""

CALLS_UNDER_WAY: Final = "calls-under-way"
"""Why no call is made while so many are."""


_PERSONAL: Final = frozenset({Lane.READY, Lane.DIRECT})
"""Lanes by which a personal URL is had at the time of the event."""


class Answer(Struct, frozen=True, kw_only=True):
    """What the caller gets for an event."""

    link: Link
    is_new: bool
    """This request wrote the event down; otherwise it was seen before."""


class Issuing:
    """Turns events into links. One for each process; safe to share between tasks.

    Args:
        store: the ledger.
        makers: of the routes whose links take calls.
        teller: tells data that follow a link.
        budget: permits calls.
        recovering: says whether the ledger still lacks what was made since its backup; as long as
            it does, only what stands in it is answered.
    """

    def __init__(
        self,
        store: Store,
        makers: Mapping[Route, Maker],
        teller: Teller,
        budget: Budget,
        *,
        recovering: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._makers = makers
        self._teller = teller
        self._budget = budget
        self._recovering = recovering
        # A looser definition is in force at once, since it is asked for again before an event is
        # refused; a stricter one when the last is forgotten.
        self._definitions = Remembered(self._read_definition)
        self._under_way: dict[UUID, asyncio.Task[Link | None]] = {}
        self._others: set[asyncio.Task[object]] = set()
        self._direct = Counter[Route]()

    async def issue(self, event: Event, *, deadline_ms: int | None = None) -> Answer:
        """Give an event its link, as far as that can be done inside the deadline.

        Args:
            event: what happened; a second call with the same event is answered as the first was.
            deadline_ms: milliseconds until the caller needs an answer; None: the milestone's own.

        Raises:
            Refusal: the event is not taken, and says which field is wrong.
            DatabaseBusy: nothing was promised; `Recovering` among them.
        """
        arrived = asyncio.get_running_loop().time()
        if self._recovering():
            await self._see_that_it_is_told(event)
        definition = await self._admit(event)
        seconds = (deadline_ms or definition.deadline_ms) / 1000
        hand_over_at = arrived + seconds - min(HAND_OVER_SECONDS, seconds / 2)
        is_new = False
        pause = FIRST_POLL_SECONDS
        while True:
            asked = await self._ask(event, definition, hand_over_at)
            is_new = is_new or asked.is_first
            link = asked.link
            call = self._under_way.get(link.id)
            if call is not None and link.url is None:
                link = await _within(call, hand_over_at) or link
            if link.url is not None or not link.unsettled:
                break
            left = hand_over_at - asyncio.get_running_loop().time()
            if left <= pause or not _may_settle_within(left, link, asked):
                # One that was queued before may be given a short URL by now.
                if link.lane is None or Lane.DEFERRED in definition.lanes:
                    link = await self._store.links.hand_over(link.id)
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL_SECONDS)
        failpoints.reach("settled", event.event_id)
        return Answer(link=link, is_new=is_new)

    async def issue_all(
        self, events: Sequence[Event], *, deadline_ms: int | None = None
    ) -> list[Answer | Exception]:
        """Give many events their links; one outcome for each, in order.

        Args:
            events: what happened; the same event may stand among them twice.
            deadline_ms: milliseconds until the caller needs an answer; None: each milestone's own.

        Returns:
            Where an event is not taken, or the database was away: the error that `issue` raises. A
            mistake of ours is the answer of the event that met it, and not of the others.
        """
        outcomes = await asyncio.gather(
            *(self.issue(event, deadline_ms=deadline_ms) for event in events),
            return_exceptions=True,
        )
        answers: list[Answer | Exception] = []
        for outcome in outcomes:
            if not isinstance(outcome, Answer | Exception):
                raise outcome
            answers.append(outcome)
        return answers

    @property
    def makers(self) -> Mapping[Route, Maker]:
        """Of the routes whose links take calls."""
        return self._makers

    async def permit(
        self, route: Route, purpose: Purpose, *, patience: float = 0.0, within: float = 1.0
    ) -> Permit | Denied:
        """The right to make one link of a route now; see `Budget.admit`."""
        maker = self._makers.get(route)
        call_class, carries = (maker.call_class, maker.carries) if maker else (None, 1)
        return await self._budget.admit(
            call_class, purpose, carries, patience=patience, within=within
        )

    async def take_up(self, event: Event, permit: Permit) -> Link:
        """Try an unsettled link again, as a job or a click does; returns it as it is then.

        Args:
            event: of the link.
            permit: for the first call; given back when none is made.

        Raises:
            DatabaseBusy: nothing was done.
        """
        if self._recovering():
            permit.give_back()
            raise Recovering
        claimed_at = asyncio.get_running_loop().time()
        try:
            asked = await self._store.links.claim(event, purpose=permit.purpose)
        except BaseException:
            permit.give_back()
            raise
        if asked.claim is None:
            permit.give_back()
            return asked.link
        call = self._start(asked.claim, permit, claimed_at + BEGIN_SECONDS)
        await asyncio.wait({call})
        return (_result(call)) or asked.link

    async def tell(self, late: LateData, permit: Permit, *, claimed_at: float) -> Telling:
        """Tell the platform the data of a link that is out, or see when to try it again.

        A call that was lost is made again without asking what became of it: the same data once more
        change nothing, and no other link's are in their place, since none of that person's is given
        out in the same list before these are told.

        Args:
            late: what to tell.
            permit: for the call; given back when none is made.
            claimed_at: the moment of the event loop's clock before it was claimed.

        Raises:
            DatabaseBusy: what came of it is not written down.
        """
        begin_by = claimed_at + BEGIN_SECONDS
        failpoints.reach("claimed", late.event_id)
        with counting() as calls, spending(permit):
            try:
                is_told = await self._teller.tell(late, begin_by=begin_by)
            except MilepostError as error:
                log.warning("data of link %s: %s", late.link_id, error)
                if isinstance(error, ListMissing):
                    await self._rest(late.slot_id, error)
                telling = _untold(late, error, calls.count)
            else:
                telling = Telling(
                    id=late.link_id,
                    attempt=late.attempt,
                    is_told=is_told,
                    rule=None if is_told else "data-unseen",
                    calls=calls.count,
                )
        failpoints.reach("made", late.event_id)
        await persistently(lambda: self._store.links.settle_late_data(telling), LEASE_SECONDS)
        return telling

    async def click(self, token: str, *, wait: float = 2.0) -> Opened:
        """Open a short URL for a person who waits in front of it.

        Its link, where there is none yet, is made before any other. The click is noted.

        Args:
            token: of the short URL.
            wait: seconds that the person is left without an answer; what is under way goes on.

        Raises:
            UnknownLink: there is no such token.
            DatabaseBusy: nothing was noted.
        """
        until = asyncio.get_running_loop().time() + wait
        opened = await self._store.links.click(token)
        pause = FIRST_POLL_SECONDS
        while opened.url is None and opened.gone is None and not self._recovering():
            left = until - asyncio.get_running_loop().time()
            permit = await self.permit(opened.route, Purpose.CLICK)
            if isinstance(permit, Permit) and left > 0:
                making = self._behind(self.take_up(opened.event, permit))
                await asyncio.wait({making}, timeout=left)
                if making.done() and (error := making.exception()):
                    raise error
                opened = await self._store.links.look(token)
                left = until - asyncio.get_running_loop().time()
                if opened.url is not None or opened.gone is not None:
                    break
            elif isinstance(permit, Permit):
                permit.give_back()
            if left <= pause:
                break
            # Somebody else is at it, or upstream asked for a pause.
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL_SECONDS)
        return opened

    async def finish(self) -> None:
        """Wait until the calls that are out have settled; for the end of a process."""
        while out := {*self._under_way.values(), *self._others}:
            await asyncio.wait(out)

    async def _see_that_it_is_told(self, event: Event) -> None:
        """See that the ledger knows what the event's caller was given: nothing else is done now.

        Raises:
            Recovering: it does not.
        """
        link = await self._store.links.find(event_id=event.event_id)
        if link is None or (link.unsettled and link.url is None):
            raise Recovering

    async def _admit(self, event: Event) -> MilestoneDefinition:
        """Hold an event against its milestone and return the milestone's definition.

        An event that was seen before passes, whatever became of its milestone since: the ledger
        tells whether it is the same event.
        """
        try:
            definition = await self._definitions.get(event.milestone)
        except UnknownMilestone:
            if await self._store.links.find(event_id=event.event_id) is not None:
                await self._store.links.claim(event, without=NO_LANE)  # raises: another milestone's
            raise
        try:
            payload.check(event.data, definition.fields)
        except InvalidData:
            self._definitions.forget(event.milestone)
            definition = await self._definitions.get(event.milestone)
            try:
                payload.check(event.data, definition.fields)
            except InvalidData:
                if await self._store.links.find(event_id=event.event_id) is None:
                    raise
        return definition

    async def _read_definition(self, milestone: str) -> MilestoneDefinition:
        return (await self._store.milestones.get(milestone)).definition

    async def _ask(
        self, event: Event, definition: MilestoneDefinition, hand_over_at: float
    ) -> Asked:
        """Claim an event with as much of the budget as there is; begin the call if it is ours."""
        failpoints.reach("arrived", event.event_id)
        maker = self._makers.get(definition.route)
        if maker is None or Lane.DIRECT not in definition.lanes:
            return await self._claim(event, NO_LANE)
        if _may_be_ready(definition) and (asked := await self._decide(event)):
            return asked
        left = hand_over_at - asyncio.get_running_loop().time()
        patience = max(GRANT_SECONDS, GRANT_SHARE * left)
        granted = await self.permit(
            definition.route, Purpose.DIRECT, within=min(max(left, 0.0), patience)
        )
        if isinstance(granted, Denied):
            return await self._claim(event, granted.rule)
        if self._direct[definition.route] >= DIRECT_AT_ONCE * maker.carries:
            granted.give_back()
            return await self._claim(event, CALLS_UNDER_WAY)
        return await self._ask_and_call(event, definition.route, granted)

    async def _ask_and_call(self, event: Event, route: Route, permit: Permit) -> Asked:
        claimed_at = asyncio.get_running_loop().time()
        call: asyncio.Task[Link | None] | None = None
        self._direct[route] += 1
        try:
            asked = await self._claim(event, None)
            if asked.claim is not None:
                call = self._start(asked.claim, permit, claimed_at + BEGIN_SECONDS)
                call.add_done_callback(lambda _: self._not_direct(route))
            return asked
        finally:
            if call is None:
                permit.give_back()
                self._not_direct(route)

    def _not_direct(self, route: Route) -> None:
        self._direct[route] -= 1

    async def _decide(self, event: Event) -> Asked | None:
        """Have the event decided without a call; None: it takes one, or its registrant first."""
        try:
            asked = await self._store.links.decide(event)
        except UnknownRegistrant:
            if event.details is None:
                raise
            return None
        if asked is not None and event.details is not None and _lacks_registrant(asked.link):
            return None
        return asked

    async def _claim(self, event: Event, without: str | None) -> Asked:
        """Claim; where the registrant is missing and the event brings their details, with them."""
        is_first = False
        try:
            asked = await self._store.links.claim(event, without=without)
        except UnknownRegistrant:
            if event.details is None:
                raise
        else:
            if event.details is None or not _lacks_registrant(asked.link):
                return asked
            is_first = asked.is_first
        await self._store.registrants.introduce(event.ref, event.details)
        asked = await self._store.links.claim(event, without=without)
        return msgspec.structs.replace(asked, is_first=is_first or asked.is_first)

    def _start(self, claim: Claim, permit: Permit, begin_by: float) -> asyncio.Task[Link | None]:
        call = asyncio.create_task(self._make(claim, permit, begin_by))
        self._under_way[claim.link.id] = call
        call.add_done_callback(lambda done: self._ended(claim, done))
        return call

    def _ended(self, claim: Claim, call: asyncio.Task[Link | None]) -> None:
        if self._under_way.get(claim.link.id) is call:
            del self._under_way[claim.link.id]
        if not call.cancelled() and (error := call.exception()):
            # The row is still claimed: whoever comes after the lease asks what became of the call.
            log.error("link %s is left unsettled: %s", claim.link.id, type(error).__name__)

    async def _make(self, claim: Claim, permit: Permit, begin_by: float) -> Link | None:
        failpoints.reach("claimed", claim.link.event_id)
        with counting() as calls, spending(permit):
            try:
                made = await self._makers[claim.route].make(claim, begin_by=begin_by)
            except MilepostError as error:
                log.warning("link %s: %s", claim.link.id, error)
                if claim.place is not None and _takes_nothing(error):
                    await self._rest(claim.place.slot_id, error)
                return await self._settle(_setback(claim, error, calls.count))
        failpoints.reach("made", claim.link.event_id)
        try:
            link = await self._settle(_success(claim, made, calls.count))
        except LookupTaken as error:
            log.error("link %s: %s", claim.link.id, error)  # noqa: TRY400  (a trace shows the URL)
            return await self._settle(_setback(claim, error, calls.count))
        if link is not None and link.lane is not Lane.DIRECT:
            failpoints.reach("answered-late", claim.link.event_id)
        if link is not None and claim.contact_id is None and made.contact_id is not None:
            self._behind(self._note_contact(claim, made.contact_id))
        if claim.place is not None and claim.place.has_rested:
            self._behind(self._store.pools.found(claim.place.slot_id))
        return link

    async def _rest(self, slot_id: int, error: MilepostError) -> None:
        with suppress(DatabaseBusy):  # the next one to meet it tells it again
            await self._store.pools.rest(slot_id, PAUSE_UNTIL_MENDED_SECONDS, str(error))

    def _behind(self, work: Coroutine[None, None, object]) -> asyncio.Task[object]:
        """Do what nobody need wait for; an error is told without its words, which may be data."""
        task = asyncio.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._done_behind)
        return task

    def _done_behind(self, task: asyncio.Task[object]) -> None:
        self._others.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.warning("behind an answer: %s", type(error).__name__)

    async def _note_contact(self, claim: Claim, contact_id: str) -> None:
        await asyncio.sleep(NOTE_SECONDS)
        with suppress(DatabaseBusy):  # the next link of this registrant tells it again
            await self._store.registrants.note_contact(claim.ref, contact_id, claim.contact_key)

    async def _settle(self, settlement: Settlement) -> Link | None:
        """Write an outcome down.

        None: the claim is somebody else's by now, or an earlier try was written after all.
        """
        return await persistently(lambda: self._store.links.settle(settlement), LEASE_SECONDS)


async def _within(call: asyncio.Task[Link | None], deadline: float) -> Link | None:
    """What the call made; None when it is still out at the deadline, and goes on by itself.

    None as well when it broke off: the event is written down, so its answer is that it waits.
    """
    left = max(0.0, deadline - asyncio.get_running_loop().time())
    done, _ = await asyncio.wait({call}, timeout=left)
    return _result(call) if done else None


def _result(call: asyncio.Task[Link | None]) -> Link | None:
    return None if call.cancelled() or call.exception() else call.result()


def _may_be_ready(definition: MilestoneDefinition) -> bool:
    """Whether a link may need no call, and is preferred then: lanes stand in their order."""
    if definition.membership != "ahead":
        return False
    return next(lane for lane in definition.lanes if lane in _PERSONAL) is Lane.READY


def _lacks_registrant(link: Link) -> bool:
    return link.unsettled and link.reason is not None and link.reason.rule == "registrant-unknown"


def _may_settle_within(left: float, link: Link, asked: Asked) -> bool:
    """Whether asking again in the `left` seconds can bring more than it brought now."""
    if asked.claim is not None or link.state is LinkState.CLAIMED:
        return True
    if asked.pause_until is not None:
        return (asked.pause_until - asked.at).total_seconds() < left
    # Whatever else it waits for, a job or a person must bring.
    return link.reason is not None and link.reason.rule == "once"


def _takes_nothing(error: MilepostError) -> bool:
    """Whether it is the place of the link that is gone, or takes no more."""
    return isinstance(error, NotFound) or (isinstance(error, Unready) and error.leaves)


def _success(claim: Claim, made: Made, calls: float) -> Settlement:
    return Settlement(
        id=claim.link.id,
        attempt=claim.attempt,
        state=LinkState.ISSUED,
        route=claim.route,
        lane=Lane.DIRECT,
        lookup_id=made.lookup_id,
        url=made.url,
        expires_at=made.expires_at,
        calls=calls,
    )


def _untold(late: LateData, error: MilepostError, calls: float) -> Telling:
    """When data that were not taken are to be told again; never, where they are refused for good.

    What may have been taken all the same is told again like what was not: see `Issuing.tell`.
    """
    rule, pause = None, pause_after(late.age)
    match error:
        case Throttled(retry_after=seconds):
            pause = min(seconds or PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        case Unauthorized() | Forbidden():
            pause = max(pause, PAUSE_UNTIL_MENDED_SECONDS)
        case ListMissing():
            rule, pause = "list-missing", 0
        case Refused():
            rule, pause = "data-refused", 0
    return Telling(
        id=late.link_id,
        attempt=late.attempt,
        pause=pause,
        rule=rule,
        detail=str(error) if rule else None,
        leaves=rule is not None,
        calls=calls,
    )


def _setback(claim: Claim, error: MilepostError, calls: float) -> Settlement:  # noqa: C901  (a table)
    """What becomes of a claim whose call did not end well.

    The order matters: an unknown outcome is never taken for a refusal. A claim that was in doubt
    stays so until a call has told: a look that could not be made is no answer.
    """
    state, rule, pause, leaves = LinkState.WAITING, "upstream-away", PAUSE_SECONDS, False
    match error:
        case UnknownOutcome():
            state, rule = LinkState.UNKNOWN, "outcome-unknown"
        case StillUnknown():
            state, rule, pause = LinkState.UNKNOWN, "outcome-unknown", PAUSE_AFTER_LOOK_SECONDS
        case Unready(rule=rule, pause=pause, leaves=leaves):
            pass
        case BudgetSpent(rule=rule, retry_after=seconds):
            pause = min(seconds or PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        case Throttled(retry_after=seconds):
            rule, pause = "upstream-busy", min(seconds or PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        case Unauthorized() | Forbidden():
            rule, pause = "upstream-unauthorized", PAUSE_UNTIL_MENDED_SECONDS
        case NotFound():  # of the write: a list that is not there cannot hold the contact
            rule, pause, leaves = "list-missing", 0, True
        case NothingThere():
            rule, pause, leaves = "contact-changed", 0, True
        case Refused():
            state, rule, pause, leaves = LinkState.FAILED, "upstream-refused", 0, True
        case LookupTaken() | MalformedId() | NotAPersonalLink() | Untrusted():
            state, rule, pause, leaves = LinkState.FAILED, "link-untrusted", 0, True
    is_resolved = leaves or (isinstance(error, Unready) and error.is_resolved)
    if claim.in_doubt and state is LinkState.WAITING and not is_resolved:
        state = LinkState.UNKNOWN
    return Settlement(
        id=claim.link.id,
        attempt=claim.attempt,
        state=state,
        rule=rule,
        detail=str(error),
        route=claim.route,
        calls=calls,
        looked=isinstance(error, StillUnknown) and error.looked,
        outcome_unknown=isinstance(error, UnknownOutcome),
        leaves=leaves,
        pause=pause,
    )
