"""What a call ends with when the network or the far side fails, over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest

from milepost.errors import ConfigurationError
from milepost.upstream import (
    AddedContact,
    CallFailed,
    ContactFields,
    Forbidden,
    NotFound,
    Refused,
    Throttled,
    Unauthorized,
    Unavailable,
    UnknownOutcome,
    Unreachable,
    Unreadable,
    Upstream,
    client,
    counting,
)
from milepost.upstream.call import Caller, Request, longest_pause, retry_after
from milepost.upstream.wire import Bare

if TYPE_CHECKING:
    from conftest import Answer, Origin

DIRECTORY, LIST = "POOL_c9fECNlRx3FGcmg", "CG_uIYRlWWzEm0kWtl"
ADA = ContactFields(first_name="Ada", email="ada@example.com", ref="r-1")
ADDED = {"id": "CID_e25ZlqSlIr2GWpp", "contactLookupId": "CGC_e25ZlqSlIr2GWpp"}
ACCOUNT = {"brandId": "brand", "userId": "UR_1", "datacenter": "fra1"}
NO_ENVELOPES = [
    b"",
    b"<html>403</html>",
    b"{",
    b"[]",
    b"{}",
    b'{"meta":null}',
    b'{"meta":{}}',
    b'{"meta":{"error":null,"requestId":"b6212545"}}',
    b'{"meta":{"httpStatus":403}}',
    b'{"error":"slow down"}',
]

# The cause that a write's `UnknownOutcome` names, and whether a read calls it `Unavailable`.
CAUSES = {
    "silence": ("deadline", True),
    "trickle": ("deadline", True),
    "reset": ("disconnected", True),
    "hang up": ("disconnected", True),
    "HTML": ("not-json", True),
    "empty": ("not-json", True),
    "cut JSON": ("not-json", True),
    "cut body": ("deadline", True),
    "deep JSON": ("not-json", True),
    "not UTF-8": ("not-json", True),
    "encoded": ("not-json", True),
    "not HTTP": ("disconnected", True),
    "500": ("status", True),
    "502 HTML": ("status", True),
    "503": ("status", True),
    "408": ("status", True),
    "oversize": ("oversize", False),
    "redirect": ("redirect", False),
    "no result": ("no-result", False),
    "result of another type": ("no-result", False),
    "error in a 200": ("no-result", False),
}


async def add(upstream: Upstream) -> AddedContact:
    """The call whose outcome matters most."""
    return await upstream.add_list_contact(DIRECTORY, LIST, ADA)


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port where nobody accepts and no connection can be made any more."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)  # noqa: FBT003 -- the socket's own signature
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_every_fault_has_its_expectation(faults: dict[str, Answer]) -> None:
    """No fault is served that no test asks about."""
    assert CAUSES.keys() == faults.keys()


@pytest.mark.parametrize("fault", CAUSES)
async def test_a_write_that_was_sent_and_not_answered_is_unknown_and_sent_once(
    fault: str, faults: dict[str, Answer], origin: Origin, upstream: Upstream
) -> None:
    """Whatever comes instead of the wanted answer, a write is never repeated nor called failed."""
    origin.answers = [faults[fault]]
    with counting() as calls, pytest.raises(UnknownOutcome) as caught:
        await add(upstream)
    assert CAUSES[fault][0] == caught.value.cause
    assert (len(origin.seen), calls.count) == (1, 1)


@pytest.mark.parametrize("fault", CAUSES)
async def test_a_read_is_tried_again_only_where_that_may_help(
    fault: str, faults: dict[str, Answer], origin: Origin, upstream: Upstream
) -> None:
    """A gateway's page or a broken connection is tried again, an answer of another shape is not."""
    cause, passing = CAUSES[fault]
    origin.answers = [faults[fault], origin.ok(ACCOUNT)]
    if not passing:
        with pytest.raises(Unreadable) as caught:
            await upstream.whoami()
        assert (cause, 1) == (caught.value.cause, len(origin.seen))
    elif cause == "deadline":
        with pytest.raises(Unavailable) as missed:
            await upstream.whoami()
        assert (cause, 1) == (missed.value.cause, len(origin.seen))
    else:
        account = await upstream.whoami()
        assert (account.user_id, len(origin.seen)) == ("UR_1", 2)


