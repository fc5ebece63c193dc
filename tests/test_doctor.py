"""The doctor looks: a line for each thing, whatever is down, and nothing is changed."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg
import pytest
from tests.conftest import set_clock_ahead

from milepost import app, settings
from milepost.app import Milepost
from milepost.doctor import Finding, examine
from milepost.jobs import subscriptions
from milepost.model import Fact, Field, MilestoneDefinition, RegistrantDetails, Route
from milepost.simulator import Config, Ready, running
from milepost.upstream import Upstream

FIELDS = ("milepost_ref", "gate")
LINK = (
    "https://brand.qualtrics.example/jfe/form/SV_000000000000001?Q_CHL=gl"
    "&Q_DL=EMD_000000000000002_000000000000001_CGC_000000000000003&_g_=g"
)


@pytest.fixture
def simulator() -> Iterator[Ready]:
    """A simulator whose survey declares what a milestone with a gate needs."""
    with running(Config(limits="none", declared_fields=FIELDS)) as ready:
        yield ready


@pytest.fixture
def environment(database_url: str, simulator: Ready) -> dict[str, str]:
    """The settings of an installation that is well."""
    return {
        "MILEPOST_DATABASE_URL": database_url,
        "MILEPOST_UPSTREAM_URL": simulator.url,
        "MILEPOST_UPSTREAM_TOKEN": "simulator",
        "MILEPOST_SECRET": "a secret of at least sixteen bytes",
    }


@pytest.fixture
async def milepost(environment: dict[str, str], tmp_path: Path) -> AsyncIterator[Milepost]:
    """The installation itself."""
    given = settings.load(environment, tmp_path)
    async with app.opened(given, environment["MILEPOST_DATABASE_URL"]) as opened:
        yield opened


@pytest.fixture
async def switch(simulator: Ready) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Turn the simulator's switches."""
    async with httpx.AsyncClient(base_url=simulator.origin, trust_env=False) as web:

        async def turn(**switches: object) -> None:
            """Turn them."""
            (await web.put("/control/settings", json=switches)).raise_for_status()

        yield turn


async def found(environment: dict[str, str]) -> dict[str, Finding]:
    """The findings, by what was looked at; whatever fails or is warned of names the way out."""
    findings = await examine(environment)
    assert all("\n" not in f"{finding.found}{finding.fix}" for finding in findings)
    assert len(findings) == len({finding.what for finding in findings})
    return {finding.what: finding for finding in findings}


def verdicts(findings: dict[str, Finding]) -> dict[str, str]:
    """Only the verdicts."""
    return {what: finding.verdict for what, finding in findings.items()}


# --- the whole ------------------------------------------------------------------------------------


async def test_an_installation_that_is_well(environment: dict[str, str]) -> None:
    """Everything is ok but what nobody has set up or tried; the tests' Postgres may be unsafe."""
    findings = await found(environment)
    with psycopg.connect(environment["MILEPOST_DATABASE_URL"]) as database:
        (fsync,) = database.execute("SHOW fsync").fetchone() or ("on",)
    ok = (
        *("settings", "database", "connections", "token", "data centre", "directory"),
        *("budget", "backlog", "jobs"),
    )
    expected = dict.fromkeys(ok, "ok") | {
        "durability": "ok" if fsync == "on" else "fail",
        "account, untried": "warn",
        "public address": "warn",
    }
    assert expected == verdicts(findings)
    assert "email" in findings["directory"].found
    assert findings["database"].found.startswith("Postgres ")
    assert ("fsync" in findings["durability"].found) == (fsync == "off")


async def test_a_job_that_is_late_fails(environment: dict[str, str], milepost: Milepost) -> None:
    """With by how much, and why where that is known; a schedule that is none is a setting's."""
    runs = milepost.store.runs
    await runs.look(["sync", "drain"])
    asked = await runs.ask("sync", asked_by="ops")
    run = await runs.take("sync")
    assert run is not None
    assert "none is late: sync, drain" == (await found(environment))["jobs"].found
    await runs.end(run, "stopped", counts={}, error="15 % are missing")
    set_clock_ahead(environment["MILEPOST_DATABASE_URL"], timedelta(days=3))
    findings = await found(environment)
    assert "jobs" not in findings
    sync, drain = findings["job sync"], findings["job drain"]
    assert ("fail", "fail") == (sync.verdict, drain.verdict)
    assert 48 <= int(sync.found.removeprefix("late by ").split(" h ")[0]) <= 72
    said = f"every day at 02:30 (UTC)); its last run, {asked.id}, is stopped: 15 % are missing"
    assert sync.found.endswith(said)
    assert sync.fix == "Mend that, and run: milepost run sync"
    assert drain.found.startswith("late by 72 h 0 min (always)")
    findings = await found(environment | {"MILEPOST_SCHEDULE": '{"sync": "daily"}'})
    assert findings["settings"].found.startswith("MILEPOST_SCHEDULE: sync: 'daily' is not a")


