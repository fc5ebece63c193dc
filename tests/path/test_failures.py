"""What goes wrong on the way, and that it makes neither a second call nor a second link."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from milepost.app import Milepost
from milepost.budget import Permit
from milepost.errors import DatabaseBusy
from milepost.issuing import Issuing
from milepost.model import Event, Link, Purpose, RegistrantDetails, Route
from milepost.routes import MailingListMaker
from milepost.simulator import Config
from milepost.store.links import LinkStore, Settlement
from milepost.upstream import Upstream

Landed = Callable[..., Awaitable[None]]
Elapse = Callable[[float], Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

PATIENT = ["direct", "queued"]
"""Lanes of a milestone whose callers want personal URLs only, and wait for them."""

without_dedup = pytest.mark.parametrize(
    "simulator_config", [Config(limits="none", dedup=False)], ids=["dedup off"]
)
after_acceptance = pytest.mark.parametrize(
    "fault",
    [
        {"kind": "timeout", "seconds": 0.05},
        {"kind": "reset"},
        {"kind": "html"},
        {"kind": "html", "status": 502},
        {"kind": "truncated"},
        {"kind": "status", "status": 500, "moment": "after"},
        {"kind": "status", "status": 408, "moment": "after"},
        {"kind": "without_result"},
    ],
    ids=lambda fault: "-".join(str(value) for value in fault.values()),
)

ARRIVED = Event(
    event_id="e1",
    milestone="landed",
    ref="ann",
    data={"flight": 17},
    occurred_at=None,
    asked_by="admin",
)


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


async def ask_once(client: httpx.AsyncClient, milepost: Milepost) -> Any:
    """The first answer, of a request that does not wait for a second try; its call has settled."""
    answer = await ask(client, deadline_ms=400)
    await milepost.issuing.finish()
    return answer


def waits(rule: str, state: str = "waiting") -> tuple[int, str, None, str]:
    """What an answer without a URL is told by."""
    return 202, state, None, rule


def told(answer: Any) -> tuple[int, str, str | None, str | None]:
    """Status, state, URL and rule of an answer."""
    status, link = answer
    return status, link["state"], link["url"], (link["reason"] or {}).get("rule")


@after_acceptance
async def test_a_lost_answer_is_asked_for_and_not_added_again(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    fault: dict[str, Any],
) -> None:
    """With a known contact, the next request finds the membership: exactly one add."""
    await milepost.run("sync", asked_by="test")
    await landed(lanes=PATIENT)
    await platform.fault(**fault, call_class="list_contacts")
    status, link = await ask_once(client, milepost)
    assert (202, None) == (status, link["url"])
    assert "unknown" == (await client.get(f"/v1/links/{link['id']}")).json()["state"]
    await elapse(2)
    status, link = await ask(client)
    assert (200, "issued", 2) == (status, link["state"], link["upstream_calls"])
    assert ["list_contact.add"] == await platform.writes()
    assert 200 == (await platform.web.get(link["url"])).status_code


async def test_a_lost_answer_for_an_unknown_contact_is_asked_for_as_well(
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
) -> None:
    """A search by the registrant's ref finds what the first call made: exactly one add."""
    await landed(lanes=PATIENT)
    await platform.fault("reset", call_class="list_contacts")
    await ask_once(client, milepost)
    await elapse(2)
    assert (200, "issued") == ((answer := await ask(client))[0], answer[1]["state"])
    assert ["list_contact.add"] == await platform.writes()


