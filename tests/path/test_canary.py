"""A change of the platform's links overnight is seen, told and mended; no link is a wrong one."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest

from milepost.app import Milepost
from milepost.jobs.provisioning import Provisioning
from milepost.model import Fact, Scope
from milepost.personal_link import PersonalLink
from milepost.store.pools import Making
from milepost.store.runs import RunRecord
from milepost.upstream import ContactFields, HistoryEntry, Upstream

Landed = Callable[..., Awaitable[None]]
Travel = Callable[..., Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

NIGHT = {"hours": 24}


async def look(milepost: Milepost) -> RunRecord:
    """Run the job, as it would be run at night."""
    return await milepost.run("canary", asked_by="a test")


async def attempt(milepost: Milepost) -> RunRecord:
    """Run the job once, whatever comes of it."""
    runs = milepost.store.runs
    unended = [run for run in await runs.page("canary", limit=1) if run.ended_at is None]
    asked = unended[0] if unended else await runs.ask("canary", asked_by="a test")
    run = await milepost.scheduler.run_due("canary", asyncio.Event(), run_id=asked.id)
    assert run is not None
    return run


async def ask(client: httpx.AsyncClient, event_id: str, ref: str = "ann") -> dict[str, Any]:
    """The answer to an event."""
    body = {"event_id": event_id, "milestone": "landed", "registrant": ref, "deadline_ms": 8_000}
    link: dict[str, Any] = (await client.post("/v1/links", json=body)).json()
    return link


async def stopped(client: httpx.AsyncClient) -> dict[str, Any] | None:
    """Why milestone `landed` gives no links; None: it does."""
    found: dict[str, Any] | None = (await client.get("/v1/milestones/landed")).json()["stopped"]
    return found


async def is_listed(milepost: Milepost, url: str) -> bool:
    """Whether the platform itself lists this very link."""
    distribution, survey = re.findall(r"Q_DL=(?:EMD_)?(\w{15})_(\w{15})_", url)[0]
    links = milepost.upstream.distribution_links(f"EMD_{distribution}", f"SV_{survey}")
    return url in [each.link async for each in links]


async def test_links_that_are_right_are_found_right(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """Nobody's links are listed, and of canaries there is one at a time."""
    await landed(fields=[], slots=2)
    await ask(client, "e1")
    await ask(client, "e2", "ben")
    await travel(minutes=2)
    await ask(client, "e3", "cleo")
    (await platform.web.delete("/control/stats")).raise_for_status()
    run = await look(milepost)
    assert ("done", 1, 2, 1) == (
        run.state,
        run.counts["surveys"],
        run.counts["templates"],
        run.counts["links"],
    )
    stats = (await platform.web.get("/control/stats")).json()
    assert 1 == stats["classes"]["links"]["calls"]
    assert None is await stopped(client)
    await travel(**NIGHT)
    run = await look(milepost)
    # What was found right once is not looked at again, and the canary of yesterday is gone.
    assert ("done", 0, 1) == (run.state, run.counts["links"], run.counts["deleted"])
    stats = (await platform.web.get("/control/stats")).json()
    assert 3 == stats["held"]["distributions"]


