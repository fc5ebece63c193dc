"""The budget: how many calls may go to the platform now, and for whom.

The platform takes so many calls a minute of the whole brand, and of each call class (a family of
endpoints). What a process may send of a class it takes as a **portion** out of Postgres, where all
processes meet; from there each single call is a subtraction in memory.

**Never over.** The platform counts any 60 s, wherever they begin, so a bucket that leaks would let
nearly twice the limit through: a burst, and what leaks after it. Here every grant is written down
in the half second of its making, by the database's clock, and counted for 62 s from the beginning
of it. A portion that is older than one second, counted from before it was asked for, on a clock
that nobody sets, is not used any more. So a call leaves at most 1.5 s after its half second began,
and is counted for half a second more than the platform counts it; that, and a hundredth of the
limit, is left to the network, which may delay one call by more than another. An idle minute may be
spent in one burst. What is usable is 60/62 of 99 %, or 95.8 %. What is not used in its second is
handed back.

**Purposes**, the most urgent first, each with a share of every limit (`SHARES`). A share that
nobody wants is lent; it is back as soon as its owner wants it, by one rule: *whoever asks leaves to
each other purpose what that one has wanted of its own share in the last minute and not got*. Clicks
leave nothing to anybody: a person waits. What was lent and spent cannot be called back before its
minute is over; so the three purposes that can wait (`PATIENT`) are paced, at most a sixth of the
limit in ten seconds, and what they borrowed comes free as evenly; and beyond their own shares they
leave the last twentieth alone, so that live events that begin suddenly find something at once.

**Dry.** When there is nothing left, Postgres says until when, and the process remembers it: a flood
of requests is then denied from memory. It makes at most ten statements a second, each for all call
classes and purposes at once.

**429.** The platform knows better than the settings, and others use the brand too. One answer 429
cuts the rate of its class for everybody (`sql/budget_cut.sql`), and closes the class for as long as
its `Retry-After` says, if it does; the others learn it with their next portion, in at most a
second. The rate grows back by a tenth of the limit in a minute.

**Away.** A breaker for each call class (`upstream/breaker.py`) keeps calls from a platform that
does not answer; a grant then goes to one probe every few seconds.

`Budget` is also the gate that every request passes right before it is sent. The gate spends the
`Permit` of its context (`spending`); a request beyond it waits for a grant of its own, for the
purpose of its context (`for_purpose`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from http import HTTPStatus
from typing import Final, Literal, Self

from msgspec import Struct

from milepost.errors import DatabaseError
from milepost.model import Purpose
from milepost.store.budget import BRAND, Ask, BudgetStore, Cut, Grant, Room, Terms, Unspent
from milepost.upstream import (
    CALL_CLASSES,
    BudgetSpent,
    CallClass,
    CallFailed,
    Forbidden,
    Throttled,
    Unauthorized,
    Unavailable,
    UnknownOutcome,
    Unreachable,
)
from milepost.upstream.breaker import Breaker, Outcome

log = logging.getLogger(__name__)

SHARES: Final[Mapping[Purpose, float]] = {
    Purpose.CLICK: 0.05,
    Purpose.DIRECT: 0.55,
    Purpose.DRAIN: 0.20,
    Purpose.PROVISIONING: 0.15,
    Purpose.RECONCILE: 0.05,
}
"""What part of each limit is a purpose's own, the most urgent first. They add up to the whole."""

PATIENT: Final = frozenset({Purpose.DRAIN, Purpose.PROVISIONING, Purpose.RECONCILE})
"""Nobody waits for these within seconds."""

MINUTE: Final = 60.0
"""Seconds; a test may live through shorter ones. A second below is a sixtieth of it."""

STATEMENTS: Final = 10
"""A second and process, at the most. Spent at once if need be: the first call of a class waits for
one round trip to Postgres, and a job that begins uses four classes."""

FRESH: Final = 0.25
"""Seconds that a portion must have left to count as stock: what comes later needs a new one."""

RETRY_SECONDS: Final = 1.0
"""How long a process does without Postgres, or without calls that come free much later: others may
hand something back any second."""

AWAY_SECONDS: Final = 0.2
"""How often a patient call looks whether somebody's probe was answered."""

