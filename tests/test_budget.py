"""The budget across processes: each `Budget` here is one, and Postgres is where they meet.

A platform's minute is six seconds long in most of these tests; everything in the budget scales with
it, and what is counted is the moment in which a call would leave.
"""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import httpx
import pytest

from milepost.budget import Budget, Denied, Permit, for_purpose, spending
from milepost.model import Purpose
from milepost.simulator import Config, running
from milepost.store import Store
from milepost.store.budget import Ask, BudgetStore, Cut, Grant, Terms, Unspent
from milepost.upstream import (
    BudgetSpent,
    Refused,
    Throttled,
    Unavailable,
    UnknownOutcome,
    Upstream,
)
from milepost.upstream.errors import Facts

CLICK, DIRECT, DRAIN, PROVISIONING, RECONCILE = Purpose
LISTS = "list_contacts"
MINUTE = 6.0
LIMIT = 600

Open = Callable[..., Budget]


class Ledger(BudgetStore):
    """The real one, which counts its statements."""

    exchanges = 0

    async def exchange(
        self,
        terms: Terms,
        asks: Sequence[Ask],
        unspent: Sequence[Unspent] = (),
        cuts: Sequence[Cut] = (),
    ) -> list[Grant]:
        """Count, and do it."""
        self.exchanges += 1
        return await super().exchange(terms, asks, unspent, cuts)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """Where they meet."""
    async with await Store.open(database_url) as store:
        yield store


@pytest.fixture
async def ledger(store: Store) -> Ledger:
    """The budget's verbs."""
    return Ledger(store.connections)


@pytest.fixture
async def budget(ledger: Ledger) -> AsyncIterator[Budget]:
    """One process, in the platform's real minute."""
    async with Budget(ledger, rate_per_minute=LIMIT, limits={}) as budget:
        yield budget


def short(ledger: BudgetStore, limits: Mapping[str, int] | None = None, skew: float = 0) -> Budget:
    """A process whose platform has short minutes; its own clock may be off."""
    return Budget(
        ledger,
        rate_per_minute=LIMIT,
        limits=limits or {},
        minute=MINUTE,
        clock=lambda: time.monotonic() + skew,
    )


async def permitted(budget: Budget, n: int = 1, purpose: Purpose = DIRECT) -> Permit:
    """A permit, which there has to be."""
    permit = await budget.grant(LISTS, purpose, n)
    assert isinstance(permit, Permit), permit
    return permit


async def refused(budget: Budget, purpose: Purpose = DIRECT) -> Denied:
    """A denial, which there has to be."""
    denied = await budget.grant(LISTS, purpose)
    assert isinstance(denied, Denied)
    return denied


async def call(
    budget: Budget, purpose: Purpose, rate: float, until: float, left: list[float]
) -> None:
    """Make so many calls a second; each leaves a little after its grant, if it still may."""
    skew = budget._clock() - time.monotonic()  # noqa: SLF001  (a clock that is off by so much)

    async def one() -> None:
        """One call."""
        permit = await budget.grant(LISTS, purpose)
        if isinstance(permit, Permit):
            await asyncio.sleep(random.uniform(0, 0.05))  # noqa: S311  (a simulation)
            now = time.monotonic()
            if permit.spend(now + skew):
                left.append(now)

    async with asyncio.TaskGroup() as group:
        started, made = time.monotonic(), 0
        while (now := time.monotonic()) < until:
            while made < (now - started) * rate:
                group.create_task(one())
                made += 1
            await asyncio.sleep(0.002)


def most(moments: Sequence[float], window: float) -> int:
    """The most in any window."""
    ordered = sorted(moments)
    return max(bisect_left(ordered, first + window) - at for at, first in enumerate(ordered))


async def test_four_processes_use_the_limit_and_never_exceed_it(ledger: Ledger) -> None:
    """At three times the limit, one clock off by an hour: full windows, and none beyond.

    A burst comes back after 62 seconds of the minute's 60, so two such spans are looked at.
    """
    span = 2 * MINUTE * 62 / 60
    left: list[float] = []
    async with AsyncExitStack() as stack:
        budgets = [
            await stack.enter_async_context(short(ledger, skew=skew)) for skew in (0, 0, 0, 3600)
        ]
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for budget in budgets:
                rate = 3 * LIMIT / MINUTE / len(budgets)
                group.create_task(call(budget, DIRECT, rate, start + span + 0.5, left))
    assert most(left, MINUTE) <= LIMIT
    used = sum(moment < min(left) + span for moment in left)
    assert 0.95 * LIMIT * span / MINUTE <= used


