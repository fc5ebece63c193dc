"""Registrants who are removed and come back, and those of whom the platform was told otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from tests.store.conftest import DIRECTORY, Register, Sql, event

from milepost.model import RegistrantDetails
from milepost.store import Store, registrants
from milepost.store.registrants import Counts

NAME = frozenset({"email", "first_name"})


def person(email: str | None, **more: Any) -> RegistrantDetails:
    """Somebody with this e-mail."""
    return RegistrantDetails(email=email, **more)


async def contacts(store: Store, *refs: str) -> list[str]:
    """Whose contact each of them has."""
    found = [await store.registrants.get(ref) for ref in refs]
    return [registrant.contact if registrant else "unknown" for registrant in found]


async def removed(store: Store, *refs: str) -> None:
    """Let a source that has listed them stop doing so."""
    async with store.connections.path() as connection, connection.transaction():
        for ref in refs:
            known = await store.registrants.get(ref)
            assert known is not None
            await registrants.write(connection, {ref: known.details}, source="crm")
        await registrants.remove(connection, list(refs), "crm")


async def test_the_contact_of_who_is_removed_goes_to_the_next(store: Store) -> None:
    """The next who has the values, and is there; who comes back finds it taken, or free again."""
    await store.registrants.put({"gone": person("ann@x.test"), "dora": person("ann@x.test")})
    await removed(store, "gone")
    await removed(store, "ann")
    assert ["shared", "shared", "own"] == await contacts(store, "ann", "gone", "dora")
    ann = await store.registrants.get("ann")
    assert ann is not None
    assert ann.removed_at is not None
    await store.registrants.put({"ann": person("ann@x.test")})
    assert ["shared", "own"] == await contacts(store, "ann", "dora")
    await store.registrants.put({"dora": person("dora@x.test")})
    assert ["own", "shared", "own"] == await contacts(store, "ann", "gone", "dora")


@pytest.mark.parametrize("way", ["put", "introduce", "listed"])
async def test_whoever_is_told_of_again_comes_back(store: Store, sql: Sql, way: str) -> None:
    """By each way, with what it says, as one who was not known; only a listing is a source's."""
    await removed(store, "ann", "ben")
    sql(
        "UPDATE registrants SET contact_id = 'CID_1', home_lookup_id = 'CGC_1', contact_at = now()"
        " WHERE ref = 'ann'"
    )
    back = person("ann@x.test", first_name="Ann")
    if way == "put":
        assert Counts(changed=1) == await store.registrants.put({"ann": back})
    elif way == "introduce":
        await store.registrants.introduce("ann", back)
    else:
        async with store.connections.path() as connection, connection.transaction():
            await registrants.write(connection, {"ann": back}, source="crm")
    ann = await store.registrants.get("ann")
    assert ann is not None
    assert (None, "own", "Ann") == (ann.removed_at, ann.contact, ann.details.first_name)
    assert "CID_1" == ann.contact_id
    (row,) = sql("SELECT source FROM registrants WHERE ref = 'ann'")
    assert ("crm" if way == "listed" else None) == row["source"]
    assert ["shared"] == await contacts(store, "ben")


async def test_links_that_wait_for_who_was_removed_are_looked_at(
    store: Store, register: Register, sql: Sql
) -> None:
    """When they come back, as for anybody who arrives."""
    await register(unknown_registrant="defer")
    await store.links.claim(event("e1", "dora"))
    await store.registrants.put({"dora": person("dora@x.test")})
    await removed(store, "dora")
    sql("UPDATE links SET due_at = now() + interval '1 day'")
    await store.registrants.put({"dora": person("dora@x.test")})
    assert [{"due": True}] == sql("SELECT due_at <= now() AS due FROM links")


async def test_only_whom_the_source_lists_is_removed(store: Store) -> None:
    """Who came by another way, or is another source's, stays."""
    async with store.connections.path() as connection, connection.transaction():
        await registrants.write(connection, {"ann": person("ann@x.test")}, source="other")
        await registrants.remove(connection, ["ann", "ben"], "crm")
    assert ["own", "own"] == await contacts(store, "ann", "ben")


async def test_a_rekey_leaves_who_was_removed(store: Store) -> None:
    """They are not brought back by it; when they come back, it is under the new criteria."""
    await removed(store, "ann")
    await store.registrants.rekey(DIRECTORY, NAME)
    ann = await store.registrants.get("ann")
    assert ann is not None
    assert ann.removed_at is not None
    await store.registrants.put({"ann": person("ann@x.test", first_name="Ann")})
    assert ["own"] == await contacts(store, "ann")


async def test_who_has_changed_is_stale_at_the_platform(store: Store, sql: Sql) -> None:
    """In what it is told of, and while they have the contact that is in the home list."""

    async def stale_after(**details: Any) -> bool:
        """Whether Ann is, after this is told of her."""
        await store.registrants.put({"ann": person(**({"email": "ann@x.test"} | details))})
        (row,) = sql("SELECT contact_stale FROM registrants WHERE ref = 'ann'")
        return bool(row["contact_stale"])

    assert not await stale_after(first_name="Ann")
    sql(
        "UPDATE registrants SET contact_id = 'CID_1', home_lookup_id = 'CGC_1', contact_at = now()"
        " WHERE ref = 'ann'"
    )
    assert not await stale_after(first_name="Ann", attributes={"tier": "gold"})
    for told in ("first_name", "last_name", "phone", "language"):
        assert await stale_after(**{told: "other"})
        assert await stale_after(**{told: "other"}, attributes={"tier": "blue"})
        sql("UPDATE registrants SET contact_stale = false")
    assert await stale_after(first_name="Eve")
    assert not await stale_after(email="other@x.test", first_name="Eve")
