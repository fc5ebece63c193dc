"""Subscriptions, and the calls about completed responses that they bring."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from milepost.simulator.deliveries import Deliveries, message
from milepost.simulator.things import Session, Subscription

Customer = Any
Start = Any


class Receiver:
    """A web server that takes what it is sent, and answers with what it is told."""

    def __init__(self) -> None:
        self.received: queue.Queue[tuple[str, dict[str, str], bytes]] = queue.Queue()
        self.statuses: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            """One call."""

            def do_POST(self) -> None:
                """Take it."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.put((self.path, dict(self.headers), body))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/events?for=us"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def next(self) -> tuple[str, dict[str, str], bytes]:
        """What comes next, within 10 s."""
        return self.received.get(timeout=10)

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Somebody who wants to be called."""
    made = Receiver()
    yield made
    made.close()


def _topic(customer: Customer) -> str:
    return f"surveyengine.completedResponse.{customer.ready.survey_id}"


def _subscribe(customer: Customer, url: str, **more: object) -> str:
    body = {"topics": _topic(customer), "publicationUrl": url, "encrypt": False}
    return str(customer.result("POST", "/eventsubscriptions", body | more)["id"])


def test_a_completed_response_is_told(own: Customer, receiver: Receiver) -> None:
    """As a form with an HMAC over the raw message, in the recorded order; the response is there."""
    subscription = _subscribe(own, receiver.url, sharedKey="kéy")
    values = own.answer(own.link(extRef="r1"))
    path, headers, body = receiver.next()
    assert path == "/events?for=us"
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    form = dict(parse_qsl(body.decode()))
    assert list(form) == ["HMAC", "MSG", "Topic"]
    signed = hmac.new("kéy".encode(), form["MSG"].encode(), hashlib.sha512).hexdigest()
    assert form["HMAC"] == signed
    assert form["Topic"] == f"simulator.{_topic(own)}"
    told = json.loads(form["MSG"])
    assert list(told) == ["Status", "SurveyID", "ResponseID", "CompletedDate", "BrandID"]
    assert told["ResponseID"] == values["_recordId"]
    assert told["CompletedDate"] == values["endDate"].replace("T", " ").removesuffix("Z")
    while own.control("GET", "deliveries")["waiting"]:
        pass
    attempts = own.control("GET", "deliveries")["attempts"]
    assert [(one["subscription"], one["status"], one["last"]) for one in attempts] == [
        (subscription, 200, True)
    ]
    found = own.result("GET", f"/eventsubscriptions/{subscription}")
    assert found["successfulCalls"] == 1


def test_without_a_key_there_is_no_hmac(own: Customer, receiver: Receiver) -> None:
    """The message is the same."""
    _subscribe(own, receiver.url)
    own.answer(own.link())
    assert list(dict(parse_qsl(receiver.next()[2].decode()))) == ["MSG", "Topic"]


def test_the_message_agrees_with_a_recording() -> None:
    """Byte for byte, with everything taken from it."""
    session = Session(
        id="FS_1",
        survey_id="SV_22VlHYNeldrrrkp",
        started_at=0,
        data={},
        recipient={},
        language="EN",
        response_id="R_1l9mcVuXubb4aGm",
        completed_at=1_561_555_691_000,
    )
    topic = f"surveyengine.completedResponse.{session.survey_id}"
    subscription = Subscription("SUB_1", 1, topic, "http://x", session.survey_id, "kyma4ever")
    form = dict(parse_qsl(message(subscription, session, "sapdevelopment").decode()))
    assert form["Topic"] == f"sapdevelopment.{topic}"
    assert form["MSG"] == (
        '{"Status":"Complete","SurveyID":"SV_22VlHYNeldrrrkp","ResponseID":"R_1l9mcVuXubb4aGm",'
        '"CompletedDate":"2019-06-26 13:28:11","BrandID":"sapdevelopment"}'
    )
    assert form["HMAC"].startswith("5db5cd1e0200e9ce6831ea0f1924beb9")


def _told() -> Session:
    return Session("FS_1", "SV_1", 0, {}, {}, "EN", response_id="R_1", completed_at=0)


async def _settled() -> None:
    """Nothing is under way any more."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    async with asyncio.timeout(10):
        await asyncio.gather(*others)


