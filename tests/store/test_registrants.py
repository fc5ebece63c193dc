"""Registrants: who owns which contact, whoever writes them and in whatever order."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from tests.store.conftest import CRITERIA, DIRECTORY, Register, Sql, event
from tests.store.test_concurrency import until_blocked

from milepost.errors import DatabaseBusy
from milepost.model import RegistrantDetails
from milepost.store import Store, registrants
from milepost.store.registrants import Counts, RegistrantStore

NAME = frozenset({"email", "first_name"})


def person(email: str | None, **more: str) -> RegistrantDetails:
    """Somebody with this e-mail."""
    return RegistrantDetails(email=email, **more)


async def contacts(store: Store, *refs: str) -> list[str]:
    """Whose contact each of them has."""
    found = [await store.registrants.get(ref) for ref in refs]
    return [registrant.contact if registrant else "unknown" for registrant in found]


async def test_writing_counts_what_it_did(store: Store) -> None:
    """Created, changed and unchanged."""
    given = {"ann": person("ann@x.test"), "ben": person("new@x.test"), "dora": person(None)}
    assert Counts(created=1, changed=1, unchanged=1) == await store.registrants.put(given)
    assert Counts(unchanged=3) == await store.registrants.put(given)


async def test_details_of_an_event_never_change_a_registrant(store: Store) -> None:
    """They create one that is not known, and leave one that is."""
    given = {"ann": person("other@x.test"), "dora": person("dora@x.test")}
    counts = await store.registrants.put(given, change=False)
    assert Counts(created=1, unchanged=1) == counts
    ann = await store.registrants.get("ann")
    assert ann is not None
    assert "ann@x.test" == ann.details.email


async def test_a_crowd_is_introduced_together(store: Store, sql: Sql) -> None:
    """In a few transactions, all of them; who is known, or comes twice, stays as they are."""
    people = [(f"p{number}", person(f"p{number}@x.test")) for number in range(300)]
    others = [("ann", person("other@x.test")), ("p0", person("second@x.test"))]
    await asyncio.gather(*(store.registrants.introduce(*one) for one in (*people, *others)))
    (written,) = sql(
        "SELECT count(*) AS rows, count(DISTINCT xmin::text) <= 5 AS together"
        " FROM registrants WHERE ref LIKE 'p%%' AND dedup_key IS NOT NULL"
    )
    assert {"rows": 300, "together": True} == written
    assert [{"email": "ann@x.test"}, {"email": "p0@x.test"}] == sql(
        "SELECT email FROM registrants WHERE ref IN ('ann', 'p0') ORDER BY ref"
    )


async def test_a_contact_has_one_owner_at_a_time(store: Store) -> None:
    """The first keeps it; when they leave the values, the next in line has it at once."""
    await store.registrants.put({"dora": person("ANN@x.test"), "eve": person("")})
    assert ["own", "shared", "incomplete"] == await contacts(store, "ann", "dora", "eve")
    await store.registrants.put({"ann": person("free@x.test")})
    assert ["own", "own"] == await contacts(store, "ann", "dora")
    await store.registrants.put({"ann": person("ann@x.test")})
    assert ["shared", "own"] == await contacts(store, "ann", "dora")


async def test_who_changes_their_key_has_another_contact(store: Store) -> None:
    """The ids of the old contact are forgotten, and a late settlement of it changes nothing."""
    claimed = {row.ref: row for row in await store.contacts.claim(10)}
    assert await store.contacts.settle(claimed["ann"], "CID_1", "CGC_1")
    await store.registrants.put({"ann": person("ann@x.test", first_name="Ann")})
    ann = await store.registrants.get("ann")
    assert ann is not None
    assert "CID_1" == ann.contact_id
    new = {"ann": person("a@x.test"), "ben": person("b@x.test")}
    await store.registrants.put(new)
    assert not await store.contacts.settle(claimed["ben"], "CID_2", "CGC_2")
    again = await store.contacts.claim(10)
    assert [("ann", None), ("ben", None)] == [(row.ref, row.contact_id) for row in again]


async def test_other_criteria_give_other_owners(store: Store) -> None:
    """Keys are computed anew in chunks, and the second run finds nothing to do."""
    await store.registrants.put(
        {
            "ann": person("a@x.test", first_name="Ann"),
            "dora": person("a@x.test", first_name="Dora"),
            **{f"r{number}": person("all@x.test") for number in range(200)},
        },
    )
    await store.registrants.put(
        {f"s{number}": person(f"{number}@x.test", first_name="S") for number in range(400)},
    )
    assert ["own", "shared", "own"] == await contacts(store, "ann", "dora", "r0")
    assert 604 == await store.registrants.rekey(DIRECTORY, NAME)
    assert ["own", "own", "incomplete"] == await contacts(store, "ann", "dora", "r0")
    assert 0 == await store.registrants.rekey(DIRECTORY, NAME)


async def test_criteria_that_change_amid_a_put_are_gone_by(
    store: Store, sql: Sql, database_url: str
) -> None:
    """A writer who waited for the giver of keys goes by what that one left in force."""
    async with await psycopg.AsyncConnection.connect(database_url) as giver:
        await giver.execute("SELECT pg_advisory_xact_lock(%s)", [registrants._KEYS_LOCK])  # noqa: SLF001  (to hold it)
        writing = asyncio.create_task(store.registrants.put({"dora": person("ann@x.test")}))
        await until_blocked(sql, giver)
        await giver.execute("UPDATE deployment SET dedup_criteria = '{email,first_name}'")
        await giver.commit()
    await writing
    assert ["incomplete"] == await contacts(store, "dora")


@pytest.mark.parametrize("newcomers", [1, 600])
async def test_whoever_is_written_amid_a_rekey_gets_the_same_keys(
    store: Store, sql: Sql, monkeypatch: pytest.MonkeyPatch, newcomers: int
) -> None:
    """By the old criteria until the others are in force, and then none is left by the old ones."""
    rekey_chunk = RegistrantStore._rekey_chunk  # noqa: SLF001  (to write amid it)
    waiting = [{f"a{n}": person(f"a{n}@x.test")} for n in range(newcomers)]

    async def amid_writers(self: RegistrantStore, *given: Any) -> tuple[int, str | None]:
        """Let somebody be written behind the rekey's back."""
        done = await rekey_chunk(self, *given)
        for one in waiting:
            await store.registrants.put(one)
        waiting.clear()
        return done

    monkeypatch.setattr(RegistrantStore, "_rekey_chunk", amid_writers)
    await store.registrants.rekey(DIRECTORY, NAME)
    assert frozenset(NAME) == (await store.deployment.load()).dedup_criteria
    keyed = "SELECT count(*) AS left FROM registrants WHERE contact_key IS NOT NULL"
    assert [{"left": 0}] == sql(keyed)  # nobody has a first name


