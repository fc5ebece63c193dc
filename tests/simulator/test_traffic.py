"""Limits, counts, latency, the clock, and faults on demand."""

from __future__ import annotations

import socket
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from milepost.simulator import CALL_CLASSES, PUBLISHED_LIMITS, Config
from milepost.simulator.endpoints import ENDPOINTS
from milepost.simulator.traffic import Limit, Traffic

Customer = Any
Start = Any


def test_a_minutes_calls_are_taken_at_once_and_the_next_a_minute_after_the_first() -> None:
    """Each is free again when its own minute is over; the wait is told in whole seconds."""
    now = 1000.0
    traffic = Traffic(60, {}, lambda: now)
    assert [traffic.admit("links") for _ in range(60)] == [0] * 60
    now += 0.5
    assert traffic.admit("links") == 60
    now += 59
    assert traffic.admit("links") == 1
    now += 0.5
    assert [traffic.admit("links") for _ in range(61)] == [0] * 60 + [60]
    now += 3600
    assert [traffic.admit("links") for _ in range(61)] == [0] * 60 + [60]


@pytest.mark.parametrize("pace", [0.0, 0.01, 0.05])
def test_no_60_seconds_let_more_than_the_limit_through(pace: float) -> None:
    """Wherever they begin, and whether the calls come in bursts or evenly."""
    now = 0.0
    traffic = Traffic(None, {"links": 500}, lambda: now)
    let_in = []
    for burst in range(40):
        for _ in range(700):
            if traffic.admit("links") == 0:
                let_in.append(now)
            now += pace
        now += 7.3 * (burst % 3)
    most = max(bisect_left(let_in, first + 60) - at for at, first in enumerate(let_in))
    assert most == 500
    assert len(let_in) >= 450 * (now // 60)


def test_a_limit_keeps_no_more_than_a_minutes_calls() -> None:
    """Memory does not grow with the calls that were ever made."""
    limit = Limit(1_000_000)
    for second in range(1_000):
        assert limit.wait(second) == 0
        limit.let_in(second)
    kept = limit._let_in  # noqa: SLF001 -- what it keeps is the subject
    assert len(kept) == 60


def test_a_class_has_its_own_limit_inside_the_brands() -> None:
    """A call that its class refuses takes nothing from the brand, and the other way round."""
    traffic = Traffic(3, {"links": 1}, lambda: 0.0)
    assert [traffic.admit("links"), traffic.admit("links")] == [0, 60]
    assert [traffic.admit("surveys") for _ in range(3)] == [0, 0, 60]
    assert traffic.calls["links"].throttled == 1
    assert traffic.calls["brand"].throttled == 2


def test_the_busiest_minute_slides() -> None:
    """It is the most within any 60 s, throttled calls included."""
    now = 0.0
    traffic = Traffic(None, {}, lambda: now)
    for at, calls in ((30, 5), (80, 5), (95, 1), (300, 1)):
        now = float(at)
        for _ in range(calls):
            traffic.admit("links")
    assert traffic.calls["links"].busiest_minute == 10
    assert traffic.calls["links"].calls == 12


@pytest.mark.parametrize("retry_after", [True, False])
def test_too_many_calls_are_429(start: Start, retry_after: bool) -> None:  # noqa: FBT001 - a parameter
    """In an envelope, with `Retry-After` where that is switched on; other classes go on."""
    own = start(limits={"mailing_lists": 2})
    own.control("PUT", "settings", {"retry_after": retry_after})
    path = own.mailing_list()
    own.mailing_list()
    answer = own.api.post(own.lists, json={"name": "one too many"})
    assert answer.status_code == 429
    assert answer.json()["meta"]["httpStatus"] == "429 - Too Many Requests"
    assert answer.headers.get("retry-after") == ("60" if retry_after else None)
    own.add(path)
    stats = own.control("GET", "stats")
    assert stats["classes"]["mailing_lists"] == {
        "calls": 3,
        "throttled": 1,
        "refused": 0,
        "accepted": 2,
        "busiest_minute": 3,
    }
    assert stats["brand"]["calls"] == 4
    assert stats["accepted_writes"] == 3
    own.control("DELETE", "stats")
    assert own.control("GET", "stats")["brand"] is None


@pytest.mark.parametrize(
    ("config", "limits", "rate"),
    [
        ({"limits": "published"}, PUBLISHED_LIMITS, 3000),
        ({"limits": "published", "rate_per_minute": 50}, PUBLISHED_LIMITS, 50),
        ({"limits": "none"}, {}, None),
        ({"limits": "none", "rate_per_minute": 50}, {}, 50),
        ({"limits": {"links": 5}}, {"links": 5}, None),
    ],
)
def test_limits_are_configured_and_set_while_it_runs(
    start: Start, own: Customer, config: dict[str, Any], limits: Mapping[str, int], rate: int | None
) -> None:
    """Published, none, or by class, beneath the brand's."""
    own.control("PUT", "settings", config)
    for settings in (start(**config).control("GET", "settings"), own.control("GET", "settings")):
        assert (settings["limits"], settings["rate_per_minute"]) == (dict(limits), rate)


@pytest.mark.parametrize(
    "config",
    [
        {"latency_ms": -1},
        {"rate_per_minute": 0},
        {"limits": "some"},
        {"limits": {"nothing": 5}},
        {"limits": {"links": 0}},
    ],
)
def test_a_wrong_configuration_is_refused(shared: Customer, config: dict[str, Any]) -> None:
    """At the start and while it runs alike."""
    with pytest.raises(ValueError, match=r"limits|limit|class|latency|rate"):
        Config(**config)
    before = shared.control("GET", "settings")
    assert shared.web.put("/control/settings", json=config).status_code == 400
    assert shared.control("GET", "settings") == before


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "settings", {"unknown": 1}),
        ("PUT", "settings", {"latency_ms": True}),
        ("PUT", "settings", {"deduplication_criteria": {"shoe_size": True}}),
        ("PUT", "settings", {"undeclared_fields": "maybe"}),
        ("PUT", "settings", {"declared_fields": ["x" * 201]}),
        ("PUT", "clock", {"now": "soon"}),
        ("PUT", "clock", {"now": "2300-01-01T00:00:00Z"}),
        ("PUT", "clock", {"advance_seconds": 1e300}),
        ("PUT", "clock", {"then": None}),
        ("POST", "faults", {"kind": "flood"}),
        ("POST", "faults", {"kind": "html", "call_class": "nothing"}),
        ("POST", "faults", {"kind": "html", "probability": 0}),
        ("POST", "faults", {"kind": "html", "times": 0}),
        ("GET", "journal?after=x", None),
        ("GET", "journal?after=-1", None),
        ("GET", "nothing", None),
    ],
)
def test_the_control_api_is_strict(shared: Customer, method: str, path: str, body: object) -> None:
    """A switch that was not understood is not half turned."""
    answer = shared.web.request(method, f"/control/{path}", json=body)
    assert answer.status_code == (404 if path == "nothing" else 400)
    assert answer.json().keys() == {"error"}