async def test_a_call_that_was_not_taken_is_tried_again(receiver: Receiver) -> None:
    """A few times, until it is taken; each attempt is kept."""
    receiver.statuses = [500, 302]
    deliveries = Deliveries("brand", lambda: 0, pauses=(0.01, 0.01, 0.01))
    deliveries.send(Subscription("SUB_1", 1, "t", receiver.url, "SV_1", None), _told())
    await _settled()
    assert [(one.attempt, one.status, one.last) for one in deliveries.attempts] == [
        (1, 500, False),
        (2, 302, False),
        (3, 200, True),
    ]
    assert len({receiver.next()[2] for _ in range(3)}) == 1
    assert receiver.received.empty()
    assert deliveries.delivered == {"SUB_1": 1}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "https://127.0.0.1:1", "http://x:99999/"])
async def test_a_receiver_who_is_away_is_given_up(url: str) -> None:
    """After the last attempt, with the reason."""
    deliveries = Deliveries("brand", lambda: 0, pauses=(0.01,))
    deliveries.send(Subscription("SUB_1", 1, "t", url, "SV_1", None), _told())
    await _settled()
    assert [(one.status, one.last, bool(one.error)) for one in deliveries.attempts] == [
        (None, False, True),
        (None, True, True),
    ]
    assert deliveries.delivered == {}


async def test_an_answer_that_is_no_http_is_no_delivery() -> None:
    """Nor is a line without an end, or none at all."""
    answers = [b"hello\r\n", b"x" * 10_000, b""]

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer without listening."""
        writer.write(answers.pop(0))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        deliveries = Deliveries("brand", lambda: 0, pauses=(0.01, 0.01))
        url = f"http://127.0.0.1:{port}"
        deliveries.send(Subscription("SUB_1", 1, "t", url, "SV_1", None), _told())
        await _settled()
    assert [one.status for one in deliveries.attempts] == [None, None, None]


async def test_the_end_gives_up_what_is_under_way() -> None:
    """Nobody waits for an answer, or for the next attempt."""
    called = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Listen, and leave it at that."""
        called.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server, asyncio.timeout(10):
        deliveries = Deliveries("brand", lambda: 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        deliveries.send(Subscription("SUB_1", 1, "t", url, "SV_1", None), _told())
        await called.wait()
        assert deliveries.waiting == 1
        await deliveries.close()
    assert (deliveries.waiting, list(deliveries.attempts)) == (0, [])


def test_subscriptions_are_listed_read_and_ended(start: Start, tmp_path: Path) -> None:
    """They outlive a restart; the key is not told again."""
    own = start(state=tmp_path / "state")
    first = _subscribe(own, "https://one.example/x", sharedKey="secret")
    second = _subscribe(own, "https://two.example/y")
    own.stop()
    own = start(state=tmp_path / "state")
    assert [one["id"] for one in own.elements("/eventsubscriptions")] == [first, second]
    found = own.result("GET", f"/eventsubscriptions/{first}")
    assert found == {
        "id": first,
        "scope": "simulator",
        "topics": _topic(own),
        "publicationUrl": "https://one.example/x",
        "encrypted": False,
        "successfulCalls": 0,
    }
    own.result("DELETE", f"/eventsubscriptions/{first}")
    assert [one["id"] for one in own.elements("/eventsubscriptions")] == [second]
    for method in ("GET", "DELETE"):
        assert own.error(method, f"/eventsubscriptions/{first}") == (
            404,
            {"errorMessage": f"{first} not found", "errorCode": "ESSG_2"},
        )


@pytest.mark.parametrize(
    "change",
    [
        {"topics": "surveyengine.completedResponse.SV_000000000000000"},
        {"topics": "controlpanel.activateSurvey"},
        {"publicationUrl": "ftp://example.com"},
        {"publicationUrl": "https://example.com/a b"},
        {"encrypt": True},
        {"sharedKey": ""},
        {"unknown": 1},
    ],
)
def test_a_subscription_is_strict(shared: Customer, change: dict[str, object]) -> None:
    """400, and nothing is subscribed."""
    body = {"topics": _topic(shared), "publicationUrl": "https://example.com"} | change
    assert shared.error("POST", "/eventsubscriptions", body)[0] == 400
    assert shared.elements("/eventsubscriptions") == []