async def test_a_read_gives_up_after_three_tries(origin: Origin) -> None:
    """The last failure is what the caller is told, and each try counts as a call."""
    origin.answers = [origin.error(503, None, "busy")]
    async with Upstream(origin.url, "t", deadline=10) as upstream:
        with counting() as calls, pytest.raises(Unavailable) as caught:
            await upstream.whoami()
    assert (len(origin.seen), calls.count, caught.value.http_status) == (3, 3, 503)


async def test_an_outage_brings_a_tenth_more_reads_not_three_times_as_many(
    origin: Origin,
) -> None:
    """A reserve of ten tries again is spent first, and earned back by reads that come."""
    origin.answers = [origin.raw(502, b"")]
    async with Upstream(origin.url, "t", deadline=10) as upstream:
        for _ in range(100):
            with pytest.raises(Unavailable):
                await upstream.whoami()
        in_the_outage = len(origin.seen)
        origin.answers = [origin.ok(ACCOUNT)]
        for _ in range(20):
            await upstream.whoami()
        before = len(origin.seen)
        origin.answers = [origin.raw(502, b"")]
        with pytest.raises(Unavailable):
            await upstream.whoami()
    assert 100 + 10 < in_the_outage <= 100 + 10 + 10
    assert len(origin.seen) - before == 3


async def test_a_long_calm_saves_up_no_more_than_the_reserve(
    origin: Origin,
) -> None:
    """The first minute of an outage would bring all of it back at once."""
    origin.answers = [origin.ok(ACCOUNT)]
    async with Upstream(origin.url, "t", deadline=10) as upstream:
        for _ in range(150):
            await upstream.whoami()
        calm = len(origin.seen)
        origin.answers = [origin.raw(502, b"")]
        for _ in range(30):
            with pytest.raises(Unavailable):
                await upstream.whoami()
    assert 30 + 10 <= len(origin.seen) - calm <= 30 + 10 + 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Refused), (401, Unauthorized), (403, Forbidden), (404, NotFound), (413, Refused)],
)
async def test_a_4xx_is_a_definite_refusal_of_reads_and_writes(
    status: int, kind: type[Refused], origin: Origin, upstream: Upstream
) -> None:
    """Nothing was changed, nothing is tried again, and the platform's code is kept."""
    origin.answers = [origin.error(status, "PACC_6", "no")]
    for call in (add(upstream), upstream.whoami()):
        with pytest.raises(kind) as caught:
            await call
        assert kind is type(caught.value)
        assert (status, "PACC_6") == (caught.value.http_status, caught.value.error_code)
    assert len(origin.seen) == 2


@pytest.mark.parametrize(
    "meta", [{"httpStatus": "403 - Forbidden"}, {"error": {}}, {"error": {"errorCode": "X_1"}}]
)
async def test_half_an_envelope_is_the_platforms_word(
    meta: dict[str, object], origin: Origin, upstream: Upstream
) -> None:
    """Parts of it have been seen missing, so one of its two marks is enough."""
    origin.answers = [origin.raw(403, json.dumps({"meta": meta}).encode())]
    with pytest.raises(Forbidden):
        await add(upstream)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429])
@pytest.mark.parametrize("body", NO_ENVELOPES)
async def test_a_4xx_without_the_platforms_envelope_tells_nothing_of_a_write(
    body: bytes, status: int, origin: Origin, upstream: Upstream
) -> None:
    """Who said it may have passed the call on before: it is neither repeated nor called failed."""
    origin.answers = [origin.raw(status, body, "Retry-After: 1")]
    with counting() as calls, pytest.raises(UnknownOutcome) as caught:
        await add(upstream)
    assert ("no-envelope", status) == (caught.value.cause, caught.value.http_status)
    assert (len(origin.seen), calls.count) == (1, 1)


