"""Hostile and careless input: each is refused with a problem that its sender understands."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress

import httpx
import pytest
import uvicorn
from litestar import Litestar

from milepost.api import requests
from milepost.errors import InvalidRequest
from milepost.store.milestones import MilestoneStore

PROBLEM = {"type", "title", "status", "detail", "code"}
GOOD = {"event_id": "e1", "milestone": "landed", "registrant": "ann"}
LIBRARY = re.compile(
    r"\b(str|int|float|bool|dict|None|NoneType|datetime|array|regex|RFC3339|msgspec|Litestar|UTF8|"
    r"GivenRegistrant|LinkRequest|Struct|Traceback|psycopg)\b|\(\?"
)


def checked(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and field of an answer that is a problem document, and says so in our words."""
    assert "application/problem+json" == answer.headers["Content-Type"], answer.text
    problem = answer.json()
    assert problem.keys() >= PROBLEM
    assert answer.status_code == problem["status"]
    assert f"urn:milepost:problem:{problem['code']}" == problem["type"]
    assert None is LIBRARY.search(problem["detail"]), problem["detail"]
    return answer.status_code, problem["code"], problem.get("field")


def body(**changes: object) -> bytes:
    """A good event, changed."""
    return json.dumps(GOOD | changes).encode()


def post(
    client: httpx.AsyncClient, content: bytes, content_type: str = "application/json"
) -> Awaitable[httpx.Response]:
    """Send a body to where events are taken."""
    return client.post("/v1/links", content=content, headers={"Content-Type": content_type})


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"null", None),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, None),
        (b"[" * 5_000, None),
        (b'{"event_id":"\xff\xfe"}', None),
        (b"\xff\xfe{\x00}\x00", None),
        (b'{"event_id":"\\ud800","milestone":"landed","registrant":"ann"}', None),
        (body(event_id="a\0b"), "event_id"),
        (body(data={"x": "a\0b"}), "data.x"),
        (body(data={"a\0b": 1}), "data"),
        (body(registrant={"ref": "ann", "first_name": "\0"}), "registrant.first_name"),
        (body(event_id=""), "event_id"),
        (body(event_id=7), "event_id"),
        (body(event_id="ä" * 101), "event_id"),
        (body(milestone="No Key"), "milestone"),
        (body(registrant=7), "registrant"),
        (body(registrant={"email": "a@x.test"}), "registrant.ref"),
        (body(registrant={"ref": "ann", "email": "a"}), "registrant.email"),
        (body(registrant={"ref": "ann", "email": "a@x.test\n"}), "registrant.email"),
        (body(registrant={"ref": "ann", "age": 7}), "registrant.age"),
        (body(registrant={"ref": "a", "attributes": {"": "x"}}), "registrant.attributes"),
        (
            body(registrant={"ref": "a", "attributes": {"x": "y", "z": 1}}),
            "registrant.attributes.z",
        ),
        (body(registrant={"ref": "a", "attributes": {"a`b": 1}}), "registrant.attributes"),
        (body(data=[]), "data"),
        (body(deadline_ms=2**70), "deadline_ms"),
        (body(deadline_ms="1500"), "deadline_ms"),
        (body(occurred_at="yesterday"), "occurred_at"),
        (body(occurred_at="2026-11-23T21:10:00"), "occurred_at"),
        (body(occurred_at="0001-01-01T00:00:00+14:00"), "occurred_at"),
        (body(unknown=1), "unknown"),
        (b'{"event_id":"a","event_id":"b","milestone":"landed","registrant":"ann"}', "event_id"),
        (b'{"event_id":"a","milestone":"landed","registrant":"ann","data":{"x":1,"x":2}}', "x"),
        (b'{"event_id":"a","milestone":"landed","registrant":"ann","data":{"x":1e999}}', None),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_a_malformed_body_is_a_400_that_names_the_field(
    client: httpx.AsyncClient, content: bytes, field: str | None
) -> None:
    """Whatever it is, the answer is a problem, and the words are not those of a library."""
    status, code, named = checked(await post(client, content))
    assert (400, "invalid-request") == (status, code)
    if field is not None:
        assert field == named


