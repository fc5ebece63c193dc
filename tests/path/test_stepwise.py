"""Route `stepwise`: the documented chain of calls, in both forms, and what breaks it off."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast

import httpx
import pytest

from milepost import failpoints
from milepost.app import Milepost
from milepost.model import Fact, RegistrantDetails, Route
from milepost.routes import StepwiseMaker

Landed = Callable[..., Awaitable[None]]
Elapse = Callable[[float], Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

PATIENT = ["direct", "queued"]

CONTACT, TRANSACTION, BATCH, DISTRIBUTION, DATA = (
    "list_contact.add",
    "transaction.create",
    "transaction_batch.create",
    "distribution.create",
    "list_contact.update",
)
CHAIN = [TRANSACTION, BATCH, DISTRIBUTION]
SHORT_CHAIN = [DATA, DISTRIBUTION]

both_forms = pytest.mark.parametrize("batches", [True, False], ids=["batch", "own"])


@pytest.fixture
async def stepped(
    milepost: Milepost, landed: Landed, platform: Any, monkeypatch: pytest.MonkeyPatch
) -> Landed:
    """Register milestone `landed` with this route, on an account that takes batches or does not.

    Job `sync` has put `ann`, `ben` and `cleo` into the home list. No event goes without calls
    because the machine is busy: each waits for its grant for as long as it can.
    """
    monkeypatch.setattr("milepost.issuing.GRANT_SECONDS", 8.0)

    async def register(*, batches: bool = True, **changes: object) -> None:
        """Register it."""
        await milepost.run("sync", asked_by="test")
        await platform.switch(facts={"transaction_batch": batches})
        await milepost.store.capabilities.note(
            Fact.TRANSACTION_BATCH, holds=batches, evidence="tried"
        )
        await landed(route="stepwise", **{"lanes": PATIENT} | changes)

    return register


async def ask(client: httpx.AsyncClient, event_id: str = "e1", **changes: object) -> Any:
    """The answer to an event of `ann`."""
    event = {"event_id": event_id, "milestone": "landed", "registrant": "ann", **changes}
    return (await client.post("/v1/links", json={"data": {"flight": 17}} | event)).json()


async def ask_once(
    client: httpx.AsyncClient, milepost: Milepost, event_id: str = "e1", **changes: object
) -> Any:
    """The link after a request that does not wait for a second try, when its calls have ended."""
    link = await ask(client, event_id, deadline_ms=1_200, **changes)
    await milepost.issuing.finish()
    return (await client.get(f"/v1/links/{link['id']}")).json()


def told(link: Any) -> tuple[str, str | None, str | None]:
    """State, route and rule of an answer."""
    return link["state"], link["route"], (link["reason"] or {}).get("rule")


async def values(milepost: Milepost, platform: Any, link: Any) -> tuple[object, ...]:
    """What the response to a link holds of its event's data."""
    response = await platform.answer(link["url"])
    held = (await milepost.upstream.response(platform.ready.survey_id, response)).values
    return held.get("flight"), held.get("gate")


async def test_the_chain_takes_five_calls_and_four_for_who_is_in_the_home_list(
    client: httpx.AsyncClient, milepost: Milepost, stepped: Landed, platform: Any
) -> None:
    """There is no pool, and nothing for a job to do; whom an event brings home is known there."""
    await stepped()
    pool = (await client.get("/v1/milestones/landed/pool")).json()
    assert ("stepwise", None, 0, []) == tuple(
        pool[name] for name in ("route", "headroom_days", "ready", "distributions")
    )
    for job in ("rotate", "canary"):
        assert "done" == (await milepost.run(job, asked_by="test")).state
    assert [] == await platform.writes()
    before = await platform.calls()
    link = await ask(client)
    assert ("issued", "stepwise", None) == told(link)
    assert ("direct", 4) == (link["lane"], link["upstream_calls"])
    assert (4, CHAIN) == (await platform.calls() - before, await platform.writes())
    assert 200 == (await platform.web.get(link["url"])).status_code
    dora = {"ref": "dora", "email": "dora@example.com"}
    await platform.forget()
    assert 5 == (await ask(client, "e2", registrant=dora))["upstream_calls"]
    assert [CONTACT, *CHAIN] == await platform.writes()
    await milepost.issuing.finish()
    assert 4 == (await ask(client, "e3", registrant="dora"))["upstream_calls"]