def test_the_clock_is_set_advanced_and_given_back(own: Customer) -> None:
    """It runs on from where it was set, and the account's moments follow it."""
    own.control("PUT", "clock", {"now": "2031-05-06T07:08:09Z"})
    found = own.result("GET", own.mailing_list())
    assert found["creationDate"].startswith("2031-05-06T07:08:")
    assert own.control("PUT", "clock", {"advance_seconds": 86400})["now"].startswith("2031-05-07")
    back = own.control("PUT", "clock", {"now": None})
    assert back["real"] is True
    assert back["now"][:4] == time.strftime("%Y", time.gmtime())


def test_latency_is_waited_before_the_answer(own: Customer) -> None:
    """By the API alone: neither the control API nor the survey page wait."""
    own.control("PUT", "settings", {"latency_ms": 120})
    began = time.monotonic()
    own.result("GET", "/whoami")
    assert time.monotonic() - began >= 0.12


# Faults -------------------------------------------------------------------------------------------


@pytest.fixture
def faulty(shared: Customer) -> Iterator[Customer]:
    """The shared simulator, without faults when the test has ended."""
    yield shared
    shared.control("DELETE", "faults")


def _count(faulty: Customer, path: str) -> int:
    return len(faulty.elements(f"{path}/contacts"))


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kind", ["status", "html", "without_result"])
def test_an_answer_is_replaced(faulty: Customer, kind: str, moment: str) -> None:
    """Before acceptance nothing has changed, after it everything has; then the fault is gone."""
    path = faulty.mailing_list()
    fault = {"kind": kind, "moment": moment, "call_class": "list_contacts", "times": 1}
    faulty.control("POST", "faults", fault)
    faulty.result("GET", "/whoami")
    answer = faulty.api.post(f"{path}/contacts", json={"email": "a@example.com"})
    if kind == "status":
        assert answer.status_code == 500
        assert answer.json()["meta"]["httpStatus"] == "500 - Internal Server Error"
    elif kind == "html":
        assert (answer.status_code, answer.text[:6]) == (200, "<html>")
    else:
        assert (answer.status_code, "result" in answer.json()) == (200, False)
    assert _count(faulty, path) == (1 if moment == "after" else 0)
    assert faulty.control("GET", "faults") == []


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("timeout", httpx.ReadTimeout),
        ("reset", httpx.ReadError),
        ("truncated", httpx.RemoteProtocolError),
    ],
)
def test_a_connection_is_cut(
    faulty: Customer,
    kind: str,
    moment: str,
    error: type[Exception],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client cannot tell whether it was accepted; the server has no complaint of its faulty."""
    path = faulty.mailing_list()
    faulty.control("POST", "faults", {"kind": kind, "moment": moment, "times": 1})
    with pytest.raises(error):
        faulty.api.post(f"{path}/contacts", json={"email": "a@example.com"}, timeout=0.3)
    assert _count(faulty, path) == (1 if moment == "after" else 0)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_reset_is_a_reset(faulty: Customer) -> None:
    """Not a polite end: the next read fails."""
    faulty.control("POST", "faults", {"kind": "reset", "times": 1})
    host, port = faulty.ready.origin.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(b"GET /API/v3/whoami HTTP/1.1\r\nhost: x\r\nx-api-token: simulator\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            raw.recv(1)


def test_a_timeout_ends_after_its_seconds(faulty: Customer) -> None:
    """The connection is closed without an answer."""
    faulty.control("POST", "faults", {"kind": "timeout", "times": 1, "seconds": 0.1})
    with pytest.raises(httpx.RemoteProtocolError):
        faulty.result("GET", "/whoami")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_slow_call_is_answered_rightly_but_late(faulty: Customer, moment: str) -> None:
    """Whoever waits gets what it would have got at once."""
    path = faulty.mailing_list()
    fault = {"kind": "slow", "moment": moment, "call_class": "list_contacts", "seconds": 0.15}
    faulty.control("POST", "faults", fault | {"times": 1})
    began = time.monotonic()
    faulty.add(path)
    assert time.monotonic() - began >= 0.15
    assert _count(faulty, path) == 1


def test_a_call_held_up_before_acceptance_is_accepted_without_its_caller(faulty: Customer) -> None:
    """It has changed nothing when the caller leaves, and everything a moment later."""
    path = faulty.mailing_list()
    fault = {"kind": "slow", "moment": "before", "call_class": "list_contacts", "seconds": 0.3}
    faulty.control("POST", "faults", fault | {"times": 1})
    with pytest.raises(httpx.ReadTimeout):
        faulty.api.post(f"{path}/contacts", json={"email": "late@example.com"}, timeout=0.1)
    assert _count(faulty, path) == 0
    give_up = time.monotonic() + 5
    while _count(faulty, path) == 0 and time.monotonic() < give_up:
        time.sleep(0.02)
    assert _count(faulty, path) == 1


def test_a_trickling_answer_outlasts_a_limit_for_each_read(faulty: Customer) -> None:
    """No wait between two bytes is long, and the whole is: it comes complete, in its seconds."""
    faulty.control("POST", "faults", {"kind": "trickle", "times": 1, "seconds": 0.5})
    began = time.monotonic()
    answer = faulty.api.get("/whoami", timeout=0.2)
    assert time.monotonic() - began >= 0.4  # the loop's clock is coarser than this one
    assert answer.json()["result"]["brandId"]


def test_a_trickle_ends_with_its_caller(faulty: Customer) -> None:
    """A connection that is gone is not written to, and the next call is answered."""
    faulty.control("POST", "faults", {"kind": "trickle", "times": 1, "seconds": 30})
    with pytest.raises(httpx.ReadTimeout):
        faulty.api.get("/whoami", timeout=0.1)
    assert faulty.api.get("/whoami").status_code == 200


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_status_is_answered_as_often_as_asked(faulty: Customer, status: int) -> None:
    """So many calls of any class, then none."""
    faulty.control("POST", "faults", {"kind": "status", "status": status, "times": 2})
    answers = [faulty.api.get("/whoami").status_code for _ in range(3)]
    assert answers == [status, status, 200]


def test_a_fault_strikes_by_chance_until_it_is_deleted(start: Start) -> None:
    """The dice are seeded; the fault tells how many calls it met."""
    own = start(seed=3)
    own.control("POST", "faults", {"kind": "status", "probability": 0.5})
    answers = [own.api.get("/whoami").status_code for _ in range(100)]
    struck = own.control("GET", "faults")[0]["struck"]
    assert struck == answers.count(500)
    assert 30 < struck < 70
    own.control("DELETE", "faults")
    assert own.api.get("/whoami").status_code == 200


def test_a_refused_call_meets_no_fault_after_acceptance(faulty: Customer) -> None:
    """It was not accepted; the fault waits for one that is."""
    faulty.control("POST", "faults", {"kind": "html", "times": 1})
    assert faulty.error("GET", f"{faulty.lists}/CG_000000000000000")[0] == 404
    assert faulty.api.get("/whoami").text.startswith("<html>")


def test_every_endpoint_has_a_known_class() -> None:
    """A limit or a fault can be given to each."""
    assert {one.call_class for one in ENDPOINTS} == set(CALL_CLASSES)
    assert PUBLISHED_LIMITS.keys() <= set(CALL_CLASSES)
