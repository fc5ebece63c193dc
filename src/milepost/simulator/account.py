"""One brand's account: the world, and all that a write needs to become part of it."""

from __future__ import annotations

import asyncio
import random
import string
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import Struct

from milepost.simulator.config import Config, limits_of
from milepost.simulator.deliveries import Deliveries
from milepost.simulator.faults import Faults
from milepost.simulator.journal import Entry, Journal
from milepost.simulator.latency import Latency
from milepost.simulator.operations import OPERATIONS
from milepost.simulator.shapes import Advance, Founding, WorldSettings
from milepost.simulator.things import Act, Closed, Import, Outcome
from milepost.simulator.tokens import Tokens
from milepost.simulator.traffic import Traffic
from milepost.simulator.wire import Refusal, instant, moment
from milepost.simulator.world import World

BASE62 = string.digits + string.ascii_letters

BRAND_ID = "simulator"
"""The one brand, which everything belongs to."""

ID_LENGTH = 15
"""Characters after an id's prefix (observed)."""

IMPORTED_AT_ONCE = 1_000
"""Contacts that one step of an import brings in: others are answered between two steps."""

IMPORT_STEPS = 20
"""In how many steps an import that takes its time shows progress."""


class Mint:
    """Draws ids and remembers them, so that the log can tell a restart which they were."""

    def __init__(self, source: random.Random) -> None:
        self._source = source
        self.drawn: list[str] = []

    def __call__(self, prefix: str) -> str:
        """A fresh id: prefix, `_`, 15 base62 characters."""
        made = f"{prefix}_{''.join(self._source.choices(BASE62, k=ID_LENGTH))}"
        self.drawn.append(made)
        return made