def full(start: bytes, part: bytes, end: bytes = b"") -> bytes:
    """A body of 64 KiB, or a little less, that is one part repeated."""
    return start + part * ((64 * 1024 - len(start) - len(end)) // len(part)) + end


@pytest.mark.parametrize(
    "content",
    [
        full(b"[" * 33 + b'"', rb"\""),
        full(b'"', rb"\"", b"[" * 33),
        full(b'"', rb"\"[", b"\\"),
        full(b'"', rb"\\", b"[" * 33),
        full(b'"' + b"[" * 33, b"x"),
        full(b"{}" * 33, b'"'),
        full(b"[]" * 33, b"\\"),
        full(b"", b"[]"),
        full(b"[", b"[],", b"0]"),
        full(b'{"a":"', rb"\"]}[{", b'"}'),
        b"{" + b",".join(b'"%x":0' % n for n in range(6_500)) + b',"1963":0}',
    ],
    ids=lambda content: repr(content[:12] + b"..." + content[-12:]),
)
def test_no_body_takes_long_to_refuse(content: bytes) -> None:
    """Bodies of 64 KiB at which a scan that goes back, or counts, spends seconds."""
    assert len(content) <= 64 * 1024
    quarter, whole = (
        min(_seconds(content[:size]) for _ in range(3)) for size in (len(content) // 4, None)
    )
    # Four times the body takes four times as long, and not sixteen times.
    assert whole < 9 * max(quarter, 0.002)


def _seconds(content: bytes) -> float:
    began = time.process_time()
    with suppress(InvalidRequest):
        requests.decode(content, dict[str, int | str])
    return time.process_time() - began


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400])
async def test_a_number_beyond_64_bits_is_refused(client: httpx.AsyncClient, value: int) -> None:
    """The field is named."""
    assert (422, "invalid-data", "data.x") == checked(await post(client, body(data={"x": value})))


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/x-www-form-urlencoded"])
async def test_json_under_another_content_type_is_refused(
    client: httpx.AsyncClient, content_type: str
) -> None:
    """A form of a foreign page could send it otherwise."""
    answer = checked(await post(client, body(), content_type))
    assert (415, "unsupported-media-type", None) == answer


async def test_a_body_has_a_largest_size(client: httpx.AsyncClient) -> None:
    """64 KiB are taken, a byte more is not, whether announced or not."""
    good = body()
    assert 201 == (await post(client, good + b" " * (64 * 1024 - len(good)))).status_code
    long = good + b" " * (64 * 1024 - len(good) + 1)
    assert (413, "body-too-large", None) == checked(await post(client, long))

    async def chunks() -> AsyncIterator[bytes]:
        """Send it without saying how long it is."""
        for start in range(0, len(long), 8_192):
            yield long[start : start + 8_192]

    headers = {"Content-Type": "application/json"}
    answer = await client.post("/v1/links", content=chunks(), headers=headers)
    assert (413, "body-too-large", None) == checked(answer)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/nothing", (404, "not-found", None)),
        ("GET", "/", (404, "not-found", None)),
        ("GET", "/schema/nothing", (404, "not-found", None)),
        ("GET", "/v1/links/not-a-uuid", (404, "not-found", None)),
        ("GET", "/v1/links/00000000-0000-0000-0000-000000000000", (404, "unknown-link", "id")),
        ("DELETE", "/v1/links", (405, "method-not-allowed", None)),
        ("GET", "/v1/milestones/nowhere", (404, "unknown-milestone", "milestone")),
        ("GET", "/v1/milestones/No%20Key", (404, "unknown-milestone", "milestone")),
        ("GET", "/v1/milestones/%00", (404, "unknown-milestone", "milestone")),
        ("POST", "/v1/milestones/nowhere/pause", (404, "unknown-milestone", "milestone")),
        ("GET", "/v1/registrants/nobody", (404, "unknown-registrant", "registrant")),
        ("GET", "/v1/registrants/no%2Fbody", (404, "unknown-registrant", "registrant")),
        ("GET", "/v1/registrants/%00", (400, "invalid-request", "ref")),
        ("GET", "/v1/links?state=broken", (400, "invalid-request", "state")),
        ("GET", "/v1/links?limit=0", (400, "invalid-request", "limit")),
        ("GET", "/v1/links?limit=many", (400, "invalid-request", "limit")),
        ("GET", "/v1/links?cursor=1", (400, "invalid-request", "cursor")),
        ("GET", "/v1/links?milestone=%00", (400, "invalid-request", "milestone")),
        ("GET", "/v1/links?registrant=a%00", (400, "invalid-request", "registrant")),
        ("GET", "/v1/links?event_id=%00", (400, "invalid-request", "event_id")),
        ("GET", "/v1/runs/1/findings?format=xml", (400, "invalid-request", "format")),
        ("GET", "/v1/links?form=csv", (400, "invalid-request", "form")),
        ("GET", "/v1/runs/1/findings?form=csv", (400, "invalid-request", "form")),
        ("GET", "/v1/milestones?page", (400, "invalid-request", "page")),
        ("POST", "/v1/links?dry_run=true", (400, "invalid-request", "dry_run")),
        ("POST", "/v1/registrants/import?dryrun=true", (400, "invalid-request", "dryrun")),
        ("GET", "/health/live?probe=1", None),
    ],
)
async def test_a_wrong_address_is_a_problem(
    client: httpx.AsyncClient, method: str, path: str, expected: tuple[int, str, str | None] | None
) -> None:
    """Paths, methods and parameters, also one that nobody knows; a probe may say more."""
    answer = await client.request(method, path)
    assert expected == (None if answer.is_success else checked(answer))


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"survey_id": "SV_1"}, 400, "survey_id"),
        ({"survey_id": None}, 400, "survey_id"),
        ({"lanes": ["deferred", "direct"]}, 422, "lanes"),
        ({"lanes": []}, 400, "lanes"),
        ({"lanes": ["fast"]}, 400, "lanes[0]"),
        ({"route": "transaction", "membership": "ahead"}, 422, "membership"),
        ({"slots": 30}, 422, "max_slots"),
        ({"fields": [{"name": "9"}]}, 400, "fields[0].name"),
        ({"fields": [{"name": "a"}, {"name": "a"}]}, 422, "fields"),
        ({"fields": [{"name": "Milepost_Ref"}]}, 422, "fields"),
        ({"repeat": "sometimes"}, 400, "repeat"),
        ({"repeat": {"cooldown_days": 0}}, 400, "repeat.cooldown_days"),
        ({"min_link_days": 60}, 422, "min_link_days"),
        ({"quiet": {"links": 1}}, 400, "quiet.days"),
        ({"membership": "ahead", "fields": [{"name": "a"}]}, 422, "late_data"),
    ],
    ids=repr,
)
async def test_a_milestone_that_cannot_work_is_refused(
    client: httpx.AsyncClient, changes: dict[str, object], status: int, field: str
) -> None:
    """The problem names the field."""
    definition = {"survey_id": "SV_000000000000001"} | changes
    answer = await client.put("/v1/milestones/landed", json=definition)
    assert (status, field) == checked(answer)[::2]


