"""Short links on the whole path: what a visit does at the platform, and what it leaves alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from milepost import api
from milepost.app import Milepost
from milepost.model import Scope

Landed = Callable[..., Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)
LOOKS: dict[str, dict[str, str]] = {
    "Slack": {"User-Agent": "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"},
    "iMessage": {"User-Agent": f"{IPHONE} facebookexternalhit/1.1 Facebot Twitterbot/1.0"},
    "Teams": {"User-Agent": "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5"},
    "prefetch": {"Sec-Purpose": "prefetch;prerender"},
    "preview": {"X-Purpose": "preview"},
}


@pytest.fixture
async def customer(milepost: Milepost) -> AsyncIterator[httpx.AsyncClient]:
    """A customer with a phone, and no key."""
    application = api.create(
        milepost.store,
        milepost.issuing,
        milepost.budget,
        milepost.scheduler,
        milepost.matching,
        webhooks=milepost.webhooks,
    )
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://milepost.test", headers={"User-Agent": IPHONE}
    ) as customer:
        yield customer


async def ask(client: httpx.AsyncClient, event_id: str = "e1", **changes: object) -> dict[str, Any]:
    """The link of an event of `ann`, who landed."""
    event = {"event_id": event_id, "milestone": "landed", "registrant": "ann", "data": {}}
    answer = await client.post("/v1/links", json=event | changes)
    link: dict[str, Any] = answer.json()
    assert "deferred" == link["lane"], link
    return link


def path(link: dict[str, Any]) -> str:
    """Where a link's short URL leads on this host."""
    return urlsplit(link["url"]).path


async def test_a_visit_completes_the_link_once(
    client: httpx.AsyncClient, customer: httpx.AsyncClient, landed: Landed, platform: Any
) -> None:
    """The first visit makes the call and the survey opens; later ones are led to the same place."""
    await landed(lanes=["deferred"])
    link = await ask(client)
    assert [] == await platform.writes()
    first = await customer.get(path(link))
    assert 302 == first.status_code, first.text
    assert ["list_contact.add"] == await platform.writes()
    assert 'data-state="open"' in (await platform.web.get(first.headers["location"])).text
    assert first.headers["location"] == (await customer.get(path(link))).headers["location"]
    assert 1 == (await platform.writes()).count("list_contact.add")
    record = (await client.get(f"/v1/links/{link['id']}")).json()
    assert ("issued", link["url"]) == (record["state"], record["url"])
    assert first.headers["location"] == record["other_url"]
    assert record["clicked_at"] is not None
    assert (await ask(client))["url"] == link["url"]


async def test_looking_completes_nothing_and_does_not_count(
    client: httpx.AsyncClient, customer: httpx.AsyncClient, landed: Landed, platform: Any
) -> None:
    """HEAD, previews, prefetching and scanners get a page; no call goes out, no click is noted."""
    await landed(lanes=["deferred"])
    link = await ask(client)
    before = await platform.calls()
    for name, headers in LOOKS.items():
        page = await customer.get(path(link), headers=headers)
        assert (name, 200, None) == (name, page.status_code, page.headers.get("location"))
        assert 'data-state="open"' in page.text
    head = await customer.head(path(link))
    assert (200, None) == (head.status_code, head.headers.get("location"))
    assert before == await platform.calls()
    record = (await client.get(f"/v1/links/{link['id']}")).json()
    assert ("waiting", None) == (record["state"], record["clicked_at"])
    personal = (await customer.get(path(link))).headers["location"]
    again = await customer.get(path(link), headers=LOOKS["Slack"])
    assert (200, False) == (again.status_code, personal in again.text)


async def test_a_slow_platform_gets_a_page_that_waits(
    client: httpx.AsyncClient, customer: httpx.AsyncClient, landed: Landed, platform: Any
) -> None:
    """After 2 s a page says so; the call goes on behind it, and a later try finds what it made."""
    await landed(lanes=["deferred"])
    link = await ask(client)
    await platform.switch(latency_ms=3_000)
    clock = asyncio.get_running_loop().time
    began = clock()
    page = await customer.get(path(link))
    assert (200, None) == (page.status_code, page.headers.get("location"))
    assert clock() - began > 1.9
    assert 'data-state="waiting"' in page.text
    assert '<meta http-equiv="refresh" content="1; url=?try=2">' in page.text
    tries = 1
    while (answer := await customer.get(f"{path(link)}?try={tries + 1}")).status_code == 200:
        tries += 1
        assert tries < 5
    assert 302 == answer.status_code
    assert ["list_contact.add"] == await platform.writes()


