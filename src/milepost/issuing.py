"""The path of an event, from what the app sent to the link that its customer gets.

::

    issue ─▶ claim ─▶ make ─▶ settle ─▶ answer
            (tx 1)   (no tx)  (tx 2)

`claim` writes the event down with its decision before any call goes out; `make` is the route's
call; `settle` writes the outcome, fenced by the claim's attempt number. A request that finds an
unfinished link goes in by the same door: it waits for whoever has the claim, and takes it over when
they are gone. No transaction and no connection is held while a call is out.

A call that is still out at the caller's deadline is not wasted: it settles behind the answer, and
the next request for the event gets its URL.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from milepost import payload
from milepost.errors import (
    DatabaseBusy,
    InvalidData,
    MilepostError,
    UnknownMilestone,
    UnknownRegistrant,
)
from milepost.model import (
    Claim,
    Event,
    Lane,
    Link,
    LinkState,
    MilestoneDefinition,
    Route,
)
from milepost.personal_link import MalformedId, NotAPersonalLink
from milepost.routes import Made, Maker, NothingThere, StillUnknown
from milepost.store import Store
from milepost.store.links import LEASE_SECONDS, Asked, LookupTaken, Settlement
from milepost.upstream import (
    Forbidden,
    NotFound,
    Refused,
    Throttled,
    Unauthorized,
    UnknownOutcome,
    counting,
)

log = logging.getLogger(__name__)

REMEMBERED_SECONDS: Final = 5.0
"""How long a milestone's definition is believed without asking. A looser one is in force at once,
since it is asked for again before an event is refused; a stricter one after this long."""

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

DEADLINE_MS: Final = 1_500
"""For an event whose milestone cannot say."""

WAITS_FOR_OTHERS: Final = frozenset({"registrant-unknown", "pool-empty", "no-slot", "no-lane"})
"""Reasons to wait that no request can end by asking again: a job or a person must act."""


class Answer(Struct, frozen=True, kw_only=True):
    """What the caller gets for an event."""

    link: Link
    is_new: bool
    """This request wrote the event down; otherwise it was seen before."""


class Issuing:
    """Turns events into links. One for each process; safe to share between tasks."""

    def __init__(self, store: Store, makers: Mapping[Route, Maker]) -> None:
        self._store = store
        self._makers = makers
        self._definitions: dict[str, tuple[float, MilestoneDefinition]] = {}
        self._under_way: dict[UUID, asyncio.Task[Link | None]] = {}

    async def issue(self, event: Event, *, deadline_ms: int | None = None) -> Answer:
        """Give an event its link, as far as that can be done inside the deadline.

        Args:
            event: what happened; a second call with the same event is answered as the first was.
            deadline_ms: milliseconds until the caller needs an answer; None: the milestone's own.

        Raises:
            Refusal: the event is not taken, and says which field is wrong.
            DatabaseBusy: nothing was promised.
        """
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        usual_ms = await self._admit(event)
        deadline = arrived + (deadline_ms or usual_ms) / 1000
        is_new = False
        pause = FIRST_POLL_SECONDS
        while True:
            claimed_at = loop.time()
            asked = await self._claim(event)
            is_new = is_new or asked.is_first
            link = asked.link
            call = self._under_way.get(link.id)
            if asked.claim is not None:
                call = self._start(asked.claim, claimed_at + BEGIN_SECONDS)
            if call is not None:
                link = await _within(call, deadline) or link
            left = deadline - loop.time()
            if left <= pause or not _may_settle_within(left, link, asked):
                return Answer(link=link, is_new=is_new)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL_SECONDS)

    async def finish(self) -> None:
        """Wait until the calls that are out have settled; for the end of a process."""
        while self._under_way:
            await asyncio.wait(self._under_way.values())

    async def _admit(self, event: Event) -> int:
        """Hold an event against its milestone and return the milestone's deadline, in ms.

        An event that was seen before passes, whatever became of its milestone since: the ledger
        tells whether it is the same event.
        """
        try:
            definition = await self._definition(event.milestone)
            try:
                payload.check(event.data, definition.fields)
            except InvalidData:
                self._definitions.pop(event.milestone, None)
                definition = await self._definition(event.milestone)
                payload.check(event.data, definition.fields)
        except (InvalidData, UnknownMilestone):
            if await self._store.links.find(event_id=event.event_id) is None:
                raise
            return DEADLINE_MS
        return definition.deadline_ms

    async def _definition(self, milestone: str) -> MilestoneDefinition:
        now = time.monotonic()
        known = self._definitions.get(milestone)
        if known is not None and known[0] > now:
            return known[1]
        definition = (await self._store.milestones.get(milestone)).definition
        self._definitions[milestone] = (now + REMEMBERED_SECONDS, definition)
        return definition

    async def _claim(self, event: Event) -> Asked:
        """Claim; where the registrant is missing and the event brings their details, with them."""
        is_first = False
        try:
            asked = await self._store.links.claim(event)
        except UnknownRegistrant:
            if event.details is None:
                raise
        else:
            if event.details is None or not _lacks_registrant(asked.link):
                return asked
            is_first = asked.is_first
        await self._store.registrants.put({event.ref: event.details}, change=False)
        asked = await self._store.links.claim(event)
        return msgspec.structs.replace(asked, is_first=is_first or asked.is_first)

    def _start(self, claim: Claim, begin_by: float) -> asyncio.Task[Link | None]:
        call = asyncio.create_task(self._make(claim, begin_by))
        self._under_way[claim.link.id] = call
        call.add_done_callback(lambda done: self._ended(claim, done))
        return call

    def _ended(self, claim: Claim, call: asyncio.Task[Link | None]) -> None:
        if self._under_way.get(claim.link.id) is call:
            del self._under_way[claim.link.id]
        if not call.cancelled() and (error := call.exception()):
            # The row is still claimed: whoever comes after the lease asks what became of the call.
            log.error("link %s is left unsettled: %s", claim.link.id, type(error).__name__)

    async def _make(self, claim: Claim, begin_by: float) -> Link | None:
        with counting() as calls:
            try:
                made = await self._makers[claim.route].make(claim, begin_by=begin_by)
            except MilepostError as error:
                log.warning("link %s: %s", claim.link.id, error)
                if isinstance(error, NotFound):
                    with suppress(DatabaseBusy):
                        await self._store.pools.rest(
                            claim.place.slot_id, PAUSE_UNTIL_MENDED_SECONDS, str(error)
                        )
                return await self._settle(_setback(claim, error, calls.count))
        try:
            link = await self._settle(_success(claim, made, calls.count))
        except LookupTaken as error:
            log.error("link %s: %s", claim.link.id, error)  # noqa: TRY400  (a trace shows the URL)
            return await self._settle(_setback(claim, error, calls.count))
        if link is not None and claim.contact_id is None:
            with suppress(DatabaseBusy):  # the next link of this registrant tells it again
                await self._store.registrants.note_contact(
                    claim.ref, made.contact_id, claim.contact_key
                )
        return link

    async def _settle(self, settlement: Settlement) -> Link | None:
        """Write an outcome down, also past a restart of Postgres: once lost, it must be asked for.

        None: the claim is somebody else's by now, or an earlier try was written after all.
        """
        clock = asyncio.get_running_loop().time
        give_up = clock() + LEASE_SECONDS
        while True:
            try:
                return await self._store.links.settle(settlement)
            except DatabaseBusy:
                if clock() > give_up:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)


async def _within(call: asyncio.Task[Link | None], deadline: float) -> Link | None:
    """What the call made; None when it is still out at the deadline, and goes on by itself.

    None as well when it broke off: the event is written down, so its answer is that it waits.
    """
    left = max(0.0, deadline - asyncio.get_running_loop().time())
    done, _ = await asyncio.wait({call}, timeout=left)
    return call.result() if done and not call.cancelled() and not call.exception() else None


def _lacks_registrant(link: Link) -> bool:
    return link.unsettled and link.reason is not None and link.reason.rule == "registrant-unknown"


def _may_settle_within(left: float, link: Link, asked: Asked) -> bool:
    """Whether asking again in the `left` seconds can bring more than it brought now."""
    if not link.unsettled:
        return False
    if link.reason is not None and link.reason.rule in WAITS_FOR_OTHERS:
        return False
    if asked.claim is not None or asked.pause_until is None or link.state is LinkState.CLAIMED:
        return True
    return (asked.pause_until - asked.at).total_seconds() < left


def _success(claim: Claim, made: Made, calls: int) -> Settlement:
    return Settlement(
        id=claim.link.id,
        attempt=claim.attempt,
        state=LinkState.ISSUED,
        route=claim.route,
        lane=Lane.DIRECT,
        lookup_id=made.lookup_id,
        url=made.url,
        expires_at=claim.place.expires_at,
        calls=calls,
    )


def _setback(claim: Claim, error: MilepostError, calls: int) -> Settlement:
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
        case LookupTaken() | MalformedId() | NotAPersonalLink():
            state, rule, pause, leaves = LinkState.FAILED, "link-untrusted", 0, True
    if claim.in_doubt and state is LinkState.WAITING and not leaves:
        state = LinkState.UNKNOWN
    return Settlement(
        id=claim.link.id,
        attempt=claim.attempt,
        state=state,
        rule=rule,
        detail=str(error),
        calls=calls,
        looked=isinstance(error, StillUnknown) and error.looked,
        leaves=leaves,
        pause=pause,
    )
