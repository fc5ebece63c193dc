"""What becomes of links is brought in, and in what ledger and platform differ is flagged."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import httpx
import pytest
import uvicorn
from litestar import Litestar
from tests.path.conftest import EVENTS_KEY

from milepost.app import Milepost
from milepost.jobs import subscriptions
from milepost.jobs.run import Progress
from milepost.model import Fact, Purpose, RegistrantDetails, Scope
from milepost.payload import REFERENCE_FIELD
from milepost.personal_link import parse
from milepost.simulator import Config

Landed = Callable[..., Awaitable[None]]
Travel = Callable[..., Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

ROUTES = ("list", "transaction", "stepwise", "anonymous")
PEOPLE = ("ann", "ben", "cleo")


@pytest.fixture
def simulator_config() -> Config:
    """The survey's flow declares the reference and the field."""
    return Config(limits="none", declared_fields=(REFERENCE_FIELD, "flight"))


async def ask(
    client: httpx.AsyncClient, event_id: str = "e1", ref: str = "ann", milestone: str = "landed"
) -> dict[str, Any]:
    """The personal link of an event."""
    body = {"event_id": event_id, "milestone": milestone, "registrant": ref, "deadline_ms": 8_000}
    link: dict[str, Any] = (await client.post("/v1/links", json=body)).json()
    assert "issued" == link["state"], link
    return link


async def moments(client: httpx.AsyncClient, link: dict[str, Any]) -> tuple[bool, bool, bool, Any]:
    """Whether a link is opened, started, finished; and its response."""
    found = (await client.get(f"/v1/links/{link['id']}")).json()
    at = [found[name] for name in ("opened_at", "started_at", "finished_at")]
    told = [datetime.fromisoformat(each) for each in at if each]
    assert told == sorted(told), at
    return bool(at[0]), bool(at[1]), bool(at[2]), found["response_id"]


async def drift(client: httpx.AsyncClient, **wanted: object) -> list[tuple[str, str | None]]:
    """What differs, by kind and response."""
    answer = await client.get("/v1/drift", params={k: str(v) for k, v in wanted.items()})
    answer.raise_for_status()
    return sorted((each["kind"], each["response_id"]) for each in answer.json()["drift"])


async def reconcile(milepost: Milepost, **options: bool) -> dict[str, Any]:
    """What a run of the job counts."""
    run = await milepost.run("reconcile", asked_by="a test", options=options)
    assert ("done", None) == (run.state, run.error)
    return dict(run.counts)


def called(response_id: str, survey_id: str, key: str = EVENTS_KEY) -> bytes:
    """An event call, as the platform makes it."""
    told = {"Status": "Complete", "SurveyID": survey_id, "ResponseID": response_id}
    message = json.dumps(told)
    digest = hmac.new(key.encode(), message.encode(), hashlib.sha512).hexdigest()
    return urlencode({"HMAC": digest, "MSG": message, "Topic": "x"}).encode()


async def granted(milepost: Milepost) -> Counter[Purpose]:
    """How many calls were granted to whom, of late."""
    brand, *_ = await milepost.budget.standings()
    return Counter({room.purpose: room.granted for room in brand.rooms})


@pytest.fixture
async def routes(client: httpx.AsyncClient, milepost: Milepost, platform: Any) -> None:
    """A milestone for each route, named like it."""
    for route in ROUTES:
        definition = {"survey_id": platform.ready.survey_id, "route": route}
        (await client.put(f"/v1/milestones/{route}", json=definition)).raise_for_status()
    await milepost.replenish.run_once()
    await milepost.run("sync", asked_by="a test")


