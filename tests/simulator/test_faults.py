"""Faults on demand: what the caller gets, what was accepted, and whose calls are struck."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from milepost.simulator import Config, Fault, running

Customer = Any
Start = Any


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
    """The client cannot tell whether it was accepted; the server has no complaint of its own."""
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


# Answers that a client should not believe ---------------------------------------------------------


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_empty_answer_is_a_200_without_a_body(faulty: Customer, moment: str) -> None:
    """Nothing to be read, whether it was accepted or not."""
    path = faulty.mailing_list()
    fault = {"kind": "empty", "moment": moment, "call_class": "list_contacts", "times": 1}
    faulty.control("POST", "faults", fault)
    answer = faulty.api.post(f"{path}/contacts", json={"email": "a@example.com"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert _count(faulty, path) == (1 if moment == "after" else 0)


def test_a_result_without_ids_is_accepted_all_the_same(faulty: Customer) -> None:
    """Only answers that hold an id are struck, and the fault waits for one."""
    path, other = faulty.mailing_list(), faulty.mailing_list()
    faulty.control("POST", "faults", {"kind": "without_id", "times": 1})
    assert faulty.result("DELETE", other) is None
    assert faulty.result("POST", f"{path}/contacts", {"email": "a@example.com"}) == {}
    assert _count(faulty, path) == 1


def test_ids_are_missing_at_any_depth(faulty: Customer) -> None:
    """In elements, too; everything else is there."""
    path = faulty.mailing_list()
    faulty.add(path, email="deep@example.com")
    faulty.control("POST", "faults", {"kind": "without_id", "times": 1})
    element = faulty.elements(f"{path}/contacts")[0]
    assert element["email"] == "deep@example.com"
    assert [key for key in element if key.endswith("Id")] == []


def test_one_value_is_of_another_type(start: Start) -> None:
    """Which one is drawn, by the seed; the rest and the envelope are right."""
    drawn = []
    for _ in range(2):
        own = start(seed=11)
        right = own.result("GET", "/whoami")
        own.control("POST", "faults", {"kind": "wrong_type", "endpoint": "GET /whoami"})
        answers = [own.result("GET", "/whoami") for _ in range(40)]
        strange = [[key for key in right if one[key] != right[key]] for one in answers]
        assert {1} == {len(keys) for keys in strange}
        assert not any(
            isinstance(one[keys[0]], str) for one, keys in zip(answers, strange, strict=True)
        )
        drawn.append(strange)
    assert drawn[0] == drawn[1]
    assert len({keys[0] for keys in drawn[0]}) > 3


def test_a_huge_answer_is_valid_json_of_so_many_bytes(faulty: Customer) -> None:
    """It tells its length, and whoever stops reading is not waited for."""
    faulty.control("POST", "faults", {"kind": "huge", "bytes": 3_000_000, "times": 1})
    answer = faulty.api.get("/whoami")
    assert len(answer.content) == 3_000_000
    assert answer.json()["result"]["padding"].strip("x") == ""
    faulty.control("POST", "faults", {"kind": "huge", "bytes": 1 << 33, "times": 1})
    with faulty.api.stream("GET", "/whoami") as endless:
        assert endless.headers["content-length"] == str(1 << 33)
        assert len(next(endless.iter_raw(1000))) == 1000
    assert faulty.api.get("/whoami").json()["result"]["brandId"]


@pytest.mark.parametrize("status", [307, 302])
def test_a_redirect_leads_to_another_host(faulty: Customer, status: int) -> None:
    """With path and query of the call; the call is not accepted here."""
    path = faulty.mailing_list()
    fault = {"kind": "redirect", "location": "http://elsewhere.example:81/", "status": status}
    faulty.control("POST", "faults", fault | {"times": 1})
    answer = faulty.api.post(f"{path}/contacts?a=b%20c", json={"email": "a@example.com"})
    assert answer.status_code == status
    assert (
        answer.headers["location"] == f"http://elsewhere.example:81/API/v3{path}/contacts?a=b%20c"
    )
    assert _count(faulty, path) == 0


def test_a_next_page_leads_elsewhere(faulty: Customer) -> None:
    """Whoever takes the cursor alone finds an empty page here; other answers are not struck."""
    path = faulty.mailing_list()
    faulty.add(path)
    fault = {"kind": "next_page", "location": "https://elsewhere.example", "times": 1}
    faulty.control("POST", "faults", fault)
    faulty.result("GET", path)
    page = faulty.result("GET", f"{path}/contacts?pageSize=50")
    url = httpx.URL(page["nextPage"])
    assert (url.host, url.path) == ("elsewhere.example", f"/API/v3{path}/contacts")
    assert len(page["elements"]) == 1
    here = faulty.result("GET", f"{path}/contacts?{url.query.decode()}")
    assert here == {"elements": [], "nextPage": None}


def test_pages_that_lead_round_in_a_circle(faulty: Customer) -> None:
    """On this host, with a cursor, for ever."""
    path = faulty.mailing_list()
    for _ in range(3):
        faulty.add(path)
    faulty.control("POST", "faults", {"kind": "next_page", "loop": True})
    seen = []
    url = f"{faulty.ready.url}{path}/contacts?pageSize=2"
    for _ in range(4):
        page = faulty.api.get(url).json()["result"]
        seen.append([one["contactId"] for one in page["elements"]])
        url = page["nextPage"]
        assert url.startswith(f"{faulty.ready.url}{path}/contacts?")
        assert httpx.URL(url).params["skipToken"]
    assert seen[0] == seen[1] == seen[2] == seen[3]


# Whose calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [
        "POST /directories/{directory}/mailinglists/{mailing_list}/contacts",
        "POST /directories/{POOL}/mailinglists/{CG}/contacts/",
    ],
)
def test_a_fault_waits_for_one_endpoint(faulty: Customer, endpoint: str) -> None:
    """Others of its class pass; what the parameters are called is of no consequence."""
    path = faulty.mailing_list()
    faulty.control("POST", "faults", {"kind": "status", "endpoint": endpoint, "times": 1})
    assert _count(faulty, path) == 0
    assert faulty.api.get(f"{path}/contacts/CID_000000000000000").status_code == 404
    assert faulty.api.post(f"{path}/contacts", json={}).status_code == 500
    assert faulty.api.post(f"{path}/contacts", json={}).status_code == 200


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "wrong_type", "moment": "before"},
        {"kind": "redirect"},
        {"kind": "redirect", "location": "elsewhere"},
        {"kind": "redirect", "location": "http://elsewhere/path"},
        {"kind": "redirect", "location": "http://elsewhere", "status": 200},
        {"kind": "status", "status": 204},
        {"kind": "html", "status": 304},
        {"kind": "next_page"},
        {"kind": "next_page", "loop": True, "location": "http://elsewhere"},
        {"kind": "status", "endpoint": "GET /nothing"},
        {"kind": "status", "endpoint": "PATCH /whoami"},
        {"kind": "huge", "bytes": 0},
    ],
)
def test_a_fault_that_could_not_strike_is_refused(
    shared: Customer, fault: dict[str, object]
) -> None:
    """With a sentence on what is wrong."""
    answer = shared.web.post("/control/faults", json=fault)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert shared.control("GET", "faults") == []


def test_faults_wait_from_the_start(start: Start) -> None:
    """Each start has its own: what struck in one is whole again in the next."""
    fault = Fault(kind="status", status=503, times=1)
    for _ in range(2):
        own = start(faults=(fault,))
        assert [own.api.get("/whoami").status_code for _ in range(2)] == [503, 200]


@pytest.mark.parametrize("fault", [{"call_class": "nothing"}, {"endpoint": "GET /nothing"}])
def test_a_wrong_fault_prevents_the_start(fault: dict[str, str]) -> None:
    """By the name that is not known."""
    with pytest.raises(ValueError, match="nothing"):
        _start_with(Fault(kind="html", **fault))


def _start_with(fault: Fault) -> None:
    with running(Config(faults=(fault,))):
        pass