class Account:
    """The world with its clock, log, limits and faults, and what goes on in the background.

    Attributes:
        latency: How long an answer takes.
        retry_after: Whether a 429 says when to come back.
        notice: What each answer says of the data centre that passed the call on, if one did.
        origin: The simulator's own address; set once it listens.

    Raises:
        OSError: The journal or the state cannot be opened, or another simulator holds it.
        ValueError: The state is not one of ours.
    """

    def __init__(
        self, config: Config, *, real_clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._real_clock = real_clock
        self.latency = Latency.read(config.latency_ms)
        self.retry_after = True
        self.notice: str | None = None
        self.origin = ""
        brand, classes = limits_of(config.limits, config.rate_per_minute)
        self.traffic = Traffic(brand, classes, kind=config.limit_kind)
        self.faults = Faults(config.seed)
        self.faults.waiting.extend(msgspec.structs.replace(fault) for fault in config.faults)
        self.tokens = Tokens(self.now)
        self.deliveries = Deliveries(BRAND_ID, real_clock)
        self.world = World()
        self._dice = random.Random(config.seed)  # noqa: S311 - times of a simulation
        self._clock_set = asyncio.Event()
        self._chores: set[asyncio.Task[None]] = set()
        self.journal = Journal(config.journal, config.state)
        self._config = config
        self._seq = 0
        # Ids after a restart must differ from those before it: the seed moves on with the log.
        self._mint = Mint(random.Random())  # noqa: S311 - ids of a simulation

    async def open(self) -> None:
        """Do again what the state's log holds, or make the account if it holds nothing."""
        try:
            for entry in self.journal.history():
                self._replay(entry)
        except (msgspec.MsgspecError, Refusal, Closed, LookupError, StopIteration) as error:
            message = f"the state cannot be replayed after entry {self._seq}"
            raise ValueError(message) from error
        self._seq = max(self._seq, self.journal.last_seq())
        if self._config.seed is not None:
            seed = f"{self._config.seed}/{self._seq}"
            self._mint = Mint(random.Random(seed))  # noqa: S311 - as above
        if not self.world.directory_id:
            founding = Founding(
                dedup=self._config.dedup,
                declared_fields=list(self._config.declared_fields),
                invitation_only=self._config.invitation_only,
            )
            await self.switch("account.found", founding)
        if self._config.facts:
            await self.switch("account.settings", WorldSettings(facts=dict(self._config.facts)))
        for unfinished in [one for one in self.world.imports.values() if one.waiting]:
            self._start_chore(unfinished)

    def _replay(self, entry: Entry) -> None:
        operation = OPERATIONS[entry.operation]
        ids = iter(entry.minted)
        body = msgspec.json.decode(entry.body, type=operation.shape)
        operation.verb(
            self.world, Act(moment(entry.at), entry.ids, body, lambda _prefix: next(ids))
        )
        self._seq = entry.seq

    def now(self) -> int:
        """The account's time, in milliseconds since the epoch."""
        return self._real_clock() + self.world.clock_offset_ms

    def real_now(self) -> int:
        """The real time, in milliseconds since the epoch."""
        return self._real_clock()

    async def wait(self) -> None:
        """Let the time pass that an answer takes."""
        seconds = self.latency.seconds(self._dice)
        if seconds:
            await asyncio.sleep(seconds)

    async def until(self, at: int) -> None:
        """Wait until the account's clock has come to a moment, or was set behind it."""
        while (left := at - self.now()) > 0:
            try:
                async with asyncio.timeout(left / 1000):
                    await self._clock_set.wait()
            except TimeoutError:
                continue

    @property
    def last_seq(self) -> int:
        """The number of the last accepted write."""
        return self._seq

    @property
    def directory_id(self) -> str:
        """The one directory's id."""
        return self.world.directory_id

    @property
    def survey_id(self) -> str:
        """The one survey's id."""
        return next(iter(self.world.surveys))

    async def write(
        self, operation: str, ids: dict[str, str], body: object, *, method: str, path: str
    ) -> Outcome:
        """Do a write; when this returns it is in the journal, and the journal is on the disk.

        Raises:
            Refusal: The world refuses it; nothing has changed.
            Closed: The survey link does not open; nothing has changed.
            OSError: The journal cannot be written.
        """
        outcome = await self._perform(operation, ids, body, method, path, switch=False)
        if operation == "response.complete":
            session = self.world.responses[outcome.ids["response"]]
            for subscription in self.world.subscriptions:
                if subscription.survey_id == session.survey_id:
                    self.deliveries.send(subscription, session)
        return outcome

    async def bring_in(self, started: Import) -> None:
        """See an import to its end; one that takes no time is done when this returns."""
        if started.ends_at <= self.now():
            await self._import(started)
        else:
            self._start_chore(started)

    def _start_chore(self, started: Import) -> None:
        chore = asyncio.create_task(self._import(started))
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    async def _import(self, started: Import) -> None:
        length = started.ends_at - started.started_at
        step = 0
        while started.waiting:
            due = started.due(self.now()) - started.done
            if due > 0:  # fewer than none where the clock was set back
                await self.write(
                    "import.advance",
                    {"mailing_list": started.list_id, "import": started.id},
                    Advance(contacts=min(due, IMPORTED_AT_ONCE)),
                    method="",
                    path="",
                )
            else:
                step += 1
                await self.until(started.started_at + length * step // IMPORT_STEPS)

    async def switch(self, operation: str, body: Struct) -> None:
        """Set something about the account itself: kept in the state, and no entry of the journal.

        Raises:
            Refusal: The world refuses it.
        """
        await self._perform(operation, {}, body, "", "", switch=True)
        if operation == "account.clock":
            self._clock_set.set()
            self._clock_set.clear()

    async def _perform(
        self,
        operation: str,
        ids: dict[str, str],
        body: Any,
        method: str,
        path: str,
        *,
        switch: bool,
    ) -> Outcome:
        at = self.now()
        self._mint.drawn = []
        outcome = OPERATIONS[operation].verb(self.world, Act(at, ids, body, self._mint))
        if not switch:
            self._seq += 1
        entry = Entry(
            seq=self._seq,
            at=instant(at),
            operation=operation,
            method=method,
            path=path,
            ids=ids | outcome.ids,
            body=msgspec.Raw(msgspec.json.encode(body)),
            effect=outcome.effect,
            minted=tuple(self._mint.drawn),
        )
        await self.journal.append(entry, state_only=switch)
        return outcome

    def entries_after(self, seq: int) -> Iterable[bytes]:
        """The journal's lines after a number, as far as they are still in memory."""
        return [line for number, line in self.journal.recent if number > seq]

    async def close(self) -> None:
        """End what goes on in the background, finish what is in flight, let go of the files."""
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self.deliveries.close()
        await self.journal.close()
