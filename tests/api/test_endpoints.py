"""Endpoints: how they are named, shown, tried and told again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from milepost.model import MessageType, Scope
from milepost.store import Store

HOOK = "https://1.1.1.1/milepost"


@pytest.fixture
async def hook() -> AsyncIterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A receiver on this machine that takes everything; tells its URL and what it was sent."""
    seen: list[tuple[dict[str, str], bytes]] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a message."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        headers = dict(line.split(": ", 1) for line in head)
        seen.append((headers, await reader.readexactly(int(headers["Content-Length"]))))
        writer.write(b"HTTP/1.1 202 Taken\r\nContent-Length: 6\r\n\r\nthanks")
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", seen


async def created(client: httpx.AsyncClient, url: str = HOOK, **more: object) -> dict[str, Any]:
    """An endpoint."""
    answer = await client.post("/v1/endpoints", json={"url": url, **more})
    assert 201 == answer.status_code, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_a_secret_is_shown_once(client: httpx.AsyncClient) -> None:
    """In the answer to the request that made it, and nowhere else."""
    made = await created(client, types=["link.issued"], description="the app")
    secret = made.pop("secret")
    assert ("whsec_", 50) == (secret[:6], len(secret))
    assert made == (await client.get(f"/v1/endpoints/{made['id']}")).json()
    assert {"endpoints": [made]} == (await client.get("/v1/endpoints")).json()
    assert (["link.issued"], "the app", "active") == (
        made["types"],
        made["description"],
        made["state"],
    )


async def test_no_types_are_all_types(client: httpx.AsyncClient) -> None:
    """None is nothing to have an endpoint for."""
    made = await created(client)
    assert None is made["types"]
    assert None is (await client.get(f"/v1/endpoints/{made['id']}")).json()["types"]
    refused = await client.post("/v1/endpoints", json={"url": HOOK, "types": []})
    assert (400, "types") == (refused.status_code, refused.json()["field"])


async def test_whoever_reads_sees_no_path(
    client: httpx.AsyncClient, keys: dict[Scope, str]
) -> None:
    """It may be a credential; an admin sees it."""
    made = await created(client, "https://1.1.1.1/hooks/s3cret?key=1")
    for path in ("/v1/endpoints", f"/v1/endpoints/{made['id']}"):
        assert "s3cret" in (await client.get(path)).text
        seen = await client.get(path, headers={"Authorization": f"Bearer {keys[Scope.READ]}"})
        assert (200, True) == (seen.status_code, "https://1.1.1.1/…" in seen.text)
        assert "key=1" not in seen.text


@pytest.mark.parametrize(
    ("given", "status", "field"),
    [
        ({}, 400, "url"),
        ({"url": HOOK, "types": ["link.lost"]}, 400, "types[0]"),
        ({"url": HOOK, "secret": "mine"}, 400, "secret"),
        ({"url": "http://1.1.1.1/hook"}, 422, "url"),
        ({"url": "https://10.0.0.1/hook"}, 422, "url"),
        ({"url": "https://[::1]/hook"}, 422, "url"),
        ({"url": "https://user@1.1.1.1/hook"}, 422, "url"),
    ],
)
async def test_what_is_no_endpoint_is_refused(
    client: httpx.AsyncClient, given: dict[str, object], status: int, field: str
) -> None:
    """It is said which field is wrong, and what to do."""
    answer = await client.post("/v1/endpoints", json=given)
    assert (status, field) == (answer.status_code, answer.json()["field"])
    assert ({} != given) == ("fix" in answer.json())


async def test_a_test_message_says_what_came(
    client: httpx.AsyncClient, hook: tuple[str, list[tuple[dict[str, str], bytes]]]
) -> None:
    """At once, of an endpoint that answers and of one that does not."""
    url, seen = hook
    made = await created(client, url)
    answer = await client.post(f"/v1/endpoints/{made['id']}/test")
    told = answer.json() | {"seconds": 0}
    assert {
        "delivered": True,
        "seconds": 0,
        "code": 202,
        "error": None,
        "said": "thanks",
    } == told
    ((headers, content),) = seen
    message = Webhook(made["secret"]).verify(content, headers)
    assert ("endpoint.test", made["id"]) == (message["type"], message["data"]["endpoint_id"])
    nobody = await created(client, "http://127.0.0.1:9/")
    tried = (await client.post(f"/v1/endpoints/{nobody['id']}/test")).json()
    assert (False, None, "no connection") == (tried["delivered"], tried["code"], tried["error"])