async def test_what_is_lent_comes_back_when_its_owner_wants_it(ledger: Ledger) -> None:
    """Drain has nearly all while it is alone; direct then finds some at once, and its share."""
    drained: list[float] = []
    direct: list[float] = []
    async with short(ledger) as one, short(ledger) as other:
        start = time.monotonic()
        rate = 2 * LIMIT / MINUTE
        async with asyncio.TaskGroup() as group:
            group.create_task(call(one, DRAIN, rate, start + 3 * MINUTE, drained))
            await asyncio.sleep(MINUTE)  # a limit is about time that passes
            group.create_task(call(other, DIRECT, rate, start + 3 * MINUTE, direct))
    assert 0.75 * LIMIT <= sum(moment < start + MINUTE for moment in drained) <= 0.95 * LIMIT
    assert sum(moment < start + 1.1 * MINUTE for moment in direct) >= 0.04 * LIMIT
    assert sum(start + 2 * MINUTE <= moment for moment in direct) >= 0.70 * LIMIT
    assert 0.15 * LIMIT <= sum(start + 2 * MINUTE <= moment for moment in drained) <= 0.25 * LIMIT
    assert most(drained + direct, MINUTE) <= LIMIT


async def test_the_platform_itself_refuses_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real clients of two processes, a real socket, a platform that counts exactly."""
    minute, limit = 15.0, 300
    monkeypatch.setattr("milepost.simulator.traffic.MINUTE", minute)
    with running(Config(limits="none", rate_per_minute=limit)) as ready:
        async with AsyncExitStack() as stack:
            clients = []
            for _ in range(2):
                budget = await stack.enter_async_context(
                    Budget(ledger, rate_per_minute=limit, limits={}, minute=minute)
                )
                clients.append(
                    await stack.enter_async_context(
                        Upstream(ready.url, "simulator", max_connections=10, gate=budget)
                    )
                )
            until = time.monotonic() + minute * 62 / 60 + 3

            async def insist(upstream: Upstream) -> None:
                """Call until the test is over."""
                with for_purpose(DIRECT, 0.5):
                    while time.monotonic() < until:
                        with suppress(BudgetSpent):
                            await upstream.whoami()

            async with asyncio.TaskGroup() as group:
                for upstream in clients * 5:
                    group.create_task(insist(upstream))
        async with httpx.AsyncClient(base_url=ready.origin, trust_env=False) as web:
            brand = (await web.get("/control/stats")).json()["brand"]
    assert 0 == brand["throttled"]
    assert brand["busiest_minute"] <= limit
    assert brand["calls"] >= 2 * 0.95 * limit


async def test_a_429_slows_the_other_process_within_a_second(ledger: Ledger) -> None:
    """The news is in its next portion, and no portion lives for longer."""
    async with (
        Budget(ledger, rate_per_minute=LIMIT, limits={}) as one,
        Budget(ledger, rate_per_minute=LIMIT, limits={}) as other,
    ):
        permit = await permitted(other, 20)
        with pytest.raises(Throttled):
            async with one.passage("add_list_contact", LISTS, 1):
                raise Throttled("add_list_contact", "too many calls", Facts(429), 30.0)
        assert (await refused(one)).retry_after <= 30
        slowed = time.monotonic() + 1
        while permit.spend(time.monotonic()):
            assert time.monotonic() <= slowed
            await asyncio.sleep(0.05)
        denied = await refused(other)
        assert ("budget-spent", True) == (denied.rule, 25 < denied.retry_after <= 30)
        standings = {standing.call_class: standing for standing in await other.standings()}
        assert 0.25 == round(standings[LISTS].rooms[0].factor, 2)


async def test_a_429_of_somebody_on_the_way_slows_as_well(budget: Budget) -> None:
    """What became of the call is unknown; that there were too many calls is not."""
    with pytest.raises(UnknownOutcome):
        async with budget.passage("add_list_contact", LISTS, 1):
            raise UnknownOutcome("add_list_contact", "no envelope", "no-envelope", Facts(429))
    until = time.monotonic() + 2
    factor = 1.0
    while factor == 1:
        assert time.monotonic() < until
        await asyncio.sleep(0.05)
        standings = {standing.call_class: standing for standing in await budget.standings()}
        factor = standings[LISTS].rooms[0].factor
    assert 0.25 <= factor <= 0.5


async def test_what_is_at_hand_is_given_without_waiting(budget: Budget) -> None:
    """The path of an event pays a subtraction, not a round trip."""
    for _ in range(50):
        await permitted(budget)
    (await permitted(budget, 5)).give_back()
    with pytest.raises(StopIteration) as caught:
        budget.grant(LISTS, DIRECT).send(None)
    assert isinstance(caught.value.value, Permit)


async def test_a_flood_of_requests_is_no_flood_of_statements(
    budget: Budget, ledger: Ledger
) -> None:
    """Where nothing is left, that is remembered."""
    await permitted(budget, LIMIT, CLICK)
    before = ledger.exchanges
    until = time.monotonic() + 1
    denials = 0
    while time.monotonic() < until:
        denials += isinstance(await budget.grant(LISTS, DIRECT), Denied)
        await asyncio.sleep(0)
    assert denials > 1000
    assert ledger.exchanges - before <= 12


async def test_who_is_patient_gets_what_is_handed_back(ledger: Ledger) -> None:
    """What another process did not use is there a second later."""
    async with (
        Budget(ledger, rate_per_minute=LIMIT, limits={}) as one,
        Budget(ledger, rate_per_minute=LIMIT, limits={}) as other,
    ):
        permit = await permitted(one, LIMIT, CLICK)
        assert "budget-spent" == (await refused(other)).rule
        waiting = asyncio.create_task(other.grant(LISTS, CLICK, 7, patience=5))
        permit.give_back()
        got = await waiting
    assert isinstance(got, Permit)
    assert 7 == got.n


async def test_the_end_of_a_process_hands_everything_back(store: Store, ledger: Ledger) -> None:
    """The next one finds the whole limit."""
    async with Budget(ledger, rate_per_minute=LIMIT, limits={}) as budget:
        permit = await permitted(budget, 500)
        assert permit.spend(time.monotonic())
        permit.give_back()
    rooms = await store.budget.look(budget._terms, [LISTS])  # noqa: SLF001  (the same terms)
    assert {1} == {room.granted for room in rooms if room.purpose is DIRECT}


async def test_a_permit_is_good_for_a_second(ledger: Ledger) -> None:
    """Later its call would be counted in a minute for which it was not granted."""
    async with short(ledger) as budget:
        permit = await permitted(budget, 3)
        granted_at = time.monotonic()
        assert permit.spend(granted_at)
        assert not permit.spend(granted_at + MINUTE / 60)
        assert 0 == permit.n


async def test_a_call_spends_its_permit_and_then_asks_for_itself(budget: Budget) -> None:
    """What is left of the permit at the end of the block is given back."""
    permit = await permitted(budget, 3)
    with spending(permit):
        for _ in range(2):
            async with budget.passage("add_list_contact", LISTS, 1):
                pass
        async with budget.passage("get_contact", "directory_contacts", 1):
            assert 1 == permit.n
    assert 0 == permit.n
    standings = {standing.call_class: standing for standing in await budget.standings()}
    assert DIRECT is standings["directory_contacts"].rooms[1].purpose
    assert standings["directory_contacts"].rooms[1].granted >= 1


async def test_who_shares_a_call_waits_no_longer_than_alone(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind somebody who has more time."""
    answer, asked = asyncio.Event(), asyncio.Event()
    exchange = ledger.exchange

    async def hang(*args: Any) -> list[Grant]:
        """Let Postgres answer late."""
        asked.set()
        await answer.wait()
        return await exchange(*args)

    monkeypatch.setattr(ledger, "exchange", hang)
    async with Budget(ledger, rate_per_minute=LIMIT, limits={}) as budget:
        first = asyncio.create_task(budget.admit(LISTS, DIRECT, 10, within=60))
        await asyncio.wait_for(asked.wait(), 5)
        try:
            async with asyncio.timeout(5):
                assert isinstance(await budget.admit(LISTS, DIRECT, 10, within=0.05), Denied)
        finally:
            answer.set()
        assert isinstance(await first, Permit)
        assert isinstance(await budget.admit(LISTS, DIRECT, 10), Permit)