@pytest.mark.parametrize("status", [401, 403, 404, 429])
@pytest.mark.parametrize("body", NO_ENVELOPES)
async def test_a_4xx_without_the_platforms_envelope_is_no_answer_to_a_read(
    body: bytes, status: int, origin: Origin
) -> None:
    """Least of all is it the platform's word that there is no such thing."""
    origin.answers = [origin.raw(status, body), origin.ok(ACCOUNT)]
    async with Upstream(origin.url, "t", deadline=10) as upstream:
        await upstream.whoami()
        assert len(origin.seen) == 2
        origin.answers = [origin.raw(status, body)]
        with pytest.raises(Unavailable) as caught:
            await upstream.whoami()
    assert ("no-envelope", status) == (caught.value.cause, caught.value.http_status)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        (["Retry-After: 7"], 7.0),
        (["Retry-After: 0.25"], 0.25),
        (
            [
                "Date: Mon, 23 Nov 2026 10:00:00 GMT",
                "Retry-After: Mon, 23 Nov 2026 10:01:30 GMT",
            ],
            90.0,
        ),
        (["Retry-After: soon"], None),
    ],
)
async def test_throttling_is_a_refusal_that_says_how_long(
    headers: list[str], seconds: float | None, origin: Origin, upstream: Upstream
) -> None:
    """A 429 is not tried again here, neither for a write nor for a read."""
    origin.answers = [origin.error(429, None, "slow down", *headers)]
    for call in (add(upstream), upstream.whoami()):
        with pytest.raises(Throttled) as caught:
            await call
        assert seconds == caught.value.retry_after
    assert len(origin.seen) == 2


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("-1", None, None),
        ("nan", None, None),
        ("1e9", None, None),
        ("9" * 400, None, None),
        ("Mon, 23 Nov 2026 10:00:00 GMT", "Mon, 23 Nov 2026 10:00:09 GMT", 0.0),
        ("Mon, 23 Nov 2026 10:00:00", "Mon, 23 Nov 2026 10:00:09 GMT", None),
        ("Mon, 23 Nov 2020 10:00:00 GMT", None, 0.0),
        ("Mon, 23 Nov 2026 10:00:00 GMT", "yesterday", None),
        (f"Mon, 23 Nov {'9' * 20} 10:00:00 GMT", None, None),
        (f"Mon, 23 Nov 2026 10:00:00 +{'9' * 20}", None, None),
        ("Mon, 23 Nov 2026 10:00:00 GMT", f"Mon, 23 Nov {'9' * 20} 10:00:00 GMT", None),
    ],
)
def test_a_hostile_retry_after_is_no_number(
    value: str, date: str | None, seconds: float | None
) -> None:
    """What cannot be waited for is treated as absent; a moment that is past is no wait."""
    assert seconds == retry_after(value, date)


def test_pauses_double_up_to_two_seconds() -> None:
    """The arithmetic without its dice."""
    assert [longest_pause(tries) for tries in range(1, 7)] == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