PATIENCE_SECONDS: Final = 5.0
"""How long a call waits for its grant where nobody has said how long it may. The gate cuts it to
half of the call's deadline."""


SEATS_SECONDS: Final = 0.25
"""How long a grant admits links to a call that carries several: as long as one waits for company
at the most."""


class Denied(Struct, frozen=True):
    """No call may be made now."""

    rule: Literal["budget-spent", "upstream-away"]
    retry_after: float
    """Seconds after which asking again may bring more."""


class Standing(Struct, frozen=True, kw_only=True):
    """How a call class stands: what is left of it for whom, and whether the platform answers."""

    call_class: str
    """Or `brand`, which has no breaker of its own."""
    rooms: tuple[Room, ...]
    """One for each purpose, the most urgent first."""
    is_away: bool
    """The breaker of this process is open."""

    def room(self, purpose: Purpose) -> Room:
        """How one purpose stands."""
        return next(room for room in self.rooms if room.purpose is purpose)

    def rate(self, purpose: Purpose) -> int:
        """Calls that a purpose can have in a minute, as the others are now.

        That is its own share, or what the others leave if that is more.
        """
        room = self.room(purpose)
        others = sum(other.granted for other in self.rooms) - room.granted
        borrowed = room.most * (0.95 if purpose in PATIENT else 1) - others
        return int(max(room.share * room.most, borrowed))


class _Piece:
    """Calls of one portion, which were granted together and lapse together."""

    __slots__ = ("lapses_at", "n", "number")

    def __init__(self, n: int, number: int, lapses_at: float) -> None:
        self.n = n
        self.number = number
        self.lapses_at = lapses_at


class _Waiter:
    """Somebody who waits for a grant, until a moment of the process's clock."""

    __slots__ = ("future", "n", "until")

    def __init__(self, n: int, until: float) -> None:
        self.n = n
        self.until = until
        self.future: asyncio.Future[list[_Piece] | None] = (
            asyncio.get_running_loop().create_future()
        )

    def leave(self, stock: _Stock) -> list[_Piece] | None:
        """Wait no longer; returns what there was, if there was something."""
        if self.future.done():
            return self.future.result()
        stock.waiters.remove(self)
        return None


class _Stock:
    """What a process holds of one call class for one purpose, and who wants some."""

    def __init__(
        self, call_class: str, purpose: Purpose, second: float, wake: asyncio.Event
    ) -> None:
        self.call_class = call_class
        self.purpose = purpose
        self.wake = wake
        """Set where there is something to do sooner than was thought."""
        self.waiters: deque[_Waiter] = deque()
        self.wanted = 0
        self.is_low = False
        self.dry_until = 0.0
        """Postgres is not asked before; `spent_until` is when more is sure to come free."""
        self.spent_until = 0.0
        self.lapsed: list[_Piece] = []
        self.door = asyncio.Lock()
        self.seats = 0
        """Links that the next call has room for, until then."""
        self.seats_until = 0.0
        self._pieces: deque[_Piece] = deque()
        self._second = second
        self._rate = 0.0
        self._rated_at = 0.0

    def want(self, n: int, now: float) -> None:
        """Note that `n` calls are asked for."""
        self.wanted += n
        self._rate = self.demand(now) + n
        self._rated_at = now

    def demand(self, now: float) -> float:
        """Calls asked for in a second of late, by a mean that forgets exponentially."""
        return self._rate * math.exp((self._rated_at - now) / self._second)

    def take(self, n: int, now: float) -> list[_Piece]:
        """At most `n` calls, the oldest first; an empty list where there are none."""
        taken: list[_Piece] = []
        while n and self._pieces:
            piece = self._pieces[0]
            if piece.lapses_at <= now:
                self.lapsed.append(self._pieces.popleft())
                continue
            if piece.n <= n:
                taken.append(self._pieces.popleft())
            else:
                piece.n -= n
                taken.append(_Piece(n, piece.number, piece.lapses_at))
            n -= taken[-1].n
        return taken

    def put(self, piece: _Piece) -> None:
        """Put calls in, or back: they may be the oldest by now."""
        at = len(self._pieces)
        if not at:
            self.wake.set()
        while at and self._pieces[at - 1].lapses_at > piece.lapses_at:
            at -= 1
        self._pieces.insert(at, piece)

    def fresh(self, now: float) -> int:
        """Calls that are there for a while yet."""
        least = now + FRESH * self._second
        return sum(piece.n for piece in self._pieces if piece.lapses_at > least)

    def lapse(self, now: float) -> None:
        """Part with the pieces that are too old."""
        while self._pieces and self._pieces[0].lapses_at <= now:
            self.lapsed.append(self._pieces.popleft())

    def part(self) -> None:
        """Part with all that is there."""
        self.lapsed.extend(self._pieces)
        self._pieces.clear()

    def next_moment(self) -> float:
        """When something is to be done for it next: a piece gets too old, or more comes free."""
        lapse = self._pieces[0].lapses_at if self._pieces else math.inf
        return min(lapse, self.dry_until) if self.waiters or self.is_low else lapse


