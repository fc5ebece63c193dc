"""Route `anonymous`: the survey's plain link, with a reference that only we can have signed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from milepost.app import Milepost
from milepost.jobs.provisioning import Provisioning
from milepost.jobs.rotate import Rotate
from milepost.jobs.teardown import Teardown
from milepost.model import RegistrantDetails
from milepost.payload import REFERENCE_FIELD

Landed = Callable[..., Awaitable[None]]
Travel = Callable[..., Awaitable[None]]
Elapse = Callable[[float], Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

PLAIN = {"route": "anonymous"}


async def ask(client: httpx.AsyncClient, event_id: str = "e1", **changes: object) -> dict[str, Any]:
    """The answer to an event of `ann`."""
    body = {"event_id": event_id, "milestone": "landed", "registrant": "ann"}
    answer = await client.post("/v1/links", json=body | {"data": {"flight": 17}} | changes)
    assert answer.status_code in {200, 201, 202}, answer.text
    link: dict[str, Any] = answer.json()
    return link


async def record(client: httpx.AsyncClient, link: dict[str, Any]) -> dict[str, Any]:
    """What the ledger says of a link by now."""
    found: dict[str, Any] = (await client.get(f"/v1/links/{link['id']}")).json()
    return found


def short_path(link: dict[str, Any]) -> str:
    """The path of a link's short URL."""
    assert "/l/" in link["url"], link
    return urlsplit(link["url"]).path


