"""While an upgrade rolls, the version before runs on the schema that comes after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

import pytest
from tests.store.conftest import Register, Sql, event, issued

from milepost.errors import DatabaseBusy
from milepost.model import Lane, LinkState, Purpose, RegistrantDetails
from milepost.store import LOCAL_URL, Store, connections, tables
from milepost.store.connections import Connections
from milepost.store.deployment import DeploymentStore
from milepost.store.links import Telling

WARM = 7
"""So often a statement runs until psycopg has it prepared, and has run it so."""

REFS = [f"p{n}" for n in range(WARM + 1)]


@pytest.fixture
async def older(database_url: str) -> AsyncIterator[Store]:
    """A store of the version before: one connection, so that what is prepared is prepared there."""
    connections = Connections(database_url, size=1)
    await connections.open()
    deployment = await DeploymentStore(connections).load()
    async with Store(connections, deployment, LOCAL_URL) as store:
        yield store


@pytest.fixture
async def pool(store: Store, register: Register, sql: Sql) -> None:
    """A milestone with a place for everybody, and memberships ahead of events."""
    await register(repeat="every_event", slots=3, membership="ahead", lanes=["direct", "deferred"])
    await store.registrants.put({ref: RegistrantDetails(email=f"{ref}@x.test") for ref in REFS})
    sql(
        "UPDATE registrants SET contact_id = 'CID_' || id, home_lookup_id = 'CGC_' || id,"
        " contact_at = now() WHERE ref <> 'ann'"
    )


async def follow_events(store: Store, ref: str) -> None:
    """What the path of events does, for one registrant."""
    links = store.links
    claimed = await links.claim(event(f"{ref} made", ref))
    made = await links.settle(issued(claimed))
    assert made is not None
    assert made == (await links.claim(event(f"{ref} made", ref))).link
    found = await links.find(event_id=made.event_id)
    assert found is not None
    assert (made.url, 1) == (found.url, found.attempt)
    assert [made] == await links.page(event_id=made.event_id)
    late = await links.claim(event(f"{ref} late", ref))
    handed = await links.hand_over(late.link.id)
    assert (Lane.DEFERRED, LinkState.CLAIMED) == (handed.lane, handed.state)
    token = str(handed.url).rpartition("/")[2]
    assert await links.look(token) == await links.click(token)
    assert await links.settle(issued(late, lookup_id=f"CGC_{ref}", url=f"https://s.test/{ref}"))
    await links.claim(event(f"{ref} waits", ref), purpose=Purpose.DRAIN, without="budget-spent")
    due = [found.event.event_id for found in await links.due(LinkState.WAITING, 10)]
    assert [f"{ref} waits"] == due
    assert await links.claim_late_data() is None
    await links.settle_late_data(Telling(id=made.id, attempt=1))
    assert await links.backlog()


async def do_jobs(store: Store, survey: str) -> None:
    """What the jobs do."""
    await store.runs.look(["sync"])
    asked = await store.runs.ask("sync", asked_by="ops")
    run = await store.runs.take("sync")
    assert run is not None
    assert (asked.id, 1, {}) == (run.id, run.attempt, run.options)
    await store.runs.commit(run, position=1, stage="a", done=1, total=None, counts={})
    assert run.id == (await store.runs.page("sync", limit=1))[0].id
    await store.runs.end(run, "done", counts={})
    assert not await store.runs.forget_some("sync")
    everybody = {"ann", "ben", "cleo", *REFS}
    assert 0 == await store.registrants.rekey("POOL_000000000000001", frozenset({"email"}))
    assert {"ann"} == {owner.ref for owner in await store.contacts.missing(after=0)}
    assert {"ann"} == {o.ref for o in await store.contacts.to_import(after=0, merges=True)}
    (claimed,) = await store.contacts.claim(1, anybody=True)
    assert ("ann", True) == (claimed.ref, claimed.in_doubt)
    assert await store.contacts.set_back(claimed, outcome_unknown=False, looked=False)
    assert everybody >= {owner.ref for owner in await store.contacts.stale(99, after=0)}
    lacking, _ = await store.memberships.lacking(3, 99, after=0)
    assert {"ben", "cleo"} <= {owner.ref for owner in lacking}
    await store.memberships.tidy(2, after=0)
    await store.pools.plan("landed", "abcdefgh")
    assert {"landed"} >= {making.milestone for making in await store.pools.claim(9)}
    assert 3 <= len(await store.pools.entries("landed", survey))
    moment = datetime.fromisoformat("2026-01-01T00:00:00Z")
    await store.canaries.take(survey, "abcdefgh", since=moment)
    await store.pools.age()
    assert ["landed"] == [milestone.key for milestone in await store.milestones.all()]


@pytest.mark.usefixtures("pool")
async def test_a_running_version_does_not_mind_further_columns(
    older: Store, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every table may get one: what was prepared before brings what it brought."""
    monkeypatch.setattr(connections, "TRIES", 1)
    survey = (await older.milestones.get("landed")).definition.survey_id
    for ref in REFS[:-1]:
        await follow_events(older, ref)
        await do_jobs(older, survey)
    for table in tables.metadata.tables:
        sql(f"ALTER TABLE {table} ADD COLUMN further text NOT NULL DEFAULT 'it'")
    await follow_events(older, REFS[-1])
    await do_jobs(older, survey)


@pytest.mark.usefixtures("pool")
async def test_what_a_migration_has_outdated_is_begun_again(older: Store, sql: Sql) -> None:
    """A column has another type: a write is done all the same, a look at the second attempt."""
    for ref in REFS[:-1]:
        await follow_events(older, ref)
    sql("ALTER TABLE links ALTER COLUMN rule_detail TYPE varchar")
    claimed = await older.links.claim(event("e", REFS[-1]))
    made = await older.links.settle(issued(claimed))
    assert made is not None
    with pytest.raises(DatabaseBusy, match="migration"):
        await older.links.find(event_id="e")
    found = await older.links.find(event_id="e")
    assert made.url == (found and found.url)