async def test_the_source_of_registrants_is_looked_for(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Where there is one: that it can be reached, not what is in it."""
    path = tmp_path / "people.csv"
    variable = "MILEPOST_REGISTRANTS_SOURCE"
    missing = (await found(environment | {variable: str(path)}))["registrants source"]
    assert ("fail", True) == (missing.verdict, str(path) in missing.found)
    path.touch()
    there = await found(environment | {variable: str(path)})
    assert "ok" == there["registrants source"].verdict
    query = msgspec.json.encode(
        {"url": environment["MILEPOST_DATABASE_URL"], "query": "SELECT 1 AS ref"}
    ).decode()
    asked = await found(environment | {variable: query})
    assert "ok" == asked["registrants source"].verdict
    wrong = await found(environment | {variable: "{"})
    assert {"settings": "fail"} == verdicts(wrong)


async def test_looking_changes_nothing_at_the_platform(
    environment: dict[str, str], simulator: Ready
) -> None:
    """Its journal of accepted writes stays empty."""
    await found(environment)
    async with httpx.AsyncClient(base_url=simulator.origin, trust_env=False) as web:
        journal = (await web.get("/control/journal", params={"after": 0})).json()
    assert [] == [e for e in journal["entries"] if not e["operation"].startswith("account.")]


async def test_whatever_is_down_fails_by_itself(environment: dict[str, str]) -> None:
    """Postgres and the platform are looked at apart."""
    nowhere = "127.0.0.1:1"
    no_database = environment | {"MILEPOST_DATABASE_URL": f"postgresql://u:secret@{nowhere}/db"}
    findings = await found(no_database)
    assert ("fail", "ok") == (findings["database"].verdict, findings["token"].verdict)
    assert "secret" not in findings["database"].found
    findings = await found(environment | {"MILEPOST_UPSTREAM_URL": f"http://{nowhere}/API/v3"})
    assert ("ok", "fail") == (findings["database"].verdict, findings["platform"].verdict)


async def test_wrong_settings_are_all_that_is_said(environment: dict[str, str]) -> None:
    """Nothing else can be looked at without them."""
    findings = await found(environment | {"MILEPOST_UPSTREAM_URL": ""})
    assert {"settings": "fail"} == verdicts(findings)


# --- the database ---------------------------------------------------------------------------------


async def test_a_database_that_takes_no_writes_is_told(
    environment: dict[str, str], milepost: Milepost
) -> None:
    """Such as a replica of one that is in use."""
    assert milepost.deployment.id
    url = environment["MILEPOST_DATABASE_URL"]
    joint = "&" if "?" in url else "?"
    read_only = f"{url}{joint}options=-c%20default_transaction_read_only%3Don"
    findings = await found(environment | {"MILEPOST_DATABASE_URL": read_only})
    assert "fail" == findings["database"].verdict
    assert "takes no writes" in findings["database"].found


# --- the platform ---------------------------------------------------------------------------------


async def test_a_token_that_is_refused_is_named(environment: dict[str, str]) -> None:
    """With the setting to change."""
    findings = await found(environment | {"MILEPOST_UPSTREAM_TOKEN": "wrong"})
    assert "MILEPOST_UPSTREAM_TOKEN" in str(findings["platform"].fix)


async def test_an_oauth_client_is_taken_and_a_wrong_one_named(environment: dict[str, str]) -> None:
    """Its scopes are a place to look."""
    del environment["MILEPOST_UPSTREAM_TOKEN"]
    client = environment | {
        "MILEPOST_UPSTREAM_CLIENT_ID": "simulator",
        "MILEPOST_UPSTREAM_CLIENT_SECRET": "simulator",
    }
    assert "OAuth client" in (await found(client))["token"].found
    wrong = await found(client | {"MILEPOST_UPSTREAM_CLIENT_SECRET": "wrong"})
    assert "MILEPOST_UPSTREAM_CLIENT_SECRET" in str(wrong["platform"].fix)


async def test_a_data_centre_that_passes_calls_on_is_told(
    environment: dict[str, str], switch: Callable[..., Awaitable[None]]
) -> None:
    """In the platform's words."""
    await switch(notice="Request proxied. For faster response times, use this host instead: fra1")
    finding = (await found(environment))["data centre"]
    assert "warn" == finding.verdict
    assert "Request proxied" in finding.found


async def test_a_clock_that_is_off_is_told(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By how much, and in which direction; nothing where the platform does not tell its time."""
    monkeypatch.setattr(Upstream, "clock_ahead", 90.0)
    finding = (await found(environment))["clock"]
    assert ("warn", "this machine's clock is 90 s behind the platform's") == (
        finding.verdict,
        finding.found,
    )
    monkeypatch.setattr(Upstream, "clock_ahead", -2.0)
    assert "ok" == (await found(environment))["clock"].verdict
    monkeypatch.setattr(Upstream, "clock_ahead", None)
    assert "clock" not in await found(environment)


async def test_a_directory_that_is_not_there_is_named(environment: dict[str, str]) -> None:
    """With those that are."""
    findings = await found(environment | {"MILEPOST_DIRECTORY_ID": f"POOL_{'0' * 15}"})
    assert "fail" == findings["directory"].verdict
    assert "POOL_" in str(findings["directory"].fix)


async def test_a_database_of_another_directory_is_told(
    environment: dict[str, str], milepost: Milepost
) -> None:
    """It belongs to one for good."""
    directory_id = milepost.deployment.directory_id or ""
    other = f"POOL_{'0' * 15}"
    with psycopg.connect(environment["MILEPOST_DATABASE_URL"], autocommit=True) as database:
        database.execute("UPDATE deployment SET directory_id = %s", [other])
    finding = (await found(environment))["directory"]
    assert "fail" == finding.verdict
    assert other in finding.found
    assert directory_id in finding.found
    assert "MILEPOST_DIRECTORY_ID" not in str(finding.fix)
    named = environment | {"MILEPOST_DIRECTORY_ID": other}
    assert finding == (await found(named))["directory"], "no circle"


async def test_criteria_that_have_changed_are_told(
    environment: dict[str, str], milepost: Milepost, switch: Callable[..., Awaitable[None]]
) -> None:
    """Until the registrants are told apart by them."""
    assert milepost.deployment.dedup_criteria == {"email"}
    await switch(deduplication_criteria={"email": False, "externalDataReference": True})
    finding = (await found(environment))["directory"]
    assert ("warn", "Run: milepost run sync") == (finding.verdict, finding.fix)
    await milepost.run("sync", asked_by="test")
    assert "ok" == (await found(environment))["directory"].verdict


async def test_registrants_that_cannot_be_told_apart_are_counted(
    environment: dict[str, str], milepost: Milepost
) -> None:
    """By what they lack; afterwards, those who have no contact yet."""
    people = {"ann": "ann@example.com", "ben": "ANN@example.com", "cleo": None}
    await milepost.store.registrants.put(
        {ref: RegistrantDetails(email=email) for ref, email in people.items()}
    )
    finding = (await found(environment))["registrants"]
    assert "warn" == finding.verdict
    assert "3 known; 2 get no link" in finding.found
    assert "1 have no email, 1 share another's contact" in finding.found


async def test_registrants_without_a_contact_are_counted(
    environment: dict[str, str], milepost: Milepost
) -> None:
    """Until the job has made one for each."""
    await milepost.store.registrants.put({"ann": RegistrantDetails(email="ann@example.com")})
    finding = (await found(environment))["registrants"]
    assert ("warn", "Run: milepost run sync") == (finding.verdict, finding.fix)
    await milepost.run("sync", asked_by="test")
    finding = (await found(environment))["registrants"]
    assert ("ok", "1 known, each with a contact") == (finding.verdict, finding.found)


# --- milestones -----------------------------------------------------------------------------------


async def test_a_survey_is_looked_at_for_each_milestone(
    environment: dict[str, str], milepost: Milepost, simulator: Ready
) -> None:
    """For fields that its flow lacks; an unknown survey fails. What is the same is said once."""
    for key, survey_id, field in (
        ("too", simulator.survey_id, "gate"),
        ("well", simulator.survey_id, "gate"),
        ("lacks", simulator.survey_id, "flight"),
        ("unknown", f"SV_{'0' * 15}", "gate"),
    ):
        definition = MilestoneDefinition(survey_id=survey_id, fields=(Field(name=field),))
        await milepost.store.milestones.put(key, definition)
    findings = await found(environment)
    assert "its flow declares gate, milepost_ref" in findings["milestone too, well"].found
    assert "warn" == findings["milestone lacks"].verdict
    assert "does not declare flight" in findings["milestone lacks"].found
    assert "Add it as embedded data" in (findings["milestone lacks"].fix or "")
    assert "fail" == findings["milestone unknown"].verdict
    assert findings["milestone unknown"].fix


async def landed(milepost: Milepost, simulator: Ready, **changes: Any) -> None:
    """Register a milestone."""
    definition = MilestoneDefinition(survey_id=simulator.survey_id, **changes)
    await milepost.store.milestones.put("landed", definition)


async def test_whether_a_survey_is_active_and_by_invitation_only_is_told(
    environment: dict[str, str],
    milepost: Milepost,
    simulator: Ready,
    switch: Callable[..., Awaitable[None]],
) -> None:
    """Without invitation anybody can answer it."""
    await landed(milepost, simulator)
    await switch(invitation_only=True)
    assert "by invitation only" in (await found(environment))["milestone landed"].found
    await switch(invitation_only=False)
    finding = (await found(environment))["milestone landed"]
    assert "warn" == finding.verdict
    assert "without a personal link" in finding.found
    await switch(survey_active=False)
    finding = (await found(environment))["milestone landed"]
    assert ("fail", f"survey {simulator.survey_id} is not active") == (
        finding.verdict,
        finding.found,
    )


async def test_a_milestone_of_plain_links_is_looked_at_as_one(
    environment: dict[str, str],
    milepost: Milepost,
    simulator: Ready,
    switch: Callable[..., Awaitable[None]],
) -> None:
    """Its survey must be open to anybody, and declare the reference alone; its pool is one list.

    That a former secret is live is said beside it.
    """
    flight = Field(name="flight")
    await landed(milepost, simulator, route=Route.ANONYMOUS, fields=(flight,), slots=2)
    await switch(invitation_only=False)
    await milepost.replenish.run_once()
    findings = await found(environment | {"MILEPOST_SECRET_BEFORE": "what it was before that"})
    assert ("ok", "ok", "ok") == tuple(
        findings[what].verdict for what in ("milestone landed", "pool landed", "secret")
    )
    assert findings["pool landed"].found.startswith("1 of 1 list with a probe")
    assert "MILEPOST_SECRET_BEFORE" in findings["secret"].found
    assert "what it was" not in findings["secret"].found
    await switch(invitation_only=True)
    finding = (await found(environment))["milestone landed"]
    assert ("fail", True) == (finding.verdict, "leads to a closed page" in finding.found)
    await switch(invitation_only=False, declared_fields=["flight"])
    finding = (await found(environment))["milestone landed"]
    assert ("fail", True) == (finding.verdict, "can be matched" in finding.found)


async def test_what_a_milestone_makes_at_the_platform_is_told(
    environment: dict[str, str], milepost: Milepost, simulator: Ready
) -> None:
    """And whether it is there; a pool that is stopped fails."""
    await landed(milepost, simulator, slots=2, max_slots=7)
    finding = (await found(environment))["pool landed"]
    assert ("warn", "Run: milepost run replenish") == (finding.verdict, finding.fix)
    assert finding.found.startswith("0 of 2 lists with a probe and a distribution each, up to 7")
    await milepost.replenish.run_once()
    assert "ok" == (await found(environment))["pool landed"].verdict
    with psycopg.connect(environment["MILEPOST_DATABASE_URL"], autocommit=True) as database:
        database.execute("UPDATE distributions SET state = 'stopped', stopped_because = 'odd'")
    finding = (await found(environment))["pool landed"]
    assert "fail" == finding.verdict
    assert "2 stopped: odd" in finding.found
    # What has a successor that takes links is past.
    assert 2 == (await milepost.replenish.run_once()).ready
    assert "ok" == (await found(environment))["pool landed"].verdict
    stop = partial(milepost.store.milestones.stop, survey_id=simulator.survey_id)
    await stop("landed", "links differ", expected="a", found="b")
    finding = (await found(environment))["pool landed"]
    assert ("fail", "it gives no links: links differ") == (finding.verdict, finding.found)
    assert "resume" not in finding.fix  # nobody can learn what is no link
    await stop("landed", "links differ", expected="a", found=LINK)
    assert "POST …/resume" in (await found(environment))["pool landed"].fix
    await milepost.store.milestones.pause("landed", paused=False)
    assert "Wait: it was resumed" in (await found(environment))["pool landed"].fix


async def test_a_stepwise_milestone_needs_no_pool_and_a_home_list(
    environment: dict[str, str], milepost: Milepost, simulator: Ready
) -> None:
    """Its links wait until job `sync` has made it."""
    await landed(milepost, simulator, route=Route.STEPWISE)
    findings = await found(environment)
    assert ("ok", "warn") == (findings["pool landed"].verdict, findings["home list"].verdict)
    assert "Run: milepost run sync" == findings["home list"].fix
    await milepost.run("sync", asked_by="test")
    assert "home list" not in await found(environment)


async def test_what_the_account_does_not_allow_is_told_for_each_milestone(
    environment: dict[str, str], milepost: Milepost, simulator: Ready
) -> None:
    """As it was proved, and with what that means."""
    await landed(milepost, simulator)
    for fact in Fact:
        await milepost.store.capabilities.note(fact, holds=True, evidence="seen")
    findings = await found(environment)
    assert "ok" == findings["account"].verdict
    await milepost.store.capabilities.note(Fact.PRIVATE_DATA, holds=False, evidence="not seen")
    findings = await found(environment)
    assert "private_data" in findings["account"].found
    assert "responses" not in findings
    concerned = findings["milestone landed, route list"]
    assert "warn" == concerned.verdict
    assert "none are sent" in concerned.found


async def test_what_was_proved_wrong_is_told_beside_what_was_never_tried(
    environment: dict[str, str], milepost: Milepost, simulator: Ready
) -> None:
    """Each by its id; who probes need not hear what was never tried."""
    await milepost.store.capabilities.note(Fact.PRIVATE_DATA, holds=False, evidence="not seen")
    findings = await found(environment)
    untried = findings["account, untried"]
    assert "late_link" in untried.found
    assert "Run: milepost doctor --probe --survey SV_…" == untried.fix
    assert findings["account"].found.startswith("proved not to be so, as of 2")
    assert findings["account"].found.endswith(": private_data")
    await landed(milepost, simulator)
    assert "Run: milepost doctor --probe" == (await found(environment))["account, untried"].fix
    probing = {finding.what for finding in await examine(environment, probing=True)}
    assert (True, False) == ("account" in probing, "account, untried" in probing)


async def test_responses_that_nothing_matches_are_told(
    environment: dict[str, str], milepost: Milepost
) -> None:
    """Neither what the survey sees nor the history tells whose they are."""
    for fact in (Fact.PRIVATE_DATA, Fact.HISTORY_LINKS):
        await milepost.store.capabilities.note(fact, holds=False, evidence="not seen")
    finding = (await found(environment))["responses"]
    assert "warn" == finding.verdict
    assert "counts" in finding.found


async def test_whether_the_platform_tells_of_responses_is_told(
    environment: dict[str, str], milepost: Milepost, simulator: Ready
) -> None:
    """For plain links nothing else does; for others a history does, too."""
    await landed(milepost, simulator)
    key = {"MILEPOST_EVENTS_KEY": "0123456789abcdef"}
    public = {"MILEPOST_PUBLIC_URL": "https://links.example"}

    async def verdict(**more: str) -> tuple[str, str]:
        """What is said with these settings besides."""
        finding = (await found(environment | more))["event calls"]
        return finding.verdict, finding.found

    without = await verdict()
    assert ("ok", True) == (without[0], "MILEPOST_EVENTS_KEY" in without[1])
    await landed(milepost, simulator, route=Route.ANONYMOUS)
    assert "warn" == (await verdict())[0]
    assert "MILEPOST_PUBLIC_URL" in (await verdict(**key))[1]
    lacking = await verdict(**key, **public)
    assert ("warn", True) == (lacking[0], simulator.survey_id in lacking[1])
    url = subscriptions.address(public["MILEPOST_PUBLIC_URL"])
    await subscriptions.subscribe(milepost.upstream, simulator.survey_id, url, "x" * 16)
    assert ("ok", f"responses are told to {url}") == await verdict(**key, **public)


async def test_a_pool_whose_links_are_listed_late_has_only_to_wait(
    environment: dict[str, str],
    milepost: Milepost,
    simulator: Ready,
    switch: Callable[..., Awaitable[None]],
) -> None:
    """Nothing has failed, and no command helps; with its survey shut, that is what to mend."""
    await switch(facts={"links_lag_seconds": 600})
    await landed(milepost, simulator, slots=1)
    await milepost.replenish.run_once()
    finding = (await found(environment))["pool landed"]
    assert "warn" == finding.verdict
    assert "failed" not in finding.found
    assert "1 made, whose link the platform does not list yet" in finding.found
    assert str(finding.fix).startswith("Wait: ")
    await switch(survey_active=False)
    finding = (await found(environment))["pool landed"]
    assert "Mend milestone landed first." == finding.fix


async def test_a_milestone_that_asks_for_more_than_the_account_gives_fails(
    environment: dict[str, str], milepost: Milepost, simulator: Ready
) -> None:
    """Its distributions would be refused."""
    await landed(milepost, simulator, link_days=365)
    await milepost.store.capabilities.note(
        Fact.LONGEST_EXPIRY, holds=False, figure=90, evidence="90 days"
    )
    finding = (await found(environment))["milestone landed, route list"]
    assert "fail" == finding.verdict
    assert "90" in str(finding.fix)


# --- what is under way ----------------------------------------------------------------------------


async def test_links_that_nobody_finishes_are_told(
    environment: dict[str, str], milepost: Milepost, simulator: Ready
) -> None:
    """And those that only wait for their turn are counted, without alarm."""
    await landed(milepost, simulator)
    with psycopg.connect(environment["MILEPOST_DATABASE_URL"], autocommit=True) as database:
        insert = (
            "INSERT INTO links (id, event_id, milestone, survey_id, ref, data, fingerprint,"
            " asked_by, state, rule, attempt, waiting_until, due_at, lease_until, created_at)"
            " VALUES (gen_random_uuid(), %s, 'landed', %s, 'ann', '{}', '{}', 'app', %s, %s, 1,"
            " now() + interval '1 day', now() - interval '3 min', %s, now())"
        )
        database.execute(insert, ["1", simulator.survey_id, "waiting", "budget-spent", None])
        finding = (await found(environment))["backlog"]
        assert ("ok", "links that wait for their calls: 1 of landed") == (
            finding.verdict,
            finding.found,
        )
        database.execute(insert, ["2", simulator.survey_id, "claimed", None, "now"])
    finding = (await found(environment))["backlog"]
    assert "warn" == finding.verdict
    assert finding.found.startswith("1 links were to be finished since ")


async def test_a_budget_that_429s_have_cut_is_told(environment: dict[str, str]) -> None:
    """With the call class, as long as it lasts."""
    with psycopg.connect(environment["MILEPOST_DATABASE_URL"], autocommit=True) as database:
        database.execute(
            "INSERT INTO call_classes (call_class, factor, cut_at) VALUES ('links', 0.5, now())"
            " ON CONFLICT (call_class) DO UPDATE SET factor = 0.5, cut_at = now()"
        )
    finding = (await found(environment))["budget"]
    assert "warn" == finding.verdict
    assert finding.found.endswith("of: links")


# --- the public address ---------------------------------------------------------------------------


@contextmanager
def a_server(status: int, body: bytes) -> Iterator[str]:
    """Somebody who answers everything in the same way."""

    class Handler(BaseHTTPRequestHandler):
        """The answer."""

        def do_GET(self) -> None:
            """Give it."""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/survey"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [(200, b'{"status":"ok"}', "ok"), (200, b"<h1>Shop</h1>", "fail"), (404, b"", "fail")],
)
async def test_the_public_address_is_tried(
    environment: dict[str, str], status: int, body: bytes, verdict: str
) -> None:
    """Whoever answers there must be Milepost."""
    with a_server(status, body) as url:
        findings = await found(environment | {"MILEPOST_PUBLIC_URL": url})
    assert verdict == findings["public address"].verdict


async def test_a_name_that_does_not_resolve_is_told(environment: dict[str, str]) -> None:
    """It is no matter of the server."""
    url = "https://nobody.invalid"
    finding = (await found(environment | {"MILEPOST_PUBLIC_URL": url}))["public address"]
    assert ("warn", "the name nobody.invalid leads to no address from here") == (
        finding.verdict,
        finding.found,
    )


async def test_an_address_that_the_client_refuses_is_told(environment: dict[str, str]) -> None:
    """With one that it takes."""
    plain = environment | {"MILEPOST_UPSTREAM_URL": "http://platform.example/API/v3"}
    assert "MILEPOST_UPSTREAM_URL" in str((await found(plain))["platform"].fix)


async def test_a_public_address_that_nobody_has_is_a_warning(environment: dict[str, str]) -> None:
    """Customers may come to it where this machine does not."""
    findings = await found(environment | {"MILEPOST_PUBLIC_URL": "http://127.0.0.1:1"})
    assert "warn" == findings["public address"].verdict