async def test_each_link_keeps_its_own_data(
    client: httpx.AsyncClient, milepost: Milepost, stepped: Landed, platform: Any
) -> None:
    """A person holds any number of links; data and moment of each are its transaction's."""
    await stepped()
    moment = "2026-11-23T21:10:00+01:00"
    links = [
        await ask(client, f"e{flight}", data={"flight": flight, "gate": "B"}, occurred_at=moment)
        for flight in (17, 18)
    ]
    assert 2 == len({link["url"] for link in links})
    for flight, link in zip((17, 18), links, strict=True):
        assert (str(flight), "B") == await values(milepost, platform, link)
    (made,) = (await platform.entries())[0]["body"].values()
    assert "2026-11-23 20:10:00" == made["transactionDate"]


async def test_without_batches_it_takes_three_calls_and_one_link_at_a_time(
    client: httpx.AsyncClient,
    milepost: Milepost,
    stepped: Landed,
    platform: Any,
    execute: Execute,
) -> None:
    """The data are in the home list, where a second live link's would be written over them."""
    await stepped(batches=False)
    before = await platform.calls()
    first = await ask(client, data={"flight": 17})
    assert ("issued", "stepwise", 3) == (first["state"], first["route"], first["upstream_calls"])
    assert (3, SHORT_CHAIN) == (await platform.calls() - before, await platform.writes())
    second = await ask(client, "e2", data={"flight": 18})
    assert ("waiting", "no-slot") == (second["state"], second["reason"]["rule"])
    assert "issued" == (await ask(client, "e3", registrant="ben"))["state"]
    assert ("17", None) == await values(milepost, platform, first)
    await execute("UPDATE links SET finished_at = now() WHERE event_id = 'e1'")
    second = await ask(client, "e2", data={"flight": 18})
    assert "issued" == second["state"]
    assert ("18", None) == await values(milepost, platform, second)


async def test_without_batches_one_of_two_events_at_once_waits(
    client: httpx.AsyncClient, stepped: Landed, platform: Any
) -> None:
    """It is decided while nothing of either is made."""
    await stepped(batches=False)
    links = await asyncio.gather(*(ask(client, f"e{n}", deadline_ms=600) for n in (1, 2)))
    assert ["issued", "waiting"] == sorted(link["state"] for link in links)
    assert SHORT_CHAIN == await platform.writes()


@both_forms
async def test_a_lost_answer_is_asked_for_and_nothing_is_made_twice(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    stepped: Landed,
    platform: Any,
    elapse: Elapse,
    batches: bool,
) -> None:
    """But for a batch, which nothing tells of, and for what has no second effect.

    That is an add to the home list, and data, which are the same ones again. What had no effect is
    made; a transaction only after three looks.
    """
    chain = CHAIN if batches else SHORT_CHAIN
    cases = [(call, "after") for call in [CONTACT, *chain]] + [(chain[0], "before")]
    people = [f"p{number}" for number in range(len(cases))]
    known = {ref: RegistrantDetails(email=f"{ref}@example.com") for ref in people}
    late = {people[0]: known.pop(people[0])}
    await milepost.store.registrants.put(known)
    await stepped(batches=batches)
    await milepost.store.registrants.put(late)
    classes = {TRANSACTION: "transactions", BATCH: "transaction_batches", DATA: "list_contacts"}
    classes |= {CONTACT: "list_contacts", DISTRIBUTION: "distributions"}
    for ref, (call, moment) in zip(people, cases, strict=True):
        await platform.forget()
        await platform.fault("reset", call_class=classes[call], moment=moment)
        link = await ask_once(client, milepost, ref, registrant=ref)
        rule = "contact-missing" if call == CONTACT else "outcome-unknown"
        assert rule == link["reason"]["rule"], (call, moment)
        looks = 4 if (call, moment) == (TRANSACTION, "before") else 1
        for _ in range(looks):
            assert None is link["url"], (call, moment)
            await elapse(30)
            link = await ask_once(client, milepost, ref, registrant=ref)
        assert "issued" == link["state"], (call, moment)
        expected = Counter([CONTACT, *chain] if call == CONTACT else chain)
        expected[call] += moment == "after" and call in {CONTACT, BATCH, DATA}
        assert expected == Counter(await platform.writes()), (call, moment)
        assert 200 == (await platform.web.get(link["url"])).status_code


