"""Links of route `anonymous` are issued by their claim, and found again by their reference."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from tests.store.conftest import Register, Sql, event, issued

from milepost.model import Lane, LinkState, Purpose, Route
from milepost.payload import seal, unseal
from milepost.store import Store
from milepost.store.links import Asked

SECRET = b"a secret of at least sixteen bytes"
TEMPLATE = "http://brand.test/SE?Q_DL=abcdefghijklmno_000000000000001_CGC_{}&Q_CHL=gl"
NOBODY = UUID("01990000-0000-7000-8000-000000000000")


@pytest.fixture
async def signing(store: Store, database_url: str) -> AsyncIterator[Store]:
    """The store, with a secret; its registrants are those of `store`."""
    del store
    async with await Store.open(database_url, secret=SECRET) as signing:
        yield signing


@pytest.fixture
def plain(register: Register, sql: Sql) -> Register:
    """Register milestone `landed` with route `anonymous`, or with these changes."""

    async def landed(key: str = "landed", **changes: object) -> None:
        """Register it, with the template of a platform whose links have the form of 2019."""
        await register(key, **({"route": "anonymous", "lanes": ["ready", "deferred"]} | changes))
        sql("UPDATE distributions SET template = %s", TEMPLATE)

    return landed


def reference_of(asked: Asked) -> str:
    """The reference in a link's URL."""
    (reference,) = parse_qs(urlsplit(asked.link.url or "").query)["milepost_ref"]
    return reference


@pytest.mark.parametrize(
    ("without", "lanes"),
    [(None, ["direct", "ready", "deferred"]), ("no-lane", ["ready", "queued"])],
)
async def test_the_claim_is_all_there_is(
    signing: Store, plain: Register, sql: Sql, without: str | None, lanes: list[str]
) -> None:
    """Whether a call could be made or not; of the platform's link its scheme and host are taken."""
    await plain(link_days=30, lanes=lanes)
    asked = await signing.links.claim(event(), without=without)
    link = asked.link
    assert (None, LinkState.ISSUED, Lane.READY, Route.ANONYMOUS) == (
        *(asked.claim, link.state, link.lane, link.route),
    )
    assert (link.created_at + timedelta(days=30), 0, None) == (
        *(link.expires_at, link.upstream_calls, link.data_at),
    )
    assert f"http://brand.test/jfe/form/SV_000000000000001?milepost_ref={reference_of(asked)}" == (
        link.url
    )
    (row,) = sql("SELECT slot_id, contact_key, data_due_at, due_at FROM links")
    assert {None} == set(row.values())


async def test_without_a_secret_none_is_made(store: Store, plain: Register) -> None:
    """A reference that nobody has signed would be worth nothing."""
    await plain()
    asked = await store.links.claim(event(), without=None)
    assert ("waiting", None) == (asked.link.state, asked.claim)


async def test_no_call_is_ever_claimed_for_it(
    signing: Store, plain: Register, register: Register, sql: Sql
) -> None:
    """Not where only `direct` is wanted, nor for one that has waited with a place in a list.

    Nor by a process that still takes the milestone for one of lists, and has a permit.
    """
    await register(lanes=["deferred"])
    waiting = await signing.links.claim(event(), without="no-lane")
    assert [True] == [row["has"] for row in sql("SELECT slot_id IS NOT NULL AS has FROM links")]
    await plain(lanes=["direct", "deferred"])
    direct = await signing.links.claim(event("e2"), without=None)
    assert ("waiting", "no-lane", Lane.DEFERRED, None) == (
        direct.link.state,
        direct.link.reason and direct.link.reason.rule,
        direct.link.lane,
        direct.claim,
    )
    for asked, name in ((waiting, "e1"), (direct, "e2")):
        made = await signing.links.claim(event(name), purpose=Purpose.DRAIN)
        assert (None, LinkState.ISSUED, Route.ANONYMOUS, asked.link.url) == (
            *(made.claim, made.link.state, made.link.route, made.link.url),
        )
    assert [None, None] == [row["slot_id"] for row in sql("SELECT slot_id FROM links")]


async def test_a_reference_names_its_link(
    signing: Store, plain: Register, register: Register, sql: Sql
) -> None:
    """A plain link's by itself, whenever it was made; any other's by the link's id; none else."""
    await plain()
    at_once = await signing.links.claim(event())
    await register("boarded")
    direct = await signing.links.claim(event("e2", milestone="boarded"))
    await signing.links.settle(issued(direct))
    sql("UPDATE milestones SET stopped_at = now(), stopped_because = 'x' WHERE key = 'landed'")
    await signing.links.claim(event("e3"), without="no-lane")
    sql("UPDATE milestones SET stopped_at = NULL, stopped_because = NULL")
    later = await signing.links.claim(event("e3"), purpose=Purpose.DRAIN)
    (row,) = sql("SELECT lookup_id, url FROM links WHERE event_id = 'e3'")

    for asked, reference in (
        (at_once, reference_of(at_once)),
        (direct, seal(direct.link.id, SECRET)),
        (later, row["lookup_id"]),
    ):
        sealed = unseal(reference, [SECRET])
        assert sealed is not None
        named = await signing.links.of_reference(reference, sealed)
        assert named is not None
        assert (asked.link.id, asked.link.event_id) == (named.link.id, named.link.event_id)
        assert named.url is not None
        assert "SV_000000000000001" == named.survey_id
    assert row["url"].endswith(row["lookup_id"])
    # The id of a link that was made with another one is not what its reference holds.
    for nobody in (NOBODY, later.link.id):
        assert None is await signing.links.of_reference(seal(nobody, SECRET), nobody)
