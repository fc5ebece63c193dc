"""The funnel on the whole path: what counts, for which day, and that nothing is missed."""

from __future__ import annotations

import csv
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from io import StringIO
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import httpx
import pytest

from milepost.app import Milepost

Landed = Callable[..., Awaitable[None]]
Travel = Callable[..., Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

PHONE = {"User-Agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) Safari/604.1"}
STEPS = ("requested", "eligible", "issued", "delivered", "clicked", "started", "finished")
BESIDES = ("reused", "suppressed", "failed", "waiting")


async def ask(client: httpx.AsyncClient, event_id: str, ref: str = "ann") -> dict[str, Any]:
    """The link of an event."""
    body = {"event_id": event_id, "milestone": "landed", "registrant": ref, "data": {}}
    link: dict[str, Any] = (await client.post("/v1/links", json=body)).json()
    return link


async def confirm(client: httpx.AsyncClient, link: dict[str, Any]) -> httpx.Response:
    """Say that the customer was shown the link."""
    return await client.post(f"/v1/links/{link['id']}/delivered")


async def funnel(client: httpx.AsyncClient, **query: str) -> dict[str, Any]:
    """The funnel of the milestone."""
    answer = await client.get("/v1/milestones/landed/funnel", params=query)
    assert 200 == answer.status_code, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def counted(client: httpx.AsyncClient, milepost: Milepost) -> dict[str, int]:
    """How many links have come to each step, counted now; steps without any are left out."""
    await milepost.funnel.run_once()
    total = (await funnel(client))["total"]
    links = {name: total[name]["links"] for name in STEPS} | {name: total[name] for name in BESIDES}
    return {name: n for name, n in links.items() if n}


def rows(text: str) -> list[dict[str, str]]:
    """The lines of a CSV."""
    return list(csv.DictReader(StringIO(text)))


async def test_each_link_counts_as_far_as_it_has_come(
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    execute: Execute,
) -> None:
    """Reused and suppressed ones are not eligible; retries of an event are no further requests."""
    await landed(repeat="once", fields=[], lanes=["direct", "deferred"])
    await execute("UPDATE registrants SET opted_out_at = now() WHERE ref = 'cleo'")
    links = {
        event_id: await ask(client, event_id, ref)
        for event_id, ref in (("a1", "ann"), ("a1", "ann"), ("a2", "ann"), ("b", "ben"))
    }
    await ask(client, "c", "cleo")
    assert links["a2"]["reused"]
    for event_id in ("a1", "a2"):
        assert 200 == (await confirm(client, links[event_id])).status_code
    assert {
        "requested": 4,
        "eligible": 2,
        "issued": 2,
        "delivered": 1,
        "reused": 1,
        "suppressed": 1,
    } == await counted(client, milepost)


async def test_what_happens_later_counts_for_the_day_of_the_event(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, travel: Travel
) -> None:
    """A link that is drained, shown and clicked two days later does, and today has none of it."""
    await landed(fields=[], lanes=["deferred"])
    link = await ask(client, "e1")
    assert {"requested": 1, "eligible": 1, "waiting": 1} == await counted(client, milepost)
    await travel(days=2)
    assert {"requested": 1, "eligible": 1, "waiting": 1} == await counted(client, milepost)
    await milepost.drain.run_once()
    expected = {"requested": 1, "eligible": 1, "issued": 1}
    assert expected == await counted(client, milepost)
    await confirm(client, link)
    assert expected | {"delivered": 1} == await counted(client, milepost)
    opened = await client.get(urlsplit(link["url"]).path, headers=PHONE)
    assert 302 == opened.status_code
    assert expected | {"delivered": 1, "clicked": 1} == await counted(client, milepost)
    days = (await funnel(client))["days"]
    assert [1, 0, 0] == [day["requested"]["links"] for day in days[-3:]]
    assert [1, 0, 0] == [day["clicked"]["links"] for day in days[-3:]]


async def test_what_the_platform_tells_counts_as_soon_as_it_was_asked(
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    travel: Travel,
    platform: Any,
) -> None:
    """Responses count for the days of their links, and it is told of which links they are known."""
    await landed(fields=[])
    answered, _ = [await ask(client, event_id, event_id) for event_id in ("ann", "ben")]
    await platform.answer(answered["url"])
    await travel(days=1)
    assert {"requested": 2, "eligible": 2, "issued": 2} == await counted(client, milepost)
    before = await milepost.store.runs.now()
    assert "done" == (await milepost.run("reconcile", asked_by="a test")).state
    behind = await milepost.store.runs.now()
    expected = {"requested": 2, "eligible": 2, "issued": 2, "started": 1, "finished": 1}
    assert expected == await counted(client, milepost)
    told = await funnel(client)
    assert [1, 0] == [day["finished"]["links"] for day in told["days"][-2:]]
    finished = told["total"]["finished"]
    assert before <= datetime.fromisoformat(finished["as_of"]) <= behind
    assert 1.0 == finished["reconciled"]
    await ask(client, "cleo", "cleo")
    await counted(client, milepost)
    assert 0.6667 == (await funnel(client))["total"]["finished"]["reconciled"]


@pytest.mark.parametrize("is_over", [False, True], ids=["alive", "over"])
async def test_what_the_platform_refuses_to_tell_is_not_known(
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    execute: Execute,
    *,
    is_over: bool,
) -> None:
    """A look that was refused counts for none; behind the links' end there is no further one."""
    await landed(fields=[])
    await ask(client, "e1")
    await counted(client, milepost)
    if is_over:
        ended = "now() - interval '1 day'"
        await execute(f"UPDATE distributions SET takes_until = {ended}, expires_at = {ended}")
    seen = []
    for status in (404, None):
        if status is not None:
            await platform.fault("status", status=status, call_class="distributions")
        run = await milepost.run("reconcile", asked_by="a test")
        finished = (await funnel(client))["total"]["finished"]
        seen.append((run.state, run.counts["failed"], finished["reconciled"]))
        assert (finished["as_of"] is None) == (finished["reconciled"] == 0)
    behind = 0.0 if is_over else 1.0
    assert [("done", int(not is_over), 0.0), ("done", 0, behind)] == seen


async def test_links_with_a_distribution_of_their_own_are_known_when_they_were_looked_at(  # noqa: PLR0917  (fixtures)
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    travel: Travel,
    platform: Any,
    execute: Execute,
) -> None:
    """Of the moment of which all of them are known; not where the platform refused to tell.

    Hours that a process of a version before has counted are counted anew.
    """
    await landed(fields=[], route="stepwise")
    await milepost.run("sync", asked_by="a test")
    await ask(client, "e1")
    issued = await milepost.store.runs.now()
    await counted(client, milepost)

    async def known() -> tuple[float, bool]:
        """The share of those that are, and whether that is of a moment behind their issue."""
        finished = (await funnel(client))["total"]["finished"]
        as_of = finished["as_of"]
        return finished["reconciled"], as_of is not None and datetime.fromisoformat(as_of) > issued

    for minutes in (0, 15):
        await milepost.run("reconcile", asked_by="a test")
        await travel(minutes=minutes)
        assert (0.0, False) == await known()
    await milepost.run("reconcile", asked_by="a test")
    assert (1.0, True) == await known()
    await travel(hours=2)
    await ask(client, "e2", "ben")
    await counted(client, milepost)
    await execute("UPDATE funnel SET distribution_id = 0")
    assert (0.0, False) == await known()
    await counted(client, milepost)
    assert (0.5, True) == await known()
    await platform.fault("status", status=404, call_class="distributions")
    for share in (0.0, 1.0):
        await milepost.run("reconcile", asked_by="a test")
        await counted(client, milepost)
        assert (share, share > 0) == await known()
        await travel(minutes=30)


async def test_days_on_which_nobody_counted_are_counted_later(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, travel: Travel
) -> None:
    """The first time all there is, afterwards from the last time on, however long ago it was."""
    await landed(fields=[], repeat="every_event", slots=8)
    for day in range(2):
        await ask(client, f"before-{day}")
        await travel(days=1)
    assert 2 == (await counted(client, milepost))["requested"]
    for day in range(2):
        await ask(client, f"behind-{day}")
        await travel(days=1)
    assert 4 == (await counted(client, milepost))["issued"]
    days = (await funnel(client))["days"]
    assert [1] * 4 + [0] == [day["issued"]["links"] for day in days[-5:]]


async def test_a_link_that_fails_late_is_not_waiting_any_more(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, travel: Travel, platform: Any
) -> None:
    """What a claim ends by itself, without a call, changes the count of its day as well."""
    await landed(fields=[], lanes=["deferred"], link_days=3, min_link_days=1)
    await ask(client, "e1")
    assert 1 == (await counted(client, milepost))["waiting"]
    await travel(days=4)
    assert 1 == (await counted(client, milepost))["waiting"]
    await milepost.drain.run_once()
    assert {"requested": 1, "eligible": 1, "failed": 1} == await counted(client, milepost)
    assert [] == await platform.writes()


async def test_a_delivery_is_confirmed_once(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, keys: dict[str, str]
) -> None:
    """The first moment stays; others' links are unknown to a key, and one without a URL to all."""
    await landed(fields=[], lanes=["direct", "queued"])
    link = await ask(client, "e1")
    first, again = [(await confirm(client, link)).json()["delivered_at"] for _ in range(2)]
    assert first is not None
    assert first == again
    own = {"Authorization": f"Bearer {keys['issue']}"}
    path = f"/v1/links/{link['id']}/delivered"
    assert 404 == (await client.post(path, headers=own)).status_code
    without = await ask(client, "e2", "cleo")
    async with milepost.store.connections.path() as database:
        await database.execute(
            b"UPDATE links SET state = 'suppressed', rule = 'quiet', url = NULL, issued_at = NULL,"
            b" published = NULL WHERE event_id = 'e2'"
        )
    refused = await confirm(client, without)
    assert (409, "nothing-given") == (refused.status_code, refused.json()["code"])


async def test_it_is_told_as_csv_and_as_a_picture(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost
) -> None:
    """With the same numbers, by the parameter and by what is accepted."""
    await landed(fields=[])
    await confirm(client, await ask(client, "e1"))
    await counted(client, milepost)
    told = await funnel(client)
    path = "/v1/milestones/landed/funnel"
    as_csv = await client.get(path, headers={"Accept": "text/csv"})
    assert "text/csv; charset=utf-8" == as_csv.headers["Content-Type"]
    assert as_csv.text == (await client.get(path, params={"format": "csv"})).text
    lines = rows(as_csv.text)
    assert [day["day"] for day in told["days"]] == [line["day"] for line in lines]
    assert ("1", "1", "0") == tuple(lines[-1][name] for name in ("issued", "delivered", "finished"))
    assert told["days"][-1]["issued"]["as_of"] == lines[-1]["as_of"]
    picture = await client.get(path, headers={"Accept": "image/svg+xml"})
    assert "image/svg+xml" == picture.headers["Content-Type"].partition(";")[0]
    drawn = ET.fromstring(picture.text)  # noqa: S314  (our own)
    (about,) = drawn.iter("{http://www.w3.org/2000/svg}desc")
    expected = ", ".join(f"{name} {told['total'][name]['links']}" for name in STEPS)
    assert expected == about.text


async def test_each_number_says_of_which_moment_it_is(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost
) -> None:
    """Before the first count of none; what the platform tells, only after it was asked."""
    await landed(fields=[])
    await ask(client, "e1")
    assert {None} == {(await funnel(client))["total"][name]["as_of"] for name in STEPS}
    before = await milepost.store.runs.now()
    await milepost.funnel.run_once()
    total = (await funnel(client))["total"]
    for name in STEPS[:5]:
        assert before <= datetime.fromisoformat(total[name]["as_of"])
        assert 1.0 == total[name]["reconciled"]
    for name in STEPS[5:]:
        assert (None, 0.0) == (total[name]["as_of"], total[name]["reconciled"])


async def test_days_are_those_that_were_asked_for(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost
) -> None:
    """Both ends are included."""
    await landed(fields=[])
    await ask(client, "e1")
    await milepost.funnel.run_once()
    today = datetime.now(UTC).date().isoformat()
    one = await funnel(client, **{"from": today, "to": today})
    assert (today, today, [today]) == (one["from"], one["to"], [day["day"] for day in one["days"]])
