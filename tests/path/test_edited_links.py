"""What a customer gets who edits a link, and what is told of the response that comes of it.

Whatever is changed, nobody reaches somebody else's survey, and no response counts for a link that
it did not come by.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import httpx
import pytest

from milepost.app import LOCAL_URL, Milepost
from milepost.jobs.provisioning import Provisioning
from milepost.jobs.rotate import Rotate
from milepost.matching import Match, Matching, Through
from milepost.model import Fact, RegistrantDetails, Scope
from milepost.payload import REFERENCE_FIELD, seal
from milepost.personal_link import parse
from milepost.simulator import Config

Landed = Callable[..., Awaitable[None]]
Travel = Callable[..., Awaitable[None]]

ROUTES: dict[str, dict[str, Any]] = {
    "list": {"route": "list"},
    "ready": {"route": "list", "membership": "ahead", "late_data": True},
    "anonymous": {"route": "anonymous"},
    "transaction": {"route": "transaction"},
    "stepwise": {"route": "stepwise"},
    "own": {"route": "stepwise"},
    "short": {"route": "list", "lanes": ["deferred"]},
}
"""How a milestone is defined, by the kind of link that it gives. `own`: of a distribution for one
contact alone, where the account takes none of batches."""

ALPHABET = ascii_uppercase + ascii_lowercase + digits
OPEN = re.compile(r'data-state="open".*name="session" value="(FS_\w{15})"', re.DOTALL)
SECRET = b"a secret of at least sixteen bytes"


@pytest.fixture
def simulator_config() -> Config:
    """The survey's flow declares the reference, so that a query can bring one along."""
    return Config(limits="none", declared_fields=(REFERENCE_FIELD, "flight"))


async def ask(
    client: httpx.AsyncClient, event_id: str = "e1", ref: str = "ann", milestone: str = "landed"
) -> dict[str, Any]:
    """The link of an event, which is made at once, or goes out as a short URL."""
    body = {"event_id": event_id, "milestone": milestone, "registrant": ref, "deadline_ms": 8_000}
    link: dict[str, Any] = (await client.post("/v1/links", json=body)).json()
    assert "issued" == link["state"] or "deferred" == link["lane"], link
    return link


def altered(url: str) -> Iterator[str]:
    """The URL with one character changed, for each of its characters; letters in two ways."""
    for position, letter in enumerate(url):
        at = ALPHABET.find(letter)
        other = "x" if at < 0 else ALPHABET[(at + (1, 37)[position % 2]) % len(ALPHABET)]
        # Of scheme and host the case says nothing.
        flipped = letter.swapcase() if position > len(origin(url)) else other
        for instead in {other, flipped} - {letter}:
            yield url[:position] + instead + url[position + 1 :]


def origin(url: str) -> str:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


async def led_to(client: httpx.AsyncClient, url: str) -> str:
    """Where one of our short links leads to; any other URL leads to itself."""
    if origin(url) != LOCAL_URL:
        return url
    answer = await client.get(url.removeprefix(LOCAL_URL))
    return answer.headers.get("Location", url)


async def session_of(platform: Any, url: str) -> str | None:
    """The session that a URL opens; None: it opens none, or does not lead to the platform."""
    if origin(url) != platform.ready.origin:
        return None
    found = OPEN.search((await platform.web.get(url)).text)
    return found[1] if found else None


async def matched(milepost: Milepost, platform: Any, url: str) -> Match:
    """Answer the survey behind a URL, and have the response matched."""
    return await milepost.matching.explain(platform.ready.survey_id, await platform.answer(url))


def told(match: Match) -> tuple[str, str | None, str | None]:
    """The verdict, its rule, and the event of the link that the response names."""
    return (
        match.verdict.value,
        match.reason.rule if match.reason else None,
        match.link.event_id if match.link else None,
    )


@pytest.mark.parametrize("kind", ROUTES)
async def test_no_character_leads_to_somebody_elses_survey(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, kind: str
) -> None:
    """Either nothing opens, or one's own survey; and what comes of it is true, or told apart."""
    if kind == "own":
        fact = Fact.TRANSACTION_BATCH
        await platform.switch(facts={fact.value: False})
        await milepost.store.capabilities.note(fact, holds=False, evidence="tried")
    await landed(**ROUTES[kind], fields=[])
    await milepost.run("sync", asked_by="a test")
    mine, theirs = await ask(client), await ask(client, "e2", "ben")
    await milepost.drain.run_once()
    await platform.forget()
    personal = await led_to(client, mine["url"])
    own = await session_of(platform, personal)
    sessions: dict[str, str] = {}
    for url in altered(mine["url"]):
        reached = await led_to(client, url)
        if (session := await session_of(platform, reached)) is not None:
            sessions.setdefault(session, reached)

    is_plain = kind == "anonymous"
    verdicts = set()
    for session, url in sessions.items():
        match = await matched(milepost, platform, url)
        verdict, _, named = told(match)
        verdicts.add(verdict)
        assert (verdict == "true") == (session == own), url
        assert named in {None, mine["event_id"]}, url
    expected = {"forged"} if is_plain else {"true"}
    assert (set() if kind == "short" else expected | {"without-reference"}) == verdicts
    opened = [entry["ids"] for entry in await platform.entries()]
    recipients = {ids.get("lookup") or ids.get("transaction") for ids in opened}
    assert recipients <= {None, None if is_plain else parse(personal).lookup_id}
    other = await led_to(client, theirs["url"])
    assert ("true", "e2") == told(await matched(milepost, platform, other))[::2]


