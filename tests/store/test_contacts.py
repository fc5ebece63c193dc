"""Contacts: who has the claim to make one, and what a listing tells of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg
import pytest
from tests.store.conftest import Register, Sql, event, issued, later

from milepost.model import RegistrantDetails
from milepost.policy import contact_key
from milepost.store import Store
from milepost.store.contacts import ListedMember, Taken, WithoutContact, listed_key
from milepost.store.memberships import Membership
from milepost.store.runs import RunRecord, TakenAway

HOME = "CG_home"
FUTURE = datetime(2100, 1, 1, tzinfo=UTC)


def person(email: str, **more: str) -> RegistrantDetails:
    """Somebody with this e-mail."""
    return RegistrantDetails(email=email, **more)


async def listing(store: Store, *listed: tuple[str, str, str]) -> datetime:
    """The platform lists these: contact, ref and e-mail; returns when the listing began."""
    began = await store.contacts.begin_listing()
    members = [
        ListedMember(
            contact_id=contact,
            lookup_id=f"CGC_{contact}",
            number=number,
            ref=ref,
            contact_key=contact_key(ref, person(email), {"email"}),
        )
        for number, (contact, ref, email) in enumerate(listed)
    ]
    await store.contacts.write_page(HOME, members)
    return began


async def take(store: Store, *refs: str, merges: bool = True) -> Taken:
    """Take a listing over; nothing is known of what the platform was told, and when."""
    return await store.contacts.take_over(HOME, refs, merges=merges, told_at=None)


def known(sql: Sql) -> dict[str, str | None]:
    """The contact of each registrant who is in the home list."""
    rows = sql("SELECT ref, contact_id FROM registrants WHERE home_lookup_id IS NOT NULL")
    return {row["ref"]: row["contact_id"] for row in rows}


@pytest.mark.usefixtures("store")
async def test_a_claim_is_in_doubt_until_it_says_otherwise(database_url: str) -> None:
    """After a death and an unknown outcome, not after a refusal; looks are counted since then."""

    async def claim(minutes: int) -> WithoutContact:
        """Claim the first registrant, so much later."""
        async with await Store.open(later(database_url, minutes=minutes)) as then:
            (claimed,) = await then.contacts.claim(1)
            return claimed

    async def set_back(claimed: WithoutContact, minutes: int, **more: bool) -> bool:
        """Set a claim back, so much later."""
        outcome = {"outcome_unknown": False, "looked": False} | more
        async with await Store.open(later(database_url, minutes=minutes)) as then:
            return await then.contacts.set_back(claimed, **outcome)

    first = await claim(0)
    assert await set_back(first, 0)
    refused = await claim(2)
    assert (False, False) == (first.in_doubt, refused.in_doubt)
    orphan = await claim(4)
    assert orphan.in_doubt
    assert not await set_back(refused, 4)
    for minutes in (6, 8, 10):
        assert await set_back(orphan, minutes - 2, looked=True)
        orphan = await claim(minutes)
    assert (True, True) == (orphan.in_doubt, orphan.looked_enough)
    orphan = await claim(12)  # whoever had looked enough has died, perhaps after an add
    assert (True, False) == (orphan.in_doubt, orphan.looked_enough)
    for minutes in (14, 16):
        assert await set_back(orphan, minutes - 2, looked=True)
        orphan = await claim(minutes)
    assert await set_back(orphan, 16, outcome_unknown=True)
    again = await claim(18)
    assert await set_back(again, 18, looked=True)
    again = await claim(20)
    assert (True, False) == (again.in_doubt, again.looked_enough)


@pytest.mark.usefixtures("store")
async def test_a_run_that_pages_meets_nobody_twice(database_url: str) -> None:
    """Also one that lasts longer than the leases of those it could not help."""
    refs = []
    after = 0
    for minutes in range(0, 8, 2):
        async with await Store.open(later(database_url, minutes=minutes)) as then:
            for claimed in await then.contacts.claim(1, after=after):
                refs.append(claimed.ref)
                after = claimed.id
    assert ["ann", "ben", "cleo"] == refs


async def test_what_has_changed_since_it_was_read_is_not_told(store: Store) -> None:
    """A contact stays stale whose registrant was written while the platform was told."""
    await listing(store, *((f"CID_{ref}", ref, f"{ref}@x.test") for ref in ("ann", "ben")))
    assert Taken(2, 0) == await take(store, "ann", "ben")
    read = await store.contacts.stale(10, after=0)
    assert ["ann", "ben"] == [owner.ref for owner in read]
    await store.registrants.put({"ann": person("ann@x.test", first_name="Ann")})
    assert 1 == await store.contacts.note_told(read)
    assert ["ann"] == [owner.ref for owner in await store.contacts.stale(10, after=0)]


async def test_a_listing_is_paired_by_ref_and_by_what_the_platform_knows_people_by(
    store: Store, sql: Sql
) -> None:
    """Under values that a registrant does not have, the contact is not the one they would get."""
    await listing(
        store,
        ("CID_old", "ann", "former@x.test"),
        ("CID_ann", "ann", "ANN@x.test"),
        ("CID_other", "ann", "ann@x.test"),
        ("CID_ben", "ben", "former@x.test"),
        ("CID_dora", "dora", "dora@x.test"),
    )
    refs = await store.contacts.listed_refs(HOME, after="")
    assert [("ann", True), ("ben", False), ("dora", False)] == [(r.ref, r.is_double) for r in refs]
    assert Taken(1, 0) == await take(store, *(each.ref for each in refs))
    assert {"ann": "CID_ann"} == known(sql)
    # Where nobody is recognised it is theirs, and is to be told what has changed.
    assert Taken(1, 0) == await take(store, "ann", "ben", merges=False)
    assert {"ann": "CID_ann", "ben": "CID_ben"} == known(sql)
    assert [{"ref": "ann"}, {"ref": "ben"}] == sql(
        "SELECT ref FROM registrants WHERE contact_stale ORDER BY ref"
    )


async def test_whoever_is_known_in_the_list_stays_who_they_are(store: Store, sql: Sql) -> None:
    """Also under another ref or other values; another contact is taken only in place of none."""
    await listing(store, ("CID_ann", "ann", "ann@x.test"), ("CID_ben", "ben", "ben@x.test"))
    await take(store, "ann", "ben")
    await listing(
        store,
        ("CID_first", "ann", "ann@x.test"),
        ("CID_ann", "ann", "edited@x.test"),
        ("CID_ben", "edited", "ben@x.test"),
        ("CID_second", "ben", "ben@x.test"),
    )
    assert Taken(0, 0) == await take(store, "ann", "ben", "edited")
    await listing(store, ("CID_first", "ann", "ann@x.test"))
    assert Taken(0, 1) == await take(store, "ann")
    assert {"ann": "CID_first", "ben": "CID_ben"} == known(sql)


async def test_a_listing_that_says_nothing_new_waits_for_nobody(
    store: Store, database_url: str
) -> None:
    """Only whoever stands otherwise is locked."""
    await listing(store, ("CID_ann", "ann", "ann@x.test"))
    await take(store, "ann")
    await listing(store, ("CID_ann", "ann", "ann@x.test"), ("CID_ben", "ben", "ben@x.test"))
    async with await psycopg.AsyncConnection.connect(database_url) as holder:
        await holder.execute("SELECT FROM registrants WHERE ref IN ('ann', 'cleo') FOR UPDATE")
        assert Taken(1, 0) == await take(store, "ann", "ben", "cleo")


async def test_whoever_came_after_a_listing_began_is_not_missed_in_it(
    store: Store, sql: Sql
) -> None:
    """They were put into the list behind the page that had been read."""
    began = await listing(store)
    (ann, ben, _) = await store.contacts.claim(10)
    assert await store.contacts.settle(ann, "CID_ann", "CGC_ann")
    assert await store.contacts.settle(ben, "CID_ben", "CGC_ben")
    assert (0, 0) == await store.contacts.count_losses(HOME, began)
    assert ({}, "cleo") == await store.contacts.lost(HOME, began, after="", limit=1)
    assert 0 == await store.contacts.forget(HOME, began, ["ann"])
    began += timedelta(minutes=1)
    assert (2, 2) == await store.contacts.count_losses(HOME, began)
    lost = {"ann": "CID_ann", "ben": "CID_ben"}
    assert (lost, "cleo") == await store.contacts.lost(HOME, began, after="", limit=2)
    assert ({"ann": "CID_ann"}, "ann") == await store.contacts.lost(HOME, began, after="", limit=1)
    assert 2 == await store.contacts.forget(HOME, began, ["ann", "ben", "cleo"])
    assert {} == known(sql)
    assert ({}, None) == await store.contacts.lost(HOME, began, after="cleo", limit=1)


WRITES: dict[str, Callable[[Store, RunRecord], Awaitable[object]]] = {
    "claim": lambda store, run: store.contacts.under(run).claim(1),
    "mark": lambda store, run: store.contacts.under(run).to_import(after=0, merges=True),
    "refused": lambda store, run: store.contacts.under(run).note_not_imported([]),
    "told": lambda store, run: store.contacts.under(run).note_told([]),
    "opt out": lambda store, run: store.contacts.under(run).opt_out([], ["ben"]),
    "begin": lambda store, run: store.contacts.under(run).begin_listing(),
    "page": lambda store, run: store.contacts.under(run).write_page(
        HOME, [ListedMember(contact_id="C", lookup_id="L", number=9, ref="ben", contact_key=None)]
    ),
    "take": lambda store, run: store.contacts.under(run).take_over(
        HOME, ["ann"], merges=True, told_at=None
    ),
    "not listed": lambda store, run: store.contacts.under(run).note_not_listed(refused=False),
    "forget": lambda store, run: store.contacts.under(run).forget(HOME, FUTURE, ["cleo"]),
    "listed": lambda store, run: store.contacts.under(run).note_listed(FUTURE),
    "members": lambda store, run: store.memberships.forget_not_listed(1, HOME, run),
}
"""What a run writes of contacts and of a listing."""


async def test_who_lost_the_run_writes_nothing(
    store: Store, register: Register, sql: Sql, database_url: str
) -> None:
    """A worker that was frozen amid a listing wakes up, and the next one is at its own."""
    await register()
    (*_, cleo) = await store.contacts.claim(10)
    assert await store.contacts.settle(cleo, "CID_cleo", "CGC_cleo")
    sql("UPDATE slots SET list_id = %s WHERE id = 1", HOME)
    sql("UPDATE registrants SET contact_lease_until = NULL")
    await store.runs.look(["sync"])
    await store.runs.ask("sync", asked_by="test")
    frozen = await store.runs.take("sync")
    assert frozen is not None
    async with await Store.open(later(database_url, minutes=1)) as then:
        assert await then.runs.take("sync") is not None
    await listing(store, ("CID_ann", "ann", "ann@x.test"))
    everything = (
        "SELECT to_jsonb(r) FROM registrants AS r UNION ALL SELECT to_jsonb(m) FROM listed_members"
        " AS m UNION ALL SELECT to_jsonb(d) FROM deployment AS d"
    )
    before = sql(everything)
    for write in WRITES.values():
        with pytest.raises(TakenAway):
            await write(store, frozen)
    assert before == sql(everything)


async def test_a_contact_that_comes_back_is_stale(store: Store, sql: Sql) -> None:
    """While its registrant was away it was somebody else's, of whom the platform was told."""
    await listing(store, ("CID_ann", "ann", "ann@x.test"))
    await take(store, "ann")
    assert 1 == await store.contacts.note_told(await store.contacts.stale(10, after=0))
    sql("UPDATE registrants SET removed_at = now(), dedup_key = NULL WHERE ref = 'ann'")
    await store.registrants.put({"dora": person("ann@x.test", first_name="Dora")})
    await store.registrants.put({"ann": person("ann@x.test")})
    assert [] == await store.contacts.stale(10, after=0)
    await store.registrants.put({"dora": person("dora@x.test")})
    assert ["ann"] == [owner.ref for owner in await store.contacts.stale(10, after=0)]