@pytest.mark.usefixtures("routes")
async def test_links_become_what_their_history_tells(
    client: httpx.AsyncClient, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """Nothing, started, finished, on each route that has a history.

    Looked at again, nothing changes, and no history is read; nor is a link that is finished.
    """
    told = [route for route in ROUTES if route != "anonymous"]
    links = {
        route: [await ask(client, f"{route} {ref}", ref, route) for ref in PEOPLE] for route in told
    }
    answers = {}
    for route, (_, begun, done) in links.items():
        await platform.open(begun["url"])
        answers[route] = await platform.answer(done["url"])
    await travel(minutes=15)
    before = await granted(milepost)
    counts = await reconcile(milepost)
    assert {Purpose.RECONCILE} == (await granted(milepost) - before).keys()
    expected = {"opened": 6, "started": 6, "finished": 3, "read": 3, "drift": 0, "failed": 0}
    assert expected == {name: counts[name] for name in expected}
    for route, (untouched, begun, done) in links.items():
        assert (False, False, False, None) == await moments(client, untouched)
        assert (True, True, False, None) == await moments(client, begun)
        assert (True, True, True, answers[route]) == await moments(client, done)
    assert [] == await drift(client)

    again = await reconcile(milepost)
    assert (0, 0, 0) == tuple(again[name] for name in ("moved", "entries", "finished"))
    thorough = await reconcile(milepost, thorough=True)
    assert (True, 0, 0) == (thorough["moved"] > 0, thorough["finished"], thorough["drift"])
    for (_, begun, _), response_id in [
        (links[route], await platform.answer(links[route][1]["url"]))
        for route in ("list", "stepwise")
    ]:
        await milepost.store.outcomes.look_again(UUID(begun["id"]), 0)
        await reconcile(milepost)
        assert (True, True, True, response_id) == await moments(client, begun)


async def test_links_with_a_distribution_of_their_own_are_looked_at_in_the_order_they_are_due(  # noqa: PLR0917  (fixtures)
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None right behind its issue, and none is passed over for others that came later."""
    monkeypatch.setattr("milepost.jobs.reconcile.MOST_STEPWISE", 2)
    await landed(route="stepwise", fields=[])
    await milepost.run("sync", asked_by="a test")
    old = await ask(client, "old")
    calls = await platform.calls()
    await reconcile(milepost)
    assert calls == await platform.calls()
    await travel(minutes=15)
    await reconcile(milepost)
    assert calls + 1 == await platform.calls()
    for event_id, ref in (("e1", "ben"), ("e2", "cleo"), ("e3", "ben")):
        await ask(client, event_id, ref)
    answer = await platform.answer(old["url"])
    await travel(minutes=15)
    await reconcile(milepost)
    assert (True, True, True, answer) == await moments(client, old)


@pytest.mark.usefixtures("routes")
@pytest.mark.parametrize("tells", [True, False], ids=["history", "reference"])
async def test_an_event_call_finishes_its_link(
    client: httpx.AsyncClient, milepost: Milepost, platform: Any, *, tells: bool
) -> None:
    """The response is fetched, and matched by its reference; on each route, and but once.

    History confirms it afterwards, where it tells of links that were built here.
    """
    await milepost.store.capabilities.note(Fact.HISTORY_LINKS, holds=tells, evidence="a test")
    await platform.switch(facts={"history_links": tells})
    links = [await ask(client, route, milestone=route) for route in ROUTES]
    answers = [await platform.answer(link["url"]) for link in links]
    calls = [called(response_id, platform.ready.survey_id) for response_id in answers]
    for call in calls * 2:
        (await client.post("/v1/upstream/events", content=call)).raise_for_status()
    counts = await milepost.responses.run_once()
    assert (4, 4, 0) == (counts.read, counts.finished, counts.drift)

    async def finished() -> None:
        """See that each link is, by its response."""
        for link, response_id in zip(links, answers, strict=True):
            assert (True, True, True, response_id) == await moments(client, link)

    await finished()
    run = await reconcile(milepost)
    assert (0, 0) == (run["read"], run["drift"])
    await finished()
    assert [] == await drift(client)


async def test_the_platform_calls_and_the_link_is_finished(
    client: httpx.AsyncClient,
    application: Litestar,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
) -> None:
    """From the subscription on, over a socket; to subscribe again asks for nothing."""
    await landed(route="anonymous")
    survey, arrived = platform.ready.survey_id, asyncio.Event()

    async def listen(scope: Any, receive: Any, send: Any) -> None:
        """Answer the platform, and say so."""
        await application(scope, receive, send)
        arrived.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = subscriptions.address(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert [survey] == await subscriptions.lacking(milepost.upstream, [survey], url)
        await subscriptions.subscribe(milepost.upstream, survey, url, EVENTS_KEY)
        assert [] == await subscriptions.lacking(milepost.upstream, [survey], url)
        server = uvicorn.Server(uvicorn.Config(listen, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve([listener]))
        link = await ask(client)
        response_id = await platform.answer(link["url"])
        async with asyncio.timeout(20):
            await arrived.wait()
        server.should_exit = True
        await serving
    assert 1 == (await milepost.responses.run_once()).finished
    assert (True, True, True, response_id) == await moments(client, link)


async def test_a_history_is_gone_on_with_at_the_page_that_was_written_last(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """Whoever takes the run over reads no page twice, and writes what the others tell.

    Who starts meanwhile, and stands on a page that was read, is told of by the next run.
    """
    people = {f"p{n:03}": RegistrantDetails(email=f"p{n}@example.com") for n in range(250)}
    await milepost.store.registrants.put(people)
    await landed(route="transaction")
    await milepost.run("sync", asked_by="a test")
    events = [{"event_id": ref, "milestone": "landed", "registrant": ref} for ref in people]
    answer = await client.post("/v1/links/batch", json={"events": events, "deadline_ms": 8_000})
    links = [each["link"] for each in answer.json()["results"]]
    await platform.answer(links[0]["url"])
    await platform.answer(links[-1]["url"])

    async def pages() -> int:
        """How many pages of histories were asked for."""
        classes = (await platform.web.get("/control/stats")).json()["classes"]
        return int(classes.get("history", {"calls": 0})["calls"])

    stopping = asyncio.Event()

    def stop(at: Progress) -> None:
        """Leave the run when its first page is written."""
        if at.stage == "distributions":
            stopping.set()

    left = await milepost.run("reconcile", asked_by="a test", stopping=stopping, progress=stop)
    assert (None, 100, 1) == (left.ended_at, left.counts["entries"], await pages())
    assert left.position["cursor"]
    late = (links[1], links[-2])
    for link in late:
        await platform.open(link["url"])
    await reconcile(milepost)
    # Three of the run that is gone on with, and three of the next one.
    assert 6 == await pages()
    done = [(await moments(client, link))[2] for link in (links[0], links[2], links[-1])]
    assert [True, False, True] == done
    assert [True, True] == [(await moments(client, link))[1] for link in late]


async def test_a_response_that_no_link_issued_is_flagged(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """Forged, pasted from somebody else's link, or without a reference when history had its hour.

    What the platform says came by a link counts for that link, whatever its reference says.
    """
    await landed(fields=[])
    survey = platform.ready.survey_id
    plain = {"survey_id": survey, "route": "anonymous"}
    (await client.put("/v1/milestones/plain", json=plain)).raise_for_status()
    await milepost.replenish.run_once()
    nobody = await ask(client, "nobody", "cleo", "plain")
    mine, theirs = await ask(client, "mine"), await ask(client, "theirs", "ben")
    bare = nobody["url"].partition("?")[0]
    (reference,) = nobody["url"].partition(f"{REFERENCE_FIELD}=")[2:]
    good = await platform.answer(nobody["url"])
    forged = await platform.answer(f"{bare}?{REFERENCE_FIELD}={reference[:-1]}x")
    without = await platform.answer(bare)
    pasted = await platform.answer(f"{mine['url']}&{REFERENCE_FIELD}={reference}")
    for response_id in (good, forged, without):
        await client.post("/v1/upstream/events", content=called(response_id, survey))
    await reconcile(milepost)
    foreign = sorted([("foreign-response", forged), ("other-milestone", pasted)])
    assert foreign == await drift(client)
    assert (True, True, True, good) == await moments(client, nobody)
    assert (True, True, True, pasted) == await moments(client, mine)
    assert (False, False, False, None) == await moments(client, theirs)

    await travel(hours=2)
    await reconcile(milepost)
    await reconcile(milepost)
    foreign = sorted([*foreign, ("foreign-response", without)])
    assert foreign == await drift(client)
    assert [("other-milestone", pasted)] == await drift(client, kind="other-milestone")
    assert [("other-milestone", pasted)] == await drift(client, milestone="landed")
    found = (await client.get("/v1/drift", params={"kind": "other-milestone"})).json()["drift"]
    assert [mine["id"]] == [each["link_id"] for each in found]


@pytest.mark.usefixtures("probes_at_once")
async def test_a_response_that_cannot_be_read_is_tried_again(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, execute: Execute
) -> None:
    """Once it can be had it counts; one that the platform does not have is given up after a day.

    One that it has and will not show is given up after a week, and flagged; not in an outage, nor
    at a first try, as where nobody was at work for a week. Whoever asks has it read again.
    """
    await landed(route="anonymous")
    survey = platform.ready.survey_id
    links = {ref: await ask(client, ref, ref) for ref in PEOPLE}
    real, *hidden = [await platform.answer(link["url"]) for link in links.values()]
    unheard = "R_000000000000000"

    async def tried(age: str, tries: int, *refused: int) -> tuple[int, int, int]:
        """What comes of a try at those of an age; the last is how many are still to be read."""
        for status in refused:
            await platform.fault("status", status=status, call_class="responses")
        await execute(
            "UPDATE responses SET due_at = now(), noted_at = now() - %s::interval, tries = %s"
            " WHERE due_at IS NOT NULL",
            age,
            tries,
        )
        counts = await milepost.responses.run_once()
        left = await execute("SELECT count(*) FROM responses WHERE due_at IS NOT NULL")
        return counts.read, counts.drift, left[0][0]

    for response_id in (real, unheard):
        await client.post("/v1/upstream/events", content=called(response_id, survey))
    assert (0, 0, 2) == await tried("0 s", 0, 404, 404)
    assert (1, 0, 1) == await tried("1 hour", 1)
    assert (0, 0, 1) == await tried("2 days", 0, 404)
    assert (0, 0, 0) == await tried("2 days", 99, 404)
    assert (True, True, True, real) == await moments(client, links["ann"])

    for response_id in hidden:
        await client.post("/v1/upstream/events", content=called(response_id, survey))
    assert (0, 0, 2) == await tried("6 days", 99, 403, 403)
    assert (0, 0, 2) == await tried("8 days", 0, 403, 403)
    assert (0, 0, 2) == await tried("8 days", 99, 401, 401)
    assert [] == await drift(client)
    assert (0, 2, 0) == await tried("8 days", 99, 403, 403)
    unreadable = sorted(("foreign-response", each) for each in hidden)
    assert unreadable == await drift(client)
    (flagged, _) = (await client.get("/v1/drift")).json()["drift"]
    assert ("landed", "unreadable") == (flagged["milestone"], flagged["rule"])
    assert flagged["rule_detail"]
    await reconcile(milepost)
    assert unreadable == await drift(client)
    await reconcile(milepost, thorough=True)
    assert [] == await drift(client)
    assert (True, True, True, hidden[0]) == await moments(client, links["ben"])


@pytest.mark.usefixtures("probes_at_once")
async def test_a_response_that_history_has_needs_not_be_read(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, execute: Execute
) -> None:
    """It counts for its link; that nobody may read it is no drift, and goes where it was."""
    await landed(fields=[])
    link = await ask(client)
    response_id = await platform.answer(link["url"])
    body = called(response_id, platform.ready.survey_id)
    await client.post("/v1/upstream/events", content=body)
    await platform.fault("status", status=403, call_class="responses", times=9)
    old = "UPDATE responses SET due_at = now(), tries = 99, noted_at = now() - interval '8 days'"
    for _ in range(2):
        await execute(old)
        await milepost.responses.run_once()
        assert [("foreign-response", response_id)] == await drift(client)
    await reconcile(milepost)
    assert (True, True, True, response_id) == await moments(client, link)
    await execute(old)
    await milepost.responses.run_once()
    assert [] == await drift(client)
    assert [(None,)] == await execute("SELECT due_at FROM responses")


@pytest.mark.usefixtures("probes_at_once")
async def test_a_distribution_that_is_not_ours_to_see_leaves_the_others(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """It is listed, and what stands behind it is looked at; where all are refused, the run fails.

    The budget holds calls back after such a refusal, and the next look waits for its probe.
    """
    await landed(slots=1)
    for route in ("list", "stepwise"):
        definition = {"survey_id": platform.ready.survey_id, "route": route, "slots": 1}
        (await client.put(f"/v1/milestones/{route}", json=definition)).raise_for_status()
    await milepost.replenish.run_once()
    await milepost.run("sync", asked_by="a test")
    links = [await ask(client, route, "ann", route) for route in ("list", "stepwise")]
    later = await ask(client, "later", "ben", "stepwise")
    answers = [await platform.answer(link["url"]) for link in links]
    await travel(minutes=15)
    await platform.fault("status", status=403, call_class="distributions")
    assert 1 == (await reconcile(milepost))["failed"]
    for link, response_id in zip(links, answers, strict=True):
        assert (True, True, True, response_id) == await moments(client, link)
    await platform.answer(later["url"])
    await travel(minutes=15)
    await platform.fault("status", status=403, call_class="distributions", times=3)
    run = await milepost.run("reconcile", asked_by="a test")
    assert ("failed", 3) == (run.state, run.counts["failed"])
    assert "share the surveys" in str(run.error)


async def test_history_is_read_once_more_at_the_last_look(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, travel: Travel
) -> None:
    """Two weeks behind the end, whatever the platform counts, be it of a pool or of one link."""
    await landed(slots=1, link_days=3, min_link_days=1)
    definition = {"survey_id": (await client.get("/v1/milestones/landed")).json()["survey_id"]}
    body = {**definition, "route": "stepwise", "link_days": 3, "min_link_days": 1}
    (await client.put("/v1/milestones/stepwise", json=body)).raise_for_status()
    await milepost.run("sync", asked_by="a test")
    for key in ("landed", "stepwise"):
        await ask(client, key, "ann", key)
    moved = []
    for days in (1, 10, 10, 1):
        await travel(days=days)
        moved.append((await reconcile(milepost))["moved"])
    assert [1, 0, 2, 0] == moved


async def test_a_second_response_to_a_link_is_flagged(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """A plain link that was shared keeps its first response, in whatever order they are told."""
    await landed(route="anonymous")
    shared, alone = await ask(client), await ask(client, "e2", "ben")
    answers = [await platform.answer(shared["url"]) for _ in range(3)]
    once = await platform.answer(alone["url"])
    for response_id in (answers[1], answers[0], once):
        body = called(response_id, platform.ready.survey_id)
        (await client.post("/v1/upstream/events", content=body)).raise_for_status()
    await milepost.responses.run_once()
    first = (await moments(client, shared))[3]
    assert first in answers[:2]
    await client.post("/v1/upstream/events", content=called(answers[2], platform.ready.survey_id))
    await milepost.responses.run_once()
    seconds = sorted(("second-response", each) for each in answers if each != first)
    assert seconds == await drift(client)
    assert (True, True, True, once) == await moments(client, alone)


async def test_a_survey_that_was_started_before_its_data_is_flagged(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """It counts for its link; one that was started after the platform had them is no drift.

    That holds also where the flow does not declare the reference, by which it is told at once.
    """
    await landed(membership="ahead", late_data=True, fields=[])
    await milepost.run("sync", asked_by="a test")
    early, right = await ask(client), await ask(client, "e2", "ben")
    undeclared = await ask(client, "e3", "cleo")
    assert ("ready", "ready") == (early["lane"], right["lane"])
    session = await platform.open(early["url"])
    await milepost.drain.tell()
    response_id = await platform.answer(early["url"], session)
    in_time = await platform.answer(right["url"])
    await reconcile(milepost)
    assert [("early-response", response_id)] == await drift(client)
    assert (True, True, True, response_id) == await moments(client, early)
    assert (True, True, True, in_time) == await moments(client, right)
    await travel(minutes=1)
    await platform.switch(declared_fields=[], undeclared_fields="dropped")
    without = await platform.answer(undeclared["url"])
    await reconcile(milepost)
    assert [("early-response", response_id)] == await drift(client)
    assert (True, True, True, without) == await moments(client, undeclared)


@pytest.mark.parametrize("kind", ["list", "transaction"])
async def test_members_and_links_that_lack_each_other_are_flagged(  # noqa: PLR0917  (fixtures)
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    travel: Travel,
    execute: Execute,
    keys: dict[Scope, str],
    kind: str,
) -> None:
    """A member that nobody has a link of, and a link whose member is gone; each once.

    Our probe is none, nor a member whose call is still out. One that is settled is not listed
    again, and one that is explained by now goes by itself.
    """
    await landed(route=kind, fields=[])
    await milepost.run("sync", asked_by="a test")
    links = [await ask(client, ref, ref) for ref in PEOPLE]
    directory = milepost.deployment.directory_id or ""
    (list_id,), *_ = await execute(
        "SELECT list_id FROM slots WHERE milestone = 'landed' ORDER BY number"
    )
    # One whose call took effect, and that nobody knows of: in doubt first, and then given up.
    lost = "UPDATE links SET state = %s, url = NULL, issued_at = NULL, lookup_id = NULL, "
    doubt = lost + "due_at = now(), steps = %s::jsonb WHERE id = %s"
    steps = json.dumps({"transaction": parse(links[0]["url"]).lookup_id})
    await execute(doubt, "unknown", steps, links[0]["id"])
    counts = await reconcile(milepost, thorough=True)
    assert 0 == counts["drift"], await drift(client)
    await execute(lost + "due_at = NULL, rule = 'x' WHERE id = %s", "failed", links[0]["id"])
    counts = await reconcile(milepost, thorough=True)
    assert 1 == counts["drift"]
    assert [("membership-without-link", None)] == await drift(client)

    (contact_id,) = (await execute("SELECT contact_id FROM registrants WHERE ref = 'ben'"))[0]
    if kind == "list":
        await milepost.upstream.remove_list_contact(directory, list_id, contact_id)
    else:
        member = parse(links[1]["url"]).lookup_id
        await milepost.upstream.delete_transaction(directory, member)
    await reconcile(milepost, thorough=True)
    assert 1 == len(await drift(client))  # lists have been seen to lag for days
    await travel(days=4)
    for _ in range(2):
        await reconcile(milepost, thorough=True)
    expected = [("link-without-membership", None), ("membership-without-link", None)]
    assert expected == await drift(client)
    (found,) = (await client.get("/v1/drift", params={"kind": expected[0][0]})).json()["drift"]
    assert (links[1]["id"], "landed") == (found["link_id"], found["milestone"])
    assert parse(links[1]["url"]).lookup_id == found["lookup_id"]
    assert all((found["detail"], found["fix"], found["distribution_id"]))
    reader = {"Authorization": f"Bearer {keys[Scope.READ]}"}
    (masked,) = (await client.get(f"/v1/drift?kind={found['kind']}", headers=reader)).json()[
        "drift"
    ]
    assert found | {"lookup_id": None} == masked
    settled = await client.post(f"/v1/drift/{found['id']}/settle")
    assert ("admin", 200) == (settled.json()["settled_by"], settled.status_code)
    await reconcile(milepost, thorough=True)
    assert [("membership-without-link", None)] == await drift(client)
    assert [("link-without-membership", None)] == await drift(client, settled=True)
    # What the ledger has again explains the member.
    await execute(
        "UPDATE links SET state = 'issued', url = 'https://x', issued_at = now(), rule = NULL,"
        " lookup_id = %s WHERE id = %s",
        parse(links[0]["url"]).lookup_id,
        links[0]["id"],
    )
    await reconcile(milepost, thorough=True)
    assert [] == await drift(client)