class Permit:
    """The right to `n` calls of one call class, for a purpose, within the next second.

    What was not spent by then is worth nothing any more, and the gate asks for a grant anew.
    """

    __slots__ = ("_pieces", "_probed", "_stock", "is_probe", "n")

    def __init__(
        self,
        stock: _Stock,
        pieces: list[_Piece],
        *,
        probed: Breaker | None = None,
        is_probe: bool = False,
    ) -> None:
        self._stock = stock
        self._pieces = pieces
        self._probed = probed
        self.n = sum(piece.n for piece in pieces)
        self.is_probe = is_probe or probed is not None
        """The call is to find out whether the platform answers again."""

    @property
    def call_class(self) -> str:
        """What the calls are of."""
        return self._stock.call_class

    @property
    def purpose(self) -> Purpose:
        """What the calls are for."""
        return self._stock.purpose

    def give_back(self) -> None:
        """What of it was not spent is there for others again; a second time does nothing."""
        while self._pieces:
            piece = self._pieces.pop()
            self._stock.wanted = max(0, self._stock.wanted - piece.n)  # it was not, after all
            self._stock.put(piece)
        self.n = 0
        if self._probed is not None:
            self._probed.keep_probe()
            self._probed = None

    def spend(self, now: float) -> bool:
        """Use one call up; False where none is left that is young enough."""
        while self._pieces:
            piece = self._pieces[-1]
            if piece.lapses_at <= now:
                self.n -= piece.n
                self._stock.lapsed.append(self._pieces.pop())
                self._stock.wake.set()
                continue
            self.n -= 1
            piece.n -= 1
            if piece.n == 0:
                self._pieces.pop()
            if self._probed is not None:
                self._probed.sent_probe()
            return True
        return False


_permit: ContextVar[Permit | None] = ContextVar("permit", default=None)
_purpose: ContextVar[tuple[Purpose, float]] = ContextVar(
    "purpose", default=(Purpose.PROVISIONING, PATIENCE_SECONDS)
)


@contextmanager
def spending(permit: Permit, *, patience: float = RETRY_SECONDS) -> Iterator[None]:
    """Let the calls of the block use a permit; what they leave of it is given back at the end.

    Args:
        permit: what they use.
        patience: seconds that a further call, or one of another call class, waits for a grant of
            its own.
    """
    token = _permit.set(permit)
    try:
        with for_purpose(permit.purpose, patience):
            yield
    finally:
        _permit.reset(token)
        permit.give_back()


