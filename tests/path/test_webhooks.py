"""Webhooks from the event to the receiver: what is told, to whom, and how often it is tried."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from milepost.app import Milepost
from milepost.jobs.deliver import Deliver
from milepost.model import LinkState
from milepost.policy import ATTEMPTS_AFTER
from milepost.webhooks import Webhooks

Landed = Callable[..., Awaitable[None]]
Elapse = Callable[[float], Awaitable[None]]
Travel = Callable[..., Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]


class Receiver:
    """An endpoint on a socket. What it is sent it verifies, and keeps."""

    def __init__(self) -> None:
        self.secret = ""
        self.messages: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.arrived = asyncio.Queue[str]()
        self.answers = itertools.repeat(204)
        """With what it answers."""
        self.header = ""
        """What it says besides."""
        self.silent = False
        """Whether it answers at all."""
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one message."""
        with suppress(asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
            headers = dict(line.split(": ", 1) for line in head)
            content = await reader.readexactly(int(headers["Content-Length"]))
            self.messages.append(Webhook(self.secret).verify(content, headers))
            self.ids.append(headers["Webhook-Id"])
            self.arrived.put_nowait(headers["Webhook-Id"])
            if self.silent:
                await reader.read()
            else:
                begin = f"HTTP/1.1 {next(self.answers)} x\r\n{self.header}"
                writer.write(f"{begin}Content-Length: 0\r\n\r\n".encode())
        writer.close()


@pytest.fixture
async def receiver(client: httpx.AsyncClient) -> AsyncIterator[Receiver]:
    """An endpoint that is registered, for all messages."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    async with server:
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        made = await client.post("/v1/endpoints", json={"url": receiver.url})
        assert 201 == made.status_code, made.text
        receiver.secret = made.json()["secret"]
        yield receiver


async def ask(client: httpx.AsyncClient, event_id: str = "e1", **more: object) -> httpx.Response:
    """Ask for the link of an event of `ann`."""
    event = {"event_id": event_id, "milestone": "landed", "registrant": "ann", **more}
    return await client.post("/v1/links", json=event)


async def messages(client: httpx.AsyncClient, **wanted: object) -> list[dict[str, Any]]:
    """The messages of the first endpoint there is."""
    endpoint, *_ = (await client.get("/v1/endpoints")).json()["endpoints"]
    page = await client.get(f"/v1/endpoints/{endpoint['id']}/messages", params=wanted)
    found: list[dict[str, Any]] = page.json()["messages"]
    return found


async def test_a_queued_link_comes_by_webhook(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, receiver: Receiver
) -> None:
    """202 and nothing yet; the message has the link as it can be asked for, and its URL opens."""
    await landed(lanes=["direct", "queued"])
    await platform.fault("status", call_class="list_contacts", status=503, times=1)
    # Its caller is gone before the pause is over after which it is tried again.
    first = await ask(client, deadline_ms=800)
    assert (202, "queued", None) == (
        first.status_code,
        first.json()["lane"],
        first.json()["url"],
    )
    await milepost.deliver.run_once()
    assert [] == receiver.messages
    await settled(milepost, first.json()["id"])
    await milepost.deliver.run_once()
    (message,) = receiver.messages
    asked = (await client.get(f"/v1/links/{first.json()['id']}")).json()
    assert ("link.issued", asked) == (message["type"], message["data"])
    assert ("issued", "queued") == (asked["state"], asked["lane"])
    assert (await ask(client)).json()["url"] == asked["url"]
    assert 200 == (await platform.web.get(asked["url"])).status_code


async def settled(milepost: Milepost, link_id: str) -> None:
    """Have jobs at a link until it is issued."""
    async with asyncio.timeout(20):
        while True:
            await milepost.sweep.run_once()
            await milepost.drain.run_once()
            link = await milepost.store.links.find(event_id="e1")
            assert link is not None
            assert link_id == str(link.id)
            if link.state is LinkState.ISSUED:
                return
            await asyncio.sleep(0.1)


async def test_a_link_is_told_once(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, receiver: Receiver
) -> None:
    """However often it is asked for; its message is found with what came of it."""
    await landed()
    link = (await ask(client)).json()
    await ask(client)
    await milepost.deliver.run_once()
    await milepost.deliver.run_once()
    assert [link["id"]] == [message["data"]["id"] for message in receiver.messages]
    (message,) = await messages(client, state="delivered")
    assert (receiver.ids, link["id"]) == ([message["id"]], message["link_id"])
    (attempt,) = message["attempts"]
    assert (1, 204, None) == (attempt["number"], attempt["code"], attempt["error"])
    (endpoint,) = (await client.get("/v1/endpoints")).json()["endpoints"]
    assert (True, None) == (endpoint["delivered_at"] is not None, endpoint["failed_at"])


async def test_the_short_link_is_told_and_not_the_one_behind_it(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, receiver: Receiver
) -> None:
    """Whoever was given a short link hears that it leads somewhere now."""
    await landed(lanes=["deferred"])
    link = (await ask(client)).json()
    assert "waiting" == link["state"]
    await milepost.drain.run_once()
    await milepost.deliver.run_once()
    (message,) = receiver.messages
    told = message["data"]
    assert (link["url"], None, "issued") == (told["url"], told["other_url"], told["state"])


async def test_what_becomes_of_a_survey_is_told_once(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, receiver: Receiver
) -> None:
    """That it was started and finished, with the response, however often the platform says so."""
    await landed()
    link = (await ask(client)).json()
    response_id = await platform.answer(link["url"])
    for _ in range(2):
        run = await milepost.run("reconcile", asked_by="a test")
        assert "done" == run.state
        await milepost.deliver.run_once()
    told = {message["type"]: message["data"] for message in receiver.messages}
    assert ["link.issued", "survey.finished", "survey.started"] == sorted(told)
    assert 3 == len(receiver.messages)
    finished = told["survey.finished"]
    assert (link["id"], response_id) == (finished["id"], finished["response_id"])
    assert finished["started_at"] <= finished["finished_at"]


async def test_a_message_is_tried_by_its_schedule(
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    elapse: Elapse,
    receiver: Receiver,
) -> None:
    """Each attempt when it is due and not before, eight in all; then it is parked, and replayed."""
    await landed()
    await ask(client)
    receiver.answers = itertools.repeat(500)
    for number, pause in enumerate(ATTEMPTS_AFTER, 1):
        await milepost.deliver.run_once()
        assert number == len(receiver.messages)
        await elapse(pause.total_seconds() - 2)
        await milepost.deliver.run_once()
        assert number == len(receiver.messages)
        await elapse(0.1 * pause.total_seconds() + 2)
    await milepost.deliver.run_once()
    (message,) = await messages(client, state="parked")
    assert [*range(1, 9)] == [attempt["number"] for attempt in message["attempts"]]
    assert {500} == {attempt["code"] for attempt in message["attempts"]}
    assert (8, 1) == (len(receiver.ids), len(set(receiver.ids)))
    receiver.answers = itertools.repeat(200)
    (endpoint,) = (await client.get("/v1/endpoints")).json()["endpoints"]
    replayed = await client.post(f"/v1/endpoints/{endpoint['id']}/replay", json={})
    assert (202, {"messages": 1}) == (replayed.status_code, replayed.json())
    await milepost.deliver.run_once()
    (message,) = await messages(client)
    assert ("delivered", 9) == (message["state"], len(message["attempts"]))
    assert receiver.ids == [message["id"]] * 9


async def test_an_endpoint_is_left_alone_for_as_long_as_it_wants(
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    elapse: Elapse,
    receiver: Receiver,
) -> None:
    """Also when that is longer than the pause there is, and for good after 410."""
    await landed()
    await ask(client)
    receiver.answers = itertools.chain((503, 410), itertools.repeat(204))
    receiver.header = "Retry-After: 3600\r\n"
    assert 1 == (await milepost.deliver.run_once()).put_off
    for seconds, arrived in ((3_500, 1), (100, 2), (86_400, 2)):
        await elapse(seconds)
        await milepost.deliver.run_once()
        assert (seconds, arrived) == (seconds, len(receiver.messages))
    (message,) = await messages(client, state="parked")
    assert [503, 410] == [attempt["code"] for attempt in message["attempts"]]
    (endpoint,) = (await client.get("/v1/endpoints")).json()["endpoints"]
    assert "disabled" == endpoint["state"]


async def test_a_message_is_signed_by_the_former_secret_as_well(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, receiver: Receiver
) -> None:
    """So that whoever receives it can learn the other one in peace."""
    await landed()
    (endpoint,) = (await client.get("/v1/endpoints")).json()["endpoints"]
    before = receiver.secret
    other = (await client.post(f"/v1/endpoints/{endpoint['id']}/secret")).json()["secret"]
    for event_id, secret in (("e1", before), ("e2", other)):
        receiver.secret = secret
        await ask(client, event_id)
        await milepost.deliver.run_once()
    assert 2 == len(receiver.messages)


async def test_a_silent_endpoint_keeps_nobody_waiting(
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    receiver: Receiver,
    execute: Execute,
) -> None:
    """While two attempts wait for its answer, another endpoint is told all there is."""
    await landed()
    receiver.silent = True
    other = Receiver()
    server = await asyncio.start_server(other.serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        other.secret = (await client.post("/v1/endpoints", json={"url": url})).json()["secret"]
        await execute(
            "INSERT INTO messages (endpoint_id, type, data, due_at, created_at)"
            " SELECT e.id, 'pool.low', '{}', now(), now() FROM endpoints AS e,"
            " generate_series(1, 20)"
        )
        async with Webhooks([ip_network("127.0.0.0/8")], seconds=2) as webhooks:
            stopping = asyncio.Event()
            run = asyncio.create_task(Deliver(milepost.store, webhooks).run_once(stopping))
            for _ in range(20):
                await asyncio.wait_for(other.arrived.get(), 8)
            assert (2, False) == (len(receiver.messages), run.done())
            stopping.set()
            counts = await run
    assert (20, 2) == (counts.delivered, counts.put_off)
    waiting = await messages(client, state="waiting", limit=30)
    errors = [(a["code"], a["error"]) for message in waiting for a in message["attempts"]]
    assert [(None, "it took longer than 2 s")] * 2 == errors


async def test_a_stopped_milestone_is_told_once(  # noqa: PLR0917  (fixtures)
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    receiver: Receiver,
    travel: Travel,
) -> None:
    """Though job canary finds each night that links differ; without the links themselves."""
    await landed(fields=[])
    await platform.switch(facts={"link_format": "2020"})
    for _ in range(2):
        await travel(hours=24)
        assert "stopped" == (await milepost.run("canary", asked_by="a test")).state
    stop = (await client.get("/v1/milestones/landed")).json()["stopped"]
    await milepost.deliver.run_once()
    (told,) = [each["data"] for each in receiver.messages if each["type"] == "milestone.stopped"]
    assert ("landed", platform.ready.survey_id, stop["because"], stop["at"]) == tuple(
        told[name] for name in ("milestone", "survey_id", "because", "at")
    )
    assert "http" not in str(told)


async def test_a_low_pool_is_told_once(
    landed: Landed, milepost: Milepost, execute: Execute, receiver: Receiver
) -> None:
    """When job replenish finds it so, until it is not low any more; then anew."""
    await landed()
    for _ in range(2):
        # Its distributions end soon, and no successor can be made on lists that rest.
        await execute("UPDATE distributions SET takes_until = now() + interval '1 hour'")
        await execute(
            "INSERT INTO distributions (slot_id, generation, description, state, created_at,"
            " lease_until) SELECT slot_id, max(generation) + 1, 'x', 'making', now(),"
            " now() + interval '1 day' FROM distributions GROUP BY slot_id"
        )
        for _ in range(2):
            await milepost.replenish.run_once()
        await execute(
            "UPDATE distributions SET takes_until = now() + interval '40 days'"
            " WHERE state = 'ready'"
        )
        await execute("DELETE FROM distributions WHERE state = 'making'")
        await milepost.replenish.run_once()
    await milepost.deliver.run_once()
    assert ["pool.low"] * 2 == [message["type"] for message in receiver.messages]
    told = receiver.messages[0]["data"]
    hour = pytest.approx(1 / 24, abs=0.01)
    assert {"milestone": "landed", "headroom_days": hour} == told


async def test_a_pool_that_never_came_to_be_is_told_once(
    client: httpx.AsyncClient,
    milepost: Milepost,
    platform: Any,
    receiver: Receiver,
    travel: Travel,
) -> None:
    """When it should have given links for an hour."""
    await platform.fault("status", call_class="distributions", status=400, times=100)
    definition = {"survey_id": platform.ready.survey_id}
    (await client.put("/v1/milestones/landed", json=definition)).raise_for_status()
    for hours, told in ((0, 0), (0.9, 0), (0.2, 1), (1, 1)):
        await travel(hours=hours)
        assert 0 == (await milepost.replenish.run_once()).ready
        await milepost.deliver.run_once()
        assert (hours, told) == (hours, len(receiver.messages))
    (message,) = receiver.messages
    low = {"milestone": "landed", "headroom_days": 0}
    assert ("pool.low", low) == (message["type"], message["data"])


async def test_a_failed_run_is_told(
    milepost: Milepost, platform: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the job, the run, and why; one that is done is not told."""
    monkeypatch.setattr("milepost.scheduler.TRIES", 1)
    await platform.fault("status", call_class="mailing_lists", status=403)
    assert "done" == (await milepost.run("funnel", asked_by="a test")).state
    run = await milepost.run("sync", asked_by="a test")
    assert "failed" == run.state
    assert run.error is not None
    await milepost.deliver.run_once()
    (message,) = receiver.messages
    told = {"job": "sync", "run_id": run.id, "state": "failed", "error": run.error}
    assert ("job.failed", told) == (message["type"], message["data"])