async def test_who_was_refused_with_an_import_is_not_in_doubt(store: Store) -> None:
    """Who may have been imported is, also after looks that found nothing, for a day."""
    owners = await store.contacts.to_import(after=0, merges=False)
    assert [] == await store.contacts.to_import(after=0, merges=False)
    await store.contacts.note_not_imported(owners[:2])
    again = await store.contacts.to_import(after=0, merges=False)
    assert ["ann", "ben"] == [owner.ref for owner in again]


async def test_a_refused_import_takes_back_only_its_own_doubt(store: Store, sql: Sql) -> None:
    """Not that of an add before it, unless looks have ended it, nor that of a later attempt."""
    ann, ben, _ = await store.contacts.claim(3)
    await store.contacts.set_back(ann, outcome_unknown=True, looked=False)
    await store.contacts.set_back(ben, outcome_unknown=True, looked=False)
    sql(
        "UPDATE registrants SET contact_lease_until = NULL, contact_looks = 3,"
        " contact_first_look_at = now() - interval '1 hour', contact_in_doubt = ref <> 'cleo'"
        " WHERE ref <> 'ann'"
    )
    await store.registrants.put({"dora": person("dora@x.test")})
    marked = await store.contacts.to_import(after=0, merges=True)
    (dora,) = await store.contacts.claim(1, after=marked[2].id)
    assert ("dora", True) == (dora.ref, dora.in_doubt)
    await store.contacts.note_not_imported(marked)
    doubtful = sql("SELECT ref, contact_looks FROM registrants WHERE contact_in_doubt ORDER BY ref")
    assert [("ann", 0), ("dora", 0)] == [(row["ref"], row["contact_looks"]) for row in doubtful]