async def test_what_a_search_finds_too_late_is_added_again_to_the_same_effect(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With deduplication a repeated add meets the contact that the first one made."""
    await landed(lanes=PATIENT)
    await platform.fault("reset", call_class="list_contacts")
    await ask_once(client, milepost)
    await elapse(2)
    # The search knows of nobody: as if it found contacts late.
    monkeypatch.setattr(milepost.upstream, "search_contacts", _nobody)
    assert (200, "issued") == ((answer := await ask(client))[0], answer[1]["state"])
    first, second = await platform.entries()
    assert ("contact_created", "list_contact_modified") == (first["effect"], second["effect"])
    assert first["ids"]["lookup"] == second["ids"]["lookup"]


async def _nobody(*_: object, **__: object) -> AsyncIterator[None]:
    for nobody in ():
        yield nobody


async def test_a_short_break_is_over_within_the_deadline(
    client: httpx.AsyncClient, milepost: Milepost, landed: Landed, platform: Any
) -> None:
    """A request with time left tries again by itself, so its caller sees nothing of it."""
    await milepost.run("sync", asked_by="test")
    await landed(lanes=PATIENT)
    await platform.fault("reset", call_class="list_contacts")
    status, link = await ask(client, deadline_ms=8_000)
    assert (201, "issued") == (status, link["state"])
    assert ["list_contact.add"] == await platform.writes()


@without_dedup
@after_acceptance
async def test_without_deduplication_a_search_finds_what_a_lost_answer_made(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    fault: dict[str, Any],
) -> None:
    """Each hit of the search is looked at, and the one in the list is it."""
    await milepost.run("sync", asked_by="test")
    await landed(lanes=PATIENT)
    await platform.fault(**fault, call_class="list_contacts")
    await ask_once(client, milepost)
    await elapse(2)
    assert (200, "issued") == ((answer := await ask(client))[0], answer[1]["state"])
    assert ["list_contact.add"] == await platform.writes()


@without_dedup
async def test_without_deduplication_only_three_empty_looks_over_a_minute_allow_a_second_add(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, elapse: Elapse
) -> None:
    """Until then the link stays unknown; a look that was not answered does not count."""
    await landed(lanes=PATIENT)
    await platform.fault("reset", moment="before", call_class="list_contacts")
    await ask_once(client, milepost)
    await elapse(2)
    await platform.fault("status", status=400, call_class="directory_contacts")
    for _ in range(4):
        assert waits("outcome-unknown", "unknown") == told(await ask_once(client, milepost))
        await elapse(20)
    assert [] == await platform.writes()
    status, link = await ask(client)
    assert (200, "issued") == (status, link["state"])
    assert ["list_contact.add"] == await platform.writes()


@pytest.mark.parametrize("retry_after", [True, False])
async def test_a_429_is_waited_for(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    execute: Execute,
    retry_after: bool,
) -> None:
    """As long as it asks for, or a second where it does not say; nothing is in doubt after it."""
    await landed(lanes=PATIENT)
    await platform.switch(limits={"list_contacts": 1}, retry_after=retry_after)
    await ask(client, "uses up the minute", registrant="ben")
    assert waits("upstream-busy") == told(await ask_once(client, milepost))
    pauses = await execute("SELECT lease_until - now() FROM links WHERE event_id = 'e1'")
    assert (retry_after) == (pauses[0][0].total_seconds() > 2)
    await platform.switch(limits="none")
    await elapse(60)
    # For a second the process believes that the class is closed, without asking again.
    permit = await milepost.budget.grant("list_contacts", Purpose.DIRECT, patience=5)
    assert isinstance(permit, Permit)
    permit.give_back()
    assert 200 == (await ask(client))[0]
    assert ["list_contact.add"] * 2 == await platform.writes()


async def test_nobody_listening_is_no_doubt(milepost: Milepost, landed: Landed) -> None:
    """A refused connection leaves the event waiting, and the next request makes its link."""
    await landed(lanes=PATIENT)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/API/v3"
        async with Upstream(url, "simulator") as upstream:
            directory = milepost.deployment.directory_id or ""
            maker = MailingListMaker(
                upstream,
                directory_id=directory,
                deployment=milepost.store.deployment.load,
                capabilities=milepost.store.capabilities.current,
                secret=b"x" * 16,
            )
            issuing = Issuing(milepost.store, {Route.LIST: maker}, maker, milepost.budget)
            answer = await issuing.issue(ARRIVED, deadline_ms=400)
    link = answer.link
    assert (True, "waiting", 0) == (answer.is_new, link.state, link.upstream_calls)
    assert "upstream-away" == (link.reason and link.reason.rule)
    again = await milepost.issuing.issue(ARRIVED, deadline_ms=4_000)
    assert (False, "issued", 1) == (again.is_new, again.link.state, again.link.upstream_calls)


@pytest.mark.usefixtures("probes_at_once")
@pytest.mark.parametrize("status", [401, 403])
async def test_what_a_person_must_mend_is_not_stormed(
    *,
    client: httpx.AsyncClient,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    status: int,
) -> None:
    """The event waits with the reason, without a call for half a minute, and is then done."""
    await landed(lanes=PATIENT)
    await platform.fault("status", status=status)
    assert waits("upstream-unauthorized") == told(await ask(client))
    calls = await platform.calls()
    assert waits("upstream-unauthorized") == told(await ask(client))
    assert calls == await platform.calls()
    await elapse(31)
    assert 200 == (await ask(client))[0]


async def test_a_deleted_list_costs_one_call_and_no_event(
    client: httpx.AsyncClient, milepost: Milepost, landed: Landed, platform: Any, elapse: Elapse
) -> None:
    """The event gets its link from another slot; the broken one rests, and says why."""
    await landed(lanes=PATIENT, slots=2)
    pool = (await client.get("/v1/milestones/landed/pool")).json()
    broken, _ = pool["distributions"]
    directory = milepost.deployment.directory_id or ""
    await milepost.upstream.delete_mailing_list(directory, broken["list_id"])
    status, link = await ask(client)
    assert (201, "issued", 2) == (status, link["state"], link["upstream_calls"])
    calls = await platform.calls()
    _, other = await ask(client, event_id="e2", registrant="ben")
    assert ("issued", 1) == (other["state"], other["upstream_calls"])
    assert calls + 1 == await platform.calls()
    pool = (await client.get("/v1/milestones/landed/pool")).json()
    assert "404" in pool["distributions"][0]["last_error"]
    await elapse(31)
    _, third = await ask(client, event_id="e3", registrant="cleo")
    assert ("issued", 2) == (third["state"], third["upstream_calls"])


async def test_without_another_slot_the_event_of_a_deleted_list_waits(
    client: httpx.AsyncClient, milepost: Milepost, landed: Landed
) -> None:
    """It is told that the pool is empty, and not handed a link that cannot open."""
    await landed(lanes=PATIENT, slots=1)
    pool = (await client.get("/v1/milestones/landed/pool")).json()
    (slot,) = pool["distributions"]
    directory = milepost.deployment.directory_id or ""
    await milepost.upstream.delete_mailing_list(directory, slot["list_id"])
    assert waits("pool-empty") == told(await ask(client))


async def test_a_refusal_for_good_is_told(
    client: httpx.AsyncClient, landed: Landed, platform: Any
) -> None:
    """A 400 to the add is a failed link: 201 without a URL, and the same ever after."""
    await landed(lanes=PATIENT)
    await platform.fault("status", status=400)
    first = await ask(client)
    assert (201, "failed", None, "upstream-refused") == told(first)
    assert (200, first[1]) == await ask(client)


async def test_a_slow_platform_settles_behind_the_answer(
    client: httpx.AsyncClient, milepost: Milepost, landed: Landed, platform: Any
) -> None:
    """The caller is answered in time, and the next request has the URL without another call."""
    await landed(lanes=PATIENT)
    await platform.switch(latency_ms=1_000)
    began = time.monotonic()
    answer = await ask(client, deadline_ms=500)
    assert time.monotonic() - began < 0.9
    assert (202, "waiting", None, None) == told(answer)
    await milepost.issuing.finish()
    status, link = await ask(client)
    assert (200, "issued", 1) == (status, link["state"], link["upstream_calls"])
    assert ["list_contact.add"] == await platform.writes()


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_claim_whose_process_died_is_taken_over(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    accepted: bool,
) -> None:
    """After the lease the next request asks, and adds only what is not there."""
    await milepost.run("sync", asked_by="test")
    await landed(lanes=PATIENT)
    asked = await milepost.store.links.claim(ARRIVED)
    assert asked.claim is not None
    if accepted:
        directory = milepost.deployment.directory_id or ""
        maker = MailingListMaker(
            milepost.upstream,
            directory_id=directory,
            deployment=milepost.store.deployment.load,
            capabilities=milepost.store.capabilities.current,
            secret=b"x" * 16,
        )
        await maker.make(asked.claim, begin_by=asyncio.get_running_loop().time() + 5)
    assert (202, "waiting", None, None) == told(await ask(client, deadline_ms=500))
    await elapse(21)
    status, link = await ask(client)
    assert (200, "issued", str(asked.link.id)) == (status, link["state"], link["id"])
    assert ["list_contact.add"] == await platform.writes()


async def test_a_claim_that_grew_old_makes_no_call(
    milepost: Milepost, landed: Landed, platform: Any
) -> None:
    """A process that was frozen since its claim leaves the call to whoever took over."""
    await landed(lanes=PATIENT)
    asked = await milepost.store.links.claim(ARRIVED)
    assert asked.claim is not None
    permit = await milepost.budget.grant("list_contacts", Purpose.DIRECT)
    assert isinstance(permit, Permit)
    await milepost.issuing._make(asked.claim, permit, asyncio.get_running_loop().time() - 1)
    assert [] == await platform.writes()
    again = await milepost.issuing.issue(ARRIVED, deadline_ms=4_000)
    assert "issued" == again.link.state


async def test_a_membership_from_before_the_event_proves_nothing(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    execute: Execute,
) -> None:
    """On the next distribution of the same list, the event's data are written by an update."""
    await landed(lanes=PATIENT, slots=1)
    await ask(client, "e0", data={"flight": 1})
    await execute("UPDATE links SET finished_at = now()")
    await execute(
        "INSERT INTO distributions (slot_id, generation, description, state, created_at,"
        " distribution_id, template, calibrated_at, expires_at, takes_until)"
        " SELECT slot_id, 2, description || ' again', 'ready', created_at,"
        " 'EMD_000000000000002', replace(template, substr(distribution_id, 5), '000000000000002'),"
        " calibrated_at, expires_at, takes_until FROM distributions"
    )
    asked = await milepost.store.links.claim(ARRIVED)
    assert asked.claim is not None
    await platform.forget()
    await elapse(21)
    status, link = await ask(client)
    assert (200, "issued") == (status, link["state"])
    (entry,) = await platform.entries()
    assert "list_contact.update" == entry["operation"]
    assert "17" == entry["body"]["privateEmbeddedData"]["flight"]


@pytest.mark.usefixtures("probes_at_once")
async def test_no_link_person_or_token_is_in_the_log(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    platform: Any,
    elapse: Elapse,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Through success and every failure, at the finest level."""
    caplog.set_level(logging.DEBUG)
    marked = RegistrantDetails(email="m4rk-mail@example.com", first_name="M4rkname")
    await milepost.store.registrants.put({"eve": marked})
    await landed(lanes=PATIENT, fields=[{"name": "gate"}], slots=12)
    faults: list[dict[str, Any]] = [
        {"kind": "status", "status": status} for status in (400, 401, 404, 429)
    ]
    faults += [{"kind": kind} for kind in ("reset", "html", "truncated", "without_result")]
    urls = []
    for number, fault in enumerate(faults):
        await platform.fault(**fault)
        event = {"registrant": "eve", "data": {"gate": "m4rkgate"}}
        await ask(client, f"f{number}", **event, deadline_ms=300)
        await elapse(61)
        urls.append((await ask(client, f"f{number}", **event))[1]["url"])
    await ask(client, "f0", registrant="eve", data={"gate": "m4rkother"})
    await client.get("/v1/links/m4rk", headers={"Authorization": "Bearer mp_m4rk_m4rk"})
    await milepost.run("sync", asked_by="test")
    said = "\n".join(
        f"{record.getMessage()} {record.exc_text or ''}" for record in caplog.records
    ).lower()
    assert "link" in said
    secret = client.headers["Authorization"].removeprefix("Bearer ")
    lookups = [url.rpartition("_CGC_")[2][:15].lower() for url in urls if url]
    for marker in ("m4rk", "q_dl", secret, "simulator", *lookups):
        assert marker not in said


async def test_a_database_that_is_away_for_a_moment_loses_no_outcome(
    client: httpx.AsyncClient, landed: Landed, platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settlement is written when it is back, and nothing has to be asked for."""
    await landed(lanes=PATIENT)
    settle = LinkStore.settle
    fails = iter([True, True])

    async def sometimes(links: LinkStore, settlement: Settlement) -> Link | None:
        """Fail twice, then settle."""
        if next(fails, False):
            raise DatabaseBusy("restarting")
        return await settle(links, settlement)

    monkeypatch.setattr(LinkStore, "settle", sometimes)
    status, link = await ask(client, deadline_ms=8_000)
    assert (201, "issued", 1) == (status, link["state"], link["upstream_calls"])
    assert ["list_contact.add"] == await platform.writes()


async def test_a_mistake_of_ours_behind_the_claim_keeps_the_event(
    client: httpx.AsyncClient, landed: Landed, elapse: Elapse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is answered 202, since it is written down, and taken over after the lease."""
    await landed(lanes=PATIENT)

    async def broken(*_: object, **__: object) -> None:
        """Fail as only a mistake does."""
        raise RuntimeError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(MailingListMaker, "make", broken)
        assert (202, "waiting", None, None) == told(await ask(client, deadline_ms=1_000))
    await elapse(21)
    assert 200 == (await ask(client))[0]
