"""What the account allows: with each fact true and untrue, on a platform of which it is so."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from milepost.app import Milepost
from milepost.model import Fact

Landed = Callable[..., Awaitable[None]]
Elapse = Callable[[float], Awaitable[None]]

PATIENT = ["direct", "queued"]

both = pytest.mark.parametrize("holds", [True, False], ids=["yes", "no"])


async def know(milepost: Milepost, fact: Fact, *, holds: bool, figure: int | None = None) -> None:
    """Have probed it."""
    await milepost.store.capabilities.note(fact, holds=holds, figure=figure, evidence="tried")


async def ask(client: httpx.AsyncClient, event_id: str = "e1", **changes: object) -> Any:
    """The answer to an event of `ann`."""
    event = {"event_id": event_id, "milestone": "landed", "registrant": "ann", **changes}
    return (await client.post("/v1/links", json={"data": {"flight": 17}, **event})).json()


async def define(
    client: httpx.AsyncClient, platform: Any, key: str = "fresh", **changes: object
) -> tuple[int, Any]:
    """Register a milestone; the status and the answer."""
    body = {"survey_id": platform.ready.survey_id, **changes}
    answer = await client.put(f"/v1/milestones/{key}", json=body)
    return answer.status_code, answer.json()


def codes(milestone: Any) -> set[str]:
    """What its admin is told."""
    return {caution["code"] for caution in milestone["cautions"]}


async def test_what_was_never_tried_is_told_at_registration(
    client: httpx.AsyncClient, milepost: Milepost, platform: Any
) -> None:
    """Nothing is refused, and the caution goes when everything was tried."""
    status, milestone = await define(client, platform)
    assert (201, {"not-probed"}) == (status, codes(milestone))
    assert [] == (await client.get("/v1/capabilities")).json()["capabilities"]
    for fact in Fact:
        await know(milepost, fact, holds=True)
    assert set() == codes((await client.get("/v1/milestones/fresh")).json())
    assert [] == (await client.get("/v1/capabilities")).json()["unprobed"]


@both
async def test_a_pool_is_made_ahead_only_where_a_probe_alone_will_do(
    *, client: httpx.AsyncClient, milepost: Milepost, platform: Any, holds: bool
) -> None:
    """Otherwise no milestone is registered with the route, and nothing is made for those there."""
    await platform.switch(facts={"probe_only_distribution": holds})
    await define(client, platform, "early")
    await platform.forget()
    await know(milepost, Fact.PROBE_ONLY_DISTRIBUTION, holds=holds)
    counts = await milepost.replenish.run_once()
    status, answer = await define(client, platform)
    if holds:
        assert (3, 201) == (counts.ready, status)
        return
    assert (0, [], 1) == (counts.ready, await platform.writes(), len(counts.errors))
    assert (422, "route") == (status, answer["field"])
    assert "stepwise" in answer["fix"]
    assert "pool-not-ahead" in codes((await client.get("/v1/milestones/early")).json())


@both
async def test_a_link_that_opens_late_is_listed_first(
    *, client: httpx.AsyncClient, milepost: Milepost, landed: Landed, platform: Any, holds: bool
) -> None:
    """One call more, the same URL, and it opens; a milestone cannot have it ahead of the event."""
    await landed(lanes=PATIENT)
    await platform.switch(facts={"late_link": holds})
    await know(milepost, Fact.LATE_LINK, holds=holds)
    link = await ask(client)
    assert ("issued", 1 if holds else 2) == (link["state"], link["upstream_calls"])
    assert 200 == (await platform.web.get(link["url"])).status_code
    status, answer = await define(client, platform, membership="ahead")
    assert (201 if holds else 422) == status
    if not holds:
        assert "membership" == answer["field"]


async def test_a_link_that_cannot_be_listed_is_not_added_again(
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
) -> None:
    """The add was accepted: until its link is listed the outcome is in doubt, and is asked for."""
    await milepost.run("sync", asked_by="test")
    await landed(lanes=PATIENT)
    await know(milepost, Fact.LATE_LINK, holds=False)
    await platform.fault("status", call_class="links", status=404, times=1)
    link = await ask(client, deadline_ms=400)
    await milepost.issuing.finish()
    assert (None, "unknown") == (link["url"], link["state"])
    await elapse(60)
    link = await ask(client)
    assert "issued" == link["state"]
    assert ["list_contact.add"] == await platform.writes()


async def test_a_link_that_is_listed_otherwise_is_not_given_out(
    client: httpx.AsyncClient, milepost: Milepost, landed: Landed, platform: Any
) -> None:
    """The platform's format of links changed since the pool was made."""
    await landed(lanes=PATIENT)
    await know(milepost, Fact.LATE_LINK, holds=False)
    await platform.switch(facts={"link_format": "2020"})
    link = await ask(client)
    assert ("failed", None, "link-untrusted") == (
        link["state"],
        link["url"],
        link["reason"]["rule"],
    )