async def test_both_secrets_sign_for_a_day(
    client: httpx.AsyncClient, hook: tuple[str, list[tuple[dict[str, str], bytes]]], store: Store
) -> None:
    """So that a receiver has time to take the other one; after that only the present one does."""
    url, seen = hook
    made = await created(client, url)
    answer = (await client.post(f"/v1/endpoints/{made['id']}/secret")).json()
    assert made["secret"] != answer["secret"]
    await client.post(f"/v1/endpoints/{made['id']}/test")
    for secret in (made["secret"], answer["secret"]):
        Webhook(secret).verify(seen[-1][1], seen[-1][0])
    async with store.connections.path() as connection:
        await connection.execute(b"UPDATE endpoints SET secret_before_until = milepost_now()")
    await client.post(f"/v1/endpoints/{made['id']}/test")
    assert 1 == len(seen[-1][0]["Webhook-Signature"].split())
    Webhook(answer["secret"]).verify(seen[-1][1], seen[-1][0])


async def test_messages_come_page_by_page(client: httpx.AsyncClient, store: Store) -> None:
    """The newest first, each once; only of the state that is asked for."""
    made = await created(client)
    async with store.connections.path() as connection:
        await connection.execute(
            b"INSERT INTO messages (id, endpoint_id, type, data, due_at, created_at)"
            b" SELECT lpad(n::text, 32, '0')::uuid, e.id, 'pool.low', '{}', now(), now()"
            b" FROM endpoints AS e, generate_series(1, 5) AS n"
        )
        await connection.execute(
            b"UPDATE messages SET state = 'parked', due_at = NULL WHERE id::text LIKE '%%4'"
        )
    seen, cursor = [], None
    while True:
        given = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = await client.get(f"/v1/endpoints/{made['id']}/messages", params=given)
        seen += [int(message["id"][-1]) for message in page.json()["messages"]]
        if (cursor := page.json()["next_cursor"]) is None:
            break
    assert [5, 4, 3, 2, 1] == seen
    parked = await client.get(f"/v1/endpoints/{made['id']}/messages", params={"state": "parked"})
    assert [4] == [int(message["id"][-1]) for message in parked.json()["messages"]]


@pytest.mark.parametrize(
    ("given", "status", "field"),
    [
        ({"message": "msg_1"}, 400, "message"),
        ({"message": "msg_" + "0" * 32}, 404, "message"),
        ({"message": "msg_" + "0" * 32, "since": "2030-01-01T00:00:00Z"}, 400, "since"),
        ({"since": "0001-01-01T00:00:00+14:00"}, 400, "since"),
        ({"since": "2030-01-01T00:00:00"}, 400, "since"),
    ],
)
async def test_a_replay_that_cannot_be_meant(
    client: httpx.AsyncClient, given: dict[str, str], status: int, field: str
) -> None:
    """It is refused, with the field."""
    made = await created(client)
    answer = await client.post(f"/v1/endpoints/{made['id']}/replay", json=given)
    assert (status, field) == (answer.status_code, answer.json()["field"])
    if given.get("message") == "msg_1":
        assert (
            "It must be a message's id: msg_ and 32 hexadecimal digits." == answer.json()["detail"]
        )


async def test_what_is_not_there_is_404(client: httpx.AsyncClient) -> None:
    """An endpoint that was removed, too."""
    made = await created(client)
    assert 204 == (await client.delete(f"/v1/endpoints/{made['id']}")).status_code
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/messages"),
        ("POST", "/test"),
        ("POST", "/secret"),
        ("POST", "/resume"),
    ):
        answer = await client.request(method, f"/v1/endpoints/{made['id']}{path}")
        assert (path, 404, "unknown-endpoint") == (
            path,
            answer.status_code,
            answer.json()["code"],
        )


def test_every_type_is_documented() -> None:
    """What can be sent is what was agreed on."""
    assert {
        *("link.issued", "link.failed", "survey.started", "survey.finished"),
        *("pool.low", "milestone.stopped", "job.failed"),
    } == {kind.value for kind in MessageType}
