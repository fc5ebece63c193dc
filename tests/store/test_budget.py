"""The budget's ledger: what is granted in a window, to whom, and what a 429 does to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.store.conftest import Sql

from milepost.budget import PATIENT, SHARES
from milepost.model import Purpose
from milepost.store import Store
from milepost.store.budget import BRAND, Ask, BudgetStore, Cut, Grant, Room, Terms, Unspent

CLICK, DIRECT, DRAIN, PROVISIONING, RECONCILE = Purpose
LISTS = "list_contacts"


def terms(brand: int = 1000, minute: float = 60.0, **limits: int) -> Terms:
    """Limits, with the shares of the product."""
    return Terms(limits={BRAND: brand, **limits}, shares=SHARES, patient=PATIENT, minute=minute)


def ask(purpose: Purpose, n: int, call_class: str = LISTS, *, wanted: int | None = None) -> Ask:
    """Ask for calls, of which all are wanted."""
    return Ask(call_class=call_class, purpose=purpose, n=n, wanted=n if wanted is None else wanted)


@pytest.fixture
async def budget(database_url: str) -> AsyncIterator[BudgetStore]:
    """The verbs."""
    async with await Store.open(database_url) as store:
        yield store.budget


async def granted(budget: BudgetStore, terms: Terms, *asks: Ask) -> list[int]:
    """How many calls each ask brings."""
    return [grant.n for grant in await budget.exchange(terms, asks)]


async def room(budget: BudgetStore, terms: Terms, purpose: Purpose, of: str = LISTS) -> Room:
    """How a purpose stands."""
    (found,) = [
        room
        for room in await budget.look(terms, [LISTS])
        if (room.purpose, room.call_class) == (purpose, of)
    ]
    return found


def age(sql: Sql, half_seconds: int) -> None:
    """Let what was granted be granted so much earlier."""
    rows = sql("DELETE FROM grants RETURNING *, number - %s AS earlier", half_seconds)
    for row in rows:
        sql(
            "INSERT INTO grants VALUES (%s, %s, mod(%s, 128), %s, %s, %s)",
            row["call_class"],
            row["purpose"],
            row["earlier"],
            row["earlier"],
            row["granted"],
            row["wanted"],
        )


async def test_an_idle_minute_is_spent_in_one_burst_and_no_more(budget: BudgetStore) -> None:
    """The whole limit less a hundredth at once; then nothing, until the burst is a minute old."""
    given = terms()
    assert [990] == await granted(budget, given, ask(DIRECT, 2000))
    (grant,) = await budget.exchange(given, [ask(DIRECT, 1)])
    assert 0 == grant.n
    assert grant.wait is not None
    assert 60 < grant.wait <= 62


async def test_the_brand_bounds_what_its_classes_get_together(budget: BudgetStore) -> None:
    """A class has its own limit, or none but the brand's."""
    given = terms(1000, list_contacts=400)
    asks = ask(DIRECT, 2000), ask(DIRECT, 2000, "surveys"), ask(DIRECT, 1, "links")
    assert [396, 594, 0] == await granted(budget, given, *asks)


async def test_what_is_62_seconds_old_is_free_again(budget: BudgetStore, sql: Sql) -> None:
    """Not sooner: a call may have left 1.5 s after the beginning of its half second."""
    given = terms()
    await granted(budget, given, ask(DIRECT, 990))
    age(sql, 122)
    assert [0] == await granted(budget, given, ask(DIRECT, 5))
    age(sql, 2)
    assert [5] == await granted(budget, given, ask(DIRECT, 5))


async def test_what_is_handed_back_is_there_for_others(budget: BudgetStore, sql: Sql) -> None:
    """In the class and in the brand; what has left the window by then changes nothing."""
    given = terms()
    (grant,) = await budget.exchange(given, [ask(DIRECT, 990)])
    back = Unspent(call_class=LISTS, purpose=DIRECT, number=grant.number, n=90)
    grants = await budget.exchange(given, [ask(CLICK, 500)], [back])
    assert [90] == [grant.n for grant in grants]
    age(sql, 128)
    await budget.exchange(given, [], [back])
    assert {900, 90} == {row["granted"] for row in sql("SELECT granted FROM grants")}


async def test_an_unwanted_share_is_lent_and_a_wanted_one_is_kept(budget: BudgetStore) -> None:
    """Who asks leaves to each other purpose what it wants of its own share and has not got."""
    given = terms()
    assert [0] == await granted(budget, given, ask(DIRECT, 0, wanted=5000))
    # A forty-eighth of the limit in a second, for each purpose that can wait.
    assert [21, 21] == await granted(budget, given, ask(DRAIN, 990), ask(PROVISIONING, 990))
    # Of theirs, 198 and 148, drain and provisioning have 21 each.
    assert [990 - 42 - (198 - 21) - (148 - 21)] == await granted(budget, given, ask(DIRECT, 990))
    assert [0] == await granted(budget, given, ask(DIRECT, 990))
    assert [198 - 21 + 148 - 21] == await granted(budget, given, ask(CLICK, 990))


