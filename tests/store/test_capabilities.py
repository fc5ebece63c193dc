"""What has been proved of the account, as the store keeps it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from milepost.model import Fact
from milepost.store import Store


async def test_what_was_never_tried_counts_as_true(store: Store) -> None:
    """An empty table allows everything, and says that nothing was tried."""
    account = await store.capabilities.all()
    assert tuple(Fact) == account.unprobed
    assert {True} == {account.holds(fact) for fact in Fact}
    assert account.get(Fact.LATE_LINK) is None


async def test_a_finding_replaces_the_one_before(store: Store) -> None:
    """The latest answer counts, with its figure, its evidence and its moment."""
    await store.capabilities.note(Fact.PROMPT_SEARCH, holds=True, evidence="found at once")
    await store.capabilities.note(
        Fact.PROMPT_SEARCH, holds=False, figure=40, evidence="found after 40 s"
    )
    account = await store.capabilities.all()
    found = account.get(Fact.PROMPT_SEARCH)
    assert found is not None
    assert (False, 40, "found after 40 s") == (found.holds, found.figure, found.evidence)
    assert timedelta(minutes=1) > abs(datetime.now(UTC) - found.probed_at)
    assert not account.holds(Fact.PROMPT_SEARCH)
    assert Fact.PROMPT_SEARCH not in account.unprobed


async def test_a_fact_of_another_version_is_passed_over(store: Store) -> None:
    """While versions change, one may have noted what the other does not know."""
    await store.capabilities.note(Fact.LATE_LINK, holds=False, evidence="it did not open")
    async with store.connections.path() as connection:
        await connection.execute("UPDATE capabilities SET fact = 'of_tomorrow'")
    assert tuple(Fact) == (await store.capabilities.all()).unprobed


async def test_a_finding_can_be_forgotten(store: Store) -> None:
    """What is forgotten counts as never tried."""
    await store.capabilities.note(Fact.LATE_LINK, holds=False, evidence="it did not open")
    await store.capabilities.forget(Fact.LATE_LINK)
    assert tuple(Fact) == (await store.capabilities.all()).unprobed


async def test_the_process_that_notes_a_finding_knows_it_at_once(store: Store) -> None:
    """What is remembered for the path gives way to what was just found."""
    assert (await store.capabilities.current()).holds(Fact.PRIVATE_DATA)
    await store.capabilities.note(Fact.PRIVATE_DATA, holds=False, evidence="it was not recorded")
    assert not (await store.capabilities.current()).holds(Fact.PRIVATE_DATA)
