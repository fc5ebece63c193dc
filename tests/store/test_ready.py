"""Lane `ready`: what a claim issues without a call, to whom, and the data that follow."""

from __future__ import annotations

from asyncio import gather
from collections import Counter
from typing import Any

import pytest
from tests.store.conftest import SUCCESSOR, Register, Sql, event, issued, later, setback, told
from tests.test_personal_link import SHAPES

from milepost.errors import UnknownRegistrant
from milepost.model import Lane, LinkState, Purpose, RegistrantDetails
from milepost.personal_link import MalformedId, Template, parse
from milepost.store import Store
from milepost.store.links import LEASE_SECONDS, PARKED_AFTER, Asked, Telling

AHEAD = {"membership": "ahead", "lanes": ["ready", "direct", "deferred"]}

TEMPLATE = (
    "https://survey.test/jfe/form/SV_000000000000001"
    "?Q_CHL=gl&Q_DL=EMD_' || lpad(id::text, 15, '0') || '_000000000000001_CGC_{}&_g_=g"
)

JOIN = """
INSERT INTO memberships (registrant_id, slot_id, contact_key, contact_id, lookup_id)
SELECT id, 1, contact_key, 'CID_' || lpad(id::text, 15, '0'), 'CGC_' || lpad(id::text, 15, '0')
FROM registrants
"""
"""Everybody is in the first slot's list."""


LEAVE = """
DELETE FROM memberships WHERE registrant_id <> (SELECT id FROM registrants WHERE ref = 'ann')
"""
"""Nobody but `ann` is."""


@pytest.fixture
def ahead(register: Register, sql: Sql) -> Register:
    """Register a milestone whose registrants are in its first slot's list."""

    async def landed(key: str = "landed", **changes: Any) -> None:
        """Register it."""
        await register(key, **(AHEAD | changes))
        sql(f"UPDATE distributions SET template = '{TEMPLATE}'")
        sql(f"{JOIN} ON CONFLICT DO NOTHING")

    return landed


def lane(asked: Asked | None) -> tuple[str, str | None, str | None]:
    """State, lane and rule of an answer."""
    assert asked is not None
    link = asked.link
    return link.state.value, link.lane and link.lane.value, link.reason and link.reason.rule


async def made_ready(store: Store, event_id: str = "e1", ref: str = "ann") -> Asked:
    """A link of lane `ready`."""
    asked = await store.links.decide(event(event_id, ref, data={"gate": "B4"}))
    assert ("issued", "ready", None) == lane(asked)
    assert asked is not None
    return asked


@pytest.mark.parametrize("url", SHAPES.values(), ids=SHAPES.keys())
def test_postgres_builds_the_links_that_templates_build(sql: Sql, url: str) -> None:
    """Of every seen shape and every kind of id; and it builds none that they refuse."""
    template = parse(url).template()
    ids = [f"{kind}_aB3dE6gH9jK2mN5" for kind in ("CGC", "CTR", "MLRP", "GC", "cgc")]
    ids += [f"{template.kind}_{tail}" for tail in ("aB3dE6gH9jK2mN", "aB3dE6gH9jK2mN{}", "a" * 16)]
    ids += [f"{template.kind}_aB3dE6gH9jK2mN5\n", f" {template.kind}_aB3dE6gH9jK2mN5", ""]
    for lookup_id in ids:
        (row,) = sql("SELECT milepost_link(%s, %s) AS url", str(template), lookup_id)
        assert built(template, lookup_id) == row["url"]
    assert template.url(f"{template.kind}_aB3dE6gH9jK2mN5")


def built(template: Template, lookup_id: str) -> str | None:
    """The link, or None where it is refused."""
    try:
        return template.url(lookup_id)
    except MalformedId:
        return None


