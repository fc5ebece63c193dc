"""Registrants that are sent as a body: it is staged while it streams, and a run takes it in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar
from litestar.exceptions import HTTPException
from litestar.types import HTTPReceiveMessage

from milepost.api import problems, requests
from milepost.jobs import intake
from milepost.jobs.intake import Import
from milepost.model import Scope
from milepost.scheduler import Scheduler
from milepost.store import Store
from milepost.store.runs import RunRecord

PLACE = "/v1/registrants/import"
CSV = {"Content-Type": "text/csv"}
NDJSON = {"Content-Type": "application/x-ndjson"}
LEFT = b"SELECT (SELECT count(*) FROM staged) + (SELECT count(*) FROM intakes) AS left"

TakeIn = Callable[[httpx.Response], Awaitable[RunRecord]]


@pytest.fixture
def take_in(store: Store) -> TakeIn:
    """Do what a worker would with the run of an answer."""
    scheduler = Scheduler(store.runs, {"import": Import(store)}, {"import": None})

    async def run(answer: httpx.Response) -> RunRecord:
        """Run it to its end."""
        assert 202 == answer.status_code, answer.text
        run_id = answer.json()["run"]["id"]
        done = await scheduler.run_due("import", asyncio.Event(), run_id=run_id)
        assert done is not None
        return done

    return run


async def left(store: Store) -> int:
    """What is staged."""
    async with store.connections.path() as connection:
        (row,) = await (await connection.execute(LEFT)).fetchall()
        return int(row["left"])


async def test_registrants_are_sent_as_csv(
    client: httpx.AsyncClient, store: Store, take_in: TakeIn
) -> None:
    """With names of their own; the run says what became of them, and lists the bad rows."""
    content = "Id;Mail;note;tier\nann;new@x.test;x;gold\nbea;bea@x.test;;\nbad\n"
    params = {"column": ["ref=Id", "email=Mail", "note="]}
    answer = await client.post(PLACE, content=content.encode(), headers=CSV, params=params)
    assert ("import", "waiting", "admin") == tuple(
        answer.json()["run"][name] for name in ("job", "state", "asked_by")
    )
    assert await store.registrants.get("bea") is None
    run = await take_in(answer)
    assert ("done", 1, 1, 1) == (run.state, *(run.counts[n] for n in ("created", "changed", "bad")))
    (bad,) = await store.runs.findings(run.id)
    assert ("the body", 4, "1 value under 4 columns") == (bad.source, bad.line, bad.reason)
    ann = await store.registrants.get("ann")
    assert ann is not None
    assert ("new@x.test", {"tier": "gold"}) == (ann.details.email, ann.details.attributes)
    assert 0 == await left(store)


async def test_registrants_are_sent_as_ndjson_and_may_be_tried(
    client: httpx.AsyncClient, store: Store, take_in: TakeIn
) -> None:
    """A dry run tells the difference."""
    content = b'{"ref": "bea", "seats": 3}\n{"ref": "cleo"}\n'
    for dry_run, known in ((True, False), (False, True)):
        params = {"dry_run": dry_run}
        run = await take_in(
            await client.post(PLACE, content=content, headers=NDJSON, params=params)
        )
        assert ("done", 2) == (run.state, run.counts["created"])
        assert known == (await store.registrants.get("bea") is not None)


async def test_a_charset_is_believed(client: httpx.AsyncClient, take_in: TakeIn) -> None:
    """Unless the address names an encoding."""
    content = "ref,first_name\nł,Łukasz\n".encode("cp1250")
    headers = {"Content-Type": 'text/csv; charset="windows-1250"'}
    for params in ({}, {"encoding": "cp1252"}):
        run = await take_in(
            await client.post(PLACE, content=content, headers=headers, params=params)
        )
        (read,) = run.counts["read"]
        assert params.get("encoding", "cp1250") == read["encoding"]


async def test_a_body_of_any_size_is_staged_while_it_streams(
    client: httpx.AsyncClient, store: Store, take_in: TakeIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not kept until its end; pieces end anywhere, also amid a character."""
    staged: list[int] = []
    stage = store.sources.stage

    async def watched(intake: int, rows: Any, **more: Any) -> None:
        """Stage, and see how far the body is then."""
        staged.append(sent)
        await stage(intake, rows, **more)

    monkeypatch.setattr(store.sources, "stage", watched)
    sent = 0
    content = "ref,note\n" + "".join(f"r{n},Zoë {'x' * 400}\n" for n in range(2_000))

    async def pieces() -> AsyncIterator[bytes]:
        """Send it in pieces of a prime number of bytes."""
        nonlocal sent
        whole = content.encode()
        for start in range(0, len(whole), 4_999):
            sent = start + 4_999
            yield whole[start:sent]

    run = await take_in(await client.post(PLACE, content=pieces(), headers=CSV))
    assert (2_000, 0) == (run.counts["created"], run.counts["bad"])
    assert 2 < len(staged)
    assert staged[0] < sent / 2


