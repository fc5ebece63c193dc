"""Envelopes, refusals, and bodies that nobody should send."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

Customer = Any

LONG = "x" * 1025

KEYS = {"httpStatus", "requestId"}


@pytest.mark.parametrize(("headers", "code"), [({}, "ATP_2"), ({"X-API-TOKEN": "other"}, "DCD_7")])
def test_a_call_without_the_token_is_401(
    shared: Customer, headers: dict[str, str], code: str
) -> None:
    """In an envelope, whatever the path."""
    answer = httpx.get(f"{shared.ready.url}/whoami", headers=headers, trust_env=False)
    assert answer.status_code == 401
    assert answer.json()["meta"]["httpStatus"] == "401 - Unauthorized"
    assert answer.json()["meta"]["error"]["errorCode"] == code


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/doesnotexist"),
        ("PATCH", "/whoami"),
        ("POST", "/mailinglists"),
        ("GET", "/mailinglists/ML_000000000000000/contacts"),
        ("GET", "/directories/POOL_000000000000000/frequencyrules"),
        ("GET", "/mailinglists"),
        ("GET", "/directories/POOL_000000000000000/samples"),
        ("GET", "/directories/POOL_000000000000000/segments/SEG_000000000000000/contacts"),
    ],
)
def test_an_unknown_or_gone_call_is_404(shared: Customer, method: str, path: str) -> None:
    """In the recorded words, and without a code."""
    assert shared.error(method, path) == (
        404,
        {"errorMessage": f"API call does not exist: {method} /API/v3{path}"},
    )


def test_a_trailing_slash_is_accepted(shared: Customer) -> None:
    """On reads and on writes."""
    assert shared.api.get("/whoami/").status_code == 200
    assert shared.api.post(f"{shared.lists}/", json={"name": "slashed"}).status_code == 200


def test_a_notice_of_another_data_centre_comes_with_every_answer(own: Customer) -> None:
    """With results and with errors, as recorded; and no longer when it is switched off."""
    notice = "Request proxied. For faster response times, use this host instead: az1.example.com"
    assert "notice" not in own.api.get("/whoami").json()["meta"]
    own.control("PUT", "settings", {"notice": notice})
    assert own.api.get("/whoami").json()["meta"].keys() == KEYS | {"notice"}
    refused = own.api.get("/distributions/EMD_000000000000000/history").json()["meta"]
    assert refused["notice"] == notice
    assert refused["error"]["errorMessage"] == "Distribution not found."
    own.control("PUT", "settings", {"notice": None})
    assert own.api.get("/whoami").json()["meta"].keys() == KEYS


def test_the_next_page_is_on_the_simulators_own_address(shared: Customer) -> None:
    """A client that follows it stays there, and comes to the end."""
    path = shared.mailing_list()
    made = [shared.add(path)[0] for _ in range(5)]
    seen = []
    url = f"{shared.ready.url}{path}/contacts?pageSize=2&includeEmbedded=true"
    while url:
        page = shared.api.get(url).json()["result"]
        seen += [one["contactId"] for one in page["elements"]]
        url = page["nextPage"]
        assert url is None or url.startswith(f"{shared.ready.url}{path}/contacts?")
    assert seen == made


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"contactLookupId": "CGC_1"}, "Unexpected json key provided: contactLookupId"),
        ({"transactionData": {}}, "Unexpected json key provided: transactionData"),
        ({"firstName": "x" * 201}, "length <= 200"),
        ({"extRef": LONG}, "length <= 1024"),
        ({"email": 5}, "Expected"),
        ({"unsubscribed": "false"}, "Expected `bool | null`, got `str`"),
        ({"embeddedData": {"a": True}}, "got `bool`"),
        ({"embeddedData": {"a": ["x"]}}, "got `array`"),
        ({"embeddedData": {"a": {"b": "c"}}}, "got `object`"),
        ({"embeddedData": {"x" * 201: "a"}}, "length <= 200"),
        ({"embeddedData": {"": "a"}}, "length >= 1"),
        ({"embeddedData": {"a": LONG}}, "length <= 1024"),
        ({"embeddedData": {"a": int("9" * 1025)}}, "Number too long"),
        ({"privateEmbeddedData": {"a": False}}, "got `bool`"),
        ([], "Expected `object`, got `array`"),
    ],
)
def test_a_list_contact_is_strict(shared: Customer, body: object, words: str) -> None:
    """Refused with 400, by name, and nothing is added."""
    path = shared.mailing_list()
    status, error = shared.error("POST", f"{path}/contacts", body)
    assert status == 400
    assert words in error["errorMessage"]
    assert shared.elements(f"{path}/contacts") == []


@pytest.mark.parametrize(
    "body",
    [
        {"contactLookupId": "CGC_000000000000000"},
        {"mailingListUnsubscribed": False},
        {"email": None},
        {"contactId": "CID_000000000000000"},
    ],
)
def test_a_put_of_what_was_read_is_refused(shared: Customer, body: dict[str, object]) -> None:
    """Keys that come with a contact do not go back with it."""
    path = shared.mailing_list()
    contact, _ = shared.add(path)
    assert shared.error("PUT", f"{path}/contacts/{contact}", body)[0] == 400


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "name"),
        ({"name": ""}, "length >= 1"),
        ({"name": "x" * 101}, "length <= 100"),
        ({"name": "x", "libraryId": "UR_1"}, "Unexpected json key provided: libraryId"),
    ],
)
def test_a_mailing_list_is_strict(shared: Customer, body: object, words: str) -> None:
    """The name is there and at most 100 characters."""
    status, error = shared.error("POST", shared.lists, body)
    assert status == 400
    assert words in error["errorMessage"]


@pytest.mark.parametrize(
    "query",
    ["pageSize=0", "pageSize=101", "pageSize=x", "pageSize=-1", "skipToken=zz", "a=1&" * 60],
)
def test_paging_is_strict(shared: Customer, query: str) -> None:
    """A size from 1 to 100, and tokens that were given out."""
    assert shared.error("GET", f"{shared.lists}?{query}")[0] == 400


HOSTILE = [
    b"",
    b"null",
    b"{",
    b"[" * 100_000,
    b'{"embeddedData":' * 100_000,
    b'{"email":"\xff\xfe"}',
    b'{"email":"\\ud800"}',
    b"\xef\xbb\xbf{}",
    b'{"embeddedData":{"a":' + b"9" * 5000 + b"}}",
    b'{"embeddedData":{"a":1e999}}',
    b'{"embeddedData":{"a":NaN}}',
    b'{"email":' + b'"x' * 100_000,
    b"\x00",
    b'{"filter":{"conjunction":"and","filters":[{}]}}',
    b'{"filter":{"filterType":["x"]}}',
    b'{"name":' + b"[" * 50_000,
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bodies_are_refused(
    shared: Customer, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """400 in an envelope from every write, and no traceback in the log."""
    path = shared.mailing_list()
    contact, _ = shared.add(path)
    with caplog.at_level(logging.WARNING):
        for method, target in (
            ("POST", f"{path}/contacts"),
            ("PUT", f"{path}/contacts/{contact}"),
            ("POST", shared.lists),
            ("POST", "/distributions"),
            ("POST", f"{shared.directory}/contacts/search"),
        ):
            answer = shared.api.request(method, target, content=body)
            assert answer.status_code == 400, (method, target)
            assert answer.json()["meta"]["httpStatus"] == "400 - Bad Request"
        for target in ("clock", "settings", "faults"):
            method = "POST" if target == "faults" else "PUT"
            answer = shared.web.request(method, f"/control/{target}", content=body)
            assert answer.status_code == 400, target
            assert answer.json().keys() == {"error"}
    assert caplog.records == []


def test_a_body_of_more_than_10_mb_is_413(shared: Customer) -> None:
    """In an envelope."""
    answer = shared.api.post(shared.lists, content=b" " * 11_000_000)
    assert answer.status_code == 413
    assert answer.json()["meta"]["httpStatus"].startswith("413 - ")


@pytest.mark.parametrize("text", ["\u0000", "\u2028", "😀", '<script>"&', "'; drop"])
def test_odd_text_goes_in_and_comes_out(shared: Customer, text: str) -> None:
    """What is text is kept as it is."""
    path = shared.mailing_list()
    contact, _ = shared.add(path, firstName=text, embeddedData={"a": text})
    found = shared.result("GET", f"{path}/contacts/{contact}")
    assert (found["firstName"], found["embeddedData"]) == (text, {"a": text})


def test_the_account_and_its_survey_are_described(own: Customer) -> None:
    """Who we are, which directory, and a definition that declares the fields it was told."""
    own.control("PUT", "settings", {"declared_fields": ["order"]})
    assert own.result("GET", "/whoami")["datacenter"] == "simulator"
    assert own.elements("/directories")[0]["directoryId"] == own.ready.directory_id
    definition = own.result("GET", f"/survey-definitions/{own.ready.survey_id}")
    assert definition["SurveyID"] == own.ready.survey_id
    assert definition["SurveyStatus"] == "Active"
    assert definition["BrandBaseURL"] == own.ready.origin
    assert [one["Field"] for one in definition["SurveyFlow"]["Flow"][0]["EmbeddedData"]] == [
        "order"
    ]
    assert definition["Questions"].keys() == {"QID1", "QID2", "QID3"}
    own.control("PUT", "settings", {"survey_active": False})
    assert own.elements("/surveys")[0]["isActive"] is False
    assert own.result("GET", f"/surveys/{own.ready.survey_id}")["isActive"] is False
    assert own.error("GET", "/survey-definitions/SV_000000000000000")[0] == 404