async def test_an_opt_out_is_noted_once_for_all(store: Store) -> None:
    """By the contact or by the ref; who is out is not to be imported or told."""
    await listing(store, ("CID_ann", "ann", "ann@x.test"))
    await take(store, "ann")
    assert 2 == await store.contacts.opt_out(["CID_ann", "CID_nobody"], ["ben", "nobody"])
    assert 0 == await store.contacts.opt_out(["CID_ann"], ["ann", "ben"])
    assert ["cleo"] == [owner.ref for owner in await store.contacts.to_import(after=0, merges=True)]
    assert [] == await store.contacts.stale(10, after=0)


@pytest.mark.parametrize(
    ("ref", "kept"), [("é" * 400, True), ("é" * 401, False), ("", False), (None, False)]
)
def test_a_ref_that_cannot_be_ours_is_none(ref: str | None, kept: bool) -> None:  # noqa: FBT001  (a parameter)
    """An index would refuse a long one, and a listing holds whatever others have put there."""
    assert kept == (listed_key(ref, person("a@x.test"), {"email"})[0] is not None)


async def test_a_place_in_a_slots_list_passes_on_with_its_contact(
    store: Store, register: Register, sql: Sql
) -> None:
    """The same lookup id is the new owner's; the former one's membership is not valid any more."""
    await register()
    await store.registrants.put({"dora": person("ann@x.test")})

    async def put(ref: str) -> int:
        """Write the membership of whoever owns the contact."""
        (row,) = sql("SELECT id, dedup_key FROM registrants WHERE ref = %s", ref)
        return await store.memberships.put(
            1,
            "CG_1",
            [
                Membership(
                    registrant_id=row["id"],
                    contact_key=row["dedup_key"],
                    contact_id="CID_1",
                    lookup_id="CGC_1",
                )
            ],
        )

    valid = (
        "SELECT r.ref FROM memberships AS m JOIN registrants AS r"
        " ON r.id = m.registrant_id AND r.dedup_key = m.contact_key"
    )
    assert 1 == await put("ann")
    await store.registrants.put({"ann": person("other@x.test")})
    assert [] == sql(valid)
    assert 1 == await put("dora")
    assert [{"ref": "dora"}] == sql(valid)
    assert (1, 0) == (await store.memberships.tidy(1, after=0))[:2]