async def test_criteria_wait_for_whoever_writes_by_the_old_ones(
    store: Store, sql: Sql, database_url: str
) -> None:
    """They are put in force by the giver of keys, who sees whatever was written until then."""
    async with await psycopg.AsyncConnection.connect(database_url) as giver:
        await giver.execute("SELECT pg_advisory_xact_lock(%s)", [registrants._KEYS_LOCK])  # noqa: SLF001  (to hold it)
        in_force = store.registrants._put_in_force  # noqa: SLF001  (the last step alone)
        change = asyncio.create_task(in_force(DIRECTORY, NAME, datetime(2000, 1, 1, tzinfo=UTC)))
        await until_blocked(sql, giver)
        await giver.execute("UPDATE registrants SET first_name = 'Ann' WHERE ref = 'ann'")
        await giver.commit()
    await change
    assert ["own", "incomplete"] == await contacts(store, "ann", "ben")


async def test_a_rekey_that_breaks_off_leaves_the_criteria(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that whoever compares them finds the change, and does it again."""

    async def die(*_: object) -> None:
        """End before it is in force."""
        raise DatabaseBusy("the process is gone")

    monkeypatch.setattr(RegistrantStore, "_put_in_force", die)
    with pytest.raises(DatabaseBusy):
        await store.registrants.rekey(DIRECTORY, NAME)
    assert CRITERIA == (await store.deployment.load()).dedup_criteria


async def test_the_contact_of_a_key_that_was_left_is_not_noted(store: Store, sql: Sql) -> None:
    """A link's call that was out while its registrant changed tells of their old contact."""
    (row,) = sql("SELECT contact_key FROM registrants WHERE ref = 'ann'")
    await store.registrants.put({"ann": person("a@x.test")})
    await store.registrants.note_contact("ann", "CID_old", row["contact_key"])
    ann = await store.registrants.get("ann")
    assert ann is not None
    assert ann.contact_id is None
    await store.registrants.put({"ann": person("ann@x.test")})
    await store.registrants.note_contact("ann", "CID_1", row["contact_key"])
    ann = await store.registrants.get("ann")
    assert "CID_1" == (ann and ann.contact_id)


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
                await replica.registrants.put(given)

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
    await store.registrants.rekey(DIRECTORY, everything)
    await store.registrants.put({noise: long})
    assert ["own"] == await contacts(store, noise)


async def test_a_reference_beyond_all_bounds_is_our_mistake(store: Store) -> None:
    """It is refused by the table as what it is, and not taken for a lost database."""
    with pytest.raises(psycopg.errors.CheckViolation):
        await store.registrants.put({"x" * 801: person("x@x.test")})