@pytest.mark.parametrize(
    ("content", "params", "headers", "status", "field", "detail"),
    [
        (b"ref\na\n", {}, {"Content-Type": "application/json"}, 415, None, "send CSV as text/csv"),
        (b"ref\na\n", {}, {}, 415, None, "The content type is missing"),
        (b"ref\na\n", {"encoding": "klingon"}, CSV, 400, "encoding", "no encoding of texts"),
        (b"ref\na\n", {"delimiter": "x"}, CSV, 400, "delimiter", "none of , ; | and tab"),
        (b"ref\na\n", {"column": "ref"}, CSV, 400, "column", "OURS=THEIRS"),
        (b"ref\na\n", {"column": "ref="}, CSV, 400, "column", "ref is needed"),
        (b"ref\na\n", {"dry_run": "perhaps"}, CSV, 400, "dry_run", "true or false"),
        (b"", {}, CSV, 400, None, "the body: it is empty."),
        (b"email\na\n", {}, CSV, 400, None, "there is no column ref"),
    ],
)
async def test_what_cannot_be_taken_is_explained(
    client: httpx.AsyncClient,
    store: Store,
    *,
    content: bytes,
    params: dict[str, str],
    headers: dict[str, str],
    status: int,
    field: str | None,
    detail: str,
) -> None:
    """And nothing of it stays."""
    answer = await client.post(PLACE, content=content, params=params, headers=headers)
    problem = answer.json()
    assert (status, field) == (answer.status_code, problem.get("field"))
    assert detail in problem["detail"]
    assert 0 == await left(store)


@pytest.mark.parametrize(
    ("bounds", "is_announced", "said"),
    [
        ({"MOST_BYTES": 1 << 20}, True, "at most 1 MiB"),
        ({"MOST_BYTES": 1 << 20}, False, "at most 1 MiB"),
        ({"MOST_ROWS": 2_000}, False, "at most 2,000 rows"),
    ],
)
async def test_more_than_one_request_may_send_is_refused(
    client: httpx.AsyncClient,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    *,
    bounds: dict[str, int],
    is_announced: bool,
    said: str,
) -> None:
    """Before anything is read where its size is said; nothing of it stays."""
    for name, most in bounds.items():
        monkeypatch.setattr(intake, name, most)
    read = 0
    content = b"ref,note\n" + b"".join(b"r%d,%b\n" % (n, b"x" * 600) for n in range(2_500))

    async def pieces() -> AsyncIterator[bytes]:
        """Send it in pieces."""
        nonlocal read
        for start in range(0, len(content), 1 << 16):
            read += 1
            yield content[start : start + (1 << 16)]

    headers = CSV | ({"Content-Length": str(len(content))} if is_announced else {})
    answer = await client.post(PLACE, content=pieces(), headers=headers)
    problem = answer.json()
    assert (413, "body-too-large") == (answer.status_code, problem["code"])
    assert said in problem["detail"]
    assert "in several" in problem["fix"]
    assert (0, is_announced) == (await left(store), read == 0)


async def test_imports_wait_for_one_another(
    client: httpx.AsyncClient, store: Store, take_in: TakeIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long they wait; what was left behind, and what a sync reads, takes no room."""
    monkeypatch.setattr(intake, "MOST_ARRIVALS", 2)
    long_ago = b"UPDATE intakes SET touched_at = milepost_now() - interval '2 hours'"
    async with store.connections.path() as connection:
        await connection.execute(b"INSERT INTO intakes (touched_at) VALUES (milepost_now())")
        await connection.execute(long_ago)
    await store.runs.ask("sync", asked_by="a test")
    syncing = await store.runs.take("sync")
    assert syncing is not None
    await store.sources.begin(syncing)
    answers = await asyncio.gather(
        *(client.post(PLACE, content=b"ref\na\n", headers=CSV) for _ in range(3))
    )
    assert [202, 202, 429] == sorted(answer.status_code for answer in answers)
    (refused,) = [answer.json() for answer in answers if answer.status_code == 429]
    assert "too-many-imports" == refused["code"]
    assert {"60"} == {a.headers["Retry-After"] for a in answers if a.status_code == 429}
    async with store.connections.path() as connection:
        await connection.execute(long_ago)
    waiting = await client.post(PLACE, content=b"ref\na\n", headers=CSV)
    assert 429 == waiting.status_code
    await take_in(next(answer for answer in answers if answer.status_code == 202))
    again = await client.post(PLACE, content=b"ref\na\n", headers=CSV)
    assert 202 == again.status_code


def test_another_429_speaks_of_no_import() -> None:
    """The framework sends none; if it did, callers would look at their imports in vain."""
    request: Any = None
    answer = problems.framework(request, HTTPException(status_code=429))
    assert (500, "internal") == (answer.status_code, msgspec.json.decode(answer.content)["code"])


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [("disconnect", 400, "The connection ended"), ("silence", 408, "Nothing of the body arrived")],
)
async def test_a_body_that_breaks_off_is_not_taken(
    application: Litestar,
    store: Store,
    keys: dict[Scope, str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    end: str,
    status: int,
    said: str,
) -> None:
    """It ends, or it stalls: nothing of it is applied, nothing stays, and the answer says so."""
    monkeypatch.setattr(requests, "PIECE_SECONDS", 0.05)
    head = b"ref,note\n" + b"".join(b"r%d,%b\n" % (n, b"x" * 300) for n in range(1_500))
    pieces: list[HTTPReceiveMessage] = [
        {"type": "http.request", "body": head, "more_body": True},
    ]
    answer: list[Any] = []

    async def receive() -> Any:
        """Give a piece, and then break off."""
        if pieces:
            return pieces.pop()
        if end == "silence":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """Keep the answer."""
        answer.append(message)

    scope: Any = {
        "type": "http",
        "method": "POST",
        "path": PLACE,
        "raw_path": PLACE.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"content-type", b"text/csv"),
            (b"authorization", f"Bearer {keys[Scope.SYNC]}".encode()),
        ],
        "http_version": "1.1",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("milepost.test", 80),
        "state": {},
    }
    await application(scope, receive, send)
    assert status == answer[0]["status"]
    assert said in answer[1]["body"].decode()
    assert (0, None) == (await left(store), await store.registrants.get("r1"))
    assert [] == await store.runs.page("import")
