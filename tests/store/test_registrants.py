"""Registrants: who owns which contact, whoever writes them and in whatever order."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from tests.store.conftest import CRITERIA, Register, Sql, event

from milepost.model import RegistrantDetails
from milepost.store import Store
from milepost.store.registrants import Counts

NAME = frozenset({"email", "first_name"})


def person(email: str | None, **more: str) -> RegistrantDetails:
    """Somebody with this e-mail."""
    return RegistrantDetails(email=email, **more)


async def contacts(store: Store, *refs: str) -> list[str]:
    """Whose contact each of them has."""
    found = [await store.registrants.get(ref) for ref in refs]
    return [registrant.contact if registrant else "unknown" for registrant in found]


async def test_writing_counts_what_it_did(store: Store) -> None:
    """Created, changed and unchanged; a dry run counts alike and changes nothing."""
    given = {"ann": person("ann@x.test"), "ben": person("new@x.test"), "dora": person(None)}
    for dry_run in (True, False):
        counts = await store.registrants.put(given, CRITERIA, dry_run=dry_run)
        assert Counts(created=1, changed=1, unchanged=1) == counts
    assert Counts(unchanged=3) == await store.registrants.put(given, CRITERIA)


async def test_details_of_an_event_never_change_a_registrant(store: Store) -> None:
    """They create one that is not known, and leave one that is."""
    given = {"ann": person("other@x.test"), "dora": person("dora@x.test")}
    counts = await store.registrants.put(given, CRITERIA, change=False)
    assert Counts(created=1, unchanged=1) == counts
    ann = await store.registrants.get("ann")
    assert ann is not None
    assert "ann@x.test" == ann.details.email


async def test_a_contact_has_one_owner_at_a_time(store: Store) -> None:
    """The first keeps it; when they leave the values, the next in line has it at once."""
    await store.registrants.put({"dora": person("ANN@x.test"), "eve": person("")}, CRITERIA)
    assert ["own", "shared", "incomplete"] == await contacts(store, "ann", "dora", "eve")
    await store.registrants.put({"ann": person("free@x.test")}, CRITERIA)
    assert ["own", "own"] == await contacts(store, "ann", "dora")
    await store.registrants.put({"ann": person("ann@x.test")}, CRITERIA)
    assert ["shared", "own"] == await contacts(store, "ann", "dora")


async def test_who_changes_their_key_has_another_contact(store: Store) -> None:
    """The ids of the old contact are forgotten, and a late settlement of it changes nothing."""
    claimed = {row.ref: row.attempt for row in await store.registrants.claim_without_contact(10)}
    assert await store.registrants.settle_contact("ann", claimed["ann"], "CID_1", "CGC_1")
    await store.registrants.put({"ann": person("ann@x.test", first_name="Ann")}, CRITERIA)
    ann = await store.registrants.get("ann")
    assert ann is not None
    assert "CID_1" == ann.contact_id
    new = {"ann": person("a@x.test"), "ben": person("b@x.test")}
    await store.registrants.put(new, CRITERIA)
    assert not await store.registrants.settle_contact("ben", claimed["ben"], "CID_2", "CGC_2")
    again = await store.registrants.claim_without_contact(10)
    assert [("ann", None), ("ben", None)] == [(row.ref, row.contact_id) for row in again]


async def test_other_criteria_give_other_owners(store: Store) -> None:
    """Keys are computed anew in chunks, and the second run finds nothing to do."""
    await store.registrants.put(
        {
            "ann": person("a@x.test", first_name="Ann"),
            "dora": person("a@x.test", first_name="Dora"),
            **{f"r{number}": person("all@x.test") for number in range(200)},
        },
        CRITERIA,
    )
    await store.registrants.put(
        {f"s{number}": person(f"{number}@x.test", first_name="S") for number in range(400)},
        CRITERIA,
    )
    assert ["own", "shared", "own"] == await contacts(store, "ann", "dora", "r0")
    assert 604 == await store.registrants.rekey(NAME)
    assert ["own", "own", "incomplete"] == await contacts(store, "ann", "dora", "r0")
    assert 0 == await store.registrants.rekey(NAME)


async def test_imports_and_events_at_once_give_each_contact_one_owner(
    store: Store, register: Register, sql: Sql, database_url: str
) -> None:
    """Two imports of one family in opposing orders, amid events of the same people."""
    await register(slots=20)
    refs = [f"r{number:03}" for number in range(120)]
    async with await Store.open(database_url) as second:

        async def bring(replica: Store, order: list[str], email: str) -> None:
            """Import them in this order, in chunks."""
            for start in range(0, len(order), 40):
                chunk = order[start : start + 40]
                given = {ref: person(email.format(int(ref[1:]) // 4)) for ref in chunk}
                await replica.registrants.put(given, CRITERIA)

        await bring(store, refs, "old{}@x.test")
        await asyncio.gather(
            bring(store, refs, "f{}@x.test"),
            bring(second, refs[::-1], "F{}@X.test"),
            *(
                replica.links.claim(event(f"{ref}-{number}", ref))
                for number, replica in enumerate((store, second))
                for ref in refs
            ),
        )
    (row,) = sql(
        "SELECT count(DISTINCT contact_key) AS keys, count(dedup_key) AS owners FROM registrants"
        " WHERE contact_key IS NOT NULL AND ref NOT IN ('ann', 'ben', 'cleo')"
    )
    assert {"keys": 30, "owners": 30} == row


async def test_the_longest_names_fit(store: Store) -> None:
    """Whatever the doors let in, an index takes: long values in a script of four bytes a letter."""
    everything = frozenset({"email", "first_name", "last_name", "ref", "phone"})
    noise = "".join(chr(0x20000 + 7919 * number % 40_000) for number in range(200))
    long = person(noise + "@x.test", first_name=noise, last_name=noise[::-1], phone=noise[:40])
    await store.registrants.put({noise: long}, everything)
    assert ["own"] == await contacts(store, noise)


async def test_a_reference_beyond_all_bounds_is_our_mistake(store: Store) -> None:
    """It is refused by the table as what it is, and not taken for a lost database."""
    with pytest.raises(psycopg.errors.CheckViolation):
        await store.registrants.put({"x" * 801: person("x@x.test")}, CRITERIA)
