"""Imports: many contacts in one call, in the background; and those who opted out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

Customer = Any
Start = Any


def _people(count: int, start: int = 0) -> list[dict[str, object]]:
    return [
        {"extRef": f"r{number}", "email": f"r{number}@example.com"}
        for number in range(start, start + count)
    ]


def _start(customer: Customer, path: str, contacts: list[dict[str, object]]) -> dict[str, Any]:
    body = {"contacts": contacts}
    started: dict[str, Any] = customer.result("POST", f"{path}/transactioncontacts", body)
    return started


def _progress(customer: Customer, path: str, started: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = customer.result("GET", f"{path}/transactioncontacts/{started['id']}")
    return found


def _until(customer: Customer, path: str, started: dict[str, Any], percent: int) -> dict[str, Any]:
    give_up = time.monotonic() + 10
    while (found := _progress(customer, path, started))["percentComplete"] < percent:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    return found


def test_contacts_are_brought_into_a_list(shared: Customer) -> None:
    """Counted as added, updated and failed; the lookup ids are in the list."""
    path = shared.mailing_list()
    shared.add(path, extRef="r1", email="r1@example.com")
    people = _people(250)
    people[7]["embeddedData"] = {"n": int("9" * 1025)}
    people[8] |= {"firstName": "Ada", "language": "de", "embeddedData": {"seat": "7"}}
    started = _start(shared, path, people)
    assert started["id"].startswith("PGRS_")
    assert started["tracking"]["url"].endswith(f"{path}/transactioncontacts/{started['id']}")
    found = _progress(shared, path, started)
    assert (found["percentComplete"], found["status"]) == (100, "complete")
    assert found["contacts"]["count"] == {"added": 248, "updated": 1, "failed": 1}
    first = shared.elements(f"{path}/contacts?includeEmbedded=true")
    assert len(first) == 100
    ada = next(one for one in first if one["extRef"] == "r8")
    assert (ada["firstName"], ada["embeddedData"]) == ("Ada", {"seat": "7"})
    assert ada["contactLookupId"].startswith("CGC_")


def test_an_import_brings_transactions_along(shared: Customer) -> None:
    """One for each contact who has data, in the batch named, with the fields that count."""
    path = shared.mailing_list()
    batch = shared.result("POST", f"{shared.directory}/transactionbatches")["id"]
    people = _people(3, 800)
    people[0]["transactionData"] = {"order": "7", "secret": "x"}
    people[2]["transactionData"] = {"order": 8}
    body = {"contacts": people, "transactionMeta": {"batchId": batch, "fields": ["order"]}}
    started = shared.result("POST", f"{path}/transactioncontacts", body)
    found = _progress(shared, path, started)
    assert found["transactions"] == {"count": {"created": 2}}
    assert found["contacts"]["count"]["added"] == 3
    entries = shared.elements(f"{shared.directory}/transactionbatches/{batch}/transactions")
    assert [one["data"] for one in entries] == [{"order": "7"}, {"order": "8"}]
    assert {one["mailingListId"] for one in entries} == {path.rsplit("/", 1)[1]}
    body["transactionMeta"] = {"batchId": "BT_000000000000000"}
    assert shared.error("POST", f"{path}/transactioncontacts", body)[0] == 404


def test_an_import_takes_its_time(own: Customer) -> None:
    """By the account's clock: contacts come in bit by bit, and the rest when it is set ahead."""
    own.control("PUT", "settings", {"facts": {"import_seconds": 3600}})
    path = own.mailing_list()
    started = _start(own, path, _people(100))
    assert started["status"] == "inProgress"
    found = _progress(own, path, started)
    assert (found["percentComplete"], found["status"]) == (0, "inProgress")
    own.control("PUT", "clock", {"advance_seconds": 1810})
    found = _until(own, path, started, 50)
    assert found["percentComplete"] < 60
    assert 50 <= len(own.elements(f"{path}/contacts")) < 60
    own.control("PUT", "clock", {"advance_seconds": 1800})
    assert _until(own, path, started, 100)["contacts"]["count"]["added"] == 100


def test_a_list_has_one_import_at_a_time(own: Customer) -> None:
    """Another list may have its own; when the first is done the next may come."""
    own.control("PUT", "settings", {"facts": {"import_seconds": 60}})
    path, other = own.mailing_list(), own.mailing_list()
    started = _start(own, path, _people(10))
    status, error = own.error("POST", f"{path}/transactioncontacts", {"contacts": _people(1)})
    assert (status, error["errorMessage"]) == (
        409,
        "An import into this mailing list is in progress",
    )
    _start(own, other, _people(10))
    own.control("PUT", "clock", {"advance_seconds": 61})
    _until(own, path, started, 100)
    _start(own, path, _people(10))


