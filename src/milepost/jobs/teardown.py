"""Teardown of a pool: what it has at the platform is taken away. No job: a person asks for it.

Only what carries this deployment's name is touched: a list is looked at before it is deleted, and a
distribution is deleted because it stands on such a list. What is gone is written down list by list,
so that a teardown that was broken off is finished by the next one; to take away twice does no harm.

A batch of transactions has no name, and cannot be looked at: the ledger's word must do that it is
ours. The transactions themselves stay, in the history of the contacts that they belong to.

The milestone must be paused, or `replenish` would make its pool anew; when it is resumed, it does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Literal, TypeVar

from msgspec import Struct

from milepost.errors import MilepostError
from milepost.model import Deployment, Milestone
from milepost.store import Store
from milepost.store.pools import Belonging
from milepost.upstream import CallFailed, NotFound, Throttled, UnknownOutcome, Unreachable, Upstream

T = TypeVar("T")

PAUSE_SECONDS: Final = 5.0
"""Where no call can be made now, and nobody says when one can."""

WAIT_SECONDS: Final = 120.0
"""How long one call waits for room in the budget, or for the end of a 429, all in all."""

TRIES: Final = 3
"""Of taking one thing away."""


class NotTornDown(MilepostError):
    """The pool is left as it is, and why."""


class Remains(Struct, frozen=True, kw_only=True):
    """What is left at the platform."""

    kind: Literal["mailing list", "batch", "distribution"]
    id: str
    name: str
    """Of the list, or of the one that it stands on; of a batch the one that the ledger gives it."""
    because: str


class Report(Struct, frozen=True, kw_only=True):
    """What a teardown took away, or would."""

    milestone: str
    dry_run: bool
    live_links: int
    """Links that people hold, or are still to get, and that are dead without the pool."""
    lists: int
    batches: int
    distributions: int
    remains: list[Remains]
    refusal: str | None
    """Why it would not be done as things stand; None but of a dry run."""


class _Found(Struct, frozen=True, kw_only=True):
    """A list or batch of ours that is at the platform, and what stands on it."""

    kind: Literal["mailing list", "batch"]
    name: str
    id: str
    distributions: Sequence[str]


class Teardown:
    """Takes pools away.

    Args:
        store: knows what is there.
        upstream: has it.
        deployment: bound to its directory.
    """

    def __init__(self, store: Store, upstream: Upstream, deployment: Deployment) -> None:
        self._store = store
        self._upstream = upstream
        self._directory_id = deployment.directory_id or ""

    async def run_once(
        self,
        milestone: str,
        *,
        dry_run: bool = False,
        live_links: int = 0,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Report:
        """Take a milestone's pool away, that of surveys which it had before included.

        Args:
            milestone: its key.
            dry_run: say what would be done, and touch nothing.
            live_links: so many links may die with it.
            progress: is told how many of how many things are gone.

        Raises:
            UnknownMilestone: there is none.
            NotTornDown: it is not paused, or more or fewer links would die.
            CallFailed: the platform cannot be asked what is there.
        """
        known = await self._store.milestones.get(milestone)
        alive = await self._living(milestone)
        refusal = _refusal(known, alive, live_links)
        if refusal and not dry_run:
            raise NotTornDown(refusal)
        belongings = await self._store.pools.belongings(milestone)
        remains: list[Remains] = []
        if not dry_run:
            for belonging in belongings:
                await self._store.pools.end(belonging.id)
        found = await self._find(belongings, remains)
        gone = Counter[str](each.kind for each in found)
        gone["distribution"] = sum(len(each.distributions) for each in found)
        if not dry_run:
            gone = await self._take_away(found, remains, progress)
            last = await self._store.pools.expire(milestone)
            while last is not None:
                last = await self._store.pools.expire(milestone, after=last)
            left = {each.name for each in remains}
            for belonging in belongings:
                if belonging.list_name not in left:
                    await self._store.pools.forget_list(belonging.id)
        return Report(
            milestone=milestone,
            dry_run=dry_run,
            live_links=alive,
            lists=gone["mailing list"],
            batches=gone["batch"],
            distributions=gone["distribution"],
            remains=remains,
            refusal=refusal,
        )

    async def _living(self, milestone: str) -> int:
        alive, last = await self._store.pools.living(milestone)
        while last is not None:
            more, last = await self._store.pools.living(milestone, after=last)
            alive += more
        return alive

    async def _find(self, belongings: Sequence[Belonging], remains: list[Remains]) -> list[_Found]:
        """What is at the platform: what was written down, and what was made and was not."""
        of_name = {each.list_name: each for each in belongings}
        lists = self._upstream.mailing_lists(self._directory_id)
        names = {each.list_id: each.name async for each in lists if each.name in of_name}
        for each in belongings:
            if each.list_id is None or each.list_id in names:
                continue
            name = await self._name_of(each.list_id)
            if name == each.list_name:
                names[each.list_id] = name
            elif name is not None:
                because = "it does not carry the name any more under which it was made"
                remains.append(_list_remains(each.list_id, each.list_name, because))
        standing: dict[str, list[str]] = {list_id: [] for list_id in names}
        for survey_id in sorted({of_name[name].survey_id for name in names.values()}):
            async for distribution in self._upstream.distributions(survey_id):
                if distribution.list_id in standing:
                    standing[distribution.list_id].append(distribution.distribution_id)
        return [
            _Found(kind="mailing list", name=name, id=list_id, distributions=standing[list_id])
            for list_id, name in names.items()
        ] + [
            _Found(
                kind="batch",
                name=each.list_name,
                id=each.batch_id,
                distributions=each.distributions,
            )
            for each in belongings
            if each.batch_id is not None
        ]

    async def _name_of(self, list_id: str) -> str | None:
        """What the platform calls a list; None: it has none of that id.

        A directory stops listing its lists beyond 10,000 (documented).
        """
        try:
            found = await _patiently(
                partial(self._upstream.mailing_list, self._directory_id, list_id)
            )
        except NotFound:
            return None
        return found.name

    async def _take_away(
        self,
        found: Sequence[_Found],
        remains: list[Remains],
        progress: Callable[[int, int], None],
    ) -> Counter[str]:
        """Delete it, what stands on a thing before the thing; returns how many of each are gone."""
        total = sum(1 + len(each.distributions) for each in found)
        gone, done = Counter[str](), 0
        for each in found:
            is_bare = True
            for distribution_id in each.distributions:
                because = await _gone(partial(self._upstream.delete_distribution, distribution_id))
                if because is None:
                    gone["distribution"] += 1
                else:
                    is_bare = False
                    remains.append(
                        Remains(
                            kind="distribution",
                            id=distribution_id,
                            name=each.name,
                            because=because,
                        )
                    )
                done += 1
                progress(done, total)
            delete = (
                self._upstream.delete_mailing_list
                if each.kind == "mailing list"
                else self._upstream.delete_batch
            )
            because = (
                await _gone(partial(delete, self._directory_id, each.id))
                if is_bare
                else "something still stands on it"
            )
            if because is None:
                gone[each.kind] += 1
            else:
                left = Remains(kind=each.kind, id=each.id, name=each.name, because=because)
                remains.append(left)
            done += 1
            progress(done, total)
        return gone


def _list_remains(list_id: str, name: str, because: str) -> Remains:
    return Remains(kind="mailing list", id=list_id, name=name, because=because)


async def _gone(delete: Callable[[], Awaitable[None]]) -> str | None:
    """Take one thing away; returns why it is still there."""
    for tries in range(1, TRIES + 1):
        try:
            await _patiently(delete)
        except NotFound:
            return None
        except (UnknownOutcome, Unreachable) as error:
            if tries == TRIES:
                return str(error)
            await asyncio.sleep(tries)
        except CallFailed as error:
            return str(error)
        else:
            return None
    return None


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call, and wait where there is no room for it; nothing was done, then."""
    clock = asyncio.get_running_loop().time
    until = clock() + WAIT_SECONDS
    while True:
        try:
            return await call()
        except Throttled as error:
            pause = PAUSE_SECONDS if error.retry_after is None else error.retry_after
            if clock() + pause > until:
                raise
        await asyncio.sleep(pause)


def _refusal(milestone: Milestone, alive: int, live_links: int) -> str | None:
    """Why a milestone's pool is not taken away as things stand."""
    key = milestone.key
    if milestone.state != "paused":
        return (
            f"milestone {key} is not paused, so that its pool would be made anew: "
            f"first POST /v1/milestones/{key}/pause"
        )
    if alive == live_links:
        return None
    if alive:
        return (
            f"{alive} links of milestone {key} are alive or still to be made, and would be dead: "
            f"if that is meant, say --live-links {alive}"
        )
    return f"no link of milestone {key} is alive: leave --live-links out"