async def test_a_link_takes_no_call_and_carries_nothing_but_its_reference(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """The survey never sees the data; the reference in the response names the link.

    Nobody needs a contact: two with one e-mail, and one with none, each get links of their own. The
    one list holds our probe, and nobody is ever added to it.
    """
    await platform.switch(declared_fields=["flight", REFERENCE_FIELD])
    details = RegistrantDetails(email="ann@example.com")
    await milepost.store.registrants.put({"twin": details, "nameless": RegistrantDetails()})
    await landed(**PLAIN)
    calls = await platform.calls()
    link = await ask(client)
    expected = {
        "state": "issued",
        "lane": "ready",
        "route": "anonymous",
        "reason": None,
        "upstream_calls": 0,
        "data_at": None,
    }
    assert expected == {name: link[name] for name in expected}
    assert link == await ask(client)
    others = [await ask(client, ref, registrant=ref) for ref in ("twin", "nameless")]
    assert [("issued", "ready")] * 2 == [(each["state"], each["lane"]) for each in others]
    assert 3 == len({each["url"] for each in [link, *others]})
    assert 0 == (await milepost.drain.run_once()).told
    assert 0 == (await milepost.replenish.run_once()).planned
    assert (calls, []) == (await platform.calls(), await platform.writes())
    (entry,) = (await client.get("/v1/milestones/landed/pool")).json()["distributions"]
    directory = milepost.deployment.directory_id or ""
    members = milepost.upstream.list_contacts(directory, entry["list_id"])
    assert [f"milepost-probe-{milepost.deployment.id}"] == [member.ref async for member in members]

    parts = urlsplit(link["url"])
    survey = platform.ready.survey_id
    assert (platform.ready.origin, f"/jfe/form/{survey}") == (
        f"{parts.scheme}://{parts.netloc}",
        parts.path,
    )
    assert [REFERENCE_FIELD] == list(parse_qs(parts.query))
    response = await milepost.upstream.response(survey, await platform.answer(link["url"]))
    assert (None, None) == (response.values.get("flight"), response.ref)
    match = await milepost.matching.explain(survey, str(response.values["_recordId"]))
    assert match.link is not None
    assert ("true", None, link["id"]) == (match.verdict, match.reason, str(match.link.id))


async def test_without_a_pool_it_waits_and_needs_no_call_then_either(
    client: httpx.AsyncClient, milepost: Milepost, platform: Any, elapse: Elapse
) -> None:
    """The caller has a short URL; job drain, or the person who opens it, has the link made."""
    definition = {"survey_id": platform.ready.survey_id, "fields": [{"name": "flight"}], **PLAIN}
    (await client.put("/v1/milestones/landed", json=definition)).raise_for_status()
    data = {"flight": "17"}
    waiting = [await ask(client, f"e{n}", data=data, registrant="ben") for n in range(2)]
    for link in waiting:
        assert ("waiting", "pool-empty", "deferred", "anonymous", None) == (
            *(link["state"], link["reason"]["rule"], link["lane"], link["route"]),
            link["expires_at"],
        )
    await milepost.replenish.run_once()
    calls = await platform.calls()
    opened = await client.get(short_path(waiting[0]))
    assert 302 == opened.status_code
    assert f"{REFERENCE_FIELD}=" in opened.headers["Location"]
    await elapse(600)
    assert 1 == (await milepost.drain.run_once()).issued
    assert calls == await platform.calls()
    for link in waiting:
        made = await record(client, link)
        assert ("issued", link["url"], "deferred", 0, None) == (
            *(made["state"], made["url"], made["lane"], made["upstream_calls"]),
            made["data_at"],
        )
        assert 200 == (await platform.web.get(made["other_url"])).status_code


async def test_the_rules_of_a_milestone_hold(
    client: httpx.AsyncClient, landed: Landed, execute: Execute, travel: Travel
) -> None:
    """Sample, quiet, cooldown, once, opted-out and erased: a link that costs nothing is one."""

    async def rule(event_id: str, **changes: object) -> str | None:
        """The rule that decided; None: there is a link, and no rule."""
        link = await ask(client, event_id, **changes)
        return str(link["reason"]["rule"]) if link["reason"] else None

    await landed(**PLAIN, sample_percent=0)
    assert "sample" == await rule("s1")
    await landed(**PLAIN, quiet={"links": 2, "days": 7})
    assert [None, None, "quiet"] == [await rule(f"q{n}") for n in range(3)]
    await landed(**PLAIN, repeat={"cooldown_days": 30})
    assert "cooldown" == await rule("c1")
    assert None is await rule("c2", registrant="ben")

    await landed(**PLAIN, repeat="once", link_days=40)
    first = await ask(client, "o1", registrant="cleo")
    again = await ask(client, "o2", registrant="cleo")
    assert (first["url"], True, "once") == (again["url"], again["reused"], again["reason"]["rule"])
    await travel(days=41)
    fresh = await ask(client, "o3", registrant="cleo")
    assert (False, True) == (fresh["reused"], fresh["url"] != first["url"])

    await execute("UPDATE registrants SET opted_out_at = now() WHERE ref = 'ben'")
    assert "opted-out" == await rule("x1", registrant="ben")
    await execute("UPDATE registrants SET erased_at = now() WHERE ref = 'cleo'")
    assert "erased" == await rule("x2", registrant="cleo")


async def test_it_ends_by_our_ledger(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """`link_days` after its event; the platform knows nothing of that, and its page stays open.

    Where the lanes do not name `ready`, the URL stays behind a short one until somebody opens it.
    """
    await platform.switch(declared_fields=[REFERENCE_FIELD])
    await landed(**PLAIN, link_days=10, min_link_days=1, lanes=["direct", "deferred"])
    link = await ask(client)
    assert ("no-lane", "deferred") == (link["reason"]["rule"], link["lane"])
    await travel(days=4)
    assert 1 == (await milepost.drain.run_once()).issued
    assert [] == await platform.writes()
    made = await record(client, link)
    created, end = (datetime.fromisoformat(made[name]) for name in ("created_at", "expires_at"))
    assert timedelta(days=10) == end - created
    assert 302 == (await client.get(short_path(link))).status_code
    await travel(days=6, minutes=1)
    gone = await client.get(short_path(link))
    assert (410, True) == (gone.status_code, "Location" not in gone.headers)
    response_id = await platform.answer(made["other_url"])
    match = await milepost.matching.explain(platform.ready.survey_id, response_id)
    assert match.reason is not None
    assert ("true", "after-end") == (match.verdict, match.reason.rule)


async def test_its_pool_is_looked_after_and_its_links_outlive_it(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """Rotated on the same list; the canary finds its host right; a teardown ends none of its links.

    Many events of one person do not make its headroom smaller. Of the platform's own link only
    scheme and host are taken: the form of 2019, in which no path names a survey, is as good.
    """
    await platform.switch(facts={"link_format": "2019"})
    await landed(**PLAIN, link_days=30, min_link_days=10, max_slots=3)
    await travel(minutes=2)
    links = [await ask(client, f"e{n}") for n in range(3)]
    form = f"{platform.ready.origin}/jfe/form/{platform.ready.survey_id}?{REFERENCE_FIELD}="
    assert all(link["url"].startswith(form) for link in links)
    headroom = (await client.get("/v1/milestones/landed/pool")).json()["headroom_days"]
    assert 19 < headroom <= 20
    run = await milepost.run("canary", asked_by="a test")
    assert ("done", 1, 0) == (run.state, run.counts["templates"], run.counts["links"])
    stats = (await platform.web.get("/control/stats")).json()
    assert 1 == stats["classes"]["history"]["calls"]  # the canary's own
    await travel(days=18)
    provisioning = Provisioning(milepost.store, milepost.upstream, milepost.deployment)
    rotate = Rotate(milepost.store, provisioning, milepost.deployment)
    counts = await rotate.run_once()
    assert (1, 1) == (counts.planned, counts.ready)
    entries = (await client.get("/v1/milestones/landed/pool")).json()["distributions"]
    assert [(1, 1), (1, 2)] == [(each["slot"], each["generation"]) for each in entries]
    assert 1 == len({each["list_id"] for each in entries})

    (await client.post("/v1/milestones/landed/pause")).raise_for_status()
    teardown = Teardown(milepost.store, milepost.upstream, milepost.deployment)
    report = await teardown.run_once("landed")
    assert (0, 2, []) == (report.live_links, report.lists, report.remains)
    for link in links:
        assert link["expires_at"] == (await record(client, link))["expires_at"]
        assert 200 == (await platform.web.get(link["url"])).status_code
