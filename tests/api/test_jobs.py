"""Jobs over REST: how they stand, a run now, and what runs list."""

from __future__ import annotations

import asyncio
import csv
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import httpx
import msgspec
from tests.clock import Clock

from milepost.api.jobs import FINDINGS_AT_ONCE, RunView
from milepost.model import Scope
from milepost.scheduler import CADENCES, Scheduler
from milepost.store import Store
from milepost.store.runs import Finding, RunRecord


async def begun(store: Store, job: str = "sync", **options: bool) -> RunRecord:
    """A run of a job that is under way."""
    await store.runs.ask(job, asked_by="ops", options=options)
    run = await store.runs.take(job)
    assert run is not None
    return run


async def got(client: httpx.AsyncClient, path: str, **more: Any) -> Any:
    """What is answered."""
    answer = await client.get(path, **more)
    assert 200 == answer.status_code, answer.text
    return answer.json()


async def test_all_jobs_are_told_before_any_has_run(client: httpx.AsyncClient) -> None:
    """What each does, when it is due in words and next, and that nothing is late yet."""
    jobs = {job["name"]: job for job in (await got(client, "/v1/jobs"))["jobs"]}
    assert [*CADENCES] == [*jobs]
    sync = jobs["sync"]
    assert (CADENCES["sync"].does, "every day at 02:30 (Europe/Berlin)", True, 0, False, None) == (
        *(sync[name] for name in ("does", "due", "fresh", "late_seconds", "running", "last_run")),
    )
    assert ("30", "00") == (sync["next_due_at"][14:16], sync["next_due_at"][17:19])
    assert ("always", None) == (jobs["drain"]["due"], jobs["drain"]["next_due_at"])


async def test_a_run_is_told_while_it_is_under_way_and_afterwards(
    client: httpx.AsyncClient, store: Store
) -> None:
    """With who asked, its moments, its progress and what it counted."""
    run = await begun(store, accept_removals=True)
    await store.runs.commit(
        run,
        position={"secret": "place"},
        stage="contacts",
        done=32,
        total=100,
        counts={"made": 31, "found": 1},
        findings=[Finding(reason="bad")],
    )
    job = await got(client, "/v1/jobs/sync")
    shown = job["last_run"]
    assert (True, [shown], None) == (job["running"], job["runs"], job["next_cursor"])
    expected = RunView(
        id=run.id,
        job="sync",
        state="running",
        asked_by="ops",
        options={"accept_removals": True},
        due_at=run.due_at,
        coalesced=0,
        attempt=1,
        started_at=run.started_at,
        ended_at=None,
        paused_until=None,
        duration_seconds=None,
        stage="contacts",
        done=32,
        total=100,
        counts={"made": 31, "found": 1},
        error=None,
    )
    assert expected == msgspec.convert(shown, RunView)
    assert shown == await got(client, f"/v1/runs/{run.id}")
    assert "secret" not in str(job)
    await store.runs.end(run, "stopped", counts={"made": 31}, error="15 % are missing")
    ended = await got(client, f"/v1/runs/{run.id}")
    assert ("stopped", "15 % are missing") == (ended["state"], ended["error"])
    moments = [datetime.fromisoformat(ended[name]) for name in ("started_at", "ended_at")]
    assert (moments[1] - moments[0]).total_seconds() == ended["duration_seconds"]
    assert not (await got(client, "/v1/jobs/sync"))["running"]


async def test_a_late_job_is_told(
    client: httpx.AsyncClient, store: Store, database_url: str
) -> None:
    """By how much; of one that never ends, also what it met. What is never due is never late."""
    clock = Clock(database_url)
    await store.runs.note_round("drain", "refused")
    await got(client, "/v1/jobs")
    clock.go(days=2)
    jobs = {job["name"]: job for job in (await got(client, "/v1/jobs"))["jobs"]}
    assert ["recover", "import"] == [name for name, job in jobs.items() if job["fresh"]]
    assert "refused" == jobs["drain"]["error"]
    assert timedelta(days=2) <= timedelta(seconds=jobs["drain"]["late_seconds"])
    assert timedelta(days=1) <= timedelta(seconds=jobs["sync"]["late_seconds"])


