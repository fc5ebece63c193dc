"""Reads the responses that were heard of, and matches them to their links.

Every worker does so all the time, since an event call says only that there is a response; job
`reconcile` does it as well, with those that history has told it of. A response is one call, with
the share of reconciling. One that cannot be read is tried again, ever less often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from milepost.budget import for_purpose
from milepost.matching import Matching, Through, Verdict, counts_for, drift_of
from milepost.model import DriftKind, LinkRecord, Purpose
from milepost.policy import pause_after
from milepost.store import Store
from milepost.store.drift import Flag
from milepost.store.responses import Judged, Unread, subject
from milepost.upstream import (
    CallFailed,
    NotFound,
    Refused,
    Throttled,
    Unauthorized,
    Unreadable,
    Upstream,
)

AT_ONCE: Final = 20
"""Responses that are read side by side, and written together."""

MISSING_DAYS: Final = 1
"""For so long the platform may not have a response yet that it has told of."""

UNREADABLE_DAYS: Final = 7
"""For so long it is tried to read one: an outage is over by then. If not, it is flagged."""

FEWEST_TRIES: Final = 20
"""So often it is tried, however old it is: where nobody was at work for a week, its age tells
nothing. With the pauses between them they take hours."""

_DAY: Final = 86_400


class Counts(Struct, kw_only=True):
    """What was done, in responses."""

    read: int = 0
    unread: int = 0
    """They could not be read; most are tried again."""
    started: int = 0
    finished: int = 0
    """Links of which they tell that."""
    drift: int = 0
    """Facts that were not known."""


class Responses:
    """Reads responses.

    Args:
        store: knows which.
        upstream: has them.
        matching: says whose they are.
    """

    def __init__(self, store: Store, upstream: Upstream, matching: Matching) -> None:
        self._store = store
        self._upstream = upstream
        self._matching = matching

    async def run_once(
        self,
        stopping: asyncio.Event | None = None,
        *,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Counts:
        """Read what is to be read, until nothing is.

        Args:
            stopping: once it is set, no further one is begun.
            progress: is told after each few how many were seen to.
        """
        counts = Counts()
        with for_purpose(Purpose.RECONCILE):
            while stopping is None or not stopping.is_set():
                unread = await self._store.responses.take(AT_ONCE)
                if not unread:
                    break
                judged = await asyncio.gather(*(self._judge(one, counts) for one in unread))
                found = [one for one in judged if one is not None]
                settled = await self._store.responses.settle(found)
                counts.read += len(found)
                counts.unread += len(unread) - len(found)
                counts.started += sum(link.is_started for link in settled.changed)
                counts.finished += sum(link.is_finished for link in settled.changed)
                counts.drift += settled.drift
                progress(len(unread))
        return counts

    async def _judge(self, unread: Unread, counts: Counts) -> Judged | None:
        """Read one and hold it against the ledger; None: it cannot be read now."""
        try:
            response = await self._upstream.response(unread.survey_id, unread.response_id)
        except CallFailed as error:
            flagged = await self._put_off(unread, error)
            counts.drift += flagged
            return None
        through, own = await self._came_by(unread)
        match = await self._matching.match(unread.survey_id, unread.response_id, response, through)
        link = counts_for(match, own)
        rule = None if match.reason is None else match.reason.rule
        kind = drift_of(match, response, own, through)
        return Judged(
            survey_id=unread.survey_id,
            response_id=unread.response_id,
            lookup_id=unread.lookup_id,
            started_at=response.started_at,
            completed_at=response.completed_at or unread.now,
            verdict=match.verdict,
            rule=rule,
            link_id=None if link is None else link.id,
            is_unexplained=match.verdict is Verdict.WITHOUT_REFERENCE and through is None,
            flags=() if kind is None else (_flag(kind, unread, link or match.link, rule),),
        )

    async def _came_by(self, unread: Unread) -> tuple[Through | None, LinkRecord | None]:
        """By what a response came, as history has told it, and which link that is."""
        if unread.distribution_id is None or unread.lookup_id is None:
            return None, None
        through = Through(unread.distribution_id, unread.lookup_id)
        named = await self._store.links.of_history(unread.distribution_id, unread.lookup_id)
        return through, None if named is None else named.link

    async def _put_off(self, unread: Unread, error: CallFailed) -> int:
        """Try it again, or no more; returns how many were flagged that were not before."""
        is_missing = isinstance(error, NotFound)
        days = MISSING_DAYS if is_missing else UNREADABLE_DAYS
        is_tried = unread.age > days * _DAY and unread.tries >= FEWEST_TRIES
        if not (is_tried and _is_of_itself(error)):
            await self._store.responses.set_back(unread, pause_after(unread.age))
            return 0
        # One that the platform does not have may never have been; and one that history has is its
        # link's without being read.
        _, own = await self._came_by(unread)
        return await self._store.responses.give_up(unread, flags=not is_missing and own is None)


def _is_of_itself(error: CallFailed) -> bool:
    """Whether it is about this response; an outage, or a wrong token, is about all."""
    if isinstance(error, Throttled | Unauthorized):
        return False
    return isinstance(error, Refused | Unreadable)


def _flag(kind: DriftKind, unread: Unread, link: LinkRecord | None, rule: str | None) -> Flag:
    return Flag(
        kind=kind,
        subject=subject(unread.survey_id, unread.response_id),
        milestone=None if link is None else link.milestone,
        link_id=None if link is None else link.id,
        survey_id=unread.survey_id,
        response_id=unread.response_id,
        distribution_id=unread.distribution_id,
        lookup_id=unread.lookup_id,
        rule=rule,
    )