async def test_without_a_grant_nothing_is_sent(budget: Budget) -> None:
    """The error is one of throttling, with the time after which asking again is worth it."""
    await permitted(budget, LIMIT, CLICK)
    with for_purpose(PROVISIONING, 0.1), pytest.raises(BudgetSpent) as caught:
        async with budget.passage("whoami", "account", 1):
            pytest.fail("it was let through")
    assert isinstance(caught.value, Throttled)
    assert ("budget-spent", True) == (caught.value.rule, (caught.value.retry_after or 0) > 50)


async def test_while_upstream_is_away_one_probe_goes_at_a_time(ledger: Ledger) -> None:
    """Everybody else is denied at once; an answer, a refusal too, opens the way."""
    ahead = [0.0]
    async with Budget(
        ledger, rate_per_minute=LIMIT, limits={}, clock=lambda: time.monotonic() + ahead[0]
    ) as budget:
        held = await permitted(budget)
        for _ in range(5):
            with pytest.raises(Unavailable):
                async with budget.passage("list_contacts", LISTS, 1):
                    raise Unavailable("list_contacts", "no answer", "deadline")
        denied = await refused(budget)
        assert ("upstream-away", True) == (denied.rule, 0 < denied.retry_after <= 2)
        with spending(held), pytest.raises(BudgetSpent):
            async with budget.passage("add_list_contact", LISTS, 1):
                pytest.fail("it was let through")
        assert isinstance(await budget.grant("surveys", DIRECT), Permit)
        with for_purpose(DRAIN, 1), pytest.raises(BudgetSpent) as caught:
            async with budget.passage("list_contacts", LISTS, 1):
                pytest.fail("it was let through")
        assert "upstream-away" == caught.value.rule
        ahead[0] += 2
        probe = await permitted(budget, 10, DRAIN)
        assert (True, 1) == (probe.is_probe, probe.n)
        assert "upstream-away" == (await refused(budget)).rule
        with spending(probe), pytest.raises(Refused):
            async with budget.passage("add_list_contact", LISTS, 1):
                raise Refused("add_list_contact", "refused")
        assert not (await permitted(budget)).is_probe