async def test_a_known_membership_is_a_link_without_a_call(
    store: Store, ahead: Register, sql: Sql
) -> None:
    """One write says all of it; whoever asks again is told the same; nobody has to be called."""
    await ahead()
    asked = await made_ready(store)
    (row,) = sql("SELECT * FROM links")
    (place,) = sql("SELECT * FROM distributions WHERE id = 1")
    (member,) = sql("SELECT * FROM memberships WHERE registrant_id = %s", row["registrant_id"])
    expected = {
        "route": "list",
        "published": "personal",
        "attempt": 0,
        "slot_id": 1,
        "distribution_id": 1,
        "contact_key": member["contact_key"],
        "lookup_id": member["lookup_id"],
        "url": Template.parse(place["template"]).url(member["lookup_id"]),
        "expires_at": place["expires_at"],
        "issued_at": row["created_at"],
        "upstream_calls": 0,
        "data_at": None,
        "data_due_at": row["created_at"],
        "due_at": None,
        "lease_until": None,
        "survey_id": "SV_000000000000001",
    }
    assert expected == {name: row[name] for name in expected}
    assert (True, None, row["url"]) == (asked.is_first, asked.claim, asked.link.url)
    again = await store.links.claim(event(data={"gate": "B4"}))
    assert (asked.link, None, False) == (again.link, again.claim, again.is_first)
    assert asked.link == (await store.links.decide(event(data={"gate": "B4"})) or again).link
    assert told(asked.link) == told(await store.links.find(asked.link.id))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM memberships",
        "UPDATE memberships SET contact_key = 'another contact of theirs'",
        "UPDATE memberships SET slot_id = 2",
        "UPDATE memberships SET lookup_id = 'CTR_' || substr(lookup_id, 5)",
        "UPDATE milestones SET membership = 'event'",
        "UPDATE milestones SET lanes = '{direct,deferred}'",
        "UPDATE slots SET rests_until = now() WHERE number = 1",
        "UPDATE distributions SET state = 'draining' WHERE id = 1",
        "UPDATE distributions SET takes_until = now() WHERE id = 1",
        "INSERT INTO capabilities VALUES ('late_link', false, NULL, 'it does not open', now())",
    ],
)
async def test_what_is_not_certain_takes_a_call(
    store: Store, ahead: Register, sql: Sql, statement: str
) -> None:
    """Then nothing is written before there is one, and with one the link is made as ever."""
    await ahead()
    sql(statement)
    assert await store.links.decide(event()) is None
    assert [] == sql("SELECT 1 FROM links")
    assert (await store.links.claim(event())).claim is not None
    assert ("waiting", "deferred", "budget-spent") == lane(
        await store.links.claim(event("e2", "ben"), without="budget-spent")
    )


async def test_what_needs_no_call_is_decided_without_one(
    store: Store, ahead: Register, sql: Sql
) -> None:
    """Rules, waits and refusals are what they are with a call; `once` gives a ready link again."""
    await ahead(repeat="once", unknown_registrant="defer")
    first = await made_ready(store)
    second = await store.links.decide(event("e2"))
    assert ("issued", None, "once") == lane(second)
    assert second is not None
    assert (first.link.url, True) == (second.link.url, second.link.reused)
    waits = await store.links.decide(event("e3", "dora"))
    assert ("waiting", "deferred", "registrant-unknown") == lane(waits)
    sql("UPDATE registrants SET opted_out_at = now() WHERE ref = 'ben'")
    assert ("suppressed", None, "opted-out") == lane(await store.links.decide(event("e4", "ben")))
    await ahead(repeat="every_event")
    with pytest.raises(UnknownRegistrant):
        await store.links.decide(event("e5", "fred"))


async def test_lanes_have_an_order(store: Store, ahead: Register) -> None:
    """Where `direct` comes first a known membership is for those who get no call."""
    await ahead(lanes=["direct", "ready", "deferred"])
    assert (await store.links.claim(event())).claim is not None
    spent = await store.links.claim(event("e2", "ben"), without="budget-spent")
    assert ("issued", "ready", None) == lane(spent)
    await ahead(lanes=["ready", "queued"])
    asked = await store.links.claim(event("e3", "cleo"), without="no-lane")
    assert ("issued", "ready", None) == lane(asked)


