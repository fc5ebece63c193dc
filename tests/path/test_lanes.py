"""Lanes: how the caller gets a URL, whatever the platform does, and that it stays the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from milepost.app import Milepost
from milepost.budget import Permit
from milepost.model import Event, LinkState, Purpose
from milepost.store.links import HOLD_SECONDS
from milepost.upstream import Unavailable

Landed = Callable[..., Awaitable[None]]
Elapse = Callable[[float], Awaitable[None]]

DEFERRED = ["ready", "deferred"]


async def ask(client: httpx.AsyncClient, event_id: str = "e1", **changes: object) -> Any:
    """The status of the answer to an event of `ann`, and the answer."""
    body = {
        "event_id": event_id,
        "milestone": "landed",
        "registrant": "ann",
        "data": {"flight": 17},
    }
    answer = await client.post("/v1/links", json=body | changes)
    return answer.status_code, answer.json()


async def drain(milepost: Milepost, *states: LinkState) -> list[Event]:
    """Take up what is due, one after the other; returns the events in that order."""
    taken = []
    for state in states or (LinkState.WAITING,):
        for due in await milepost.store.links.due(state, 100):
            permit = await milepost.budget.grant("list_contacts", Purpose.DRAIN, patience=5)
            assert isinstance(permit, Permit)
            await milepost.issuing.take_up(due.event, permit)
            taken.append(due.event)
    return taken


async def test_a_deferred_link_is_made_later(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """The caller has its URL at once and without a call, keeps it, and behind it is the survey."""
    await landed(lanes=DEFERRED)
    status, link = await ask(client)
    assert (201, "waiting", "deferred", "list") == (
        status,
        link["state"],
        link["lane"],
        link["route"],
    )
    assert [] == await platform.writes()
    assert (200, link) == await ask(client)
    assert ["e1"] == [event.event_id for event in await drain(milepost)]
    status, again = await ask(client)
    assert (200, "issued", link["url"], "deferred", 1) == (
        status,
        again["state"],
        again["url"],
        again["lane"],
        again["upstream_calls"],
    )
    record = (await client.get(f"/v1/links/{link['id']}")).json()
    assert ["list_contact.add"] == await platform.writes()
    assert 200 == (await platform.web.get(record["other_url"])).status_code


async def test_a_slow_call_is_not_waited_for(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """Before the deadline the caller has a short URL, and the call settles behind the answer."""
    await landed()
    await platform.switch(latency_ms=700)
    begun = time.monotonic()
    status, link = await ask(client, deadline_ms=500)
    assert (201, "deferred") == (status, link["lane"])
    assert time.monotonic() - begun < 0.5
    await milepost.issuing.finish()
    status, again = await ask(client)
    assert (200, "issued", link["url"]) == (status, again["state"], again["url"])
    assert ["list_contact.add"] == await platform.writes()


@pytest.mark.usefixtures("probes_at_once")
@pytest.mark.parametrize(
    ("fault", "state", "rule"),
    [
        ({"kind": "status", "status": 429}, "waiting", "upstream-busy"),
        ({"kind": "status", "status": 401}, "waiting", "upstream-unauthorized"),
        ({"kind": "reset"}, "unknown", "outcome-unknown"),
        ({"kind": "html", "status": 502}, "unknown", "outcome-unknown"),
    ],
    ids=["429", "401", "reset", "502"],
)
async def test_no_fault_of_the_platform_reaches_the_caller(
    *,
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    fault: dict[str, Any],
    state: str,
    rule: str,
) -> None:
    """It gets its URL at once, and the link is made when the platform can: once."""
    await landed()
    await platform.fault(**fault, call_class="list_contacts")
    status, link = await ask(client)
    assert (201, state, rule, "deferred") == (
        status,
        link["state"],
        link["reason"]["rule"],
        link["lane"],
    )
    await elapse(60)
    await drain(milepost, LinkState(state))
    status, again = await ask(client)
    assert (200, "issued", link["url"]) == (status, again["state"], again["url"])
    journal = [entry for entry in await platform.entries() if "lookup" in entry["ids"]]
    assert 1 == len({entry["ids"]["lookup"] for entry in journal})


async def test_an_outage_defers_everything(
    client: httpx.AsyncClient, landed: Landed, platform: Any
) -> None:
    """The breaker opens, so that nobody waits for a platform that is away; reason and URL come."""
    await landed(slots=4)
    await platform.fault("reset", call_class="list_contacts", times=None)
    rules = []
    for number in range(12):
        registrant = ("ann", "ben", "cleo")[number % 3]
        status, link = await ask(client, f"e{number}", registrant=registrant)
        assert (201, "deferred") == (status, link["lane"])
        rules.append(link["reason"]["rule"])
    assert "upstream-away" == rules[-1]
    assert "outcome-unknown" == rules[0]


async def test_a_queued_link_is_polled_for(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """202 and no URL while there is no personal one; then that one, whoever asks."""
    await landed(lanes=["queued"])
    status, link = await ask(client)
    assert (202, "queued", None) == (status, link["lane"], link["url"])
    await drain(milepost)
    status, again = await ask(client)
    assert (200, "issued", "queued") == (status, again["state"], again["lane"])
    assert 200 == (await platform.web.get(again["url"])).status_code


async def test_a_click_makes_its_link_at_once(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """A person who opens the short URL does not wait for the drain."""
    await landed(lanes=DEFERRED)
    _, link = await ask(client)
    token = link["url"].rpartition("/")[2]
    opened = await milepost.issuing.click(token)
    assert opened.url is not None
    assert ["list_contact.add"] == await platform.writes()
    assert opened == await milepost.issuing.click(token)
    record = (await client.get(f"/v1/links/{link['id']}")).json()
    assert record["clicked_at"] is not None
    assert [] == await drain(milepost)


async def test_many_clicks_at_once_make_one_link(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """Whoever comes second waits for the first."""
    await landed(lanes=DEFERRED)
    _, link = await ask(client)
    token = link["url"].rpartition("/")[2]
    opened = await asyncio.gather(*(milepost.issuing.click(token) for _ in range(20)))
    assert 1 == len({one.url for one in opened})
    assert opened[0].url is not None
    assert ["list_contact.add"] == await platform.writes()


@pytest.mark.usefixtures("probes_at_once")
async def test_a_click_while_the_platform_is_away_is_first_afterwards(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, elapse: Elapse
) -> None:
    """It is told to come back, and its link is the first that is made."""
    await landed(lanes=DEFERRED)
    links = [(await ask(client, f"e{number}"))[1] for number in range(3)]
    await platform.fault("status", status=401, call_class="list_contacts")
    opened = await milepost.issuing.click(links[2]["url"].rpartition("/")[2], wait=0.2)
    assert (None, None) == (opened.url, opened.gone)
    await elapse(60)
    assert ["e2", "e0", "e1"] == [event.event_id for event in await drain(milepost)]


async def test_many_events_have_an_outcome_each(
    landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """In order; what is refused is refused alone, and the same event twice is one link."""
    await landed(slots=4)

    def event(event_id: str, **changes: Any) -> Event:
        """An event of `ann`."""
        known = {"milestone": "landed", "ref": "ann", "data": {"flight": 1}, "occurred_at": None}
        return Event(event_id=event_id, asked_by="app", **(known | changes))

    one, two, twin, nobody, wrong = await milepost.issuing.issue_all(
        [
            event("e1"),
            event("e2", ref="ben", data={"flight": 2}),
            event("e1"),
            event("e3", ref="nobody"),
            event("e4", data={"seat": "1A"}),
        ]
    )
    assert not isinstance(one, Exception)
    assert not isinstance(two, Exception)
    assert not isinstance(twin, Exception)
    assert (one.link.url, True) == (twin.link.url, one.link.url != two.link.url)
    assert ["UnknownRegistrant", "InvalidData"] == [
        type(error).__name__ for error in (nobody, wrong)
    ]
    assert ["list_contact.add"] * 2 == await platform.writes()
    told = [entry["body"] for entry in await platform.entries()]
    assert {"ann": "1", "ben": "2"} == {
        body["extRef"]: body["privateEmbeddedData"]["flight"] for body in told
    }


async def test_a_token_that_is_not_accepted_makes_no_storm(
    client: httpx.AsyncClient, landed: Landed, platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call is told so; events after it get their short links without asking again."""
    monkeypatch.setattr("milepost.upstream.breaker.PROBE_SECONDS", 60.0)
    await landed(slots=10)
    await platform.fault("status", status=401, times=None)
    before = await platform.calls()
    for number in range(10):
        assert (201, "deferred") == ((a := await ask(client, f"e{number}"))[0], a[1]["lane"])
    assert 1 == await platform.calls() - before


