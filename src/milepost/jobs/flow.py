"""Unsettled links are taken up as a flow, by jobs `drain` and `sweep`.

At most `AT_ONCE` calls are out, and the next one begins when one ends, so that a slow one holds up
none behind it. How fast the flow goes is the budget's to say: each link takes its permit first,
with the low share of this purpose.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from msgspec import Struct

from milepost.budget import Denied, Permit
from milepost.errors import MilepostError
from milepost.issuing import Issuing
from milepost.model import Link, LinkState, Purpose, Route
from milepost.store.links import HOLD_SECONDS, Due, LinkStore

log = logging.getLogger(__name__)

AT_ONCE: Final = 32
"""Calls that are out at the same time: with 150 ms each they are 200 a second, four times the rate
that the platform allows a whole brand."""

FIRST_PAGE: Final = 1
LARGEST_PAGE: Final = 128
"""Links that are taken from the ledger at once. Pages grow while they are used up, and are small
again after a denial: what was taken and not tried is nobody's until `HOLD_SECONDS` are over, and a
link that a person opens meanwhile should not have to wait behind it. The first is of one: while the
platform is away there is one permit every few seconds, a probe's, and what else were taken with it
would be the links of those who wait in front of the page."""

PATIENCE_SECONDS: Final = 2.0
"""How long a permit is waited for at a time; also how late a stop may be noticed."""

FRESH_SECONDS: Final = HOLD_SECONDS - 2 * PATIENCE_SECONDS
"""How long a page is worked through. Afterwards others may be at it."""

LOOK_SECONDS: Final = 1.0
"""Between looks for more while calls are out."""


class Counts(Struct, kw_only=True):
    """What a run did, in links."""

    issued: int = 0
    waiting: int = 0
    """Tried, and to be tried again."""
    unknown: int = 0
    """Tried; whether the call was accepted is to be asked."""
    suppressed: int = 0
    failed: int = 0
    told: int = 0
    """Out before, and the platform has their data by now."""
    untold: int = 0
    """Out, and there is nothing to tell any more, or the platform refuses it for good."""
    left_behind: int = 0
    """Of those that have ended, or are out: their way has left something at the platform, or may
    have, that is no part of them. Each link's record names it."""
    broken_off: int = 0
    """Left as they were, by an error of ours or because Postgres went away."""

    def count(self, link: Link) -> None:
        """Add a link that was tried, by what it is now."""
        name = "waiting" if link.state is LinkState.CLAIMED else link.state.value
        setattr(self, name, getattr(self, name) + 1)
        if link.left_behind is not None and not link.unsettled:
            log.warning("link %s has left something at the platform", link.id)
            self.left_behind += 1


Work: TypeAlias = Callable[[], Awaitable[None]]


class Calls:
    """The calls of a flow that are out, each with all that it ends in."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._out: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._out)

    async def begin(self, work: Work, permit: Permit, *, alone: bool) -> None:
        """Begin one, and come back when there is room for another.

        Args:
            work: makes it.
            permit: what it has for it; what is left of it is given back.
            alone: nothing else may be out beside it.
        """
        if alone:
            await self.end()
        task = asyncio.create_task(self._guarded(work, permit))
        self._out.add(task)
        task.add_done_callback(self._out.discard)
        if alone or len(self._out) >= AT_ONCE:
            await asyncio.wait(self._out, return_when=asyncio.FIRST_COMPLETED)

    async def end(self, within: float | None = None) -> None:
        """Wait until all have ended, or for so many seconds."""
        if self._out:
            await asyncio.wait(self._out, timeout=within)

    async def _guarded(self, work: Work, permit: Permit) -> None:
        try:
            await work()
        except MilepostError as error:
            log.warning("a link could not be taken up: %s", error)
            self._counts.broken_off += 1
        except Exception as error:  # noqa: BLE001  (one link must not end the flow of the others)
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.error(  # noqa: TRY400  (a trace shows what drivers say, which may be people's data)
                "a link could not be taken up: %s at %s:%s",
                type(error).__name__,
                place.filename,
                place.lineno,
            )
            self._counts.broken_off += 1
        finally:
            permit.give_back()


class _Page:
    """Links that were taken from the ledger together, and are not begun yet."""

    def __init__(self) -> None:
        self.size = FIRST_PAGE
        self._rest: deque[Due] = deque()
        self._fresh_until = 0.0

    @property
    def rest(self) -> deque[Due]:
        """What is left of it, and nobody else's."""
        if self._rest and asyncio.get_running_loop().time() > self._fresh_until:
            self._rest.clear()
        return self._rest

    def fill(self, links: Sequence[Due]) -> None:
        """Begin the next one; a page that was used up is followed by a larger one."""
        self._rest.extend(links)
        self._fresh_until = asyncio.get_running_loop().time() + FRESH_SECONDS
        self.size = min(2 * self.size, LARGEST_PAGE)

    def shrink(self) -> None:
        """Take few the next time."""
        self.size = FIRST_PAGE


class Flow:
    """Takes up links that are due.

    Args:
        links: hands them out.
        issuing: tries one, if the budget permits it.
    """

    def __init__(self, links: LinkStore, issuing: Issuing) -> None:
        self._links = links
        self._issuing = issuing
        self._denied: Route | None = None

    async def run(self, states: Sequence[LinkState], stopping: asyncio.Event | None) -> Counts:
        """Take links of these states up until none is due, or the platform is away.

        Args:
            states: which links, those of the first state first.
            stopping: once it is set, no link is begun. Those that are out end all the same: a call
                that is cut off may have been accepted.

        Raises:
            DatabaseError: Postgres is away.
        """
        stopping = stopping or asyncio.Event()
        counts = Counts()
        calls = Calls(counts)
        try:
            await self._run(states, stopping, counts, calls)
        finally:
            await calls.end()
        return counts

    async def _run(
        self,
        states: Sequence[LinkState],
        stopping: asyncio.Event,
        counts: Counts,
        calls: Calls,
    ) -> None:
        page = _Page()
        while not stopping.is_set():
            # Who was denied before takes no links until there is a permit, so that they stay with
            # whoever has one.
            route = page.rest[0].route if page.rest else self._denied
            permit = await self._permit(route) if route else None
            if isinstance(permit, Denied):
                if permit.rule == "upstream-away":
                    return
                page.shrink()
                continue
            if not page.rest:
                page.fill(await self._due(states, 1 if permit and permit.is_probe else page.size))
            if page.rest and permit is not None and page.rest[0].route is route:
                due = page.rest.popleft()
                take_up = partial(self._take_up, due, permit, counts)
                await calls.begin(take_up, permit, alone=due.alone)
                continue
            if permit is not None:
                permit.give_back()
            if not page.rest:
                if not calls:
                    return
                await calls.end(LOOK_SECONDS)

    async def _permit(self, route: Route) -> Permit | Denied:
        permit = await self._issuing.permit(route, Purpose.DRAIN, patience=PATIENCE_SECONDS)
        # A probe goes alone: whoever comes next is denied until it is back.
        self._denied = route if isinstance(permit, Denied) or permit.is_probe else None
        return permit

    async def _due(self, states: Sequence[LinkState], size: int) -> list[Due]:
        found: list[Due] = []
        for state in states:
            found += await self._links.due(state, size)
        # Those whose takers have died are the last, and nothing else is out with them: should one
        # of them be what they died of, it takes nobody along.
        return sorted(found, key=lambda due: due.alone)

    async def _take_up(self, due: Due, permit: Permit, counts: Counts) -> None:
        counts.count(await self._issuing.take_up(due.event, permit))
