"""How calls show whose they are: API tokens, and access tokens of OAuth clients."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import httpx
import pytest

from milepost.errors import ConfigurationError
from milepost.simulator import Config, Ready, running
from milepost.upstream import (
    SCOPES,
    BudgetSpent,
    CallClass,
    CallFailed,
    ClientCredentials,
    ContactFields,
    Forbidden,
    Throttled,
    Token,
    TransactionFields,
    Unauthorized,
    Unavailable,
    Unreachable,
    Unreadable,
    Upstream,
    counting,
)
from milepost.upstream.credentials import Access, AccessGrant, ClientAccess

if TYPE_CHECKING:
    from conftest import Answer, Origin

DIRECTORY, LIST = "POOL_c9fECNlRx3FGcmg", "CG_uIYRlWWzEm0kWtl"
ADA = ContactFields(first_name="Ada", ref="r-1")
ADDED = {"id": "CID_e25ZlqSlIr2GWpp", "contactLookupId": "CGC_e25ZlqSlIr2GWpp"}
ACCOUNT = {"brandId": "brand", "userId": "UR_1", "datacenter": "fra1"}
CLIENT = ClientCredentials("client-1", "cl1ent-s3cret")
TOKEN_PATH = "/oauth2/token"


def grant(origin: Origin, token: str, *, lives: float = 3600) -> bytes:
    """The answer to the asking for a token."""
    body = {"access_token": token, "token_type": "Bearer", "expires_in": lives, "scope": "x"}
    return origin.raw(200, json.dumps(body).encode())


def asked(origin: Origin) -> list[str]:
    """What was asked in turn: the askings for tokens by name, calls by their token."""
    return [
        "token" if seen.target == TOKEN_PATH else seen.headers["authorization"]
        for seen in origin.seen
    ]


@pytest.fixture
async def upstream(origin: Origin) -> AsyncIterator[Upstream]:
    """A client that has a secret and no token yet."""
    async with Upstream(origin.url, CLIENT, deadline=0.8) as client:
        yield client


async def test_a_token_is_asked_for_at_the_origin_and_sent_with_each_call(
    origin: Origin, upstream: Upstream
) -> None:
    """The asking is the platform's form, belongs to no caller, and holds no other header."""
    origin.answers = [grant(origin, "t1"), origin.ok(ACCOUNT)]
    with counting() as calls:
        await upstream.whoami()
        await upstream.whoami()
    asking, first, second = origin.seen
    assert (asking.method, asking.target) == ("POST", TOKEN_PATH)
    assert asking.headers == {
        "host": f"127.0.0.1:{origin.port}",
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "milepost",
        "authorization": "Basic Y2xpZW50LTE6Y2wxZW50LXMzY3JldA==",
        "content-type": "application/x-www-form-urlencoded",
        "content-length": str(len(asking.body)),
    }
    assert parse_qs(asking.body.decode()) == {
        "grant_type": ["client_credentials"],
        "scope": [" ".join(SCOPES)],
    }
    for call in (first, second):
        assert call.headers["authorization"] == "Bearer t1"
        assert "x-api-token" not in call.headers
    assert calls.count == 2


async def test_many_calls_at_once_ask_for_one_token(origin: Origin, upstream: Upstream) -> None:
    """Whoever comes while it is asked for waits for the same answer; who leaves does not end it."""
    origin.answers = [grant(origin, "t1"), origin.ok(ACCOUNT)]
    impatient = asyncio.create_task(upstream.whoami())
    calls = [asyncio.create_task(upstream.whoami()) for _ in range(20)]
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.gather(*calls)
    assert asked(origin) == ["token", *["Bearer t1"] * 20]


async def test_the_next_token_is_asked_for_before_the_last_one_ends() -> None:
    """Calls go on with the one there is meanwhile; one asking is out at a time."""
    now, askings, answers = 0.0, 0, asyncio.Queue[AccessGrant]()

    async def ask() -> AccessGrant:
        """Count an asking."""
        nonlocal askings
        askings += 1
        return await answers.get()

    access = ClientAccess(CLIENT, ask, lambda: now)

    async def header() -> bytes:
        """The token that a call would set out with."""
        current = await access.current()
        assert isinstance(current, Access)
        return current.header[1]

    answers.put_nowait(AccessGrant("t1", 1000.0))
    assert await header() == b"Bearer t1"
    now = 899.0
    assert await header() == b"Bearer t1"
    await asyncio.sleep(0)
    assert askings == 1
    now = 901.0
    assert [await header(), await header()] == [b"Bearer t1"] * 2
    await asyncio.sleep(0)
    assert askings == 2
    now = 996.0
    waiting = asyncio.create_task(header())
    answers.put_nowait(AccessGrant("t2", 1000.0))
    assert await waiting == b"Bearer t2"
    now = 1800.0
    assert await header() == b"Bearer t2"
    await access.aclose()