async def test_a_place_in_a_former_list_is_none(store: Store, register: Register, sql: Sql) -> None:
    """The slot has been given another list while its former one was filled."""
    await register()
    (row,) = sql("SELECT id, dedup_key FROM registrants WHERE ref = 'ann'")
    member = Membership(
        registrant_id=row["id"], contact_key=row["dedup_key"], contact_id="C", lookup_id="L"
    )
    assert 1 == await store.memberships.put(1, "CG_1", [member])
    sql("UPDATE slots SET list_id = 'CG_other' WHERE id = 1")
    late = msgspec.structs.replace(member, lookup_id="L_late")
    assert 0 == await store.memberships.put(1, "CG_1", [late])
    assert [{"lookup_id": "L"}] == sql("SELECT lookup_id FROM memberships")


async def test_whoever_an_event_is_about_to_put_into_a_slots_list_is_left_to_it(
    store: Store, register: Register, sql: Sql
) -> None:
    """An import is not to come between the call and its data; what the call made is known then."""
    await register()
    await listing(store, *((f"CID_{ref}", ref, f"{ref}@x.test") for ref in ("ann", "ben")))
    await take(store, "ann", "ben")
    asked = await store.links.claim(event("e1", "ann"))
    owners, end = await store.memberships.lacking(1, 10, after=0)
    assert (["ben"], 3) == ([owner.ref for owner in owners], end)
    await store.links.settle(issued(asked, lookup_id="CGC_link"))
    assert (1, 1) == (await store.memberships.tidy(1, after=0))[:2]
    assert [{"contact_id": "CID_ann", "lookup_id": "CGC_link"}] == sql(
        "SELECT contact_id, lookup_id FROM memberships"
    )


async def test_a_membership_that_is_not_listed_is_forgotten(
    store: Store, register: Register, sql: Sql
) -> None:
    """Somebody has taken its contact out of the list."""
    await register()
    sql("UPDATE slots SET list_id = %s WHERE id = 1", HOME)
    await listing(store, *((f"CID_{ref}", ref, f"{ref}@x.test") for ref in ("ann", "ben")))
    assert 2 == await store.memberships.take_over(1, HOME, ["ann", "ben"])
    assert 0 == await store.memberships.take_over(1, HOME, ["ann", "ben"])
    await listing(store, ("CID_ann", "ann", "ann@x.test"))
    assert 1 == await store.memberships.forget_not_listed(1, HOME, None)
    assert [{"contact_id": "CID_ann"}] == sql("SELECT contact_id FROM memberships")
