"""Watches the platform for a probe: what is listed, found and counted, and whether links open.

What a probe has changed may show late. A look is made at once and then again after growing pauses,
for as long as the probe has patience.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Generic, TypeVar

from msgspec import Struct

from milepost.doctor import opening
from milepost.doctor.belongings import Belongings
from milepost.doctor.opening import Answerer, Outcome
from milepost.personal_link import NotAPersonalLink, Template, parse
from milepost.upstream import HistoryEntry, ListedLink, NotFound, Upstream

T = TypeVar("T")

LONGEST_PAUSE: Final = 10.0
"""Seconds between looks for what is late; they begin with `Patience.pause` and double."""

GLANCE_SECONDS: Final = 5.0
"""Between looks whether somebody has answered."""

AT_ONCE_SECONDS: Final = 5.0
"""What a first look has found within this time was there at once. It may have come late itself: it
waits for room in the budget, and for the end of a 429."""


class Patience(Struct, frozen=True, kw_only=True):
    """How long is waited for what comes late, in seconds."""

    search: float = 120.0
    """A contact in a search."""
    links: float = 180.0
    """A link in the platform's list: days have been seen (observed), for which nobody waits."""
    attribution: float = 120.0
    """A response in the distribution's statistics and history, each."""
    opening: float = 30.0
    """A link that was built just now, until it opens."""
    person: float = 300.0
    """Somebody's answer to a survey."""
    pause: float = 1.0
    """Between the first look and the second."""


class Look(Struct, Generic[T], frozen=True):
    """What was seen in the end, after how many looks and seconds."""

    found: T | None
    looks: int
    seconds: float

    @property
    def at_once(self) -> bool | None:
        """Whether there was nothing to wait for; None: the first look came too late to tell."""
        if self.found is None or self.looks > 1:
            return False
        return True if self.seconds <= AT_ONCE_SECONDS else None

    @property
    def after(self) -> int | None:
        """Seconds, where there was something to wait for; if it never came, for how long."""
        return None if self.found is not None and self.looks == 1 else math.ceil(self.seconds)

    def told(self, what: str) -> str:
        """Say when it was there, or that it was not."""
        if self.found is None:
            return f"{what} was not there within {self.seconds:.0f} s"
        if self.looks == 1:
            late = "" if self.at_once else f", which came only after {math.ceil(self.seconds)} s"
            return f"{what} was there at the first look{late}"
        return f"{what} was there after {math.ceil(self.seconds)} s"


class Ground(Struct, frozen=True):
    """What links can be built on: a distribution, and the probe's link on it, which is listed."""

    distribution_id: str
    good: str
    template: Template
    lookup_id: str


class Watch:
    """Looks at the platform for one probe.

    Args:
        upstream: the client.
        directory_id: where contacts are.
        survey_id: what links lead to.
        belongings: waits for room in the budget.
        patience: how long is waited for what comes late.
        answerer: answers surveys; None: nobody does.
    """

    def __init__(
        self,
        upstream: Upstream,
        directory_id: str,
        survey_id: str,
        belongings: Belongings,
        *,
        patience: Patience,
        answerer: Answerer | None,
    ) -> None:
        self._upstream = upstream
        self._directory_id = directory_id
        self._survey_id = survey_id
        self._belongings = belongings
        self._answerer = answerer
        self.patience = patience

    async def until(self, look: Callable[[], Awaitable[T | None]], seconds: float) -> Look[T]:
        """Look again and again, until something is found, or for so long."""
        clock = asyncio.get_running_loop().time
        begun, pause, looks = clock(), self.patience.pause, 0
        while True:
            found = await self._belongings.patiently(look)
            looks += 1
            elapsed = clock() - begun
            if found or elapsed >= seconds:
                return Look(found or None, looks, elapsed)
            await asyncio.sleep(min(pause, seconds - elapsed))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def listed(self, distribution_id: str, id_: str) -> ListedLink | None:
        """The link of a contact or a transaction, as the platform lists it."""
        async for listed in self._upstream.distribution_links(distribution_id, self._survey_id):
            if id_ in listed.link:
                return listed
        return None

    async def searched(self, ref: str, contact_id: str) -> bool:
        """Whether a search by `ref` finds a contact."""
        hits = self._upstream.search_contacts(self._directory_id, ref=ref)
        return contact_id in [hit.contact_id async for hit in hits]

    async def history(self, ground: Ground, id_: str) -> HistoryEntry | None:
        """What the distribution's history tells of a contact's or a transaction's link."""
        async for entry in self._upstream.history(ground.distribution_id):
            if entry.lookup_id == id_:
                return entry
        return None

    async def answered_entry(self, ground: Ground, id_: str) -> HistoryEntry | None:
        """The same, once it names a response."""
        entry = await self.history(ground, id_)
        return None if entry is None or entry.response_id is None else entry

    async def finished(self, ground: Ground) -> int:
        """How many responses the distribution's statistics count."""
        read = await self._upstream.distribution(ground.distribution_id, self._survey_id)
        return read.stats.finished

    async def attributed(self, ground: Ground, id_: str, finished: int) -> bool:
        """Whether the platform counts a response to the one link that anybody was asked about."""
        if await self.finished(ground) > finished:
            return True
        return await self.answered_entry(ground, id_) is not None

    async def values(self, response_id: str) -> Mapping[str, object] | None:
        """What a response holds, once it can be read."""
        try:
            return (await self._upstream.response(self._survey_id, response_id)).values
        except NotFound:
            return None  # history tells of a response earlier than it can be read

    async def opens(self, ground: Ground, url: str) -> bool | None:
        """Whether a link opens, as far as a program can see; it may take a moment to."""
        altered = ground.template.url(_altered(ground.lookup_id))
        clock = asyncio.get_running_loop().time
        until, pause = clock() + self.patience.opening, self.patience.pause
        while True:
            pages = await asyncio.gather(
                *(opening.page(each) for each in (url, ground.good, altered))
            )
            opens = opening.is_open(*pages)
            if opens is not False or (left := until - clock()) <= 0:
                return opens
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def ask(self, url: str, attributed: Callable[[], Awaitable[bool]]) -> Outcome:
        """Have somebody answer a survey; that the platform counts a response will do, too."""
        if self._answerer is None:
            return "nobody"
        clock = asyncio.get_running_loop().time
        until = clock() + self.patience.person
        answering = asyncio.create_task(self._answerer.answer(url))
        try:
            while (left := until - clock()) > 0:
                done, _ = await asyncio.wait({answering}, timeout=min(left, GLANCE_SECONDS))
                if done:
                    return answering.result()
                if await self._belongings.patiently(attributed):
                    return "answered"
        finally:
            answering.cancel()
            await asyncio.wait({answering})
        return "nobody"


def learn(distribution_id: str, id_: str, listed: Look[ListedLink]) -> tuple[Ground | None, str]:
    """What links can be built on; or why none can."""
    if listed.found is None:
        return None, listed.told("the probe's link")
    try:
        link = parse(listed.found.link)
    except NotAPersonalLink as error:
        return None, f"the platform lists a link of an unknown form: {error}"
    if link.lookup_id != id_ or link.distribution_id != distribution_id:
        return None, "the platform lists a link with other ids"
    return Ground(distribution_id, listed.found.link, link.template(), id_), ""


def _altered(id_: str) -> str:
    """An id of the same form that names nothing."""
    return id_[:-1] + ("0" if id_[-1] != "0" else "1")
