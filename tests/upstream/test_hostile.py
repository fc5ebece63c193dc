"""Answers that nobody would send in good faith: whatever comes, an error of ours or clean values.

The bodies are good ones with a few things done to them, drawn from a seed: a failure names the
number of its case, which alone brings it back.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from copy import deepcopy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from milepost.upstream import CallFailed, ContactFields, TransactionFields, Upstream

if TYPE_CHECKING:
    from conftest import Origin

CASES: Final = 5_000
DIRECTORY, LIST, CONTACT = "POOL_c9fECNlRx3FGcmg", "CG_uIYRlWWzEm0kWtl", "CID_9Jkl8ZA9qOnOc46"
LOOKUP, SURVEY, RESPONSE = "CGC_84eTRcYZ0Oau98P", "SV_yxgJYWKCmDogBXz", "R_1l9mcVuXubb4aGm"
DISTRIBUTION, TRANSACTION = "EMD_SN74IhsDHkP3g6f", "CTR_uPc2GccLXvRjZl9"
BATCH, IMPORT, SUBSCRIPTION = "BT_fh2Ku3oXgkxV1aR", "PGRS_kD3pWuQ9xVb2NsT", "SUB_3XRZ4meJaUlhgGP"
NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
ADA = ContactFields(first_name="Ada", ref="r-1")
LINK = f"https://b.example.com/jfe/form/{SURVEY}?Q_CHL=gl&Q_DL={DISTRIBUTION}_x"

PERSON = {
    "contactId": CONTACT,
    "contactLookupId": LOOKUP,
    "extRef": "r-1",
    "email": "ada@example.com",
    "firstName": "Ada",
    "unsubscribed": False,
    "embeddedData": {"tier": "gold", "visits": 3},
    "mailingListMembership": {LIST: {"contactLookupId": LOOKUP}},
}
PURCHASE = {
    "transactionId": TRANSACTION,
    "contactId": CONTACT,
    "mailingListId": LIST,
    "transactionDate": "2026-12-01 11:00:30",
    "data": {"amount": "5"},
}
STATS = dict.fromkeys(["sent", "failed", "started", "bounced", "opened", "skipped"], 1) | (
    dict.fromkeys(["finished", "complaints", "blocked"], 1)
)
DISTRIBUTED = {"id": DISTRIBUTION, "recipients": {"mailingListId": LIST}, "stats": STATS}


def page(element: object) -> object:
    """A page that is the last one."""
    return {"elements": [element], "nextPage": None}


GOOD: Final[Mapping[str, object]] = {
    "whoami": {"brandId": "brand", "userId": "UR_1", "datacenter": "fra1"},
    "directories": page(
        {"directoryId": DIRECTORY, "isDefault": True, "deduplicationCriteria": {"email": True}}
    ),
    "mailing_lists": page({"mailingListId": LIST, "name": "milepost"}),
    "mailing_list": {"mailingListId": LIST, "name": "milepost"},
    "create_mailing_list": {"id": LIST},
    "add_list_contact": {"id": CONTACT, "contactLookupId": LOOKUP},
    "list_contacts": page(PERSON),
    "list_contact_pages": page(PERSON),
    "get_list_contact": PERSON,
    "get_contact": PERSON,
    "search_contacts": page(PERSON),
    "opted_out_pages": page({"id": CONTACT, "extRef": "r-1"}),
    "start_import": {"id": IMPORT, "status": "inProgress"},
    "import_progress": {"percentComplete": 50.0, "contacts": {"count": {"added": 1}}},
    "create_transactions": {
        "createdTransactions": {"k1": {"id": TRANSACTION}},
        "unprocessedTransactions": {"k2": {"error": "X_1", "errorMessage": "no"}},
    },
    "transaction": PURCHASE,
    "contact_transactions": page(PURCHASE),
    "create_batch": {"id": BATCH},
    "batch_transactions": page({"transactionId": TRANSACTION}),
    "create_distribution": {"id": DISTRIBUTION},
    "distribution": DISTRIBUTED,
    "distributions": page(DISTRIBUTED),
    "distribution_links": page(
        {"contactId": CONTACT, "link": LINK, "linkExpiration": "2026-12-01T11:00:30Z"}
    ),
    "history": page(
        {
            "contactLookupId": LOOKUP,
            "responseId": RESPONSE,
            "status": "SurveyFinished",
            "surveyLink": LINK,
        }
    ),
    "surveys": page({"id": SURVEY, "name": "After the visit", "isActive": True}),
    "survey_definition": {
        "SurveyStatus": "Active",
        "BrandBaseURL": "https://b.example.com",
        "SurveyOptions": {"SurveyProtection": "ByInvitation"},
        "SurveyFlow": {
            "Type": "Root",
            "Flow": [{"Type": "EmbeddedData", "EmbeddedData": [{"Field": "venue"}]}],
        },
    },
    "response": {"values": {"finished": 1, "venue": "Halle 7", "QID2": ["a", {"b": None}]}},
    "subscriptions": page(
        {"id": SUBSCRIPTION, "topics": "x", "publicationUrl": "https://m.example.com"}
    ),
    "create_subscription": {"id": SUBSCRIPTION},
}


def asking(upstream: Upstream, verb: str) -> Awaitable[object]:
    """Call a verb with arguments that are good."""
    fields = TransactionFields(contact_id=CONTACT, list_id=LIST, at=NOON, data={})
    arguments: Mapping[str, tuple[object, ...]] = {
        "whoami": (),
        "directories": (),
        "mailing_lists": (DIRECTORY,),
        "create_mailing_list": (DIRECTORY, "x"),
        "add_list_contact": (DIRECTORY, LIST, ADA),
        "get_list_contact": (DIRECTORY, LIST, CONTACT),
        "get_contact": (DIRECTORY, CONTACT),
        "opted_out_pages": (DIRECTORY,),
        "start_import": (DIRECTORY, LIST, [ADA]),
        "import_progress": (DIRECTORY, LIST, IMPORT),
        "create_transactions": (DIRECTORY, {"k1": fields, "k2": fields}),
        "transaction": (DIRECTORY, TRANSACTION),
        "contact_transactions": (DIRECTORY, CONTACT),
        "create_batch": (DIRECTORY,),
        "batch_transactions": (DIRECTORY, BATCH),
        "create_distribution": (SURVEY, LIST, "x", NOON),
        "distribution": (DISTRIBUTION, SURVEY),
        "distributions": (SURVEY,),
        "distribution_links": (DISTRIBUTION, SURVEY),
        "history": (DISTRIBUTION,),
        "surveys": (),
        "survey_definition": (SURVEY,),
        "response": (SURVEY, RESPONSE),
        "subscriptions": (),
        "create_subscription": ("x", "https://m.example.com", "k"),
    }
    named = {"ref": "r-1"} if verb == "search_contacts" else {}
    usual = (DIRECTORY,) if verb == "search_contacts" else (DIRECTORY, LIST)
    answer = getattr(upstream, verb)(*arguments.get(verb, usual), **named)
    return _all(answer) if isinstance(answer, AsyncIterator) else answer


async def _all(elements: AsyncIterator[object]) -> list[object]:
    return [element async for element in elements]


# --- what is done to a good answer ----------------------------------------------------------------

JUNK: Final[tuple[object, ...]] = (
    None,
    True,
    -1,
    0,
    1e300,
    10**40,
    "",
    "x",
    "\0",
    "a\0b",
    "\N{RIGHT-TO-LEFT OVERRIDE}",
    "../../whoami",
    "CID_\n12345678901234",
    "CGC_short",
    "CGC_84eTRcYZ0Oau98P\n",
    "CGC_84eTRcYZ0Oau98é",
    "2026-13-45T99:99:99Z",
    "0000-00-00 00:00:00",
    "https://hostile.example/?skipToken=a&skipToken=b",
    "https://hostile.example/?skipToken=" + "a" * 5_000,
    "https://hostile.example/?skipToken=a&" + "b&" * 5_000,
    "https://hostile.example:99999/?skipToken=%00%ff",
    "http://[::1/?skipToken=1",
    "?skipToken=7&offset=7",
    "z" * 20_000,
    [],
    {},
    [[[[]]]],
    {"id": {"id": {"id": None}}},
    {"\0": "\0"},
)


def places(value: object) -> list[tuple[dict[str, object] | list[object], str | int]]:
    """Every place inside a value at which something stands."""
    found: list[tuple[dict[str, object] | list[object], str | int]] = []
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as inner:
                found += [(inner, key) for key in inner]
                waiting += inner.values()
            case list() as inner:
                found += [(inner, index) for index in range(len(inner))]
                waiting += inner
    return found


def change(dice: random.Random, body: dict[str, object]) -> None:
    """Take something out of a value, or put something in."""
    where, key = dice.choice(places(body))
    junk = deepcopy(dice.choice(JUNK))
    match dice.randrange(6):
        case 0 if isinstance(where, dict):
            del where[str(key)]
        case 1 if isinstance(where, dict):
            where[dice.choice(["x", "", "\0", "id", "nextPage", "error"])] = junk
        case 2:
            copies = [deepcopy(where[key]) for _ in range(dice.choice([0, 2, 20]))]  # type: ignore[index]
            where[key] = copies  # type: ignore[index]
        case _:
            where[key] = junk  # type: ignore[index]


def damaged(dice: random.Random, text: bytes) -> bytes:
    """Now and then, what is no JSON any more."""
    match dice.randrange(20):
        case 0:
            return text[: dice.randrange(len(text))]
        case 1:
            at = dice.randrange(len(text))
            return text[:at] + dice.randbytes(dice.randrange(1, 9)) + text[at + 1 :]
        case 2:
            return text.replace(b'"', dice.choice([b'\\ud800"', b"'", b'"\\u0000']), 3)
        case 3:
            return dice.choice([b"", b"null", b"[]", b"NaN", b"[" * 99_999, b"<html>", b"\xff\xfe"])
        case _:
            return text


def spoilt(dice: random.Random, result: object) -> bytes:
    """The whole answer, head and body, with something wrong about it."""
    meta = {"httpStatus": "200 - OK", "requestId": "r", "notice": None}
    body: dict[str, object] = {"result": result, "meta": meta}
    for _ in range(dice.choice([1, 1, 1, 2, 5])):
        if body:
            change(dice, body)
    text = damaged(dice, json.dumps(body, ensure_ascii=dice.random() < 0.5).encode())
    status = dice.choice([200, 200, 200, 200, 200, 200, 201, 204, 302, 400, 404, 429, 500])
    headers = dice.choice(["", "", "Retry-After: -1\r\n", "Date: never\r\n", "X: \xff\r\n"])
    if status == 204:
        return f"HTTP/1.1 204 x\r\n{headers}\r\n".encode("latin-1")
    head = f"HTTP/1.1 {status} x\r\n{headers}Content-Length: {len(text)}\r\n\r\n"
    return head.encode("latin-1") + text


# --- what may come of it --------------------------------------------------------------------------

_IDS: Final = {
    "directory_id": "POOL",
    "list_id": "CG",
    "contact_id": "CID|MLRP",
    "lookup_id": "CGC|CTR|MLRP",
    "distribution_id": "EMD",
    "transaction_id": "CTR",
    "survey_id": "SV",
    "response_id": "R",
    "subscription_id": "SUB",
}
_RETURNED: Final = {
    "create_mailing_list": "CG",
    "start_import": "PGRS",
    "create_batch": "BT",
    "batch_transactions": "CTR",
    "create_distribution": "EMD",
    "create_subscription": "SUB",
}


def is_id(prefix: str, text: object) -> bool:
    """Whether it is an id of one of these kinds."""
    return isinstance(text, str) and bool(re.fullmatch(rf"(?:{prefix})_[0-9A-Za-z]{{15}}", text))


def check(value: object) -> None:
    """Nothing in a returned value could break what it is put into."""
    match value:
        case str():
            assert "\0" not in value
            value.encode()
        case dict() | list() | tuple() | frozenset():
            for inner in [*value, *(value.values() if isinstance(value, dict) else ())]:
                check(inner)
        case datetime():
            value.astimezone(UTC)
        case msgspec.Struct():
            for name in value.__struct_fields__:
                check(getattr(value, name))
            for name, prefix in _IDS.items():
                found = getattr(value, name, None)
                # A list of a distribution may be one of the old API's: it is compared, not sent.
                if found is not None and (name, type(value).__name__[-12:]) != (
                    "list_id",
                    "Distribution",
                ):
                    assert is_id(prefix, found), (name, found)


@pytest.fixture
async def hostile(origin: Origin) -> Callable[[Upstream, int], Awaitable[str]]:
    """Live through one case; says what came of it."""
    verbs = list(GOOD)

    async def live(upstream: Upstream, number: int) -> str:
        """One verb, one spoilt answer."""
        dice = random.Random(number)  # noqa: S311 -- reproducible, not secret
        verb = verbs[number % len(verbs)]
        result = json.loads(json.dumps(GOOD[verb]))
        answer = spoilt(dice, result)
        origin.answers = [answer]
        origin.seen.clear()
        try:
            found = await asking(upstream, verb)
        except CallFailed as error:
            check([str(error), error.upstream_message])
            return type(error).__name__
        check(found)
        if verb in _RETURNED:
            for text in found if isinstance(found, list) else [found]:
                assert is_id(_RETURNED[verb], text)
        return "well"

    return live


async def test_hostile_bodies_crash_nothing_and_leave_no_junk(
    origin: Origin, hostile: Callable[[Upstream, int], Awaitable[str]]
) -> None:
    """Thousands of answers, each to one verb; good values come through in between."""
    came: dict[str, int] = {}
    async with Upstream(origin.url, "t", deadline=5, max_connections=1) as upstream:
        for number in range(CASES):
            try:
                outcome = await hostile(upstream, number)
            except (Exception, asyncio.CancelledError) as error:
                raise AssertionError(f"case {number}") from error
            came[outcome] = came.get(outcome, 0) + 1
        assert all(notice.isprintable() and len(notice) <= 200 for notice in upstream.notices)
        assert len(upstream.notices) <= 16
    assert came.keys() == {
        "well",
        "Refused",
        "NotFound",
        "Throttled",
        "UnknownOutcome",
        "Unavailable",
        "Unreadable",
    }
    assert min(came.values()) >= 50, came