def test_an_import_goes_on_after_a_restart(start: Start, tmp_path: Path) -> None:
    """At the contact where it was; none comes in twice."""
    files = {"state": tmp_path / "state", "journal": tmp_path / "journal"}
    before = start(**files, facts={"import_seconds": 1000})
    path = before.mailing_list()
    started = _start(before, path, _people(40))
    before.control("PUT", "clock", {"advance_seconds": 500})
    _until(before, path, started, 50)
    before.stop()
    after = start(**files)
    after.control("PUT", "clock", {"advance_seconds": 600})
    assert _until(after, path, started, 100)["contacts"]["count"]["added"] == 40
    assert len(after.elements(f"{path}/contacts")) == 40
    entries = after.control("GET", "journal")["entries"]
    assert {"import.advance"} == {one["operation"] for one in entries}


def test_an_import_waits_where_the_clock_was_set_back(start: Start, tmp_path: Path) -> None:
    """Also after a restart: it has brought in more than is due, and none goes out again."""
    before = start(state=tmp_path / "state", facts={"import_seconds": 1000})
    path = before.mailing_list()
    started = _start(before, path, _people(40))
    before.control("PUT", "clock", {"advance_seconds": 500})
    _until(before, path, started, 50)
    before.control("PUT", "clock", {"advance_seconds": -300})
    before.stop()
    after = start(state=tmp_path / "state")
    after.add(path)
    (entry,) = after.control("GET", "journal")["entries"]
    assert entry["operation"] == "list_contact.add"
    after.control("PUT", "clock", {"advance_seconds": 900})
    assert _until(after, path, started, 100)["contacts"]["count"]["added"] == 40


def test_the_contacts_of_a_deleted_list_fail(own: Customer) -> None:
    """The import ends, and the list stays away."""
    own.control("PUT", "settings", {"facts": {"import_seconds": 60}})
    path = own.mailing_list()
    started = _start(own, path, _people(10))
    own.result("DELETE", path)
    own.control("PUT", "clock", {"advance_seconds": 61})
    give_up = time.monotonic() + 10
    while own.control("GET", "journal")["entries"][-1]["operation"] != "import.advance":
        assert time.monotonic() < give_up
        time.sleep(0.01)
    assert own.error("GET", f"{path}/transactioncontacts/{started['id']}")[0] == 404
    assert own.control("GET", "stats")["held"]["contacts"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"contacts": []},
        {"contacts": [{}] * 10_001},
        {"contacts": [{"mailinglist": "x"}]},
        {"contacts": [{"privateEmbeddedData": {"a": "b"}}]},
        {"contacts": [{"email": 5}]},
        {"contacts": [{}], "unknown": 1},
    ],
    ids=range(7),
)
def test_an_import_is_strict(shared: Customer, body: object) -> None:
    """What is not understood is refused as a whole, and nobody comes in."""
    path = shared.mailing_list()
    assert shared.error("POST", f"{path}/transactioncontacts", body)[0] == 400
    assert shared.elements(f"{path}/contacts") == []


def test_an_unknown_import_is_404(shared: Customer) -> None:
    """Of this list, not of another; and the summary is gone."""
    path, other = shared.mailing_list(), shared.mailing_list()
    started = _start(shared, path, _people(1, 900))
    for target in (
        f"{other}/transactioncontacts/{started['id']}",
        f"{path}/transactioncontacts/PGRS_000000000000000",
        f"{path}/transactioncontacts/{started['id']}/summary",
    ):
        assert shared.error("GET", target)[0] == 404


def test_who_opted_out_is_listed(own: Customer) -> None:
    """Of the directory and of a list, page by page."""
    path, other = own.mailing_list(), own.mailing_list()
    for number in range(5):
        own.add(path, extRef=f"p{number}", unsubscribed=number % 2 == 1)
    own.add(other, extRef="elsewhere", unsubscribed=True)
    everybody = f"{own.directory}/contacts/optedOutContacts"
    page = own.result("GET", f"{everybody}?pageSize=2")
    rest = own.api.get(page["nextPage"]).json()["result"]
    found = [one["extRef"] for one in page["elements"] + rest["elements"]]
    assert found == ["p1", "p3", "elsewhere"]
    assert rest["nextPage"] is None
    assert {one["directoryUnsubscribed"] for one in page["elements"]} == {True}
    listed = own.elements(f"{path}/contacts/optedOutContacts")
    assert [one["extRef"] for one in listed] == ["p1", "p3"]
    assert listed[0]["contactLookupId"].startswith("CGC_")
