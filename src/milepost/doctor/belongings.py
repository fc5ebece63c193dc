"""What a probe has made at the platform, and how it is taken away again.

Everything carries the name `milepost probe <deployment> <moment> <run> <survey>`: what a probe that
was killed has left behind is known by it, and taken away by the next one.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeVar

from msgspec import Struct

from milepost.upstream import (
    BudgetSpent,
    CallFailed,
    ContactFields,
    CreatedTransactions,
    NotFound,
    Throttled,
    TransactionFields,
    UnknownOutcome,
    Unreachable,
    Upstream,
)

T = TypeVar("T")

PREFIX: Final = "milepost probe"
_MOMENT: Final = "%Y%m%dT%H%M%SZ"
_SURVEY: Final = re.compile(r"\bSV_[0-9A-Za-z]{15}\b")

FORGOTTEN: Final = timedelta(hours=2)
"""A probe that began so long ago has ended: with all its waiting one takes minutes."""

WAIT_SECONDS: Final = 120.0
"""How long one call waits for room in the budget, or for the end of a 429, all in all."""

PAUSE_SECONDS: Final = 5.0
"""After a 429 that does not say when to come back."""

TRIES: Final = 3
"""Of taking one thing away: to take it away twice does no harm."""

AT_ONCE: Final = 8

Kind = Literal[
    "mailing list", "contact", "distribution", "batch", "batch distribution", "transaction"
]

_ORDER: Final[tuple[Kind, ...]] = (
    "batch distribution",
    "distribution",
    "batch",
    "transaction",
    "contact",
    "mailing list",
)
"""In which things are taken away: what hangs on another before that other."""

_FOUND_BY_LIST: Final = frozenset[Kind]({"mailing list", "contact", "distribution"})
"""What shows whose it is, or stands on what does."""


class Remains(Struct, frozen=True, kw_only=True):
    """Something of a probe's that is, or may be, still at the platform."""

    kind: Kind
    id: str | None
    """None: the call that makes it has no outcome, so that it may be there."""
    name: str
    because: str


class _Thing(Struct, frozen=True):
    kind: Kind
    id: str