async def test_a_list_that_takes_too_long_is_left(
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody else would take the claim over otherwise, and list as long."""
    monkeypatch.setattr("milepost.routes.mailing_list.LISTING_SECONDS", -7.9)
    await landed(lanes=PATIENT)
    await know(milepost, Fact.LATE_LINK, holds=False)
    await platform.fault("slow", call_class="links", seconds=3, times=1)
    link = await ask(client, deadline_ms=2_000)
    assert ("unknown", "outcome-unknown") == (link["state"], link["reason"]["rule"])
    assert ["list_contact.add"] == await platform.writes()


@both
@pytest.mark.parametrize("fact", [Fact.ONE_CONTACT, Fact.SAME_LOOKUP])
async def test_sync_adds_again_only_where_that_meets_the_first(
    *, milepost: Milepost, platform: Any, elapse: Elapse, fact: Fact, holds: bool
) -> None:
    """Otherwise it looks first, and finds whom the lost answer was about."""
    await know(milepost, fact, holds=holds)
    await platform.fault("html", call_class="list_contacts")
    counts = (await milepost.run("sync", asked_by="test")).counts
    assert (2, 1) == (counts["made"], counts["failed"])
    await elapse(120)
    assert 1 == (await milepost.run("sync", asked_by="test")).counts["made"]
    assert (4 if holds else 3) == (await platform.writes()).count("list_contact.add")


@both
async def test_a_directory_that_does_not_merge_takes_no_more_milestones(
    *, client: httpx.AsyncClient, milepost: Milepost, landed: Landed, platform: Any, holds: bool
) -> None:
    """Those that are there go on, and may be changed."""
    await landed(lanes=PATIENT)
    await platform.switch(facts={"merges": holds})
    await know(milepost, Fact.ONE_CONTACT, holds=holds)
    assert "issued" == (await ask(client))["state"]
    status, answer = await define(client, platform)
    changed, milestone = await define(client, platform, "landed", slots=2, lanes=PATIENT)
    assert 200 == changed
    if holds:
        assert 201 == status
        assert "contacts-not-merged" not in codes(milestone)
        return
    assert (422, "route") == (status, answer["field"])
    assert "transaction" in answer["fix"]
    assert "contacts-not-merged" in codes(milestone)


@both
@pytest.mark.parametrize(
    ("fact", "switch"), [(Fact.ONE_CONTACT, "merges"), (Fact.SAME_LOOKUP, "same_lookup")]
)
async def test_a_lost_answer_is_followed_by_a_second_add_only_where_it_meets_the_first(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    fact: Fact,
    switch: str,
    holds: bool,
) -> None:
    """Otherwise the contact is searched for, however late a search finds it."""
    await landed(lanes=PATIENT)
    await platform.switch(facts={switch: holds, "search_lag_seconds": 3_600})
    await know(milepost, fact, holds=holds)
    await platform.fault("html", call_class="list_contacts")
    await ask(client, deadline_ms=400)
    await milepost.issuing.finish()
    await elapse(30)
    link = await ask(client)
    if holds:
        assert "issued" == link["state"]
        assert ["list_contact.add"] * 2 == await platform.writes()
        return
    assert ("unknown", ["list_contact.add"]) == (link["state"], await platform.writes())
    await platform.switch(facts={"search_lag_seconds": 0})
    await elapse(30)
    link = await ask(client)
    assert ("issued", ["list_contact.add"]) == (link["state"], await platform.writes())
    assert 200 == (await platform.web.get(link["url"])).status_code


@both
async def test_who_cannot_be_searched_at_once_is_looked_for_longer(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    holds: bool,
) -> None:
    """Three empty looks allow a second add, over a minute or twice the time that was seen."""
    await platform.switch(deduplication_criteria={"email": False})
    await milepost.run("sync", asked_by="test")
    await landed(lanes=PATIENT)
    await know(milepost, Fact.PROMPT_SEARCH, holds=holds, figure=None if holds else 300)
    await platform.fault("html", call_class="list_contacts", moment="before")
    await ask(client, deadline_ms=400)
    await milepost.issuing.finish()
    for _ in range(4):
        await elapse(40)
        link = await ask(client, deadline_ms=2_000)
    assert ("issued" if holds else "unknown") == link["state"]
    assert ([] if not holds else ["list_contact.add"]) == await platform.writes()


@both
async def test_data_that_the_survey_would_not_see_are_not_sent(
    *, client: httpx.AsyncClient, milepost: Milepost, landed: Landed, platform: Any, holds: bool
) -> None:
    """The ledger joins the response with its event then."""
    await platform.switch(declared_fields=["flight", "milepost_ref"])
    await landed(lanes=PATIENT)
    await platform.switch(facts={"private_data": holds})
    await know(milepost, Fact.PRIVATE_DATA, holds=holds)
    link = await ask(client)
    (entry,) = await platform.entries()
    assert holds == ("privateEmbeddedData" in entry["body"])
    response = await platform.answer(link["url"])
    path = f"{platform.ready.url}/surveys/{platform.ready.survey_id}/responses/{response}"
    answer = await platform.web.get(path, headers={"X-API-TOKEN": "simulator"})
    values = answer.json()["result"]["values"]
    assert ("17" if holds else None) == values.get("flight")
    cautions = codes((await client.get("/v1/milestones/landed")).json())
    assert holds == ("data-not-in-survey" not in cautions)


@both
async def test_a_pool_waits_for_links_that_are_listed_late(
    *, client: httpx.AsyncClient, milepost: Milepost, platform: Any, elapse: Elapse, holds: bool
) -> None:
    """Where that is known it looks every ten minutes, and is ready when they are listed."""
    await platform.switch(facts={"links_lag_seconds": 100_000})
    await know(milepost, Fact.COMPLETE_LINKS, holds=holds)
    _, milestone = await define(client, platform, slots=1)
    assert holds == ("links-listed-late" not in codes(milestone))
    assert (0, 1) == ((counts := await milepost.replenish.run_once()).ready, counts.unfinished)
    clock = {"advance_seconds": 100_001}
    (await platform.web.put("/control/clock", json=clock)).raise_for_status()
    await elapse(60)
    assert (1 if holds else 0) == (await milepost.replenish.run_once()).ready
    if not holds:
        await elapse(600)
        assert 1 == (await milepost.replenish.run_once()).ready


async def test_links_live_no_longer_than_the_account_takes(
    client: httpx.AsyncClient, milepost: Milepost, platform: Any
) -> None:
    """The most days that were accepted are told."""
    await know(milepost, Fact.LONGEST_EXPIRY, holds=True, figure=90)
    assert 201 == (await define(client, platform, link_days=90))[0]
    status, answer = await define(client, platform, link_days=91)
    assert (422, "link_days") == (status, answer["field"])
    assert re.search(r"\b90\b", answer["fix"])


async def test_what_is_registered_already_may_be_said_again(
    client: httpx.AsyncClient, milepost: Milepost, platform: Any
) -> None:
    """Whatever a later probe has found: with a caution, and as long as it asks for no more."""
    await define(client, platform, link_days=100)
    await know(milepost, Fact.LONGEST_EXPIRY, holds=False, figure=90)
    await know(milepost, Fact.PROBE_ONLY_DISTRIBUTION, holds=False)
    status, milestone = await define(client, platform, link_days=100)
    assert (200, True) == (status, {"expiry-refused", "pool-not-ahead"} <= codes(milestone))
    assert 422 == (await define(client, platform, link_days=101))[0]
    assert 422 == (await define(client, platform, "another"))[0]