async def test_a_membership_is_good_for_one_link(store: Store, ahead: Register, sql: Sql) -> None:
    """The next event gets another slot; when the first has ended, the list holds its data still."""
    await ahead(slots=2, max_slots=2)
    sql(LEAVE)
    first = await made_ready(store)
    assert await store.links.decide(event("e2")) is None
    second = await store.links.claim(event("e2"))
    assert second.claim is not None
    assert 2 == second.claim.place.slot_id
    await store.links.settle(issued(second))
    sql("UPDATE links SET finished_at = now(), data_due_at = NULL WHERE slot_id = 1")
    sql(SUCCESSOR.replace("'t'", "replace(template, 'EMD_00', 'EMD_01')"))
    assert await store.links.decide(event("e3")) is None
    third = await store.links.claim(event("e3"))
    assert third.claim is not None
    assert 3 == third.claim.place.distribution_id
    # Another membership of the same list has not served yet, and gives a link on either of them.
    sql("UPDATE memberships SET lookup_id = 'CGC_0000000000aGAIN'")
    await store.links.settle(setback(third, LinkState.FAILED, leaves=True))
    fourth = await made_ready(store, "e4")
    assert fourth.link.url != first.link.url
    assert "EMD_01" in str(fourth.link.url)


async def test_a_list_is_nobodys_while_data_are_on_their_way_to_it(
    store: Store, ahead: Register, sql: Sql
) -> None:
    """A link that has ended may still be told: the next one's data must not be written over."""
    await ahead(slots=1, max_slots=1)
    await made_ready(store)
    sql("UPDATE links SET finished_at = now()")
    sql(SUCCESSOR)
    assert ("waiting", "deferred", "no-slot") == lane(await store.links.claim(event("e2")))
    late = await store.links.claim_late_data()
    assert late is not None
    await store.links.settle_late_data(
        Telling(id=late.link_id, attempt=late.attempt, rule=late.ended)
    )
    assert (await store.links.claim(event("e3"))).claim is not None


async def test_two_hundred_events_of_fifty_people_get_one_ready_link_each(
    store: Store, ahead: Register, sql: Sql, database_url: str
) -> None:
    """Over two stores, all at once; the others get other slots, and no rule is broken."""
    refs = [f"r{number}" for number in range(50)]
    await store.registrants.put({ref: RegistrantDetails(email=f"{ref}@x.test") for ref in refs})
    await ahead(slots=3, max_slots=3)
    events = [event(f"{ref}-{number}", ref) for number in range(4) for ref in refs]

    async with await Store.open(database_url) as second:

        async def ask(number: int) -> None:
            """Ask as a request does."""
            links = (store, second)[number % 2].links
            asked = await links.decide(events[number]) or await links.claim(events[number])
            if asked.claim:
                await links.settle(issued(asked, lane=Lane.DIRECT))

        await gather(*map(ask, range(200)))
    rows = sql("SELECT ref, state, rule, lane, slot_id, distribution_id FROM links")
    assert Counter({"ready": 50, "direct": 100, "deferred": 50}) == Counter(
        row["lane"] for row in rows
    )
    live = [row for row in rows if row["state"] == "issued"]
    assert 150 == len({(row["ref"], row["slot_id"]) for row in live})
    assert {1} == {row["slot_id"] for row in live if row["lane"] == "ready"}
    assert {("waiting", "no-slot")} == {
        (row["state"], row["rule"]) for row in rows if row not in live
    }


