"""What the way to a link leaves at the platform that is no part of it: known, counted, and told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest

from milepost.app import Milepost
from milepost.model import RegistrantDetails
from milepost.payload import reference_beginning

Landed = Callable[..., Awaitable[None]]
Elapse = Callable[[float], Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]
Waiting = Callable[..., Awaitable[tuple[Any, str]]]

LANES = ["direct", "queued"]

ENDINGS = {
    "opted-out": "UPDATE registrants SET opted_out_at = now() WHERE ref = %s",
    "erased": "UPDATE registrants SET erased_at = now() WHERE ref = %s",
    "parked": "UPDATE links SET lost = 5 WHERE ref = %s",
    "waited-too-long": "UPDATE links SET waiting_until = now() WHERE ref = %s",
}
"""What ends a link before anybody asks what became of its call, by the rule."""


async def ask_once(
    client: httpx.AsyncClient, milepost: Milepost, ref: str = "ann", milestone: str = "landed"
) -> Any:
    """The link after one try of an event of this registrant, when its calls have ended."""
    event = {"event_id": f"{milestone} {ref}", "milestone": milestone, "registrant": ref}
    link = (await client.post("/v1/links", json=event | {"deadline_ms": 900})).json()
    await milepost.issuing.finish()
    return await record(client, link)


async def record(client: httpx.AsyncClient, link: Any) -> Any:
    """The link as it is now."""
    return (await client.get(f"/v1/links/{link['id']}")).json()


def told(link: Any) -> tuple[str, str | None, str | None]:
    """State, rule, and what it has left behind."""
    return link["state"], (link["reason"] or {}).get("rule"), link.get("left_behind")


async def transactions(platform: Any) -> list[str]:
    """The transactions that the platform has made."""
    return [
        made
        for entry in await platform.entries()
        if entry["operation"] == "transaction.create"
        for key, made in entry["ids"].items()
        if key.startswith("transaction.")
    ]


@pytest.fixture
async def waiting(
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Waiting:
    """Let a link of `ann` wait for another batch, with a transaction that is in none."""
    monkeypatch.setattr("milepost.issuing.GRANT_SECONDS", 8.0)

    async def wait() -> tuple[Any, str]:
        """The link, and the transaction."""
        await milepost.run("sync", asked_by="test")
        await landed(route="transaction", lanes=LANES)
        await platform.fault("status", call_class="batch_transactions", status=404)
        link = await ask_once(client, milepost)
        assert ("waiting", None) == told(link)[::2]
        (transaction,) = await transactions(platform)
        return link, transaction

    return wait


async def test_what_ends_in_doubt_says_what_may_be_left_and_how_to_find_it(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    execute: Execute,
) -> None:
    """The call that made it got no answer, and the link ends before anybody has asked."""
    people = {ref: RegistrantDetails(email=f"{ref}@example.com") for ref in ENDINGS}
    await milepost.store.registrants.put(people)
    await milepost.run("sync", asked_by="test")
    await landed(route="transaction", lanes=LANES)
    await platform.fault("reset", call_class="transactions", moment="after", times=4)
    for ref, statement in ENDINGS.items():
        assert "unknown" == (await ask_once(client, milepost, ref))["state"]
        await execute(statement, ref)
    await elapse(2)
    assert 4 == (await milepost.sweep.run_once()).left_behind
    held = [
        fields["data"]["milepost_ref"]
        for entry in await platform.entries()
        for fields in entry["body"].values()
    ]
    assert 4 == len(held)
    for rule in ENDINGS:
        answer = await client.get("/v1/links", params={"registrant": rule})
        (link,) = answer.json()["links"]
        state = "failed" if rule in {"parked", "waited-too-long"} else "suppressed"
        beginning = reference_beginning(UUID(link["id"]))
        left = f"perhaps a transaction with a milepost_ref that begins with {beginning}"
        assert (state, rule, left) == told(link)
        assert left in link["reason"]["detail"]
        assert 1 == sum(reference.startswith(beginning) for reference in held)


@pytest.mark.parametrize(
    ("route", "call_class", "perhaps"),
    [
        ("list", "list_contacts", "a member of a list"),
        ("stepwise", "transaction_batches", "a batch"),
        ("stepwise", "distributions", "a distribution whose description ends in link"),
    ],
)
async def test_each_route_says_what_its_last_call_may_have_left(  # noqa: PLR0917  (fixtures)
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
    call_class: str,
    perhaps: str,
) -> None:
    """Of a chain what is written down is named besides."""
    monkeypatch.setattr("milepost.issuing.GRANT_SECONDS", 8.0)
    await milepost.run("sync", asked_by="test")
    await landed(route=route, lanes=LANES)
    await platform.fault("reset", call_class=call_class, moment="after")
    assert "unknown" == (await ask_once(client, milepost))["state"]
    await execute(ENDINGS["opted-out"], "ann")
    await elapse(2)
    link = await ask_once(client, milepost)
    state, rule, left = told(link)
    assert ("suppressed", "opted-out") == (state, rule)
    *known, last = (left or "").split(", perhaps ")
    assert perhaps in last
    written = {"transaction_batches": 1, "distributions": 2}.get(call_class, 0)
    steps = ["transaction", "batch"][:written]
    assert steps == [each.split()[0] for each in ", ".join(known).split(", ") if each]


async def test_what_was_made_for_a_contact_that_is_another_persons_is_told(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    waiting: Waiting,
) -> None:
    """The link is out with a transaction of its own; the first one's is named in its record."""
    link, former = await waiting()
    await milepost.store.registrants.put({"ann": RegistrantDetails(email="moved@example.com")})
    await milepost.store.registrants.put({"dan": RegistrantDetails(email="ann@example.com")})
    await elapse(31)
    assert 1 == (await milepost.drain.run_once()).left_behind
    assert ("issued", None, f"transaction {former}") == told(await record(client, link))
    assert 2 == len(set(await transactions(platform)))


async def test_what_was_made_on_a_former_route_is_told(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    elapse: Elapse,
    waiting: Waiting,
) -> None:
    """The milestone is given another one while a link waits; what a link stands on is its own."""
    link, former = await waiting()
    await landed(route="list", lanes=LANES)
    await elapse(31)
    assert 1 == (await milepost.drain.run_once()).left_behind
    assert ("issued", None, f"transaction {former}") == told(await record(client, link))
    for route in ("transaction", "stepwise"):
        await landed(route=route, lanes=LANES)
        ref = {"transaction": "ben", "stepwise": "cleo"}[route]
        assert ("issued", None, None) == told(await ask_once(client, milepost, ref))