@pytest.mark.parametrize("lives", [0.5, 3.0, 8.0])
async def test_a_token_of_a_short_life_is_used_nonetheless(
    lives: float, origin: Origin, upstream: Upstream
) -> None:
    """No life is so short that each call would ask anew."""
    origin.answers = [grant(origin, "t1", lives=lives), origin.ok(ACCOUNT)]
    await upstream.whoami()
    await upstream.whoami()
    assert asked(origin) == ["token", "Bearer t1", "Bearer t1"]


async def test_a_revoked_token_is_replaced_and_the_call_made_once_more(
    origin: Origin, upstream: Upstream
) -> None:
    """A write, too: a refused one had no effect."""
    revoked = origin.error(401, None, "Invalid token.")
    origin.answers = [
        grant(origin, "t1"),
        origin.ok(ACCOUNT),
        revoked,
        grant(origin, "t2"),
        origin.ok(ADDED),
    ]
    await upstream.whoami()
    with counting() as calls:
        added = await upstream.add_list_contact(DIRECTORY, LIST, ADA)
    assert added.contact_id == ADDED["id"]
    assert asked(origin) == ["token", "Bearer t1", "Bearer t1", "token", "Bearer t2"]
    assert calls.count == 2


async def test_a_token_that_was_good_is_replaced_however_soon(
    origin: Origin, upstream: Upstream
) -> None:
    """That another was revoked a moment ago says nothing of one that has worked since."""
    revoked = origin.error(401, None, "Invalid token.")
    origin.answers = [grant(origin, "t1"), origin.ok(ACCOUNT)]
    for token in ("t2", "t3"):
        origin.answers += [revoked, grant(origin, token), origin.ok(ACCOUNT)]
    for _ in range(3):
        await upstream.whoami()
    assert asked(origin)[-3:] == ["Bearer t2", "token", "Bearer t3"]


async def test_calls_that_are_refused_together_give_up_one_token() -> None:
    """Who comes second finds another, which it leaves alone."""
    answers = asyncio.Queue[AccessGrant]()
    access = ClientAccess(CLIENT, answers.get, lambda: 0.0)
    for token in ("t1", "t2", "t3"):
        answers.put_nowait(AccessGrant(token, 1000.0))
    first = await access.current()
    assert isinstance(first, Access)
    first.proven = True
    assert access.give_up(first) is True
    second = await access.current()
    assert access.give_up(first) is True
    assert await access.current() is second


async def test_a_token_that_is_refused_at_once_is_replaced_once(
    origin: Origin, upstream: Upstream
) -> None:
    """The next would be refused, too: no storm of askings."""
    refused = origin.error(401, None, "Invalid token.")
    origin.answers = [grant(origin, "t1"), refused, grant(origin, "t2"), refused]
    for _ in range(3):
        with pytest.raises(Unauthorized):
            await upstream.add_list_contact(DIRECTORY, LIST, ADA)
    assert asked(origin) == ["token", "Bearer t1", "token", "Bearer t2", "Bearer t2", "Bearer t2"]


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_client_that_is_not_accepted_sends_nothing_else(
    status: int, origin: Origin, upstream: Upstream
) -> None:
    """The platform's own word is told, and its sentence is not."""
    told = {"error": "invalid_client", "error_description": "cl1ent-s3cret is wrong"}
    origin.answers = [origin.raw(status, json.dumps(told).encode())]
    for call in (upstream.whoami(), upstream.add_list_contact(DIRECTORY, LIST, ADA)):
        with pytest.raises(Unauthorized) as caught:
            await call
        assert caught.value.error_code == "invalid_client"
        assert "s3cret" not in f"{caught.value} {caught.value!r}"
    assert asked(origin) == ["token", "token"]


async def test_throttled_askings_throttle_the_call(origin: Origin, upstream: Upstream) -> None:
    """With the platform's wish of how long, if it has one."""
    origin.answers = [origin.raw(429, b'{"error":"slow_down"}', "Retry-After: 7")]
    with pytest.raises(Throttled) as caught:
        await upstream.whoami()
    assert caught.value.retry_after == 7.0