async def test_a_stopped_milestone_gives_no_place(store: Store, ahead: Register, sql: Sql) -> None:
    """Nothing is made and nothing is ready; what is in doubt stays so; all goes on afterwards."""
    await ahead()
    sql(LEAVE)
    await store.links.settle(
        setback(await store.links.claim(event("doubt", "ben")), LinkState.UNKNOWN, pause=0)
    )
    waits = await store.links.claim(event("waits", "cleo"), without="budget-spent")
    sql("UPDATE milestones SET stopped_at = now(), stopped_because = 'links have another form'")
    stopped = ("waiting", "deferred", "route-stopped")
    assert stopped == lane(await store.links.decide(event("new")))
    assert stopped == lane(await store.links.claim(event("call")))
    assert stopped == lane(await store.links.claim(event("waits", "cleo"), purpose=Purpose.DRAIN))
    doubt = await store.links.claim(event("doubt", "ben"), purpose=Purpose.DRAIN)
    assert ("unknown", "deferred", "outcome-unknown") == lane(doubt)
    assert doubt.claim is None
    due = sql("SELECT event_id FROM links WHERE due_at > now() + interval '1 s'")
    assert {"new", "call", "waits", "doubt"} == {row["event_id"] for row in due}
    sql("UPDATE milestones SET stopped_at = NULL, stopped_because = NULL")
    assert ("issued", "deferred", None) == lane(
        await store.links.claim(event("new"), purpose=Purpose.DRAIN)
    )
    again = await store.links.claim(event("waits", "cleo"), purpose=Purpose.DRAIN)
    assert again.claim is not None
    assert waits.link.url == again.link.url


async def test_who_was_removed_is_as_if_unknown(store: Store, ahead: Register, sql: Sql) -> None:
    """Refused or waited for, also by what had a place; what is in doubt may only be found."""
    await ahead(unknown_registrant="defer")
    sql(LEAVE)
    held = await store.links.claim(event("held", "ben"), without="budget-spent")
    await store.links.settle(
        setback(await store.links.claim(event("doubt", "cleo")), LinkState.UNKNOWN, pause=0)
    )
    sql("UPDATE registrants SET removed_at = now()")
    waits = ("waiting", "deferred", "registrant-unknown")
    assert waits == lane(await store.links.decide(event("new")))
    assert waits == lane(await store.links.claim(event("held", "ben"), purpose=Purpose.DRAIN))
    doubt = await store.links.claim(event("doubt", "cleo"), purpose=Purpose.DRAIN)
    assert doubt.claim is not None
    assert (True, False) == (doubt.claim.in_doubt, doubt.claim.may_add)
    details = RegistrantDetails(email="ann@x.test")
    with pytest.raises(UnknownRegistrant):
        await store.links.claim(event("told", details=details))
    await ahead(unknown_registrant="reject")
    with pytest.raises(UnknownRegistrant):
        await store.links.decide(event("e2"))
    sql("UPDATE registrants SET removed_at = NULL")
    back = await store.links.claim(event("held", "ben"), purpose=Purpose.DRAIN)
    assert ("issued", held.link.url) == (back.link.state, back.link.url)


async def test_a_membership_from_before_the_event_proves_nothing(
    store: Store, ahead: Register, sql: Sql
) -> None:
    """A claim in doubt is told its lookup id, also when it is of a contact that they had."""
    await ahead(lanes=["direct", "ready", "queued"])
    asked = await store.links.claim(event())
    assert asked.claim is not None
    await store.links.settle(setback(asked, LinkState.UNKNOWN, pause=0))
    (member,) = sql(
        "UPDATE memberships SET contact_key = 'of old' FROM registrants AS r"
        " WHERE r.id = registrant_id AND r.ref = 'ann' RETURNING lookup_id"
    )
    again = await store.links.claim(event())
    assert again.claim is not None
    assert (True, {member["lookup_id"]}) == (again.claim.in_doubt, again.claim.lookups_before)