async def test_a_refused_connection_sent_nothing(origin: Origin) -> None:
    """Where nobody listens, a write is certain to have had no effect."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    async with Upstream(f"http://127.0.0.1:{port}/API/v3", "t", deadline=5) as upstream:
        with counting() as calls, pytest.raises(Unreachable):
            await add(upstream)
    assert (calls.count, len(origin.seen)) == (0, 0)


async def test_a_connection_that_is_never_made_sent_nothing(full_port: int) -> None:
    """A deadline that passes while connecting is no unknown outcome."""
    async with Upstream(f"http://127.0.0.1:{full_port}/API/v3", "t", deadline=0.2) as upstream:
        with counting() as calls, pytest.raises(Unreachable):
            await add(upstream)
    assert calls.count == 0


async def test_a_call_that_waits_for_its_turn_until_the_deadline_sent_nothing(
    origin: Origin, faults: dict[str, Answer]
) -> None:
    """Of many calls that share one connection, exactly those that left have an unknown outcome."""
    origin.answers = [faults["silence"]]
    async with Upstream(origin.url, "t", deadline=0.2, max_connections=1) as upstream:
        with counting() as calls:
            ends = await asyncio.gather(*(add(upstream) for _ in range(20)), return_exceptions=True)
    kinds = [type(end) for end in ends]
    assert kinds[0] is UnknownOutcome
    assert kinds[-1] is Unreachable
    assert (kinds.count(UnknownOutcome), kinds.count(Unreachable)) == (
        calls.count,
        20 - calls.count,
    )


async def test_no_connection_is_lost_to_deadlines_and_cancelled_callers(
    origin: Origin, faults: dict[str, Answer]
) -> None:
    """After a silent far side, with callers that gave up, every place can be used again."""
    origin.answers = [faults["silence"]]
    async with Upstream(origin.url, "t", deadline=0.3, max_connections=5) as upstream:
        calls = [asyncio.create_task(add(upstream)) for _ in range(100)]
        await origin.arrived.wait()
        for call in calls[::3]:
            call.cancel()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert {asyncio.CancelledError, UnknownOutcome, Unreachable} == {type(end) for end in ends}
        origin.answers = [origin.ok(ADDED)]
        added = await asyncio.gather(*(add(upstream) for _ in range(20)))
    assert {"CGC_e25ZlqSlIr2GWpp"} == {each.lookup_id for each in added}


async def test_a_trickling_answer_ends_at_the_deadline(
    origin: Origin, faults: dict[str, Answer], upstream: Upstream
) -> None:
    """The deadline is for all of the call, however often a byte comes."""
    origin.answers = [faults["trickle"]]
    began = time.monotonic()
    with pytest.raises(UnknownOutcome):
        await add(upstream)
    assert 0.7 < time.monotonic() - began < 2.5


async def test_connections_are_used_again(origin: Origin, upstream: Upstream) -> None:
    """Calls one after another share one connection."""
    origin.answers = [origin.ok(ADDED)]
    for _ in range(5):
        await add(upstream)
    assert (len(origin.seen), origin.connections) == (5, 1)


async def test_a_connection_that_the_far_side_closed_is_not_used_again(
    origin: Origin, upstream: Upstream
) -> None:
    """A kept connection that has ended meanwhile does not make an outcome unknown."""
    closed = asyncio.Event()

    async def answer_and_leave(writer: asyncio.StreamWriter) -> None:
        """Answer well, then close."""
        writer.write(origin.ok(ADDED))
        writer.close()
        await writer.wait_closed()
        closed.set()
        raise ConnectionResetError

    origin.answers = [answer_and_leave]
    for _ in range(3):
        await add(upstream)
        await closed.wait()
        closed.clear()
    assert (len(origin.seen), origin.connections) == (3, 3)


async def test_a_redirect_to_another_host_never_carries_the_token_there(
    origins: Callable[[], Awaitable[Origin]],
) -> None:
    """The other host sees no request at all, from reads or from writes."""
    ours, hostile = await origins(), await origins()
    hostile.answers = [hostile.ok(ADDED)]
    async with Upstream(ours.url, "s3cret-token", deadline=2) as upstream:
        for status in (301, 302, 303, 307, 308):
            ours.answers = [ours.raw(status, b"", f"Location: {hostile.url}/whoami")]
            with pytest.raises(UnknownOutcome):
                await add(upstream)
            with pytest.raises(Unreadable):
                await upstream.whoami()
    assert (hostile.connections, hostile.seen) == (0, [])


async def test_no_path_leads_the_token_to_another_host(
    origins: Callable[[], Awaitable[Origin]],
) -> None:
    """Written behind an address, each of these would be an address of another host."""
    ours, hostile = await origins(), await origins()
    ours.answers, hostile.answers = [ours.ok(ACCOUNT)], [hostile.ok(ACCOUNT)]
    elsewhere = f"127.0.0.1:{hostile.port}"
    decoder = msgspec.json.Decoder(Bare)
    for base in (ours.url, ours.url.removesuffix("/API/v3")):
        caller = Caller(base, "s3cret-token", deadline=2, max_connections=1)
        for path in (f"@{elsewhere}/whoami", f"//{elsewhere}/whoami", f"http://{elsewhere}/whoami"):
            for call in (caller.read, caller.write):
                with suppress(httpx.InvalidURL):
                    await call(Request("whoami", "account", "GET", path), decoder)
        await caller.aclose()
    assert (hostile.connections, hostile.seen) == (0, [])
    assert {f"127.0.0.1:{ours.port}"} == {seen.headers["host"] for seen in ours.seen}


async def test_the_next_page_of_another_host_is_asked_of_ours(
    origins: Callable[[], Awaitable[Origin]],
) -> None:
    """Of a next page's URL nothing but its cursor is taken."""
    ours, hostile = await origins(), await origins()
    elsewhere = f"{hostile.url}/directories?proxyDepth=1&skipToken=CGC_a%26b%2F..&pageSize=1"
    ours.answers = [
        ours.ok({"elements": [], "nextPage": elsewhere}),
        ours.ok({"elements": [], "nextPage": None}),
    ]
    async with Upstream(ours.url, "s3cret-token", deadline=2) as upstream:
        assert [found async for found in upstream.mailing_lists(DIRECTORY)] == []
    assert (hostile.connections, hostile.seen) == (0, [])
    path = f"/API/v3/directories/{DIRECTORY}/mailinglists?pageSize=100"
    assert [path, f"{path}&skipToken=CGC_a%26b%2F.."] == [seen.target for seen in ours.seen]