async def test_after_half_a_minute_the_page_asks_to_come_back(
    *,
    client: httpx.AsyncClient,
    customer: httpx.AsyncClient,
    landed: Landed,
    platform: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tenth try does not go on by itself: it has a button, and the link stays good."""
    monkeypatch.setattr("milepost.api.short_links.WAIT_SECONDS", 0.3)
    await landed(lanes=["deferred"])
    link = await ask(client)
    await platform.switch(latency_ms=600)
    page = await customer.get(f"{path(link)}?try=10")
    assert 200 == page.status_code
    assert 'data-state="later"' in page.text
    assert "http-equiv" not in page.text
    assert 'href="?"' in page.text
    await platform.switch(latency_ms=0)
    while (answer := await customer.get(f"{path(link)}?")).status_code == 200:
        assert 'data-state="waiting"' in answer.text
    assert 302 == answer.status_code


async def test_many_visits_at_once_are_one_call(
    client: httpx.AsyncClient, customer: httpx.AsyncClient, landed: Landed, platform: Any
) -> None:
    """An impatient thumb, and everybody whom the link was forwarded to, are led to one place."""
    await landed(lanes=["deferred"])
    link = await ask(client)
    await platform.switch(latency_ms=300)
    answers = await asyncio.gather(*(customer.get(path(link)) for _ in range(20)))
    assert {302} == {answer.status_code for answer in answers}
    assert 1 == len({answer.headers["location"] for answer in answers})
    assert ["list_contact.add"] == await platform.writes()


async def test_a_revoked_link_is_never_made(
    client: httpx.AsyncClient,
    customer: httpx.AsyncClient,
    landed: Landed,
    platform: Any,
    keys: dict[Scope, str],
) -> None:
    """The key that asked may revoke it, again and again with one answer; then it is gone."""
    await landed(lanes=["deferred"])
    mine = {"Authorization": f"Bearer {keys[Scope.ISSUE]}"}
    event = {"event_id": "e1", "milestone": "landed", "registrant": "ann", "data": {}}
    link = (await customer.post("/v1/links", json=event, headers=mine)).json()
    place = f"/v1/links/{link['id']}/revoke"
    first = await customer.post(place, headers=mine)
    assert 200 == first.status_code, first.text
    assert first.json()["revoked_at"] is not None
    assert (link["url"], None) == (first.json()["url"], first.json()["other_url"])
    assert first.json()["revoked_at"] == (await client.post(place)).json()["revoked_at"]
    page = await customer.get(path(link))
    assert (410, True) == (page.status_code, 'data-state="gone"' in page.text)
    assert [] == await platform.writes()


async def test_a_link_is_revoked_by_its_own_key_or_an_admin(
    client: httpx.AsyncClient,
    customer: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
) -> None:
    """To another key it is not there; after an admin's word a made link is gone, too."""
    await landed(lanes=["deferred"])
    link = await ask(client)
    assert 302 == (await customer.get(path(link))).status_code
    _, other = await milepost.store.keys.create("other", [Scope.ISSUE])
    place = f"/v1/links/{link['id']}/revoke"
    refused = await customer.post(place, headers={"Authorization": f"Bearer {other}"})
    assert (404, "unknown-link") == (refused.status_code, refused.json()["code"])
    assert 302 == (await customer.get(path(link))).status_code
    revoked = await client.post(place)
    assert (200, "issued") == (revoked.status_code, revoked.json()["state"])
    assert revoked.json()["other_url"] is not None
    assert 410 == (await customer.get(path(link))).status_code
    missing = await client.post("/v1/links/00000000-0000-0000-0000-000000000000/revoke")
    assert (404, "unknown-link") == (missing.status_code, missing.json()["code"])
    assert ["list_contact.add"] == await platform.writes()


async def test_the_other_url_is_for_admins(
    customer: httpx.AsyncClient, landed: Landed, keys: dict[Scope, str]
) -> None:
    """Whoever asked was given the short URL, and sees no other; a reader sees none."""
    await landed(lanes=["deferred"])
    mine = {"Authorization": f"Bearer {keys[Scope.ISSUE]}"}
    event = {"event_id": "e1", "milestone": "landed", "registrant": "ann", "data": {}}
    link = (await customer.post("/v1/links", json=event, headers=mine)).json()
    personal = (await customer.get(path(link))).headers["location"]
    for scope, urls in (
        (Scope.ISSUE, (link["url"], None)),
        (Scope.READ, (None, None)),
        (Scope.ADMIN, (link["url"], personal)),
    ):
        headers = {"Authorization": f"Bearer {keys[scope]}"}
        record = (await customer.get(f"/v1/links/{link['id']}", headers=headers)).json()
        assert (scope, urls) == (scope, (record["url"], record["other_url"]))


async def test_a_link_that_no_policy_allows_any_more_is_gone(
    client: httpx.AsyncClient,
    customer: httpx.AsyncClient,
    landed: Landed,
    platform: Any,
    execute: Execute,
) -> None:
    """Someone who opts out after the event is not asked: the visit decides again."""
    await landed(lanes=["deferred"])
    link = await ask(client)
    await execute("UPDATE registrants SET opted_out_at = now() WHERE ref = 'ann'")
    page = await customer.get(path(link))
    assert 410 == page.status_code, page.text
    assert [] == await platform.writes()


async def test_a_token_and_its_link_are_in_no_log(
    client: httpx.AsyncClient,
    customer: httpx.AsyncClient,
    landed: Landed,
    platform: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever happens to a visit: it succeeds, the platform errs, or the link was revoked."""
    await landed(lanes=["deferred"])
    caplog.set_level(logging.DEBUG, logger="milepost")
    links = [await ask(client, event_id) for event_id in ("e1", "e2", "e3")]
    seen = [await customer.get(path(links[0]))]
    await platform.fault("status", status=429, call_class="list_contacts", times=50)
    seen.append(await customer.get(path(links[1])))
    await client.post(f"/v1/links/{links[2]['id']}/revoke")
    seen.append(await customer.get(path(links[2])))
    assert [302, 200, 410] == [answer.status_code for answer in seen]
    logged = " ".join(record.getMessage() for record in caplog.records)
    for secret in (*(path(link)[3:] for link in links), seen[0].headers["location"]):
        assert secret not in logged