async def test_runs_are_paged(client: httpx.AsyncClient, store: Store) -> None:
    """The newest first, each once."""
    ids = []
    for _ in range(5):
        run = await begun(store)
        await store.runs.end(run, "done", counts={})
        ids.append(run.id)
    seen, cursor = [], None
    while True:
        asked = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = await got(client, "/v1/jobs/sync", params=asked)
        seen += [run["id"] for run in page["runs"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert ids[::-1] == seen


async def test_a_run_is_asked_for(
    client: httpx.AsyncClient, store: Store, scheduler: Scheduler
) -> None:
    """With or without a body; twice before it begins is once. A worker runs it."""
    asked = [
        await client.post("/v1/jobs/sync/run"),
        await client.post("/v1/jobs/sync/run", json={}),
        await client.post("/v1/jobs/sync/run", json={"options": {}}),
        await client.post("/v1/jobs/sync/run", json={"options": {"accept_losses": False}}),
    ]
    assert {202} == {answer.status_code for answer in asked}
    assert 1 == len({answer.text for answer in asked})
    run = asked[0].json()
    assert ("waiting", "admin", {}) == (run["state"], run["asked_by"], run["options"])
    other = await client.post("/v1/jobs/sync/run", json={"options": {"accept_losses": True}})
    assert {"accept_losses": True} == other.json()["options"]
    for _ in range(2):
        await scheduler.tick(asyncio.Event())
        await scheduler.finish()
    for one in (run, other.json()):
        assert "done" == (await got(client, f"/v1/runs/{one['id']}"))["state"]
    again = await client.post("/v1/jobs/sync/run")
    assert run["id"] != again.json()["id"]
    assert again.json()["id"] == (await store.runs.page("sync"))[0].id


async def test_a_wrong_wish_is_refused(client: httpx.AsyncClient) -> None:
    """What is wrong is named, and what there is instead; one of another job would do nothing."""
    removals = {"options": {"accept_removals": True}}
    for job, body, field, said in (
        (
            "sync",
            {"options": {"accept_remova1s": True}},
            "options.accept_remova1s",
            "accept_losses, dry_run.",
        ),
        ("sync", {"options": {"accept_removals": 1}}, "options.accept_removals", "true or"),
        ("sync", {"option": {}}, "option", "There is no field 'option' here."),
        ("sync", [], None, "an object"),
        ("replenish", removals, "options.accept_removals", "Leave it out."),
    ):
        answer = await client.post(f"/v1/jobs/{job}/run", json=body)
        problem = answer.json()
        assert (400, "invalid-request", field) == (
            answer.status_code,
            problem["code"],
            problem.get("field"),
        )
        assert said in f"{problem['detail']} {problem.get('fix')}"
        assert [] == (await got(client, f"/v1/jobs/{job}"))["runs"]


async def test_what_is_not_there_is_named(client: httpx.AsyncClient) -> None:
    """A job by those that there are."""
    for method, path, code in (
        ("GET", "/v1/jobs/clean", "unknown-job"),
        ("POST", "/v1/jobs/clean/run", "unknown-job"),
        ("GET", "/v1/runs/1", "unknown-run"),
        ("GET", "/v1/runs/1/findings", "unknown-run"),
        ("GET", f"/v1/runs/{2**63}", "unknown-run"),
        ("GET", "/v1/runs/last", "not-found"),
    ):
        answer = await client.request(method, path)
        assert (path, 404, code) == (path, answer.status_code, answer.json()["code"])
        assert code != "unknown-job" or "replenish, rotate, sync" in answer.json()["fix"]


async def listed(store: Store, *findings: Finding) -> RunRecord:
    """A run that lists these."""
    run = await begun(store)
    await store.runs.commit(
        run, position=None, stage="rows", done=1, total=None, counts={}, findings=findings
    )
    return run


async def test_findings_are_paged(client: httpx.AsyncClient, store: Store) -> None:
    """By number, with the source, line and ref of each."""
    run = await listed(
        store, *(Finding(reason=f"bad {n}", source="a.csv", line=n, ref=f"r{n}") for n in range(5))
    )
    path = f"/v1/runs/{run.id}/findings"
    whole = await got(client, path)
    assert ([0, 1, 2, 3, 4], None) == (
        [finding["number"] for finding in whole["findings"]],
        whole["next_cursor"],
    )
    assert {"number": 2, "reason": "bad 2", "source": "a.csv", "line": 2, "ref": "r2"} == whole[
        "findings"
    ][2]
    first = await got(client, path, params={"limit": 3})
    rest = await got(client, path, params={"limit": 3, "cursor": first["next_cursor"]})
    assert whole["findings"] == first["findings"] + rest["findings"]
    assert None is rest["next_cursor"]


async def test_findings_are_a_file_that_no_spreadsheet_runs(
    client: httpx.AsyncClient, store: Store
) -> None:
    """All of them, past every page; what would be a formula is a text."""
    refs = ["=1+1", "+1", "-1", "@x", "\tx", 'say "hi", ann', "plain"]
    many = [Finding(reason="bad", ref=f"r{n}") for n in range(FINDINGS_AT_ONCE)]
    run = await listed(store, *(Finding(reason="=bad", ref=ref, line=7) for ref in refs), *many)
    path = f"/v1/runs/{run.id}/findings"
    for asked in (
        {"params": {"format": "csv"}},
        {"headers": {"Accept": "text/csv"}},
        {"params": {"format": "csv", "limit": 1}},
    ):
        answer = await client.get(path, **asked)  # type: ignore[arg-type]  # of several kinds
        assert (200, "text/csv; charset=utf-8") == (
            answer.status_code,
            answer.headers["Content-Type"],
        )
        assert (
            f'attachment; filename="run-{run.id}-findings.csv"'
            == answer.headers["Content-Disposition"]
        )
        head, *rows = csv.reader(StringIO(answer.text, newline=""))
        assert ["number", "source", "line", "ref", "reason"] == head
        assert [f"'{ref}" for ref in refs[:5]] + refs[5:] == [row[3] for row in rows[: len(refs)]]
        assert ["0", "", "7", "'=1+1", "'=bad"] == rows[0]
        assert len(refs) + len(many) == len(rows)
    json = await client.get(path, params={"format": "json"}, headers={"Accept": "text/csv"})
    assert "application/json" == json.headers["Content-Type"]


async def test_refs_are_for_those_who_bring_them(
    anybody: httpx.AsyncClient, store: Store, keys: dict[Scope, str]
) -> None:
    """Whoever may only read sees how many findings there are."""
    run = await listed(store, Finding(reason="bad", ref="ann@example.com"))
    seen = {}
    for scope, key in keys.items():
        headers = {"Authorization": f"Bearer {key}"}
        path = f"/v1/runs/{run.id}/findings"
        answers = [
            await anybody.get(path, headers=headers),
            await anybody.get(path, headers=headers, params={"format": "csv"}),
        ]
        seen[scope] = ["ann@example.com" in answer.text for answer in answers]
    no, yes = [False, False], [True, True]
    assert {Scope.ISSUE: no, Scope.SYNC: yes, Scope.READ: no, Scope.ADMIN: yes} == seen