@pytest.mark.parametrize(
    "next_page",
    [
        "https://x.example/?skipToken=a",
        "",
        "https://x.example/",
        "https://x.example/?skipToken=",
        "https://x.example/?skipToken=a&skipToken=b",
        "https://[x/?skipToken=a",
    ],
)
async def test_pages_that_loop_or_name_no_cursor_end_with_an_error(
    next_page: str, origin: Origin, upstream: Upstream
) -> None:
    """A list never ends silently short, and never goes on for ever."""
    origin.answers = [origin.ok({"elements": [], "nextPage": next_page})]
    with pytest.raises(Unreadable) as caught:
        _ = [found async for found in upstream.mailing_lists(DIRECTORY)]
    assert caught.value.cause == "paging"
    assert len(origin.seen) <= 2


async def test_endless_pages_are_bounded(
    origin: Origin, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cursors that differ for ever are cut off."""
    monkeypatch.setattr(client, "MOST_PAGES", 5)
    origin.answers = [
        origin.ok({"elements": [], "nextPage": f"/?skipToken={page}"}) for page in range(9)
    ]
    with pytest.raises(Unreadable):
        _ = [found async for found in upstream.mailing_lists(DIRECTORY)]
    assert len(origin.seen) == 6


async def test_no_error_and_no_log_holds_a_token_a_person_or_a_link(
    origin: Origin,
    faults: dict[str, Answer],
    upstream: Upstream,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither the text of an error, nor its chain, nor a log at its most talkative."""
    caplog.set_level(logging.DEBUG)
    secrets = ("s3cret-token", "ada@example.com", "Ada", "/API/v3", DIRECTORY, "Q_DL")
    told = "email ada@example.com of Ada, see https://b.example.com/jfe/form/x?Q_DL=y"
    answers = [*faults.values(), origin.error(400, told, told), origin.error(429, "QX_1", told)]
    texts = []
    for answer in answers:
        origin.answers = [answer]
        with pytest.raises(CallFailed) as caught:
            await add(upstream)
        texts += [str(caught.value), repr(caught.value)]
        texts += traceback.format_exception(caught.value, chain=True)[-1:]
        assert caught.value.__cause__ is None
    origin.answers = [origin.ok(ADDED, notice="Use this host instead: az1")]
    await add(upstream)
    await add(upstream)
    assert sum("Use this host instead: az1" in message for message in caplog.messages) == 1
    for text in [*texts, caplog.text]:
        assert [secret for secret in secrets if secret in text] == []


async def test_the_platforms_sentence_is_kept_beside_the_text(
    origin: Origin, upstream: Upstream
) -> None:
    """An admin can ask for it; it is in no text that is logged."""
    origin.answers = [origin.error(400, None, "Unexpected json key provided: contactLookupId")]
    with pytest.raises(Refused) as caught:
        await add(upstream)
    assert caught.value.upstream_message == "Unexpected json key provided: contactLookupId"
    assert str(caught.value) == "add_list_contact: refused (status 400)"


async def test_a_proxys_notice_is_kept_once(origin: Origin, upstream: Upstream) -> None:
    """Of good answers and of refusals; bounded, whatever the answers say."""
    notice = "Request proxied. For faster response times, use this host instead: az1.example.com"
    meta = {"httpStatus": "404 - Not Found", "notice": f"{notice}\n{'x' * 300}"}
    origin.answers = [
        origin.ok(ADDED, notice=notice),
        origin.ok(ADDED, notice=notice),
        origin.raw(404, json.dumps({"meta": meta}).encode()),
        *(origin.ok(ADDED, notice=f"{number}") for number in range(20)),
    ]
    assert upstream.notices == ()
    await add(upstream)
    await add(upstream)
    assert upstream.notices == (notice,)
    with pytest.raises(NotFound):
        await add(upstream)
    assert upstream.notices[1:] == ((notice + "?" + "x" * 300)[:200],)
    for _ in range(20):
        await add(upstream)
    assert len(upstream.notices) == 16


@pytest.mark.parametrize(
    ("date", "sign"),
    [
        ("Thu, 01 Jan 2099 00:00:00 GMT", 1),
        ("Wed, 01 Jan 2020 00:00:00 GMT", -1),
        ("yesterday", None),
        ("Thu, 01 Jan 99999 00:00:00 GMT", None),
    ],
)
async def test_the_platforms_clock_is_read_from_its_answers(
    date: str, sign: int | None, origin: Origin, upstream: Upstream
) -> None:
    """A date that is none tells nothing."""
    body = origin.ok(ADDED).partition(b"\r\n\r\n")[2]
    origin.answers = [origin.raw(200, body, f"Date: {date}")]
    assert upstream.clock_ahead is None
    await add(upstream)
    ahead = upstream.clock_ahead
    assert sign == (None if ahead is None else math.copysign(1, ahead))


async def test_counting_counts_what_its_block_sent(origin: Origin, upstream: Upstream) -> None:
    """Blocks inside blocks count for both, tasks of a block count for it, others do not."""
    origin.answers = [origin.ok(ADDED)]
    await add(upstream)
    with counting() as outer:
        await add(upstream)
        with counting() as inner:
            await asyncio.gather(add(upstream), add(upstream))
    await add(upstream)
    assert (outer.count, inner.count) == (3, 2)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "fra1.qualtrics.com",
        "http://fra1.qualtrics.com/API/v3",
        "http://10.0.0.1/API/v3",
        "http://localhost.example.com/API/v3",
        "https://me:pw@fra1.qualtrics.com/API/v3",
        "https://fra1.qualtrics.com/API/v3?x=1",
        "https://fra1.qualtrics.com/API/v3#x",
        "https://fra1..qualtrics.com/API/v3",
        "https://fra1.qualtrics.com\n/API/v3",
        "file:///etc/passwd",
    ],
)
def test_the_token_is_given_to_no_address_in_the_clear(url: str) -> None:
    """Only https, or this machine, may be configured."""
    with pytest.raises(ConfigurationError):
        Upstream(url, "t")


@pytest.mark.parametrize("url", ["https://fra1.qualtrics.com/API/v3", "http://[::1]:8790/API/v3/"])
async def test_good_addresses_are_taken(url: str) -> None:
    """The platform's own, and the simulator's in every spelling."""
    async with Upstream(url, "t"):
        pass


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "tökən"])
def test_a_token_that_no_header_can_hold_is_refused(token: str) -> None:
    """It would end up as another header, or nowhere."""
    with pytest.raises(ConfigurationError) as caught:
        Upstream("https://fra1.qualtrics.com/API/v3", token)
    assert not token or token not in str(caught.value)