async def test_who_borrows_and_can_wait_leaves_the_last_twentieth(
    budget: BudgetStore, sql: Sql
) -> None:
    """Live events that begin suddenly find something at once; own shares are used up."""
    given = terms()
    await granted(budget, given, ask(DRAIN, 1))
    age(sql, 40)
    sql("UPDATE grants SET granted = 940")
    assert [1] == await granted(budget, given, ask(DRAIN, 100))
    assert [49] == await granted(budget, given, ask(DIRECT, 100))
    age(sql, 124)
    await granted(budget, given, ask(CLICK, 990 - 10))
    assert [10] == await granted(budget, given, ask(RECONCILE, 100))


async def test_who_can_wait_is_paced(budget: BudgetStore, sql: Sql) -> None:
    """A sixth of the limit in ten seconds, so that what was lent comes free as evenly."""
    given = terms()
    for _ in range(9):
        await granted(budget, given, ask(DRAIN, 100))
        age(sql, 2)
    assert pytest.approx(165, abs=24) == (await room(budget, given, DRAIN)).granted


async def test_nobody_wants_more_of_the_brand_than_the_class_allows(budget: BudgetStore) -> None:
    """A flood for a small class does not keep the brand from the others."""
    given = terms(1000, list_contacts=100)
    assert [0, 0] == await granted(budget, given, *[ask(DRAIN, 0, wanted=9000)] * 2)
    # Of its fifth of the brand, 198, drain could never use more than 99.
    assert [990 - 99] == await granted(budget, given, ask(DIRECT, 990, "surveys"))


async def test_a_429_cuts_the_rate_once_and_it_grows_back(budget: BudgetStore, sql: Sql) -> None:
    """0.7 of what was used; more of the same burst is no news; a tenth of the limit in a minute."""
    given = terms()
    cut = Cut(call_class=LISTS, retry_after=None)
    await granted(budget, given, ask(DIRECT, 500))
    for _ in range(3):
        await budget.exchange(given, [], cuts=[cut])
    assert pytest.approx(0.35, abs=0.001) == (await room(budget, given, DIRECT)).factor
    assert 1 == (await room(budget, given, DIRECT, BRAND)).factor
    assert [0] == await granted(budget, given, ask(CLICK, 1))
    sql("UPDATE call_classes SET cut_at = cut_at - interval '2 minutes'")
    assert pytest.approx(0.55, abs=0.001) == (await room(budget, given, DIRECT)).factor
    await budget.exchange(given, [], cuts=[cut])
    assert pytest.approx(0.35, abs=0.001) == (await room(budget, given, DIRECT)).factor
    sql("UPDATE call_classes SET cut_at = cut_at - interval '7 minutes'")
    assert 1 == (await room(budget, given, DIRECT)).factor


async def test_a_429_in_a_quiet_minute_cuts_to_a_quarter_at_the_most(budget: BudgetStore) -> None:
    """It may be the doing of others in the brand."""
    await budget.exchange(terms(), [], cuts=[Cut(call_class=LISTS, retry_after=None)])
    assert 0.25 == round((await room(budget, terms(), DIRECT)).factor, 3)


async def test_retry_after_closes_the_class_alone(budget: BudgetStore) -> None:
    """For as long as it says."""
    given = terms()
    cut = Cut(call_class=LISTS, retry_after=30)
    closed, open_ = await budget.exchange(
        given, [ask(CLICK, 1), ask(CLICK, 1, "surveys")], cuts=[cut]
    )
    assert (0, 1) == (closed.n, open_.n)
    assert closed.wait is not None
    assert 29 < closed.wait <= 30


async def test_the_clock_of_a_test_or_of_a_session_does_not_count(
    database_url: str, budget: BudgetStore
) -> None:
    """Limits are about time at the platform: a deployment's own date changes nothing."""
    await granted(budget, terms(), ask(DIRECT, 990))
    later = (
        f"{database_url}{'&' if '?' in database_url else '?'}options=-c%20milepost.now%3D2031-01-01"
    )
    async with await Store.open(later) as store:
        assert [0] == await granted(store.budget, terms(), ask(DIRECT, 1))


async def test_the_rows_stay_few(budget: BudgetStore, sql: Sql) -> None:
    """A ring of 128 half seconds: the row of one that has gone by is written over."""
    given = terms(10_000, minute=0.6)
    for _ in range(400):
        await granted(budget, given, ask(DIRECT, 1))
    (count,) = sql("SELECT count(*) AS n, sum(granted) AS granted FROM grants")
    assert count["n"] <= 2 * 128
    assert isinstance((await budget.exchange(given, [ask(DIRECT, 1)]))[0], Grant)