@contextmanager
def for_purpose(purpose: Purpose, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Say what the calls of the block are for.

    Args:
        purpose: whose share they use.
        patience: seconds that each waits for its grant; not more than half of its own deadline.
    """
    token = _purpose.set((purpose, patience))
    try:
        yield
    finally:
        _purpose.reset(token)


class Budget:
    """What this process may call. One for each process, open while it is used (`async with`).

    Args:
        ledger: where all processes meet.
        rate_per_minute: calls of the whole brand.
        limits: calls a minute of the call classes that have a limit of their own.
        minute: seconds of the platform's minute.
        clock: seconds, from whenever; it never goes back.
    """

    def __init__(
        self,
        ledger: BudgetStore,
        *,
        rate_per_minute: int,
        limits: Mapping[str, int],
        minute: float = MINUTE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._terms = Terms(
            limits={**limits, BRAND: rate_per_minute},
            shares=SHARES,
            patient=PATIENT,
            minute=minute,
        )
        self._second = minute / 60
        self._clock = clock
        self._breakers: dict[str, Breaker] = {name: Breaker(clock) for name in CALL_CLASSES}
        self._wake = asyncio.Event()
        # In the order in which Postgres is asked: the most urgent first.
        self._stocks: dict[tuple[str, Purpose], _Stock] = {
            (name, purpose): _Stock(name, purpose, self._second, self._wake)
            for purpose in SHARES
            for name in CALL_CLASSES
        }
        self._cuts: dict[str, Cut] = {}
        self._worker: asyncio.Task[None] | None = None
        self._closing = False
        self._statements = float(STATEMENTS)
        self._counted_at = 0.0

    async def __aenter__(self) -> Self:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hand everything back."""
        self._closing = True
        self._wake.set()
        if self._worker is not None:
            await self._worker
        for stock in self._stocks.values():
            stock.part()
            self._deny(stock, math.inf)
        if (unspent := self._unspent()) or self._cuts:
            with suppress(DatabaseError):  # then it counts as used, for a minute
                await self._ledger.exchange(self._terms, [], unspent, list(self._cuts.values()))

    async def grant(
        self,
        call_class: str,
        purpose: Purpose,
        n: int = 1,
        *,
        patience: float = 0.0,
        within: float = RETRY_SECONDS,
    ) -> Permit | Denied:
        """The right to make calls now, as many of `n` as there are: at least one, or none.

        Where this process has some, nothing is awaited that suspends.

        Args:
            call_class: of what.
            purpose: for what.
            n: how many at the most.
            patience: seconds that it may take; with 0 it takes one round trip to Postgres at the
                most, and none while it is known that there is nothing left.
            within: seconds that this round trip may take.
        """
        breaker = self._breakers[call_class]
        if breaker.is_open:
            if wait := breaker.wait():
                return Denied("upstream-away", wait)
            n = 1
        stock = self._stocks[call_class, Purpose(purpose)]
        now = self._clock()
        stock.want(n, now)
        pieces = [] if stock.waiters else stock.take(n, now)
        if not pieces:
            waited = await self._wait(stock, n, now, patience, within)
            if waited is None:
                return Denied("budget-spent", self._dry_for(stock))
            pieces = waited
        elif not stock.is_low and self._is_low(stock, now):
            stock.is_low = True
            self._wake.set()
        if not breaker.is_open:
            return Permit(stock, pieces)
        if breaker.probe():
            return Permit(stock, pieces, probed=breaker)
        Permit(stock, pieces).give_back()
        return Denied("upstream-away", breaker.wait())

    async def admit(
        self,
        call_class: str | None,
        purpose: Purpose,
        carries: int = 1,
        *,
        patience: float = 0.0,
        within: float = RETRY_SECONDS,
    ) -> Permit | Denied:
        """The right to make one link now, be it by a call that makes several.

        Where one call carries several, there need only be room for that one, which admits so many
        within a moment. Their permits hold nothing: the call takes its own when it leaves, and the
        longer that takes, the more are in it. So it is with the probe of a platform that was away.

        Args:
            call_class: of the call; None: the link needs none.
            purpose: for what.
            carries: links that one call makes.
            patience: as `grant`.
            within: as `grant`; whoever asks at the same time is waited for no longer.
        """
        if call_class is None:
            return Permit(_Stock("none", purpose, self._second, self._wake), [])
        if carries == 1:
            return await self.grant(call_class, purpose, patience=patience, within=within)
        stock = self._stocks[call_class, purpose]
        until = self._clock() + max(patience, within)
        try:
            async with asyncio.timeout(max(patience, within)):
                await stock.door.acquire()
        except TimeoutError:
            return Denied("budget-spent", self._dry_for(stock))
        try:
            left = max(0.0, until - self._clock())
            return await self._seat(
                stock, carries, patience=min(patience, left), within=min(within, left)
            )
        finally:
            stock.door.release()

    async def _seat(
        self, stock: _Stock, carries: int, *, patience: float, within: float
    ) -> Permit | Denied:
        """Room in the next call that carries several; one at a time asks for it."""
        if stock.seats and self._clock() < stock.seats_until:
            stock.seats -= 1
            return Permit(stock, [])
        granted = await self.grant(
            stock.call_class, stock.purpose, patience=patience, within=within
        )
        if isinstance(granted, Denied):
            return granted
        granted.give_back()
        if granted.is_probe:
            return Permit(stock, [], is_probe=True)
        stock.seats = carries - 1
        stock.seats_until = self._clock() + SEATS_SECONDS
        return Permit(stock, [])

    @asynccontextmanager
    async def passage(self, verb: str, call_class: CallClass, within: float) -> AsyncIterator[None]:
        """Let one request through; see `upstream.Gate`."""
        await self._admit(verb, call_class, within)
        breaker = self._breakers[call_class]
        was_open = breaker.is_open
        outing = breaker.out()
        outcome = Outcome.DROPPED
        try:
            yield
            outcome = Outcome.ANSWERED
        except (UnknownOutcome, Unavailable, Unreachable) as error:
            outcome = Outcome.UNANSWERED
            if error.http_status == HTTPStatus.TOO_MANY_REQUESTS:
                # A gateway's own, perhaps: what became of the call is unknown, that there were too
                # many is not.
                outcome = Outcome.ANSWERED
                self._slow_down(call_class, None)
            raise
        except CallFailed as error:
            is_barred = isinstance(error, Unauthorized | Forbidden)
            outcome = Outcome.BARRED if is_barred else Outcome.ANSWERED
            if isinstance(error, Throttled):
                self._slow_down(call_class, error.retry_after)
            raise
        finally:
            outing.back(outcome)
            if breaker.is_open and not was_open:
                log.error("calls of %s are held back: %s", call_class, outcome.value)

    async def standings(self) -> list[Standing]:
        """How every call class stands, `brand` first."""
        rooms = await self._ledger.look(self._terms, CALL_CLASSES)
        order = list(SHARES)
        return [
            Standing(
                call_class=name,
                rooms=tuple(
                    sorted(
                        (room for room in rooms if room.call_class == name),
                        key=lambda room: order.index(room.purpose),
                    )
                ),
                is_away=name != BRAND and self._breakers[name].is_open,
            )
            for name in (BRAND, *CALL_CLASSES)
        ]

    async def _admit(self, verb: str, call_class: CallClass, within: float) -> None:
        permit = _permit.get()
        if permit is not None and permit.call_class == call_class and permit.n:
            breaker = self._breakers[call_class]
            if breaker.is_open and not permit.is_probe:
                raise BudgetSpent(verb, "upstream-away", breaker.wait())
            if permit.spend(self._clock()):
                return
        purpose, patience = _purpose.get()
        until = self._clock() + min(patience, within)
        while True:
            left = max(0.0, until - self._clock())
            granted = await self.grant(call_class, purpose, patience=left)
            if isinstance(granted, Permit):
                if granted.spend(self._clock()):
                    return
            elif granted.rule == "upstream-away" and granted.retry_after < left:
                await asyncio.sleep(min(granted.retry_after, AWAY_SECONDS))
            else:
                raise BudgetSpent(verb, granted.rule, granted.retry_after)

    def _slow_down(self, call_class: str, retry_after: float | None) -> None:
        if retry_after is not None:
            retry_after = min(retry_after, MINUTE)
        self._cuts[call_class] = Cut(call_class=call_class, retry_after=retry_after)
        for purpose in SHARES:
            self._stocks[call_class, purpose].part()
        self._wake.set()

    async def _wait(
        self, stock: _Stock, n: int, now: float, patience: float, within: float
    ) -> list[_Piece] | None:
        if self._closing or (patience <= 0 and now < stock.dry_until):
            return None
        waiter = _Waiter(n, now + patience)
        stock.waiters.append(waiter)
        self._wake.set()
        try:
            await asyncio.wait({waiter.future}, timeout=max(patience, within))
        except asyncio.CancelledError:
            for piece in waiter.leave(stock) or ():
                stock.put(piece)
            raise
        return waiter.leave(stock)

    def _dry_for(self, stock: _Stock) -> float:
        return max(max(stock.spent_until, stock.dry_until) - self._clock(), 0.05)

    def _is_low(self, stock: _Stock, now: float) -> bool:
        demand = stock.demand(now)
        return now >= stock.dry_until and demand >= 2 and stock.fresh(now) < demand / 2  # noqa: PLR2004  (one call in a second can wait for its round trip)

    async def _work(self) -> None:
        """Ask Postgres for what is wanted and hand back what was not, until the end."""
        while not self._closing:
            self._wake.clear()
            now = self._clock()
            for stock in self._stocks.values():
                stock.lapse(now)
            due = [
                stock
                for stock in self._stocks.values()
                if (stock.waiters or stock.is_low) and stock.dry_until <= now
            ]
            if not (due or self._cuts or any(stock.lapsed for stock in self._stocks.values())):
                await self._idle(now)
            elif pause := self._too_soon(now):
                await asyncio.sleep(pause)
            else:
                await self._exchange(due, now)

    async def _idle(self, now: float) -> None:
        """Wait until there is something to do."""
        moments = [stock.next_moment() for stock in self._stocks.values()]
        left = min(moments) - now
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), None if left == math.inf else left)

    def _too_soon(self, now: float) -> float:
        """Seconds until another statement may be made; 0: it may now, and is counted."""
        earned = (now - self._counted_at) / self._second * STATEMENTS
        self._statements = min(STATEMENTS, self._statements + earned)
        self._counted_at = now
        if self._statements < 1:
            return (1 - self._statements) * self._second / STATEMENTS
        self._statements -= 1
        return 0.0

    async def _exchange(self, due: list[_Stock], now: float) -> None:
        asks: list[tuple[_Stock, Ask]] = []
        for stock in due:
            stock.is_low = False
            waiting = sum(waiter.n for waiter in stock.waiters)
            n = max(waiting, int(stock.demand(now)) - stock.fresh(now))
            if n > 0:
                ask = Ask(
                    call_class=stock.call_class,
                    purpose=stock.purpose,
                    n=n,
                    wanted=stock.wanted,
                )
                stock.wanted = 0
                asks.append((stock, ask))
        unspent = self._unspent()
        cuts, self._cuts = self._cuts, {}
        lapses_at = self._clock() + self._second
        try:
            grants = await self._ledger.exchange(
                self._terms, [ask for _, ask in asks], unspent, list(cuts.values())
            )
        except Exception as error:  # noqa: BLE001  (whoever waits is told, whatever it is)
            log.log(
                logging.WARNING if isinstance(error, DatabaseError) else logging.ERROR,
                "no calls can be granted: %s: %s",
                type(error).__name__,
                error,
            )
            self._cuts = cuts | self._cuts
            grants = [Grant(0, 0, RETRY_SECONDS)] * len(asks)
        for (stock, _), grant in zip(asks, grants, strict=True):
            self._serve(stock, grant, lapses_at)

    def _serve(self, stock: _Stock, grant: Grant, lapses_at: float) -> None:
        """Give what was granted to those who wait, the first first; tell the others."""
        now = self._clock()
        stock.dry_until = stock.spent_until = 0.0
        if grant.wait is not None:
            stock.spent_until = now + grant.wait
            stock.dry_until = now + min(grant.wait, RETRY_SECONDS * self._second)
        if grant.n:
            stock.put(_Piece(grant.n, grant.number, lapses_at))
        while stock.waiters and (pieces := stock.take(stock.waiters[0].n, now)):
            stock.waiters.popleft().future.set_result(pieces)
        if stock.dry_until > now:
            self._deny(stock, now)

    def _deny(self, stock: _Stock, by: float) -> None:
        """Tell those whose patience has ended by this moment that there is nothing for them."""
        for waiter in [waiter for waiter in stock.waiters if waiter.until <= by]:
            stock.waiters.remove(waiter)
            waiter.future.set_result(None)

    def _unspent(self) -> list[Unspent]:
        unspent = [
            Unspent(
                call_class=stock.call_class, purpose=stock.purpose, number=piece.number, n=piece.n
            )
            for stock in self._stocks.values()
            for piece in stock.lapsed
        ]
        for stock in self._stocks.values():
            stock.lapsed.clear()
        return unspent
