"""Calls about completed responses: the recorded one is genuine, and no other form of it is."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.conftest import Recordings

from milepost.upstream.events import EventForged, EventNotice, EventUnreadable, verify

KEY = "a shared key"
RECORDING = "completed_response_hmac.json"


def signed(message: str, key: str = KEY) -> bytes:
    """A call with a good HMAC."""
    digest = hmac.new(key.encode(), message.encode(), hashlib.sha512).hexdigest()
    return urlencode({"HMAC": digest, "MSG": message, "Topic": "b.completedResponse"}).encode()


def as_sent(call: dict[str, Any]) -> dict[str, str]:
    """The fields of a recorded call, without the key."""
    return {name: value for name, value in call.items() if name != "key"}


def test_the_recorded_call_is_genuine(recorded: Recordings) -> None:
    """Its response can be asked for."""
    (call,) = recorded.read(RECORDING)
    notice = verify(urlencode(as_sent(call)).encode(), call["key"])
    assert notice.status == "Complete"
    assert notice.survey_id == call["Topic"].rpartition(".")[2]
    assert f'"ResponseID":"{notice.response_id}"' in call["MSG"]


def test_a_changed_byte_is_a_forgery(recorded: Recordings) -> None:
    """Any byte of the message, any half byte of the HMAC."""
    (call,) = recorded.read(RECORDING)
    fields, key = as_sent(call), call["key"]
    for place in range(len(fields["MSG"])):
        message = bytearray(fields["MSG"].encode())
        message[place] ^= 1
        with pytest.raises(EventForged):
            verify(urlencode(fields | {"MSG": bytes(message)}).encode(), key)
    for place, digit in enumerate(fields["HMAC"]):
        other = "0" if digit != "0" else "1"
        digest = fields["HMAC"][:place] + other + fields["HMAC"][place + 1 :]
        with pytest.raises(EventForged):
            verify(urlencode(fields | {"HMAC": digest}).encode(), key)


def test_another_key_is_a_forgery(recorded: Recordings) -> None:
    """Also one that begins the same; and an empty one proves nothing."""
    (call,) = recorded.read(RECORDING)
    body = urlencode(as_sent(call)).encode()
    with pytest.raises(EventForged):
        verify(body, call["key"] + "x")
    with pytest.raises(ValueError, match="empty key"):
        verify(body, "")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"MSG={}",
        b"HMAC=&MSG={}",
        b"HMAC=zz&MSG={}",
        b"HMAC=\xff&MSG={}",
        b"HMAC=00&MSG=%7B%7D&Topic=x",
        b'{"HMAC":"00","MSG":"{}"}',
        signed("{}") + b"&MSG=%7B%22x%22%3A1%7D",
        b"MSG=%7B%22x%22%3A1%7D&" + signed("{}"),
        signed("{}") + b"".join(b"&x%d=1" % number for number in range(10)),
        signed("{}").replace(b"MSG=", b"msg="),
    ],
)
def test_what_is_not_signed_is_not_looked_at(body: bytes) -> None:
    """Missing, malformed, said twice."""
    with pytest.raises(EventForged):
        verify(body, KEY)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "null",
        "{",
        "[" * 100_000,
        "{}",
        '{"SurveyID":"SV_000000000000000","Status":"Complete"}',
        '{"SurveyID":"SV_0","ResponseID":"R_000000000000000","Status":"Complete"}',
        '{"SurveyID":"SV_000000000000000","ResponseID":"R_../../whoami","Status":"Complete"}',
        '{"SurveyID":"SV_000000000000000","ResponseID":"R_000000000000000","Status":1}',
    ],
)
def test_a_genuine_call_of_another_form_is_told_apart(message: str) -> None:
    """The key is right, so somebody subscribed to something else, or the form has changed."""
    with pytest.raises(EventUnreadable):
        verify(signed(message), KEY)


def test_the_message_is_taken_as_it_was_signed() -> None:
    """Blanks, signs and letters outside ASCII stay the bytes that they were."""
    message = (
        '{"Status":"a+b &=ü","SurveyID":"SV_000000000000000","ResponseID":"R_000000000000000"}'
    )
    expected = EventNotice(
        status="a+b &=ü", survey_id="SV_000000000000000", response_id="R_000000000000000"
    )
    digest = hmac.new(KEY.encode(), message.encode(), hashlib.sha512).hexdigest()
    assert expected == verify(signed(message), KEY)
    body = f"Topic=t&MSG={quote_plus(message)}&HMAC={digest.upper()}"
    assert expected == verify(body.encode(), KEY)


@given(st.binary(max_size=300))
def test_any_body_is_a_forgery(body: bytes) -> None:
    """Nothing that arrives ends in another error."""
    with pytest.raises(EventForged):
        verify(body, KEY)
