"""The platform's calls to us when a response is completed: is one genuine, and what does it tell?

The body is a form, `HMAC=<hex>&MSG=<json>&Topic=…`. The HMAC is made with SHA-512 and the key that
was given with the subscription, over `MSG` as it reads once the form's encoding is undone
(observed: it agrees with a recording, byte for byte). `Topic` is not under it, so nothing is taken
from there.

The key proves who wrote the message and not when: a genuine one may be sent again by whoever saw
it. What follows from it must therefore do no harm when it is done twice, and nothing in it is
believed about a person: it names a response, which is then read with our own token.
"""

from __future__ import annotations

import hmac
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct

from milepost.errors import MilepostError
from milepost.upstream.wire import ResponseId, SurveyId, Text


class EventRejected(MilepostError):
    """A call that is not acted on."""


class EventForged(EventRejected):
    """No good HMAC: whoever sent it does not know the key. Nothing in it was looked at."""


class EventUnreadable(EventRejected):
    """It has a good HMAC and does not tell of a response: another topic's, or another form."""


class EventNotice(Struct, frozen=True, kw_only=True):
    """That a survey has a response (observed). There is no contact in it.

    The moment in it, `CompletedDate`, is left out: it names no zone, and which one it means is not
    known.

    Attributes:
        status: `Complete` in the recording; which other words there are is not known.
    """

    survey_id: SurveyId = msgspec.field(name="SurveyID")
    response_id: ResponseId = msgspec.field(name="ResponseID")
    status: Text = msgspec.field(name="Status")


# More fields than these make it another form, and a long list of them work for whoever sends it.
_FIELDS: Final = 8

_decode: Final = msgspec.json.Decoder(EventNotice).decode


def verify(body: bytes, key: str) -> EventNotice:
    """Read a completed-response call, if it was made with `key`.

    It takes as long for a wrong HMAC as for a good one. The caller bounds the length of the body.

    Args:
        body: The request's body as it came, form-encoded.
        key: The shared key of the subscription.

    Raises:
        EventForged: The HMAC is missing, malformed or of another key or message.
        EventUnreadable: It is genuine, and no completed response.
        ValueError: The key is empty, which everybody knows.
    """
    if not key:
        raise ValueError("an empty key proves nothing")
    form = _form(body)
    message = form.get(b"MSG", b"")
    try:
        claimed = bytes.fromhex(form.get(b"HMAC", b"").decode("ascii"))
    except ValueError:
        claimed = b""
    if not hmac.compare_digest(claimed, hmac.digest(key.encode(), message, "sha512")):
        raise EventForged("the HMAC of an event call is missing or wrong")
    try:
        return _decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise EventUnreadable("an event call does not tell of a completed response") from None


def _form(body: bytes) -> dict[bytes, bytes]:
    """The fields of a form, as bytes: to decode and encode the message again could change it.

    A field that stands twice is as good as missing: which of the two is meant, nobody knows.
    """
    fields: dict[bytes, bytes] = {}
    pairs = body.split(b"&", _FIELDS)
    if len(pairs) > _FIELDS:
        return {}
    for pair in pairs:
        name, _, value = pair.partition(b"=")
        if name in fields:
            return {}
        fields[name] = unquote_to_bytes(value.replace(b"+", b" "))
    return fields