async def test_a_call_that_several_share_can_be_the_probe(ledger: Ledger) -> None:
    """It leaves in a context of its own, after those who are in it have been admitted."""
    ahead = [0.0]
    async with Budget(
        ledger, rate_per_minute=LIMIT, limits={}, clock=lambda: time.monotonic() + ahead[0]
    ) as budget:
        for _ in range(5):
            with pytest.raises(Unavailable):
                async with budget.passage("list_contacts", LISTS, 1):
                    raise Unavailable("list_contacts", "no answer", "deadline")
        assert isinstance(await budget.admit(LISTS, DIRECT, 10), Denied)
        ahead[0] += 2
        admitted = await budget.admit(LISTS, DIRECT, 10)
        assert isinstance(admitted, Permit)
        assert (True, 0) == (admitted.is_probe, admitted.n)
        async with budget.passage("list_contacts", LISTS, 1):
            admitted.give_back()
        assert not (await permitted(budget)).is_probe


async def test_who_is_patient_waits_for_the_probe(budget: Budget) -> None:
    """A job goes on by itself when the platform is back."""
    for _ in range(5):
        with pytest.raises(Unavailable):
            async with budget.passage("list_contacts", LISTS, 1):
                raise Unavailable("list_contacts", "no answer", "deadline")

    async def look() -> None:
        """One read, past the gate."""
        async with budget.passage("list_contacts", LISTS, 5):
            pass

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(look())
    assert not (await permitted(budget)).is_probe


async def test_a_hanging_platform_is_left_alone_after_three_seconds(ledger: Ledger) -> None:
    """Long before the first call has reached its deadline."""
    ahead = [0.0]
    sent = asyncio.Semaphore(0)
    over = asyncio.Event()
    async with Budget(
        ledger, rate_per_minute=LIMIT, limits={}, clock=lambda: time.monotonic() + ahead[0]
    ) as budget:

        async def hang() -> None:
            """A call that gets no answer."""
            async with budget.passage("add_list_contact", LISTS, 5):
                sent.release()
                await over.wait()

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(hang())
            for _ in range(5):
                await sent.acquire()
            ahead[0] += 3
            assert "upstream-away" == (await refused(budget)).rule
            over.set()


async def test_without_postgres_nothing_is_granted(database_url: str) -> None:
    """And nobody is left waiting."""
    async with await Store.open(database_url) as gone:
        pass
    async with Budget(gone.budget, rate_per_minute=LIMIT, limits={}) as budget:
        assert "budget-spent" == (await refused(budget)).rule
