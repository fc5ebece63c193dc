"""`GET /v1/capacity`: what it tells of calls, links and what waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from milepost.budget import Budget, Permit
from milepost.issuing import Issuing
from milepost.model import Event, Purpose, Scope
from milepost.store import Store
from milepost.store.budget import Cut
from milepost.upstream import CALL_CLASSES, Throttled, Unavailable
from milepost.upstream.errors import Facts

LISTS = "list_contacts"


@pytest.fixture
async def budget(store: Store) -> AsyncIterator[Budget]:
    """A limit for the brand, and one for list contacts."""
    async with Budget(store.budget, rate_per_minute=3_000, limits={LISTS: 500}) as budget:
        yield budget


async def look(client: httpx.AsyncClient) -> dict[str, Any]:
    """The answer, its call classes by name."""
    answer = await client.get("/v1/capacity")
    assert 200 == answer.status_code
    told: dict[str, Any] = answer.json()
    told["call_classes"] = {one["call_class"]: one for one in told["call_classes"]}
    return told


async def test_an_idle_account_has_its_limits(client: httpx.AsyncClient) -> None:
    """Every call class is there; one without a limit of its own has the brand's."""
    told = await look(client)
    assert {"brand", *CALL_CLASSES} == told["call_classes"].keys()
    lists = told["call_classes"][LISTS]
    assert (500, 1, 495, 0, None, "answers") == tuple(
        lists[name]
        for name in ("limit", "factor", "per_minute", "used", "closed_until", "upstream")
    )
    assert 3_000 == told["call_classes"]["surveys"]["limit"]
    assert [(purpose.value, 0, 0) for purpose in Purpose] == [
        (one["purpose"], one["used"], one["wanted"]) for one in lists["purposes"]
    ]
    # Who can wait gets a forty-eighth in a second.
    assert [495, 495, 11, 11, 11] == [one["free"] for one in lists["purposes"]]
    assert ([], 0.0, 0) == (told["backlog"], told["minutes_to_drain"], told["late_data"])


async def test_each_route_has_its_lanes(client: httpx.AsyncClient) -> None:
    """A lane is bounded where a call is made, by the scarcest of its calls and by the brand's."""
    lanes = {
        route: [
            (one["lane"], one["links_per_minute"], one["drained_per_minute"])
            for one in (await look(client))["lanes"]
            if one["route"] == route
        ]
        for route in ("list", "stepwise", "anonymous")
    }
    made_later = [("deferred", None, 470), ("queued", None, 470)]
    assert [("ready", None, None), ("direct", 495, None), *made_later] == lanes["list"]
    made_later = [("deferred", None, 564), ("queued", None, 564)]
    assert [("direct", 594, None), *made_later] == lanes["stepwise"]
    assert [(lane, None, None) for lane in ("ready", "deferred", "queued")] == lanes["anonymous"]


async def test_what_is_used_is_not_free(client: httpx.AsyncClient, budget: Budget) -> None:
    """In its class and in the brand, for everybody."""
    assert isinstance(await budget.grant(LISTS, Purpose.DIRECT, 400), Permit)
    told = await look(client)
    assert (400, 400) == tuple(told["call_classes"][name]["used"] for name in (LISTS, "brand"))
    assert 95 == told["call_classes"][LISTS]["purposes"][0]["free"]
    assert (495, 99) == (
        told["lanes"][1]["links_per_minute"],
        told["lanes"][2]["drained_per_minute"],
    )


async def test_what_the_platform_has_taught_is_told(
    client: httpx.AsyncClient, budget: Budget, store: Store
) -> None:
    """After a 429 the rate is cut and the class closed; without answers upstream is away."""
    with pytest.raises(Throttled):
        async with budget.passage("add_list_contact", LISTS, 1):
            raise Throttled("add_list_contact", "too many calls", Facts(429), 30.0)
    await store.budget.exchange(budget._terms, [], cuts=[Cut(call_class=LISTS, retry_after=30)])  # noqa: SLF001  (a second one is no news)
    for _ in range(5):
        with pytest.raises(Unavailable):
            async with budget.passage("history", "history", 1):
                raise Unavailable("history", "no answer", "deadline")
    classes = (await look(client))["call_classes"]
    assert (0.25, 123, True) == (
        classes[LISTS]["factor"],
        classes[LISTS]["per_minute"],
        classes[LISTS]["closed_until"] is not None,
    )
    assert {0} == {one["free"] for one in classes[LISTS]["purposes"]}
    assert ("away", "answers") == (classes["history"]["upstream"], classes[LISTS]["upstream"])


async def test_what_waits_is_counted(client: httpx.AsyncClient, issuing: Issuing) -> None:
    """By milestone, and how long it will take."""
    for number in range(3):
        await issuing.issue(
            Event(
                event_id=f"e{number}",
                milestone="landed",
                ref="ann",
                data={},
                occurred_at=None,
                asked_by="app",
            )
        )
    told = await look(client)
    assert [{"milestone": "landed", "route": "list", "links": 3}] == told["backlog"]
    assert 0.0 == told["minutes_to_drain"]


async def test_it_is_for_those_who_read(anybody: httpx.AsyncClient, keys: dict[Scope, str]) -> None:
    """And for admins."""
    for scope, status in ((Scope.READ, 200), (Scope.ISSUE, 403), (Scope.SYNC, 403)):
        headers = {"Authorization": f"Bearer {keys[scope]}"}
        assert status == (await anybody.get("/v1/capacity", headers=headers)).status_code