class Belongings:
    """Makes a probe's things under its name, and remembers them.

    Its verbs raise as those of the client, but wait for room in the budget.

    Args:
        upstream: the client.
        directory_id: where contacts, lists and transactions are.
        survey_id: whose distributions are made.
        deployment_id: whose probe it is.
        now: when it begins.
        throttled: is told of each 429.
    """

    def __init__(
        self,
        upstream: Upstream,
        directory_id: str,
        survey_id: str,
        deployment_id: str,
        *,
        now: datetime,
        throttled: Callable[[Throttled], None],
    ) -> None:
        self._upstream = upstream
        self._directory_id = directory_id
        self._survey_id = survey_id
        self._deployment_id = deployment_id
        self._now = now
        self._throttled = throttled
        self._run = secrets.token_hex(3)
        self._things: list[_Thing] = []
        self._doubts: list[Remains] = []
        self._doubtful: set[str] = set()
        self._lists = 0
        moment = f"{now.astimezone(UTC):{_MOMENT}}"
        self.name = f"{PREFIX} {deployment_id} {moment} {self._run} {survey_id}"

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, and wait where there is no room for it; nothing was sent, or done, then."""
        clock = asyncio.get_running_loop().time
        until = clock() + WAIT_SECONDS
        while True:
            try:
                return await call()
            except Throttled as error:
                if not isinstance(error, BudgetSpent):
                    self._throttled(error)
                pause = PAUSE_SECONDS if error.retry_after is None else error.retry_after
                if clock() + pause > until:
                    raise
            await asyncio.sleep(pause)

    # --- making ---------------------------------------------------------------------------------

    def person(self, letter: str, *, with_phone: bool) -> ContactFields:
        """Somebody who does not exist, unlike anybody in the directory by any of its criteria.

        Args:
            letter: tells the probe's people from each other.
            with_phone: the directory tells people apart by it: a number that is kept for fiction.
        """
        area, line = secrets.randbelow(789) + 201, secrets.randbelow(100)
        return ContactFields(
            first_name="Milepost",
            last_name=f"Probe {self._run}{letter}",
            email=f"milepost-probe.{self._deployment_id}.{self._run}{letter}@example.com",
            phone=f"+1{area}55501{line:02}" if with_phone else None,
            ref=self._ref(f"{self._run}{letter}"),
            language="EN",
        )

    def _ref(self, rest: str) -> str:
        return f"milepost-probe-{self._deployment_id}-{rest}"

    async def mailing_list(self) -> str:
        """Make a list."""
        self._lists += 1
        name = f"{self.name} {self._lists}"
        return await self._made(
            "mailing list",
            name,
            lambda: self._upstream.create_mailing_list(self._directory_id, name),
        )

    async def contact(self, list_id: str, contact: ContactFields) -> tuple[str, str]:
        """Add a person to a list of ours; returns their contact and their lookup id."""
        lookup = ""

        async def add() -> str:
            """Keep the lookup id, which is nothing to take away."""
            nonlocal lookup
            added = await self._upstream.add_list_contact(self._directory_id, list_id, contact)
            lookup = added.lookup_id
            return added.contact_id

        return await self._made("contact", contact.ref or "", add), lookup

    async def distribution(self, list_id: str, expires_at: datetime) -> str:
        """Make a distribution on a list of ours."""
        return await self._made(
            "distribution",
            self.name,
            lambda: self._upstream.create_distribution(
                self._survey_id, list_id, self.name, expires_at
            ),
        )

    async def batch_distribution(self, batch_id: str, expires_at: datetime) -> str:
        """Make a distribution on a batch of ours."""
        return await self._made(
            "batch distribution",
            self.name,
            lambda: self._upstream.create_batch_distribution(
                self._survey_id, batch_id, self.name, expires_at
            ),
        )

    async def batch(self, transaction_id: str) -> str:
        """Make a batch that holds a transaction of ours."""
        return await self._made(
            "batch",
            self.name,
            lambda: self._upstream.create_batch(self._directory_id, [transaction_id]),
        )

    async def transactions(self, wanted: TransactionFields, n: int) -> CreatedTransactions:
        """Make the same transaction of a contact of ours `n` times, by one call."""
        keys = {str(number): wanted for number in range(n)}
        try:
            made = await self.patiently(
                lambda: self._upstream.create_transactions(self._directory_id, keys)
            )
        except (UnknownOutcome, asyncio.CancelledError):
            self._doubtful.add(wanted.contact_id)
            raise
        self._things += [_Thing("transaction", each) for each in made.created.values()]
        if made.untold:
            self._doubtful.add(wanted.contact_id)
        return made

    async def _made(self, kind: Kind, name: str, call: Callable[[], Awaitable[str]]) -> str:
        try:
            made = await self.patiently(call)
        except (UnknownOutcome, asyncio.CancelledError) as error:
            because = str(error) or "the call was broken off"
            self._doubts.append(Remains(kind=kind, id=None, name=name, because=because))
            raise
        self._keep(kind, made)
        return made

    def _keep(self, kind: Kind, made: str) -> None:
        thing = _Thing(kind, made)
        if thing not in self._things:
            self._things.append(thing)

    # --- taking away ----------------------------------------------------------------------------

    async def find_forgotten(self) -> None:
        """Take over what an earlier probe of this deployment, which was killed, has left behind."""
        await self._find(self._is_forgotten)

    async def _find(self, is_meant: Callable[[str], bool]) -> None:
        """Remember the lists of these names, and what stands on them."""
        mine = self._upstream.mailing_lists(self._directory_id)
        lists = {known.list_id: known.name async for known in mine if is_meant(known.name)}
        for list_id in lists:
            self._keep("mailing list", list_id)
            async for member in self._upstream.list_contacts(self._directory_id, list_id):
                if (member.ref or "").startswith(self._ref("")):
                    self._keep("contact", member.contact_id)
                    self._doubtful.add(member.contact_id)
        for survey_id in {survey for name in lists.values() for survey in _SURVEY.findall(name)}:
            async for known in self._upstream.distributions(survey_id):
                if known.list_id in lists:
                    self._keep("distribution", known.distribution_id)

    async def _find_doubtful(self) -> None:
        """Look for what calls may have made that had no outcome."""
        if any(doubt.kind in _FOUND_BY_LIST for doubt in self._doubts):
            await self._find(lambda name: name.startswith(self.name))
            self._doubts = [doubt for doubt in self._doubts if doubt.kind not in _FOUND_BY_LIST]

    async def _find_transactions(self) -> None:
        """Look for transactions of contacts that may have more than is known."""
        for contact_id in self._doubtful:
            made = self._upstream.contact_transactions(self._directory_id, contact_id)
            try:
                async for transaction in made:
                    self._keep("transaction", transaction.transaction_id)
            except NotFound:
                continue  # whoever is gone has none
            except CallFailed as error:
                name = f"{self.name}, of {contact_id}"
                self._doubts.append(
                    Remains(kind="transaction", id=None, name=name, because=str(error))
                )

    def _is_forgotten(self, name: str) -> bool:
        head = f"{PREFIX} {self._deployment_id} "
        if not name.startswith(head):
            return False
        with suppress(ValueError):
            moment = name.removeprefix(head).partition(" ")[0]
            begun = datetime.strptime(moment, _MOMENT).replace(tzinfo=UTC)
            return begun < self._now - FORGOTTEN
        return False

    async def take_away(self) -> list[Remains]:
        """Remove all that was made; returns what is, or may be, still there."""
        with suppress(CallFailed):  # then it is told as what may be there
            await self._find_doubtful()
        await self._find_transactions()
        left = list(self._doubts)
        lists = frozenset(thing.id for thing in self._things if thing.kind == "mailing list")
        for row in _rows(self._things):
            because = await asyncio.gather(*(self._take_away(thing, lists) for thing in row))
            left += [
                Remains(kind=thing.kind, id=thing.id, name=self.name, because=reason)
                for thing, reason in zip(row, because, strict=True)
                if reason is not None
            ]
        return left

    async def _take_away(self, thing: _Thing, ours: frozenset[str]) -> str | None:
        """Remove one thing; returns why it is still there."""
        for tries in range(TRIES):
            try:
                if thing.kind == "contact" and not await self._is_only_ours(thing.id, ours):
                    return "it is in lists that are not the probe's"
                await self.patiently(lambda: self._delete(thing))
            except NotFound:
                return None
            except (UnknownOutcome, Unreachable) as error:
                if tries == TRIES - 1:
                    return str(error)
                await asyncio.sleep(tries)
            except CallFailed as error:
                return str(error)
            else:
                return None
        return None

    async def _is_only_ours(self, contact_id: str, ours: frozenset[str]) -> bool:
        contact = await self.patiently(
            lambda: self._upstream.get_contact(self._directory_id, contact_id)
        )
        return (contact.ref or "").startswith(self._ref("")) and contact.memberships.keys() <= ours

    async def _delete(self, thing: _Thing) -> None:
        match thing.kind:
            case "mailing list":
                await self._upstream.delete_mailing_list(self._directory_id, thing.id)
            case "contact":
                await self._upstream.delete_contact(self._directory_id, thing.id)
            case "distribution" | "batch distribution":
                await self._upstream.delete_distribution(thing.id)
            case "transaction":
                await self._upstream.delete_transaction(self._directory_id, thing.id)
            case "batch":
                await self._upstream.delete_batch(self._directory_id, thing.id)


def _rows(things: list[_Thing]) -> Iterator[list[_Thing]]:
    """What may be removed at the same time, one row after the other."""
    for kind in _ORDER:
        same = [thing for thing in things if thing.kind == kind]
        for at in range(0, len(same), AT_ONCE):
            yield same[at : at + AT_ONCE]