async def test_a_lost_transaction_is_known_by_a_former_secret(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    stepped: Landed,
    platform: Any,
    elapse: Elapse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The secret was changed between the call and the look."""
    await stepped()
    await platform.fault("reset", call_class="transactions", moment="after")
    assert "outcome-unknown" == (await ask_once(client, milepost))["reason"]["rule"]
    maker = cast("StepwiseMaker", milepost.issuing.makers[Route.STEPWISE])
    monkeypatch.setattr(maker, "secrets", [b"another of sixteen bytes", *maker.secrets])
    await elapse(30)
    assert "issued" == (await ask_once(client, milepost))["state"]
    assert CHAIN == await platform.writes()


async def test_who_takes_over_goes_on_behind_the_last_step_that_was_written(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    stepped: Landed,
    platform: Any,
    elapse: Elapse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that dies between a call and its note leaves one thing to be asked for."""
    await stepped()
    await client.put("/v1/registrants/dora", json={"email": "dora@example.com"})
    for step in ("contact", "transaction", "batch", "distribution"):
        await platform.forget()

        passes = "dora" if step == "contact" else f"{step} of {step}"

        def die(name: str, words: str = "", passes: str = passes) -> None:
            """Be as good as killed there."""
            if name in {"joined", "stepped"} and words == passes:
                raise RuntimeError("as good as killed")

        with monkeypatch.context() as patched:
            patched.setattr(failpoints, "reach", die)
            await ask(client, step, registrant="dora", deadline_ms=400)
            await milepost.issuing.finish()
        assert {"contact": 1, "transaction": 1, "batch": 2, "distribution": 3}[step] == len(
            await platform.writes()
        )
        await elapse(21)
        link = await ask(client, step, registrant="dora", deadline_ms=4_000)
        await milepost.issuing.finish()
        assert "issued" == link["state"]
        more = {"contact": [CONTACT, CONTACT], "batch": [BATCH]}.get(step, [])
        assert Counter([*more, *CHAIN]) == Counter(await platform.writes())
        assert 200 == (await platform.web.get(link["url"])).status_code


async def test_who_was_frozen_makes_no_further_step(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    stepped: Landed,
    platform: Any,
    execute: Execute,
    elapse: Elapse,
) -> None:
    """A claim that somebody else has taken over is noticed before the next call."""
    await stepped()
    await platform.fault("slow", call_class="transactions", seconds=0.6)
    await ask(client, deadline_ms=100)
    await execute("UPDATE links SET attempt = attempt + 1")
    await milepost.issuing.finish()
    assert [TRANSACTION] == await platform.writes()
    await elapse(21)
    assert "issued" == (await ask(client, deadline_ms=4_000))["state"]
    assert CHAIN == await platform.writes()


async def test_a_chain_that_takes_too_long_goes_on_later(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    stepped: Landed,
    platform: Any,
    elapse: Elapse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No call begins too late; nothing is in doubt, and nothing is asked."""
    await stepped()
    await platform.fault("slow", call_class="transaction_batches", seconds=0.5)
    with monkeypatch.context() as patched:
        patched.setattr("milepost.issuing.BEGIN_SECONDS", 0.4)
        assert "waiting" == (await ask_once(client, milepost))["state"]
    assert CHAIN[:2] == await platform.writes()
    await elapse(2)
    before = await platform.calls()
    link = await ask(client, deadline_ms=4_000)
    assert ("issued", 4) == (link["state"], link["upstream_calls"])
    assert (2, CHAIN) == (await platform.calls() - before, await platform.writes())


async def test_nobody_is_put_into_the_home_list_too_late(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    stepped: Landed,
    platform: Any,
    elapse: Elapse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever takes their contact's claim over would not see what the add does."""
    await stepped()
    await client.put("/v1/registrants/dora", json={"email": "dora@example.com"})
    with monkeypatch.context() as patched:
        patched.setattr("milepost.routes.joining.BEGIN_SECONDS", -1.0)
        link = await ask_once(client, milepost, registrant="dora")
    assert ("waiting", "contact-missing") == (link["state"], link["reason"]["rule"])
    assert [] == await platform.writes()
    await elapse(2)
    assert "issued" == (await ask(client, registrant="dora", deadline_ms=4_000))["state"]


async def test_without_a_home_list_it_waits_for_job_sync(
    client: httpx.AsyncClient, milepost: Milepost, landed: Landed, elapse: Elapse
) -> None:
    """The link says so, and is made when there is one."""
    await landed(route="stepwise", lanes=PATIENT)
    link = await ask(client)
    assert ("waiting", "home-list-missing") == (link["state"], link["reason"]["rule"])
    await milepost.run("sync", asked_by="test")
    await elapse(31)
    assert "issued" == (await ask(client, deadline_ms=4_000))["state"]


@both_forms
async def test_a_contact_that_was_deleted_is_made_anew(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    stepped: Landed,
    platform: Any,
    elapse: Elapse,
    batches: bool,
) -> None:
    """What is known of the home list may be old: what is refused then says so."""
    await stepped(batches=batches)
    ann = await milepost.store.registrants.get("ann")
    directory = milepost.deployment.directory_id or ""
    assert ann is not None
    await milepost.upstream.delete_contact(directory, ann.contact_id or "")
    await platform.forget()
    assert "contact-missing" == (await ask_once(client, milepost))["reason"]["rule"]
    await elapse(2)
    link = await ask(client, deadline_ms=4_000)
    assert "issued" == link["state"]
    made = [entry for entry in await platform.entries() if entry.get("effect") != "none_created"]
    chain = CHAIN if batches else SHORT_CHAIN
    assert [CONTACT, *chain] == [entry["operation"] for entry in made]
    assert 200 == (await platform.web.get(link["url"])).status_code


async def test_a_transaction_that_is_refused_costs_nobody_their_contact(
    client: httpx.AsyncClient, milepost: Milepost, stepped: Landed, platform: Any
) -> None:
    """The contact is where it was known to be: the event has failed, and the next one has not."""
    await stepped()
    before = await milepost.store.registrants.get("ann")
    await platform.fault("status", call_class="transactions", status=400)
    assert ("failed", None, "upstream-refused") == told(await ask(client))
    after = await milepost.store.registrants.get("ann")
    assert before == after
    assert "issued" == (await ask(client, "e2"))["state"]
    assert CHAIN == await platform.writes()


async def test_a_lost_transaction_is_asked_for_also_of_who_was_forgotten_since(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    stepped: Landed,
    platform: Any,
    execute: Execute,
    elapse: Elapse,
) -> None:
    """The add meets the contact of before, which has the transaction."""
    await stepped()
    await platform.fault("reset", call_class="transactions", moment="after")
    assert "outcome-unknown" == (await ask_once(client, milepost))["reason"]["rule"]
    ((home,),) = await execute("SELECT home_lookup_id FROM registrants WHERE ref = 'ann'")
    await milepost.store.contacts.miss("ann", home)
    await elapse(30)
    assert "issued" == (await ask_once(client, milepost))["state"]
    assert Counter([CONTACT, *CHAIN]) == Counter(await platform.writes())


async def test_a_link_that_is_listed_late_is_looked_for_again(
    client: httpx.AsyncClient,
    milepost: Milepost,
    stepped: Landed,
    platform: Any,
    travel: Callable[..., Awaitable[None]],
) -> None:
    """All is made once; the link waits, ever less often."""
    await stepped()
    await platform.switch(facts={"links_lag_seconds": 3_600})
    link = await ask_once(client, milepost)
    assert ("waiting", "link-unlisted") == (link["state"], link["reason"]["rule"])
    await travel(minutes=61)
    link = await ask(client, deadline_ms=4_000)
    assert ("issued", 5) == (link["state"], link["upstream_calls"])
    assert CHAIN == await platform.writes()


async def test_a_milestone_that_is_given_another_survey_takes_its_waiting_links_along(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    stepped: Landed,
    platform: Any,
    elapse: Elapse,
    execute: Execute,
) -> None:
    """The transaction is of no survey; the distribution is made for the one that there is now."""
    await stepped()
    await platform.fault("status", call_class="links", status=404)
    assert "step-missing" == (await ask_once(client, milepost))["reason"]["rule"]
    await execute(
        "UPDATE links SET steps = steps || jsonb_build_object('end', '2027-01-01T00:00:00Z SV_x')"
    )
    await elapse(2)
    link = await ask(client, deadline_ms=4_000)
    assert "issued" == link["state"]
    assert [*CHAIN, DISTRIBUTION] == await platform.writes()
    assert 200 == (await platform.web.get(link["url"])).status_code


@both_forms
async def test_what_was_made_for_another_persons_contact_is_given_up(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    stepped: Landed,
    platform: Any,
    elapse: Elapse,
    batches: bool,
) -> None:
    """While the link waited, the contact passed to somebody else, who must not answer for it."""
    await stepped(batches=batches)
    await platform.fault("status", call_class="links", status=404)
    assert "step-missing" == (await ask_once(client, milepost))["reason"]["rule"]
    await milepost.store.registrants.put({"ann": RegistrantDetails(email="moved@example.com")})
    await milepost.store.registrants.put({"dan": RegistrantDetails(email="ann@example.com")})
    await elapse(2)
    link = await ask(client, deadline_ms=4_000)
    assert "issued" == link["state"]
    chain = CHAIN if batches else SHORT_CHAIN
    assert [*chain, CONTACT, *chain] == await platform.writes()
    assert 200 == (await platform.web.get(link["url"])).status_code


async def test_a_link_of_an_unknown_form_is_not_given_out(
    client: httpx.AsyncClient, stepped: Landed, platform: Any
) -> None:
    """Be it the platform's own: what cannot be read may be anybody's."""
    await stepped()
    await platform.switch(facts={"link_format": "unknown"})
    link = await ask(client)
    assert ("failed", None, "link-untrusted") == (
        link["state"],
        link["url"],
        link["reason"]["rule"],
    )


async def test_a_distribution_that_is_refused_is_tried_again(
    client: httpx.AsyncClient, milepost: Milepost, stepped: Landed, platform: Any, elapse: Elapse
) -> None:
    """The survey may be closed for a while: that is no event's fault, and none is lost."""
    await stepped()
    await platform.fault("status", call_class="distributions", status=400)
    link = await ask_once(client, milepost)
    assert ("waiting", "distribution-refused") == (link["state"], link["reason"]["rule"])
    await elapse(2)
    assert "issued" == (await ask(client, deadline_ms=4_000))["state"]
    assert CHAIN == await platform.writes()


async def test_where_distributions_are_refused_one_chain_alone_is_begun(
    client: httpx.AsyncClient, milepost: Milepost, stepped: Landed, platform: Any, elapse: Elapse
) -> None:
    """As on an account that takes no batches, and was not probed: the others make nothing."""
    await stepped()
    await platform.switch(facts={"transaction_batch": False})
    refused = ("waiting", "distribution-refused")
    people = ("ann", "ben", "cleo")
    for ref in people:
        assert refused == told(await ask_once(client, milepost, ref, registrant=ref))[::2]
    assert CHAIN[:2] == await platform.writes()
    await platform.switch(facts={"transaction_batch": True})
    await elapse(2)
    for ref in people:
        assert "issued" == (await ask(client, ref, registrant=ref))["state"]
    assert Counter(3 * CHAIN) == Counter(await platform.writes())


@pytest.mark.parametrize(("by", "batches"), [("drain", True), ("click", False)])
async def test_a_short_link_leads_to_it(
    *,
    client: httpx.AsyncClient,
    milepost: Milepost,
    stepped: Landed,
    platform: Any,
    batches: bool,
    by: str,
) -> None:
    """It is made by job `drain`, or when somebody opens it."""
    await stepped(batches=batches, lanes=["deferred"])
    link = await ask(client)
    assert ("waiting", "deferred") == (link["state"], link["lane"])
    if by == "drain":
        assert 1 == (await milepost.drain.run_once()).issued
    opened = await client.get(httpx.URL(link["url"]).raw_path.decode())
    assert opened.is_redirect, opened.text
    assert (CHAIN if batches else SHORT_CHAIN) == await platform.writes()
    assert 200 == (await platform.web.get(opened.headers["location"])).status_code


async def test_once_gives_the_first_link_again(
    client: httpx.AsyncClient, stepped: Landed, platform: Any
) -> None:
    """Also where there is room for one link alone."""
    await stepped(batches=False, repeat="once")
    first = await ask(client)
    second = await ask(client, "e2")
    assert (first["url"], True, 0) == (second["url"], second["reused"], second["upstream_calls"])
    assert SHORT_CHAIN == await platform.writes()