async def test_data_are_one_workers_to_tell(
    store: Store, ahead: Register, sql: Sql, database_url: str
) -> None:
    """For as long as a lease; whoever comes after it tells them, and the first changes nothing."""
    await ahead()
    asked = await made_ready(store)
    first = await store.links.claim_late_data()
    assert first is not None
    (member,) = sql(
        "SELECT m.* FROM memberships AS m JOIN registrants AS r ON r.id = m.registrant_id"
        " WHERE r.ref = 'ann'"
    )
    expected = (asked.link.id, "e1", "ann", {"gate": "B4"}, "CG_1", member["contact_id"], True)
    assert expected == (
        *(first.link_id, first.event_id, first.ref, first.data),
        *(first.list_id, first.contact_id, first.is_theirs),
    )
    assert (1, False, None) == (first.attempt, first.alone, first.ended)
    assert await store.links.claim_late_data() is None
    async with await Store.open(later(database_url, seconds=LEASE_SECONDS + 1)) as next_store:
        second = await next_store.links.claim_late_data()
        assert second is not None
        assert 2 == second.attempt
        await store.links.settle_late_data(Telling(id=first.link_id, attempt=1, pause=1, calls=1))
        await next_store.links.settle_late_data(
            Telling(id=first.link_id, attempt=2, is_told=True, calls=1)
        )
        assert await next_store.links.claim_late_data() is None
    (row,) = sql("SELECT * FROM links")
    assert (1, 0, None, None) == (
        *(row["upstream_calls"], row["lost"], row["data_due_at"], row["rule"]),
    )
    assert row["data_at"] is not None
    assert 3 == len(sql("SELECT 1 FROM memberships"))


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("UPDATE links SET revoked_at = now()", "revoked"),
        ("UPDATE registrants SET erased_at = now()", "erased"),
        ("UPDATE links SET finished_at = now()", "data-too-late"),
        ("UPDATE links SET expires_at = now()", "data-too-late"),
        (f"UPDATE links SET lost = {PARKED_AFTER}", "parked"),
        ("DELETE FROM memberships", "data-refused"),
    ],
)
async def test_what_has_no_data_to_tell_any_more_says_why(
    store: Store, ahead: Register, sql: Sql, statement: str, rule: str
) -> None:
    """The link stays issued, with its URL and the reason."""
    await ahead()
    asked = await made_ready(store)
    sql(statement)
    late = await store.links.claim_late_data()
    assert late is not None
    assert rule == late.ended
    await store.links.settle_late_data(Telling(id=late.link_id, attempt=late.attempt, rule=rule))
    assert await store.links.claim_late_data() is None
    found = await store.links.find(asked.link.id)
    assert found is not None
    assert found.reason is not None
    assert (rule, True) == (found.reason.rule, bool(found.reason.detail))
    assert (LinkState.ISSUED, asked.link.url, None, None) == (
        *(found.state, found.url, found.data_at, found.data_due_at),
    )


async def test_data_are_told_alone_after_two_deaths(
    store: Store, ahead: Register, sql: Sql
) -> None:
    """A worker that dies of them takes nothing along the third time; a setback is no death."""
    await ahead()
    await made_ready(store)
    alone = []
    for _ in range(3):
        late = await store.links.claim_late_data()
        assert late is not None
        alone.append(late.alone)
        sql("UPDATE links SET data_due_at = now()")
    assert [False, False, True] == alone
    await store.links.settle_late_data(Telling(id=late.link_id, attempt=late.attempt, pause=0.001))
    assert [{"lost": 0}] == sql("SELECT lost FROM links")


async def test_a_membership_that_the_platform_does_not_know_is_forgotten(
    store: Store, ahead: Register, sql: Sql
) -> None:
    """That one alone; no further link is made of it."""
    await ahead()
    await made_ready(store)
    late = await store.links.claim_late_data()
    assert late is not None
    refused = Telling(id=late.link_id, attempt=1, rule="data-refused", detail="404", leaves=True)
    await store.links.settle_late_data(refused)
    left = sql("SELECT r.ref FROM memberships AS m JOIN registrants AS r ON r.id = registrant_id")
    assert {"ben", "cleo"} == {row["ref"] for row in left}