def sealed(link: dict[str, Any]) -> str:
    """The reference of a personal link."""
    return seal(UUID(link["id"]), SECRET)


async def test_what_is_pasted_from_other_links_is_told_apart(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """Another's reference, another one of one's own, one of another kind, another's lookup id.

    A reference in a query is recorded only where the query wins over the contact's own value.
    """
    people = {ref: RegistrantDetails(email=f"{ref}@example.com") for ref in ("dora", "emil")}
    await milepost.store.registrants.put(people)
    await landed(fields=[], slots=4)
    survey = platform.ready.survey_id
    plain = {"survey_id": survey, "route": "anonymous"}
    (await client.put("/v1/milestones/plain", json=plain)).raise_for_status()
    await milepost.replenish.run_once()
    nobody = await ask(client, "nobody", "ann", "plain")
    (reference,) = parse_qs(urlsplit(nobody["url"]).query)[REFERENCE_FIELD]

    def with_reference(link: dict[str, Any], pasted: str) -> str:
        """A link's URL, with a reference in its query."""
        return f"{link['url']}&{REFERENCE_FIELD}={pasted}"

    for wins in (True, False):
        await platform.switch(facts={"url_wins": wins})
        ann, again = await ask(client, f"ann {wins}"), await ask(client, f"ann again {wins}")
        ben, cleo = await ask(client, f"ben {wins}", "ben"), await ask(client, f"c {wins}", "cleo")

        pasted = await matched(milepost, platform, with_reference(ann, sealed(ben)))
        foreign = ("foreign", "other-registrant", ben["event_id"])
        assert told(pasted) == (foreign if wins else ("true", None, ann["event_id"]))

        pasted = await matched(milepost, platform, with_reference(cleo, reference))
        foreign = ("foreign", "personal-link", nobody["event_id"])
        assert told(pasted) == (foreign if wins else ("true", None, cleo["event_id"]))

        # Of two links of one person only the platform's history tells which it came by.
        response_id = await platform.answer(with_reference(again, sealed(ann)))
        alone = await milepost.matching.explain(survey, response_id)
        unconfirmed = ("true", "unconfirmed", ann["event_id"])
        assert told(alone) == (unconfirmed if wins else ("true", None, again["event_id"]))
        parts = parse(again["url"])
        through = Through(parts.distribution_id, parts.lookup_id)
        response = await milepost.upstream.response(survey, response_id)
        match = await milepost.matching.match(survey, response_id, response, through)
        foreign = ("foreign", "other-link", ann["event_id"])
        assert told(match) == (foreign if wins else ("true", None, again["event_id"]))

    bare = nobody["url"].replace(reference, sealed(ben))
    foreign = ("foreign", "plain-link", ben["event_id"])
    assert foreign == told(await matched(milepost, platform, bare))
    # Whoever has another's lookup id has their link: it is theirs to the platform and to us.
    mine, theirs = await ask(client, "mine", "dora"), await ask(client, "theirs", "emil")
    url = replace(parse(mine["url"]), lookup_id=parse(theirs["url"]).lookup_id).url
    assert theirs["url"] == url
    assert ("true", None, "theirs") == told(await matched(milepost, platform, url))


@pytest.mark.parametrize("kind", ["list", "stepwise"])
async def test_what_reconcile_has_found_of_a_response_is_told_to_whoever_asks(
    *,
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    kind: str,
) -> None:
    """Of two links of one person the ledger knows by then by which one a response came."""
    await milepost.run("sync", asked_by="a test")
    await landed(**ROUTES[kind], fields=[])
    first, second = await ask(client), await ask(client, "e2")
    pasted = await platform.answer(f"{second['url']}&{REFERENCE_FIELD}={sealed(first)}")
    own = await platform.answer(first["url"])
    path = f"/v1/responses/{platform.ready.survey_id}"
    before = await milepost.matching.explain(platform.ready.survey_id, pasted)
    assert ("true", "unconfirmed", "e1") == told(before)
    await travel(minutes=15)
    assert "done" == (await milepost.run("reconcile", asked_by="a test")).state
    answer = (await client.get(f"{path}/{pasted}")).json()
    assert ("foreign", "other-link", "e1") == (
        *(answer["verdict"], answer["reason"]["rule"]),
        answer["link"]["event_id"],
    )
    drift = (await client.get("/v1/drift")).json()["drift"]
    assert [(pasted, "other-link")] == [(each["response_id"], each["rule"]) for each in drift]
    answer = (await client.get(f"{path}/{own}")).json()
    assert ("true", None) == (answer["verdict"], answer["reason"])


async def test_a_reference_of_no_issued_link_is_told_apart(
    client: httpx.AsyncClient, landed: Landed, platform: Any
) -> None:
    """It is signed; but its link is in no ledger, or has never been given out."""
    await landed(fields=[])
    survey = platform.ready.survey_id
    others = {"plain": {"route": "anonymous"}, "later": {"lanes": ["deferred"]}}
    for key, particulars in (others | {"nobody": {"sample_percent": 0}}).items():
        definition = {"survey_id": survey, **particulars}
        (await client.put(f"/v1/milestones/{key}", json=definition)).raise_for_status()
    waiting = await ask(client, "waiting", "ben", "later")
    event = {"event_id": "unlucky", "milestone": "nobody", "registrant": "cleo"}
    suppressed = (await client.post("/v1/links", json=event)).json()
    assert "suppressed" == suppressed["state"]
    bare = f"{platform.ready.origin}/jfe/form/{survey}?"
    for who, reference, rule, named in (
        ("ann", seal(uuid4(), SECRET), "no-link", None),
        ("ben", sealed(waiting), "not-issued", "waiting"),
        ("cleo", sealed(suppressed), "not-issued", "unlucky"),
    ):
        personal = await ask(client, who, who)
        for url in (bare, f"{personal['url']}&"):
            response_id = await platform.answer(f"{url}{REFERENCE_FIELD}={reference}")
            match = (await client.get(f"/v1/responses/{survey}/{response_id}")).json()
            assert ("foreign", rule, named) == (
                match["verdict"],
                match["reason"]["rule"],
                match["link"] and match["link"]["event_id"],
            )


async def test_a_plain_link_is_known_by_a_former_secret(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """As long as that is live; afterwards nobody can tell it from a forged one."""
    await landed(route="anonymous", fields=[])
    survey = platform.ready.survey_id
    response_id = await platform.answer((await ask(client))["url"])
    present = b"another secret of sixteen bytes"
    for secrets, expected in (
        ([present, SECRET], ("true", None, "e1")),
        ([present], ("forged", "not-signed", None)),
    ):
        matching = Matching(milepost.store, milepost.upstream, secrets)
        assert expected == told(await matching.explain(survey, response_id))


async def test_a_link_forged_across_generations_is_of_no_issued_link(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """The next distribution on a list opens for the lookup ids of the one before.

    The reference is then that of the person's own link; that it came by another one is told by
    history, and without it not.
    """
    await landed(fields=[], slots=1, link_days=30, min_link_days=10)
    mine = await ask(client)
    await travel(days=18)
    await Rotate(
        milepost.store,
        Provisioning(milepost.store, milepost.upstream, milepost.deployment),
        milepost.deployment,
    ).run_once()
    newer = parse((await ask(client, "e2", "ben"))["url"]).distribution_id
    forged = replace(parse(mine["url"]), distribution_id=newer)
    response_id = await platform.answer(forged.url)
    survey = platform.ready.survey_id
    assert ("true", "unconfirmed", "e1") == told(
        await milepost.matching.explain(survey, response_id)
    )
    (entry,) = [
        entry
        async for entry in milepost.upstream.history(newer)
        if entry.response_id == response_id
    ]
    response = await milepost.upstream.response(survey, response_id)
    through = Through(newer, entry.lookup_id)
    match = await milepost.matching.match(survey, response_id, response, through)
    assert ("foreign", "other-link", "e1") == told(match)
    assert ("true", None, "e1") == told(await matched(milepost, platform, mine["url"]))


async def test_a_response_is_told_of_by_its_scope_and_by_live_secrets(
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    keys: dict[Scope, str],
) -> None:
    """Readers see no URL; a former secret is taken as long as it is live; without history, less."""
    await landed(fields=[])
    link = await ask(client)
    survey, response_id = platform.ready.survey_id, await platform.answer(link["url"])
    path = f"/v1/responses/{survey}/{response_id}"
    whole = (await client.get(path)).json()
    assert (survey, response_id, "true", None) == tuple(
        whole[name] for name in ("survey_id", "response_id", "verdict", "reason")
    )
    assert (link["url"], "e1") == (whole["link"]["url"], whole["link"]["event_id"])
    headers = {"Authorization": f"Bearer {keys[Scope.READ]}"}
    masked = (await client.get(path, headers=headers)).json()
    assert {**whole, "link": {**whole["link"], "url": None}} == masked
    unheard = await client.get(f"/v1/responses/{survey}/R_000000000000000")
    assert (404, "unknown-response") == (unheard.status_code, unheard.json()["code"])

    for secrets, verdict in (([b"x" * 16, SECRET], "true"), ([b"x" * 16], "forged")):
        matching = Matching(milepost.store, milepost.upstream, secrets)
        assert verdict == (await matching.explain(survey, response_id)).verdict
    await milepost.store.capabilities.note(Fact.HISTORY_LINKS, holds=False, evidence="none seen")
    match = await milepost.matching.explain(survey, response_id)
    assert ("true", "unconfirmed", "e1") == told(match)