@pytest.fixture
async def port(application: Litestar) -> AsyncIterator[int]:
    """The application on a real socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(application, lifespan="off", log_config=None, http="httptools")
        )
        serving = asyncio.create_task(server.serve([listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


async def test_a_body_that_stalls_is_given_up(
    client: httpx.AsyncClient,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """408 after the deadline; a caller who hangs up in the middle is no error of ours."""
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.2)
    head = (
        "POST /v1/links HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: {client.headers['Authorization']}\r\nContent-Length: 100\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + b'{"event_id":')
    answer = (await reader.readuntil(b"}")).decode()
    assert answer.startswith("HTTP/1.1 408 ")
    assert "application/problem+json" in answer
    assert '"code":"request-timeout"' in answer
    writer.close()
    _, hanging_up = await asyncio.open_connection("127.0.0.1", port)
    hanging_up.write(head.encode() + b'{"event_id":')
    await hanging_up.drain()
    hanging_up.close()
    await hanging_up.wait_closed()
    async with httpx.AsyncClient(trust_env=False) as browser:
        assert 200 == (await browser.get(f"http://127.0.0.1:{port}/health/live")).status_code
    assert [] == [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_mistake_of_ours_tells_nothing_of_its_values(
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer is a plain 500, and the log says where and not what."""

    async def broken(*_: object, **__: object) -> None:
        """Fail, and name a person."""
        raise RuntimeError("ann@example.com")

    monkeypatch.setattr(MilestoneStore, "all", broken)
    assert (500, "internal", None) == checked(await client.get("/v1/milestones"))
    assert "RuntimeError" in caplog.text
    assert "ann@" not in caplog.text


async def test_a_word_that_is_not_a_choice_is_answered_with_the_choices(
    client: httpx.AsyncClient,
) -> None:
    """The fix names what may be written instead; a key that is none is told what keys look like."""
    definition = {"survey_id": "SV_000000000000001", "repeat": "never"}
    answer = (await client.put("/v1/milestones/landed", json=definition)).json()
    assert ("repeat", "It cannot be 'never'.") == (answer["field"], answer["detail"])
    assert "once, every_event" in answer["fix"]
    definition["repeat"] = "once"
    answer = (await client.put("/v1/milestones/Landed", json=definition)).json()
    assert "lower case letters" in answer["detail"]


@pytest.mark.parametrize(
    ("asked", "body", "field", "fix"),
    [
        ("GET /v1/links?state=done", None, "state", "waiting"),
        ("GET /v1/exports/links?format=xlsx", None, "format", "csv, ndjson"),
        ("GET /v1/drift?kind=zzz", None, "kind", "foreign-response"),
        ("POST /v1/endpoints", {"url": "x", "types": ["link.isued"]}, "types[0]", "link.issued"),
        ("POST /v1/links", {"eventid": "1"}, "eventid", "event_id, milestone"),
        ("POST /v1/links", GOOD | {"registrant": {"mail": "x"}}, "registrant.mail", "ref, email"),
        (
            "PUT /v1/milestones/landed",
            {"survey_id": "SV_000000000000001", "repeat": {"cooldown": 3}},
            "repeat.cooldown",
            "cooldown_days",
        ),
        ("GET /v1/links/abc", None, None, "a UUID"),
        ("DELETE /v1/links", None, None, "Use one of: GET, "),
    ],
)
async def test_a_word_that_is_none_of_them_is_answered_with_them(
    client: httpx.AsyncClient, asked: str, body: object, field: str, fix: str
) -> None:
    """Be it a parameter's, a body's, a name or an address."""
    answer = (await client.request(*asked.split(), json=body)).json()
    assert field == answer.get("field")
    assert fix in answer["fix"]