NO_TOKENS = {
    "a wrong type": b'{"access_token":1,"expires_in":60}',
    "no token": b'{"expires_in":60}',
    "a token that is two headers": b'{"access_token":"a\\r\\nb: c","expires_in":60}',
    "a token without end": b'{"access_token":"a"}',
    "a life of nothing": b'{"access_token":"a","expires_in":0}',
    "HTML": b"<html>Sign in</html>",
    "nothing": b"",
    "depth": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", NO_TOKENS)
async def test_what_is_no_token_is_sent_nowhere(
    kind: str, origin: Origin, upstream: Upstream
) -> None:
    """A write without a token was not sent, which is more than an unknown outcome says."""
    origin.answers = [origin.raw(200, NO_TOKENS[kind])]
    with pytest.raises(Unreachable):
        await upstream.add_list_contact(DIRECTORY, LIST, ADA)
    assert asked(origin) == ["token"]


async def test_a_broken_asking_leaves_the_call_unsent(
    faults: dict[str, Answer], origin: Origin, upstream: Upstream
) -> None:
    """Whatever breaks, and however long it takes, up to the call's own deadline."""
    for answer in faults.values():
        origin.answers = [answer]
        with pytest.raises(Unreachable):
            await upstream.add_list_contact(DIRECTORY, LIST, ADA)
    assert set(asked(origin)) == {"token"}


async def test_a_redirected_asking_takes_the_secret_nowhere(
    origins: Callable[[], Awaitable[Origin]],
) -> None:
    """The other host sees no connection at all."""
    ours, hostile = await origins(), await origins()
    ours.answers = [ours.raw(307, b"", f"Location: {hostile.url}{TOKEN_PATH}")]
    async with Upstream(ours.url, CLIENT, deadline=2) as upstream:
        with pytest.raises(Unreachable):
            await upstream.whoami()
    assert hostile.connections == 0


async def test_no_other_host_is_shown_an_access_token(
    origins: Callable[[], Awaitable[Origin]],
) -> None:
    """Neither by a redirect nor by the address of a next page: it sees no connection at all."""
    ours, hostile = await origins(), await origins()
    ours.answers = [
        grant(ours, "t1"),
        ours.raw(302, b"", f"Location: {hostile.url}/whoami"),
        ours.ok({"elements": [], "nextPage": f"{hostile.url}/surveys?offset=100"}),
        ours.ok({"elements": [], "nextPage": None}),
    ]
    async with Upstream(ours.url, CLIENT, deadline=2) as upstream:
        with pytest.raises(Unreadable):
            await upstream.whoami()
        assert [each async for each in upstream.surveys()] == []
    assert asked(ours) == ["token", *["Bearer t1"] * 3]
    assert hostile.connections == 0


class Watch:
    """A gate that lets everything through, or nothing, and notes what became of it."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, str]] = []
        self.shut = False

    @asynccontextmanager
    async def passage(self, verb: str, call_class: CallClass, within: float) -> AsyncIterator[None]:
        """Note how one request ends."""
        if self.shut:
            raise BudgetSpent(verb, "budget-spent", within)
        try:
            yield
        except CallFailed as error:
            barred = isinstance(error, Unauthorized)
            self.ends.append((call_class, "barred" if barred else "refused"))
            raise
        self.ends.append((call_class, "well"))


async def test_the_gate_sees_each_asking_and_no_barred_token_where_one_ran_out(
    origin: Origin,
) -> None:
    """A token that ended is no reason to hold calls back; one that nobody gets is."""
    watch = Watch()
    origin.answers = [
        grant(origin, "t1"),
        origin.error(401, None, "Invalid token."),
        grant(origin, "t2"),
        origin.ok(ACCOUNT),
    ]
    async with Upstream(origin.url, CLIENT, deadline=2, gate=watch) as upstream:
        await upstream.whoami()
        assert watch.ends == [
            ("account", "well"),
            ("account", "refused"),
            ("account", "well"),
            ("account", "well"),
        ]
    origin.answers = [origin.raw(400, b'{"error":"invalid_client"}')]
    async with Upstream(origin.url, CLIENT, deadline=2, gate=watch) as upstream:
        with pytest.raises(Unauthorized):
            await upstream.whoami()
    assert watch.ends[4:] == [("account", "barred")]
    watch.shut = True
    async with Upstream(origin.url, CLIENT, deadline=2, gate=watch) as upstream:
        with pytest.raises(BudgetSpent) as caught:
            await upstream.add_list_contact(DIRECTORY, LIST, ADA)
    assert caught.value.rule == "budget-spent"
    assert len(origin.seen) == 5


async def test_a_failed_read_finds_a_token_at_its_next_try(
    origin: Origin, upstream: Upstream
) -> None:
    """A read is made again inside its deadline, and so is the asking."""
    origin.answers = [origin.raw(502, b""), grant(origin, "t1"), origin.ok(ACCOUNT)]
    await upstream.whoami()
    assert asked(origin) == ["token", "token", "Bearer t1"]


async def test_no_log_and_no_text_holds_the_secret(
    origin: Origin, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor the token that was got for it."""
    caplog.set_level(logging.DEBUG)
    origin.answers = [grant(origin, "acc3ss"), origin.error(401, "X_1", "no"), origin.raw(500, b"")]
    with pytest.raises((Unavailable, Unreachable)) as caught:
        await upstream.whoami()
    for text in (caplog.text, str(caught.value), repr(CLIENT)):
        assert not {"cl1ent-s3cret", "acc3ss", "Y2xpZW50"} & set(text.split())
        assert "cl1ent-s3cret" not in text
        assert "acc3ss" not in text


@pytest.mark.parametrize(
    "credentials",
    [
        Token(""),
        Token("a\nb"),
        ClientCredentials("", "s"),
        ClientCredentials("i", ""),
        ClientCredentials("i:j", "s"),
        ClientCredentials("i", "s\r\n"),
    ],
)
async def test_what_no_header_can_hold_is_refused(
    credentials: Token | ClientCredentials, origin: Origin
) -> None:
    """At the start, not at the first call."""
    with pytest.raises(ConfigurationError):
        Upstream(origin.url, credentials)


@pytest.fixture
def simulator() -> Iterator[Ready]:
    """An account of the test's own, without limits."""
    with running(Config(limits="none")) as ready:
        yield ready


@pytest.fixture
async def client(simulator: Ready) -> AsyncIterator[Upstream]:
    """Its OAuth client."""
    async with Upstream(
        simulator.url, ClientCredentials("simulator", "simulator"), deadline=5
    ) as upstream:
        yield upstream


async def test_the_default_scopes_are_enough_for_milepost_and_not_for_the_brand(
    simulator: Ready, client: Upstream
) -> None:
    """At the simulator, by the platform's names; subscriptions are an administrator's."""
    directory, survey = simulator.directory_id, simulator.survey_id
    expires_at = datetime.now(UTC) + timedelta(days=1)
    assert [each.directory_id for each in await client.directories()] == [directory]
    assert (await client.survey_definition(survey)).active
    people = await client.create_mailing_list(directory, "milepost")
    ada = await client.add_list_contact(directory, people, ADA)
    paid = TransactionFields(
        contact_id=ada.contact_id, list_id=people, at=expires_at, data={"n": "1"}
    )
    made = await client.create_transactions(directory, {"k": paid})
    batch = await client.create_batch(directory, [made.created["k"]])
    entries = [each async for each in client.batch_transactions(directory, batch)]
    distribution = await client.create_distribution(survey, people, "milepost", expires_at)
    links = [each async for each in client.distribution_links(distribution, survey)]
    assert (entries, len(links)) == ([made.created["k"]], 1)
    await client.delete_distribution(distribution)
    await client.delete_batch(directory, batch)
    await client.delete_contact(directory, ada.contact_id)
    await client.delete_mailing_list(directory, people)
    with pytest.raises(Forbidden):
        await client.create_subscription("x", "https://m.example.com/", "k")


async def test_a_token_that_ended_at_the_simulator_is_replaced(
    simulator: Ready, client: Upstream
) -> None:
    """Its clock runs ahead of ours by more than the token's life: it is believed."""
    await client.whoami()
    origin = simulator.url.removesuffix("/API/v3")
    async with httpx.AsyncClient(base_url=origin, trust_env=False) as control:
        moved = await control.put("/control/clock", json={"advance_seconds": 7200.0})
        moved.raise_for_status()
    with counting() as calls:
        await client.create_mailing_list(simulator.directory_id, "milepost")
    assert calls.count == 2