async def test_links_that_cannot_be_made_do_not_keep_the_breaker_open(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, elapse: Elapse
) -> None:
    """The right to the probe goes on to somebody who has a call to make."""
    await landed(lanes=DEFERRED, unknown_registrant="defer")
    for number in range(10):
        await ask(client, f"u{number}", registrant=f"nobody-{number}")
    await ask(client, "e1")
    for _ in range(5):
        with pytest.raises(Unavailable):
            async with milepost.budget.passage("list_contacts", "list_contacts", 1):
                raise Unavailable("list_contacts", "no answer", "deadline")
    await elapse(600)
    async with asyncio.timeout(20):
        while (await ask(client, "e1"))[1]["state"] != "issued":
            await milepost.drain.run_once()
            await elapse(HOLD_SECONDS)  # what was taken and not tried is free again


async def test_lanes_that_change_give_a_queued_link_its_short_url(
    client: httpx.AsyncClient, landed: Landed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was queued is handed over when the milestone's lanes name `deferred` by then."""
    monkeypatch.setattr("milepost.store.remembering.REMEMBERED_SECONDS", 0.3)
    await landed(lanes=["queued"])
    status, link = await ask(client)
    assert (202, "queued", None) == (status, link["lane"], link["url"])
    await landed(lanes=DEFERRED)
    async with asyncio.timeout(10):
        while (link := (await ask(client))[1])["url"] is None:  # noqa: ASYNC110  (a definition is remembered for a while)
            await asyncio.sleep(0.05)
    assert "deferred" == link["lane"]


async def test_a_revoked_link_is_not_reused(client: httpx.AsyncClient, landed: Landed) -> None:
    """Under `once` the next event begins anew, with a link of its own."""
    await landed(repeat="once")
    _, first = await ask(client)
    await client.post(f"/v1/links/{first['id']}/revoke")
    _, second = await ask(client, "e2")
    assert ("issued", False) == (second["state"], second["reused"])
    assert first["url"] != second["url"]