async def test_links_that_change_overnight_stop_the_milestone_until_they_change_back(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    keys: dict[Scope, str],
    platform: Any,
    travel: Travel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The alarm names both URLs, to admins; neither a log nor the run's error has them."""
    await landed(fields=[])
    await ask(client, "e1")
    await look(milepost)
    await platform.switch(facts={"link_format": "2020"})
    await travel(**NIGHT)
    run = await look(milepost)
    assert "stopped" == run.state
    assert run.error is not None
    assert "landed" in run.error
    stop = await stopped(client)
    assert stop is not None
    assert "differ from those that are built here in their query" in stop["because"]
    assert (True, True) == (stop["expected"].endswith("&_g_=g"), stop["found"].endswith("Q_CHL=gl"))
    (finding,) = await milepost.store.runs.findings(run.id)
    assert stop["expected"] in finding.reason
    assert stop["found"] in finding.reason
    assert "milestone landed is stopped" in caplog.text
    for told in (caplog.text, run.error, stop["because"]):
        assert "http" not in told
    findings = f"/v1/runs/{run.id}/findings"
    headers = {"Authorization": f"Bearer {keys[Scope.SYNC]}"}
    assert 403 == (await client.get(findings, headers=headers)).status_code
    assert stop["found"] in (await client.get(findings)).json()["findings"][0]["reason"]
    headers = {"Authorization": f"Bearer {keys[Scope.READ]}"}
    seen = (await client.get("/v1/milestones", headers=headers)).json()["milestones"][0]["stopped"]
    assert {**stop, "expected": None, "found": None} == seen

    await travel(**NIGHT)
    assert "stopped" == (await look(milepost)).state
    again = await stopped(client)
    assert again is not None
    assert stop["at"] == again["at"]
    await platform.switch(facts={"link_format": "2023"})
    await travel(**NIGHT)
    run = await look(milepost)
    assert ("done", 1, None) == (run.state, run.counts["resumed"], await stopped(client))
    assert await is_listed(milepost, (await ask(client, "e2", "ben"))["url"])


async def test_a_milestone_that_a_person_resumes_builds_links_as_the_platform_does_now(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """The templates are learnt anew, from a canary; links that were given stay as they are."""
    await landed(fields=[], slots=2)
    before = await ask(client, "e1")
    await platform.switch(facts={"link_format": "double-slash"})
    await travel(**NIGHT)
    await look(milepost)
    answer = (await client.post("/v1/milestones/landed/resume")).json()
    assert answer["stopped"]["resumed_at"] is not None  # until it is learnt
    (asked,) = await milepost.store.runs.page("canary", limit=1)
    assert "waiting" == asked.state
    run = await look(milepost)
    assert ("done", 2, 1) == (run.state, run.counts["learnt"], run.counts["resumed"])
    assert None is await stopped(client)
    link = await ask(client, "e2", "ben")
    assert await is_listed(milepost, link["url"])
    assert before["url"] == (await ask(client, "e1"))["url"]
    await travel(**NIGHT)
    run = await look(milepost)
    assert ("done", 0) == (run.state, run.counts["links"])  # the minute after the change is let be
    await ask(client, "e3", "cleo")
    await travel(**NIGHT)
    run = await look(milepost)
    assert ("done", 1) == (run.state, run.counts["links"])


@pytest.mark.parametrize("mend", ["the platform goes back", "a person resumes"])
async def test_links_that_were_deferred_meanwhile_complete_after_it_is_mended(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    mend: str,
) -> None:
    """Their callers have a short link at once, and it leads to the link that the platform lists."""
    await landed(fields=[])
    await platform.switch(facts={"link_format": "2020"})
    await travel(**NIGHT)
    await look(milepost)
    await platform.forget()
    link = await ask(client, "e1")
    assert ("waiting", "deferred", "route-stopped") == (
        link["state"],
        link["lane"],
        link["reason"]["rule"],
    )
    await travel(minutes=10)
    await milepost.drain.run_once()
    assert [] == await platform.writes()
    if mend == "a person resumes":
        await client.post("/v1/milestones/landed/resume")
        await look(milepost)
    else:
        await platform.switch(facts={"link_format": "2023"})
        await look(milepost)
    await travel(minutes=10)
    assert 1 == (await milepost.drain.run_once()).issued
    made = (await client.get(f"/v1/links/{link['id']}")).json()
    assert ("issued", link["url"]) == (made["state"], made["url"])
    assert await is_listed(milepost, made["other_url"])


async def test_a_form_that_is_not_known_can_never_be_learnt(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """Whoever resumes the milestone is told so, and it stays stopped."""
    await landed(fields=[])
    await platform.switch(facts={"link_format": "unknown"})
    await travel(**NIGHT)
    for _ in range(2):
        run = await look(milepost)
        (finding,) = await milepost.store.runs.findings(run.id)
        assert "stopped" == run.state
        assert "the probe's link has a form that is not known: it has no query" in finding.reason
        stop = await stopped(client)
        assert stop is not None
        assert f"our probe, a credential: expected {stop['expected']}, found" in finding.reason
        assert None is stop["resumed_at"]  # it was tried, and is not tried again by itself
        await client.post("/v1/milestones/landed/resume")
    await client.post("/v1/milestones/landed/pause")  # a person's later word
    stop = await stopped(client)
    assert stop is not None
    assert None is stop["resumed_at"]
    assert "/jfe/form/" in stop["expected"]
    assert "/survey/" in stop["found"]
    # What was seen of one survey says nothing of another.
    same = {"survey_id": platform.ready.survey_id, "fields": []}
    await client.put("/v1/milestones/landed", json=same)
    assert stop == await stopped(client)
    await client.put("/v1/milestones/landed", json={**same, "survey_id": "SV_000000000000000"})
    assert None is await stopped(client)


async def test_a_link_that_history_tells_otherwise_stops_the_milestone(
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    travel: Travel,
    execute: Execute,
) -> None:
    """Also when all templates are right; until that link is right, and not until it is old."""
    await landed(fields=[])
    await travel(minutes=2)
    link = await ask(client, "e1")
    wrong = link["url"].replace("_g_=g", "_g_=h")
    await execute("UPDATE links SET url = %s", wrong)
    for _ in range(2):
        assert "stopped" == (await look(milepost)).state
        stop = await stopped(client)
        assert stop is not None
        assert (wrong, link["url"]) == (stop["expected"], stop["found"])
        assert "history tells of differs in its query" in stop["because"]
        await travel(**NIGHT)
    await execute("UPDATE links SET url = %s", link["url"])
    run = await look(milepost)
    assert ("done", 1, 1) == (run.state, run.counts["links"], run.counts["resumed"])


UNLIKE = "history does not tell the canary's link as it is listed"


async def test_history_in_a_form_of_its_own_tells_nothing(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only where the canary's own entry is as it is listed are links held against history."""
    await landed(fields=[])
    await travel(minutes=2)
    await ask(client, "e1")
    pool = (await client.get("/v1/milestones/landed/pool")).json()["distributions"]
    told_of = {each["distribution_id"] for each in pool}
    history = Upstream.history

    def tell(of: Callable[[str], bool]) -> None:
        """Let history tell of links without their last parameter, of these distributions."""

        async def otherwise(self: Upstream, distribution_id: str) -> AsyncIterator[HistoryEntry]:
            """Tell."""
            async for entry in history(self, distribution_id):
                if of(distribution_id):
                    link = (entry.link or "").removesuffix("&_g_=g")
                    yield msgspec.structs.replace(entry, link=link)

        monkeypatch.setattr(Upstream, "history", otherwise)

    async def look_says(sentence: str) -> None:
        """The run compares nothing, stops nothing, and says this."""
        run = await look(milepost)
        (finding,) = await milepost.store.runs.findings(run.id)
        assert ("done", 0, None) == (run.state, run.counts["links"], await stopped(client))
        assert sentence in finding.reason
        await execute("UPDATE milestones SET trusted_at = NULL")  # look at the same link again

    tell(lambda _: True)
    await look_says(UNLIKE)
    await platform.fault("status", status=400, endpoint="GET /distributions/{EMD}/history")
    await look_says("history: refused (status 400")
    tell(lambda distribution_id: distribution_id in told_of)
    await look_says(f"{UNLIKE}, or not yet")
    await platform.switch(facts={"links_lag_seconds": 3_600})
    await look_says("does not list the probe's link yet")


async def test_no_canary_is_made_where_none_can_be(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """History tells then, as far as it does, and a person's word ends what it has stopped."""
    await landed(fields=[])
    await travel(minutes=2)
    await ask(client, "e1")
    await milepost.store.capabilities.note(
        Fact.PROBE_ONLY_DISTRIBUTION, holds=False, evidence="tried"
    )
    await platform.forget()
    run = await look(milepost)
    assert ("done", 0, 1) == (run.state, run.counts["templates"], run.counts["links"])
    await travel(minutes=2)
    await ask(client, "e2", "ben")
    await platform.switch(facts={"link_format": "2020"})
    assert "stopped" == (await look(milepost)).state
    assert "stopped" == (await look(milepost)).state
    await client.post("/v1/milestones/landed/resume")
    assert "done" == (await look(milepost)).state
    assert {"list_contact.add"} == set(await platform.writes())
    # Nor is history asked where it does not tell: its limit is left to others.
    await milepost.store.capabilities.note(Fact.HISTORY_LINKS, holds=False, evidence="tried")
    before = await platform.calls()
    assert "done" == (await look(milepost)).state
    assert before == await platform.calls()


async def test_a_canary_that_is_not_listed_yet_tells_nothing(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """It is no mismatch; the next runs wait for the same one, until it is listed."""
    await landed(fields=[])
    await platform.switch(facts={"links_lag_seconds": 60 * 3_600, "link_format": "2020"})
    for _ in range(3):
        run = await look(milepost)
        assert ("done", 1, None) == (run.state, run.counts["unlisted"], await stopped(client))
        await travel(**NIGHT)
    assert "stopped" == (await look(milepost)).state
    assert 1 == Counter(await platform.writes())["distribution.create"]


async def test_a_canary_that_somebody_else_makes_is_waited_for(
    landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """The run is not done before it has looked at all surveys."""
    await landed(fields=[], slots=1)
    store = milepost.store
    asked = await store.runs.ask("canary", asked_by="a test")
    survey_id = platform.ready.survey_id
    taken = await store.canaries.take(survey_id, "abcdefgh", since=asked.created_at)
    assert isinstance(taken, Making)
    run = await attempt(milepost)
    assert ("waiting", 1) == (run.state, run.counts["busy"])
    await store.pools.release(taken, "left", timedelta(0))
    await travel(minutes=1)
    run = await attempt(milepost)
    assert ("done", 0, 1) == (run.state, run.counts["busy"], run.counts["templates"])


async def test_what_a_person_has_resumed_is_learnt_however_late_the_canary_is_listed(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    execute: Execute,
) -> None:
    """Their word stands in the milestone until then, and is good for that one time."""
    await landed(fields=[], slots=1)
    await platform.switch(facts={"link_format": "double-slash"})
    await travel(**NIGHT)
    await look(milepost)
    await platform.switch(facts={"links_lag_seconds": 60 * 3_600})
    asked = (await client.post("/v1/milestones/landed/resume")).json()["stopped"]
    for _ in range(3):
        run = await look(milepost)
        assert ("stopped", 1, 0) == (run.state, run.counts["unlisted"], run.counts["learnt"])
        assert asked == await stopped(client)
        await travel(**NIGHT)
    run = await look(milepost)
    assert ("done", 1, 1) == (run.state, run.counts["learnt"], run.counts["resumed"])
    known = "SELECT resumed_at, trusted_at IS NOT NULL FROM milestones"
    assert [(None, True)] == await execute(known)
    await platform.switch(facts={"links_lag_seconds": 0})
    assert await is_listed(milepost, (await ask(client, "e1"))["url"])


async def test_who_has_resumed_is_answered_by_a_canary_that_was_made_after_the_stop(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
) -> None:
    """One that is waited for since before tells nothing of what was seen since."""
    await landed(fields=[], slots=1)
    survey_id = platform.ready.survey_id
    await platform.switch(facts={"links_lag_seconds": 47 * 3_600, "link_format": "double-slash"})
    assert ("done", 1) == ((run := await look(milepost)).state, run.counts["unlisted"])
    await travel(hours=1)
    await milepost.store.milestones.stop("landed", "seen since", survey_id=survey_id)
    asked = (await client.post("/v1/milestones/landed/resume")).json()["stopped"]
    for _ in range(2):  # the first one is listed by the second of these looks
        run = await look(milepost)
        assert ("stopped", 1, 0) == (run.state, run.counts["unlisted"], run.counts["learnt"])
        assert asked == await stopped(client)
        await travel(**NIGHT)
    run = await look(milepost)
    assert ("done", 1, 1) == (run.state, run.counts["learnt"], run.counts["resumed"])
    assert 2 == Counter(await platform.writes())["distribution.create"]


async def test_who_has_resumed_knows_of_the_links_that_were_given_before(
    client: httpx.AsyncClient,
    *,
    landed: Landed,
    milepost: Milepost,
    travel: Travel,
    execute: Execute,
) -> None:
    """They are not held against history for ever; those that are given since are."""
    await landed(fields=[], slots=1)
    await travel(minutes=2)
    await ask(client, "e1")
    await execute("UPDATE links SET url = replace(url, '_g_=g', '_g_=h')")
    assert "stopped" == (await look(milepost)).state
    await client.post("/v1/milestones/landed/resume")
    run = await look(milepost)
    assert ("done", 0, 1) == (run.state, run.counts["links"], run.counts["resumed"])
    await travel(minutes=2)
    await ask(client, "e2", "ben")
    assert ("done", 1) == ((run := await look(milepost)).state, run.counts["links"])


async def test_a_link_is_held_against_history_once_however_late_canaries_are_listed(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """A canary is old when it is listed, and what history tells then is not."""
    await landed(fields=[], slots=1)
    await platform.switch(facts={"links_lag_seconds": 23 * 3_600})
    looks = [await look(milepost)]
    await travel(minutes=2)
    await ask(client, "e1")
    for _ in range(3):
        await travel(**NIGHT)
        looks.append(await look(milepost))
    assert [1, 0, 1, 0] == [run.counts["unlisted"] for run in looks]
    assert [0, 1, 0, 0] == [run.counts["links"] for run in looks]


@pytest.mark.parametrize("gone", ["deleted", "ended"])
async def test_a_canary_that_is_gone_before_it_is_listed_is_made_anew(
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    execute: Execute,
    *,
    gone: str,
) -> None:
    """By the run that finds it deleted, or by the one after its end."""
    await landed(fields=[], slots=1)
    await platform.switch(facts={"links_lag_seconds": 3_600})
    await look(milepost)
    ((canary,),) = await execute(
        "SELECT distribution_id FROM distributions WHERE description LIKE '%% canary %%'"
    )
    await platform.switch(facts={"links_lag_seconds": 0})
    if gone == "deleted":
        await milepost.upstream.delete_distribution(canary)
        await travel(**NIGHT)
        run = await attempt(milepost)
        (finding,) = await milepost.store.runs.findings(run.id)
        assert "the distribution or its list was deleted at the platform" in finding.reason
        await travel(minutes=1)
    else:
        await travel(days=8)
    run = await attempt(milepost)
    assert ("done", 0, 1) == (run.state, run.counts["unlisted"], run.counts["templates"])
    assert 2 == Counter(await platform.writes())["distribution.create"]


async def test_who_loses_a_canary_to_another_process_goes_on_with_the_other_surveys(
    landed: Landed, milepost: Milepost, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as if the other process had been at it from the beginning."""
    await landed(fields=[], slots=1)
    calibrate = Provisioning._calibrate  # noqa: SLF001  (to come in behind it)

    async def overtaken(self: Provisioning, making: Making) -> PersonalLink:
        """Somebody takes it over meanwhile."""
        link = await calibrate(self, making)
        await execute("UPDATE distributions SET attempt = attempt + 1 WHERE state = 'making'")
        return link

    monkeypatch.setattr(Provisioning, "_calibrate", overtaken)
    run = await attempt(milepost)
    assert ("waiting", 1, 1) == (run.state, run.counts["surveys"], run.counts["busy"])
    (finding,) = await milepost.store.runs.findings(run.id)
    assert "was taken over" in finding.reason


async def test_a_canary_ends_no_stop_that_is_newer(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """A run that is gone on with makes another one then, if it has made one."""
    await landed(fields=[], slots=1)
    runs = milepost.store.runs
    left = await runs.ask("canary", asked_by="a test")
    taken = await runs.take("canary", run_id=left.id)
    assert taken is not None
    assert taken.started_at is not None
    provisioning = Provisioning(milepost.store, milepost.upstream, milepost.deployment)
    account = await milepost.store.capabilities.all()
    await provisioning.canary(platform.ready.survey_id, account, since=taken.started_at)
    survey_id = platform.ready.survey_id
    await milepost.store.milestones.stop("landed", "seen since", survey_id=survey_id)
    await platform.switch(facts={"links_lag_seconds": 3_600})
    await runs.set_back(taken, error="died", pause=0)
    ended = await milepost.scheduler.run_due("canary", asyncio.Event(), run_id=left.id)
    assert ended is not None
    assert ("stopped", 1, 0) == (ended.state, ended.counts["unlisted"], ended.counts["templates"])
    assert "seen since" == ((await stopped(client)) or {})["because"]
    assert 2 == Counter(await platform.writes())["distribution.create"]
    await travel(hours=1)
    assert ("done", 1) == ((run := await look(milepost)).state, run.counts["resumed"])


async def test_a_canary_is_not_refused_for_the_life_of_milestones_links(
    landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """It needs none of it: how long links live is seen of each distribution."""
    await landed(fields=[], link_days=60)
    await platform.switch(facts={"longest_expiry_days": 30})
    run = await look(milepost)
    assert ("done", 0, 3) == (run.state, run.counts["failed"], run.counts["templates"])


@pytest.mark.parametrize(
    "deleted", ["afterwards", "while it is waited for", "as a contact", "and put back"]
)
async def test_a_probe_that_somebody_deleted_is_put_back(
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    travel: Travel,
    execute: Execute,
    *,
    deleted: str,
) -> None:
    """Into the same list, and a canary tells again what links look like."""
    await landed(fields=[], slots=1)
    if deleted in {"while it is waited for", "and put back"}:
        await platform.switch(facts={"links_lag_seconds": 3_600})
    run = await look(milepost)
    ((list_id, contact_id),) = await execute(
        "SELECT list_id, probe_contact_id FROM slots WHERE milestone IS NULL"
    )
    directory = milepost.deployment.directory_id or ""
    await platform.switch(facts={"links_lag_seconds": 0, "empty_distribution": False})
    if deleted == "and put back":  # by somebody who has not come to write it down
        await platform.switch(facts={"same_lookup": False})
        await milepost.upstream.remove_list_contact(directory, list_id, contact_id)
        ours = Provisioning(milepost.store, milepost.upstream, milepost.deployment)._probe()  # noqa: SLF001  (theirs)
        await milepost.upstream.add_list_contact(directory, list_id, ours)
        await platform.forget()
    elif deleted == "as a contact":  # and an earlier attempt has died after its call
        await milepost.upstream.delete_contact(directory, contact_id)
        ref = f"milepost-probe-{milepost.deployment.id}"
        again = ContactFields(ref=ref, email="probe@example.com")
        await milepost.upstream.add_list_contact(directory, list_id, again)
        await platform.forget()
    else:
        await platform.forget()
        await milepost.upstream.remove_list_contact(directory, list_id, contact_id)
    await travel(**NIGHT)
    run = await look(milepost)
    assert ("done", 0, 1) == (run.state, run.counts["unlisted"], run.counts["templates"])
    made = Counter(await platform.writes())
    adds = 0 if deleted in {"as a contact", "and put back"} else 1
    assert (0, adds) == (made["mailing_list.create"], made["list_contact.add"])


async def test_a_survey_that_was_left_while_its_links_were_not_trusted_is_not_trusted_later(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any, travel: Travel
) -> None:
    """No link is built as before when it comes back, and what is made anew is as the platform's."""
    await landed(fields=[], slots=1)
    await platform.switch(facts={"link_format": "double-slash"})
    await travel(**NIGHT)
    await look(milepost)
    same = {"survey_id": platform.ready.survey_id, "fields": [], "slots": 1}
    for survey_id in ("SV_000000000000000", same["survey_id"]):
        await client.put("/v1/milestones/landed", json={**same, "survey_id": survey_id})
    (former,) = (await client.get("/v1/milestones/landed/pool")).json()["distributions"]
    assert ("stopped", True) == (former["state"], "differ" in former["stopped_because"])
    assert "pool-empty" == (await ask(client, "e1"))["reason"]["rule"]
    assert 1 == (await milepost.replenish.run_once()).ready
    assert await is_listed(milepost, (await ask(client, "e2", "ben"))["url"])


async def test_a_survey_that_is_refused_keeps_no_other_from_being_looked_at(
    client: httpx.AsyncClient, landed: Landed, milepost: Milepost, platform: Any
) -> None:
    """It is told; and a run that is taken over goes on behind what it has looked at."""
    await landed(fields=[])
    gone = {"survey_id": "SV_000000000000000", "slots": 1}
    await client.put("/v1/milestones/gone", json=gone)
    run = await look(milepost)
    assert ("done", 2, 1, 3) == (
        run.state,
        run.counts["surveys"],
        run.counts["failed"],
        run.counts["templates"],
    )
    (finding,) = await milepost.store.runs.findings(run.id)
    assert "SV_000000000000000" in finding.reason
    # Half of a run, as whoever died has left it.
    left = await milepost.store.runs.ask("canary", asked_by="a test")
    taken = await milepost.store.runs.take("canary", run_id=left.id)
    assert taken is not None
    await milepost.store.runs.commit(
        taken, position=gone["survey_id"], stage="surveys", done=1, total=2, counts={"surveys": 1}
    )
    await milepost.store.runs.set_back(taken, error="died", pause=0)
    ended = await milepost.scheduler.run_due("canary", asyncio.Event(), run_id=left.id)
    assert ended is not None
    assert (2, 3) == (ended.counts["surveys"], ended.counts["templates"])
    assert 1 == Counter(await platform.writes())["mailing_list.create"] - 1
