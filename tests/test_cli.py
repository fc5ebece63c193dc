"""The commands, as processes: what they print, how they fail, how they end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from click.testing import CliRunner, Result

from milepost import app, cli, personal_link
from milepost.app import Milepost
from milepost.cli import main
from milepost.local import process, simulator
from milepost.model import Event, MilestoneDefinition, RegistrantDetails, Route
from milepost.simulator import Config, Ready, running
from milepost.store import Store
from milepost.store.runs import Finding, NumberedFinding, RunRecord

LINKS = Path(__file__).parents[2] / "shared" / "upstream" / "personal_links.tsv"
LINK = (
    "https://brand.example.com/jfe/form/SV_00000000000000A?Q_CHL=gl"
    "&Q_DL=EMD_00000000000000B_00000000000000A_CGC_00000000000000C&_g_=g"
)
SURVEYED = '[milestones.a]\nsurvey_id = "SV_0123456789abcde"\n'
KNOWN = "INSERT INTO jobs (name, accounted_until, done_until) VALUES ('sync', now(), now())"
"""A scheduler has looked at job `sync`, now."""
READY = b"""
UPDATE distributions SET distribution_id = 'EMD_1', template = %s, state = 'ready',
    calibrated_at = now(), expires_at = now() + interval '60 days',
    takes_until = now() + interval '46 days'
"""
"""The pool gives links, by this template."""

COMMANDS = (
    (),
    ("demo",),
    ("serve",),
    ("work",),
    ("simulate",),
    ("migrate",),
    ("keys", "create"),
    ("milestones", "apply"),
    ("registrants", "import"),
    ("run",),
    ("jobs",),
    ("pool", "teardown"),
    ("events", "subscribe"),
    ("events", "replay"),
    ("link", "explain"),
    ("response", "explain"),
    ("response", "note"),
    ("doctor",),
)

UNFILLED = "first_name, last_name, phone, language"


@pytest.fixture
def settings(database_url: str) -> dict[str, str]:
    """The settings of an installation whose platform is away."""
    return {
        "MILEPOST_DATABASE_URL": database_url,
        "MILEPOST_UPSTREAM_URL": "http://127.0.0.1:1/API/v3",
        "MILEPOST_UPSTREAM_TOKEN": "simulator",
        "MILEPOST_SECRET": "a secret of at least sixteen bytes",
        "MILEPOST_PUBLIC_URL": "http://127.0.0.1:8700",
        "MILEPOST_RATE_PER_MINUTE": "1000000",
        "MILEPOST_LIMITS": "none",
    }


def milepost(*arguments: str, settings: dict[str, str] | None = None) -> Result:
    """A command, run in this process."""
    unset = dict.fromkeys((name for name in os.environ if name.startswith("MILEPOST_")), None)
    return CliRunner().invoke(main, arguments, env=unset | (settings or {}))


def complaint(result: Result) -> str:
    """The one line of a command that failed, which printed nothing else."""
    assert 1 == result.exit_code, result.output
    assert "" == result.stdout
    assert result.stderr.startswith("milepost: ")
    assert 1 == len(result.stderr.splitlines())
    return result.stderr


def the_object(result: Result) -> Any:
    """The one object that a command with `--json` prints."""
    assert 1 == len(result.stdout.splitlines()), result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_a_terminal(command: tuple[str, ...]) -> None:
    """Each command says what it does, in 80 columns."""
    result = milepost(*command, "--help")
    assert 0 == result.exit_code
    assert 80 >= max(map(len, result.stdout.splitlines()))
    assert "published" in result.stdout or command != ("simulate",)


def test_help_does_not_wait_for_the_whole_program() -> None:
    """Neither the database's nor the server's libraries are loaded for it."""
    code = "import sys, milepost.cli; print(*sys.modules)"
    loaded = subprocess.run(  # noqa: S603  (our own code)
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert set() == {"litestar", "sqlalchemy", "uvicorn", "httpx"} & set(loaded.stdout.split())


def test_a_database_that_is_made_is_told_of(
    settings: dict[str, str],
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who meant another one is in the wrong folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(app, "EmbeddedPostgres", lambda _: nullcontext(database_url))
    embedded = {name: value for name, value in settings.items() if "DATABASE" not in name}
    create = ("keys", "create", "app", "--scope", "issue")
    made = milepost(*create, settings=embedded)
    assert 0 == made.exit_code
    assert made.stderr.endswith(f": one is made, in {tmp_path}/.milepost\n")
    (tmp_path / ".milepost" / "postgres").mkdir(parents=True)
    assert "" == milepost(*create, settings=embedded).stderr


@pytest.mark.parametrize("command", [("serve",), ("run", "sync"), ("migrate",)], ids=" ".join)
def test_a_missing_setting_is_named_with_an_example(command: tuple[str, ...]) -> None:
    """And nothing is started."""
    said = complaint(milepost(*command))
    assert "MILEPOST_UPSTREAM_URL is missing; for example: https://" in said


def test_a_command_that_is_asked_for_wrongly_says_where_to_look() -> None:
    """In one line, with the exit code that shells use for it."""
    result = milepost("keys", "create", "app", "--scope", "everything")
    assert 2 == result.exit_code
    assert 1 == len(result.stderr.splitlines())
    assert result.stderr.endswith("(see: milepost keys create --help)\n")


def test_a_name_may_have_two_keys(settings: dict[str, str]) -> None:
    """So that one can take over from the other."""
    arguments = ("keys", "create", "app", "--scope", "issue", "--scope", "read", "--json")
    one, two = (the_object(milepost(*arguments, settings=settings)) for _ in range(2))
    assert {"id", "key", "scopes"} == one.keys() == two.keys()
    assert ["issue", "read"] == one["scopes"]
    assert one["key"] != two["key"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = [", "not TOML"),
        ("[other]", "there is no table [milestones.KEY]"),
        ('[milestones.a]\nsurvey_id = "mine"', "milestones.a.survey_id: It must be SV_ and 15"),
        ("[milestones.a]\nslots = 3", "milestones.a.survey_id: The field 'survey_id' is missing."),
        (f"{SURVEYED}slot = 3", "milestones.a.slot: There is no field 'slot' here."),
        (f'{SURVEYED}slots = "3"', "milestones.a.slots: It must be a whole number, not a text."),
        (f'{SURVEYED}lanes = ["now"]', "milestones.a.lanes[0]: It cannot be 'now'. Use one of: "),
        (SURVEYED.replace(".a", ".No_"), "milestones.No_: It must be 1 to 60 lower case letters"),
    ],
)
def test_a_wrong_file_of_milestones_is_explained(
    content: str, said: str, tmp_path: Path, settings: dict[str, str]
) -> None:
    """With the file and the place in it."""
    path = tmp_path / "milestones.toml"
    path.write_text(content)
    result = milepost("milestones", "apply", str(path), settings=settings)
    assert said in complaint(result)
    assert str(path) in result.stderr


def test_a_file_that_cannot_be_read_is_named(settings: dict[str, str], tmp_path: Path) -> None:
    """By every command that takes one."""
    for command in (
        ("milestones", "apply"),
        ("registrants", "import"),
        ("events", "replay", "--key", "mp_x"),
    ):
        for path in (tmp_path / "missing.csv", tmp_path):
            assert str(path) in complaint(milepost(*command, str(path), settings=settings))


def test_milestones_and_registrants_are_taken(settings: dict[str, str], tmp_path: Path) -> None:
    """With one object for programs; a dry run first, which changes nothing."""
    milestones, people = tmp_path / "milestones.toml", tmp_path / "people.csv"
    milestones.write_text('[milestones.landed]\nsurvey_id = "SV_0123456789abcde"\n')
    people.write_text("ref,email\na,a@example.com\nb\n")
    with simulator(0) as ready:
        settings |= {"MILEPOST_UPSTREAM_URL": ready()["url"]}
        applied = milepost("milestones", "apply", str(milestones), "--json", settings=settings)
        imports = [
            the_object(
                milepost("registrants", "import", str(people), "--json", *more, settings=settings)
            )
            for more in (["--dry-run"], [], [])
        ]
        synced = milepost("run", "sync", "--json", settings=settings)
        taken_up = [
            the_object(milepost("run", job, "--json", settings=settings))
            for job in ("drain", "sweep")
        ]
        report = milepost("registrants", "import", str(people), settings=settings)
    told = the_object(applied)
    assert {"landed": "created"} == told["milestones"]
    assert ["not-probed"] == [caution["code"] for caution in told["cautions"]["landed"]]
    assert [(1, 0), (1, 0), (0, 1)] == [(i["created"], i["unchanged"]) for i in imports]
    bad = {"source": "people.csv", "line": 3, "ref": None, "reason": "1 value under 2 columns"}
    assert [bad] == imports[0]["bad_rows"] == imports[2]["bad_rows"]
    assert [True, False, False] == [i["dry_run"] for i in imports]
    assert ("done", 1) == ((ran := the_object(synced))["state"], ran["counts"]["made"])
    assert [0, 0] == [ran["counts"]["issued"] for ran in taken_up]
    assert 1 == report.exit_code
    assert [
        "people.csv: CSV in utf-8, separated by ,",
        f"  no column fills {UNFILLED}; any other column is an attribute",
        "2 rows: 0 created, 0 changed, 1 unchanged, 1 bad",
    ] == report.stdout.splitlines()
    assert "  people.csv line 3: 1 value under 2 columns\n" == report.stderr


def test_a_file_of_registrants_may_have_a_form_of_its_own(
    settings: dict[str, str], tmp_path: Path
) -> None:
    """Columns, encoding and delimiter are said or detected, and told; so is what would change."""
    people = tmp_path / "people.csv"
    header = "Customer Id;Mail;notes;tier\n"
    rows = "".join(f"{n};{n}@x.test;ü;gold\n" for n in range(30))
    mapping = ("--column", "ref=Customer Id", "--column", "email=Mail", "--column", "notes=")
    with simulator(0) as ready:
        settings |= {"MILEPOST_UPSTREAM_URL": ready()["url"]}

        def imported(content: str, *more: str) -> Result:
            """Import a file of this content."""
            people.write_bytes(content.encode("cp1252"))
            arguments = ("registrants", "import", str(people), *mapping, *more)
            return milepost(*arguments, settings=settings)

        first = imported(header + rows)
        rows = rows.replace("gold", "blue") + "bad\n" * 25
        second = imported(header + rows, "--dry-run")
        with_json = the_object(imported(header + rows, "--json"))
        wrong = milepost("registrants", "import", str(people), settings=settings)
    assert 0 == first.exit_code
    assert [
        "people.csv: CSV in cp1252, separated by ;",
        "  ref is Customer Id, email is Mail, notes is passed over",
        f"  no column fills {UNFILLED}; any other column is an attribute",
        "30 rows: 30 created, 0 changed, 0 unchanged, 0 bad",
    ] == first.stdout.splitlines()
    assert "55 rows: 0 would be created, 30 would be changed, 0 unchanged, 25 bad" in second.stdout
    assert "  of those who would change: attributes.tier 30" in second.stdout
    assert second.stderr.splitlines()[20].startswith("  and 5 more: GET /v1/runs/")
    assert [*range(32, 57)] == [bad["line"] for bad in with_json["bad_rows"]]
    assert "there is no column ref" in complaint(wrong)
    assert "such as --column 'ref=Customer Id', or call it ref" in complaint(wrong)
    for option, value in (("column", "ref"), ("encoding", "klingon"), ("delimiter", "x")):
        arguments = ("registrants", "import", str(people), f"--{option}", value)
        result = milepost(*arguments, settings=settings)
        assert result.exit_code in {1, 2}
        assert option in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("clean",),
            "there is no job 'clean'; there are: replenish, rotate, sync, canary, reconcile",
        ),
        (("replenish", "--accept-removals"), "--accept-removals is not for replenish"),
    ],
    ids=("job", "option"),
)
def test_a_run_that_there_is_not_is_named(
    arguments: tuple[str, ...], said: str, settings: dict[str, str]
) -> None:
    """A job by those that there are; an option would do nothing where it is not known."""
    result = milepost("run", *arguments, settings=settings)
    assert (2, "") == (result.exit_code, result.stdout)
    assert said in result.stderr


def test_a_process_without_the_source_is_told_of(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has run what was asked for here; that nobody was brought in must not look well."""
    source = tmp_path / "people.csv"
    source.write_text("ref\na\n")
    found = [Finding(reason=f"odd {number}") for number in range(cli.MOST_LISTED + 5)]

    async def elsewhere(self: Milepost, job: str, **_: object) -> RunRecord:
        """Run it in another process."""
        runs = self.store.runs
        await runs.look([job])
        asked = await runs.ask(job, asked_by="test")
        run = await runs.take(job)
        assert run is not None
        await runs.commit(run, position=None, stage="x", done=1, total=1, counts={}, findings=found)
        await runs.end(run, "done", counts={"made": 1})
        return await runs.get(asked.id) or asked

    monkeypatch.setattr(Milepost, "run", elsewhere)
    with simulator(0) as ready:
        settings |= {"MILEPOST_UPSTREAM_URL": ready()["url"]}
        assert 0 == milepost("run", "sync", settings=settings).exit_code
        settings |= {"MILEPOST_REGISTRANTS_SOURCE": str(source)}
        ran = milepost("run", "sync", "--json", settings=settings)
    assert 1 == ran.exit_code
    assert "has no MILEPOST_REGISTRANTS_SOURCE" in ran.stderr
    assert len(found) == len(the_object(ran)["findings"])


def test_a_wrong_source_is_told_by_whoever_looks(settings: dict[str, str]) -> None:
    """Not first by the nightly run."""
    settings |= {"MILEPOST_REGISTRANTS_SOURCE": '{"path": 3}'}
    assert (
        "MILEPOST_REGISTRANTS_SOURCE: path: It must be a text, not a whole number; for"
        in complaint(milepost("jobs", settings=settings))
    )


def test_what_is_under_way_comes_before_what_is_asked_for(
    settings: dict[str, str], database_url: str
) -> None:
    """It is followed, and gone on with when its process is gone; then comes the run itself."""
    with psycopg.connect(database_url) as database:
        database.execute(KNOWN)
        database.execute(
            "INSERT INTO runs (job, due_at, state, attempt, counts, stage, done, total, created_at,"
            " started_at, lease_until) VALUES ('sync', now(), 'running', 1, '{}', 'contacts',"
            " 45, 100, now(), now(), now() + interval '1 hour')"
        )
    with simulator(0) as ready:
        settings |= {"MILEPOST_UPSTREAM_URL": ready()["url"]}
        arguments = ("run", "sync", "--accept-losses", "--json")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with process("run", "sync", environment=os.environ | settings, **pipes) as running:
            assert running.stderr is not None
            said = running.stderr.readline().decode()
            with psycopg.connect(database_url) as database:
                database.execute("UPDATE runs SET lease_until = now() WHERE state = 'running'")
            assert 0 == running.wait(60)
            assert running.stdout is not None
            told = running.stdout.read(), running.stderr.read()
        again = the_object(milepost(*arguments, settings=settings))
        jobs = milepost("jobs", settings=settings)
        listed = the_object(milepost("jobs", "--json", settings=settings))
    assert said.startswith("sync is under way in another process since 2")
    assert said.endswith(", at 45 %\n")
    assert (b"run 1, which came first: done\nnothing was done\n", b"") == told
    with psycopg.connect(database_url) as database:
        runs = database.execute("SELECT state, asked_by, attempt, options FROM runs ORDER BY id")
        assert [
            ("done", None, 2, {}),
            ("done", "command line", 1, {}),
            ("done", "command line", 1, {"accept_losses": True}),
        ] == runs.fetchall()
    assert ("done", [], {"accept_losses": True}) == tuple(
        again[name] for name in ("state", "findings", "options")
    )
    assert 0 == jobs.exit_code
    assert "ok    sync: every day at 02:30 (UTC), next 2" in jobs.stdout
    assert "done at 2" in jobs.stdout
    assert [again["id"]] == [job["last_run"]["id"] for job in listed["jobs"]]


def test_a_job_that_is_late_fails(settings: dict[str, str], database_url: str) -> None:
    """It is told why its last run did not do all."""
    with psycopg.connect(database_url) as database:
        database.execute(KNOWN.replace("now()", "now() - interval '3 days'"))
        database.execute(
            "INSERT INTO runs (job, due_at, state, counts, error, created_at, started_at, ended_at)"
            " VALUES ('sync', now(), 'stopped', '{\"made\": 2, \"found\": 30}',"
            " 'a person must look', now(), now(), now())"
        )
    jobs = milepost("jobs", settings=settings)
    assert 1 == jobs.exit_code
    assert jobs.stdout.startswith("fail  sync: every day at 02:30 (UTC), next 2")
    assert jobs.stdout.endswith(": 2 made, 30 found: a person must look\n")


def test_what_a_run_lists_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """The first of it with its place, and where to have all of it."""
    moment = datetime(2026, 11, 26, tzinfo=UTC)
    ran = RunRecord(
        id=7,
        job="sync",
        due_at=moment,
        coalesced=0,
        asked_by=None,
        options={},
        state="done",
        attempt=1,
        failures=0,
        paused_until=None,
        position=None,
        stage=None,
        done=0,
        total=None,
        counts={"bad_rows": 30, "errors": ["one refused"], "found": 30},
        error=None,
        created_at=moment,
        started_at=moment,
        ended_at=moment,
    )
    cli._tell_run(  # noqa: SLF001  (a job that lists something takes long to set up)
        ran,
        [
            NumberedFinding(number=0, reason="no ref", source="a.csv", line=3),
            NumberedFinding(number=1, reason="no contact", ref="ann"),
            NumberedFinding(number=2, reason="odd"),
        ],
    )
    told = capsys.readouterr()
    assert "30 bad rows, 30 found\n" == told.out
    assert "1 hour counted anew, 3 links opened" == cli._counted({"hours": 1, "opened": 3})  # noqa: SLF001  (as above)
    assert "1 row, 1 made" == cli._counted({"rows": 1, "made": 1})  # noqa: SLF001  (as above)
    assert [
        "  one refused",
        "  a.csv line 3: no ref",
        "  ann: no contact",
        "  odd",
        "  and 27 more: GET /v1/runs/7/findings?format=csv has them all",
    ] == told.err.splitlines()


def test_what_is_away_is_named(settings: dict[str, str], tmp_path: Path) -> None:
    """The database, the platform, the server that events are sent to."""
    people = tmp_path / "people.csv"
    people.write_text("ref\na\n")
    assert "connection failed" in complaint(
        milepost("registrants", "import", str(people), settings=settings)
    )
    away = settings | {"MILEPOST_DATABASE_URL": "postgresql://u:p@127.0.0.1:1/db"}
    assert "Postgres cannot be reached" in complaint(
        milepost("keys", "create", "app", "--scope", "issue", settings=away)
    )
    events = tmp_path / "events.ndjson"
    events.write_text('{"event_id": "e1"}\n')
    assert "nobody answers at http://127.0.0.1:1" in complaint(
        milepost("events", "replay", str(events), "--key", "mp_x", "--url", "http://127.0.0.1:1")
    )


def test_links_are_explained_and_rebuilt() -> None:
    """All that were seen; what is no link is refused without being quoted."""
    seen = LINKS.read_text().splitlines()[1:] if LINKS.exists() else [f"now\t{LINK}"]
    for link in (line.split("\t")[1] for line in seen):
        parts = the_object(milepost("link", "explain", link))
        assert personal_link.explain(link) == parts
        assert link == parts["url"]
    assert "secret" not in complaint(milepost("link", "explain", "https://example.com/secret"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:8700/l/5X1lkUN6iZPdDkvwZ0cKxw", "a short link of Milepost's own"),
        ("https://x.example/jfe/form/SV_000000000000001?milepost_ref=abc", "a survey's plain link"),
    ],
)
def test_a_link_of_another_kind_is_said_to_be_one(url: str, said: str) -> None:
    """With where to look instead."""
    assert said in complaint(milepost("link", "explain", url))


def test_event_calls_are_subscribed_to_once(settings: dict[str, str]) -> None:
    """For each survey of a milestone, at our address; what is there is not asked for again."""
    with running(Config(limits="none")) as ready:
        settings |= {"MILEPOST_UPSTREAM_URL": ready.url}
        assert "MILEPOST_EVENTS_KEY is missing" in complaint(
            milepost("events", "subscribe", settings=settings)
        )
        settings |= {"MILEPOST_EVENTS_KEY": "0123456789abcdef"}
        asyncio.run(plain_link(settings, ready))
        command, survey = ("events", "subscribe", "--json"), ready.survey_id
        told = [
            the_object(milepost(*command, *option, settings=settings))
            for option in (("--dry-run",), (), ())
        ]
        said = milepost("events", "subscribe", settings=settings).stdout
    assert {f"{settings['MILEPOST_PUBLIC_URL']}/v1/upstream/events"} == {
        each["url"] for each in told
    }
    assert [[survey], [survey], []] == [each["subscribed"] for each in told]
    assert [[], [], [survey]] == [each["there"] for each in told]
    assert f"{survey}: is subscribed already\n" == said


async def plain_link(settings: dict[str, str], ready: Ready) -> str:
    """A plain link of `ann`'s, out of the ledger alone."""
    url, secret = settings["MILEPOST_DATABASE_URL"], settings["MILEPOST_SECRET"]
    async with await Store.open(url, secret=secret.encode()) as store:
        milestone = MilestoneDefinition(survey_id=ready.survey_id, route=Route.ANONYMOUS)
        await store.milestones.put("landed", milestone)
        await store.registrants.put({"ann": RegistrantDetails()})
        await store.pools.plan("landed", "abcdefgh")
        async with store.connections.path() as database:
            await database.execute(READY, [f"{ready.origin}/SE?{{}}"])
        event = Event(
            event_id="e1", milestone="landed", ref="ann", data={}, occurred_at=None, asked_by="app"
        )
        link = (await store.links.claim(event)).link
    assert link.url is not None
    return link.url


def test_a_response_is_explained(settings: dict[str, str]) -> None:
    """The verdict, the link that it names and its event; no URL, but for programs."""
    with running(Config(limits="none", declared_fields=("milepost_ref",))) as ready:
        settings |= {"MILEPOST_UPSTREAM_URL": ready.url}
        survey = ready.survey_id
        url = asyncio.run(plain_link(settings, ready))
        with httpx.Client(base_url=ready.origin, trust_env=False) as web:
            page = web.get(url).text
            (session,) = re.findall(r'name="session" value="(FS_\w{15})"', page)
            web.post(url, data={"session": session, "QID1": "5"}).raise_for_status()
            journal = web.get("/control/journal", params={"after": 0}).json()
        response = journal["entries"][-1]["ids"]["response"]
        said = milepost("response", "explain", survey, response, settings=settings)
        match = the_object(
            milepost("response", "explain", survey, response, "--json", settings=settings)
        )
        unheard = complaint(
            milepost("response", "explain", survey, f"R_{'0' * 15}", settings=settings)
        )
    assert ["true", "  event e1 of milestone landed", "  registrant ann"] == [
        line for line in said.stdout.splitlines() if "link " not in line
    ]
    assert "http" not in said.stdout
    assert ("true", None, "e1", url) == (
        *(match["verdict"], match["reason"], match["link"]["event_id"], match["link"]["url"]),
    )
    for noted in (1, 0):
        told = milepost("response", "note", survey, response, settings=settings).stdout
        assert told.startswith(f"{noted} of 1")
    assert "no such response" in unheard
    wrong = milepost("response", "explain", survey, "R_1", settings=settings)
    assert (2, True) == (wrong.exit_code, "R_0123456789abcde" in wrong.stderr)


def test_the_simulator_says_one_line_and_ends_when_told() -> None:
    """With what a client needs; SIGTERM is its usual end."""
    command = [sys.executable, "-m", "milepost", "simulate", "--port", "0"]
    with subprocess.Popen(  # noqa: S603  (our own command)
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as started:
        assert started.stdout is not None
        ready = json.loads(started.stdout.readline())
        started.terminate()
        rest, errors = started.communicate(timeout=30)
    assert ["url", "directory_id", "survey_id"] == list(ready)
    assert (0, b"", b"") == (started.returncode, rest, errors)


def test_a_taken_port_is_named(settings: dict[str, str]) -> None:
    """Before anything else is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for command in ("serve", "simulate"):
            said = complaint(milepost(command, "--port", port, settings=settings))
            assert f"another program has port {port}" in said


def test_a_pool_is_torn_down(settings: dict[str, str], tmp_path: Path) -> None:
    """Once its milestone is paused; what is gone is counted."""
    with simulator(0) as ready:
        platform = ready()
        given = settings | {"MILEPOST_UPSTREAM_URL": platform["url"]}
        file = tmp_path / "milestones.toml"
        file.write_text(f'[milestones.landed]\nsurvey_id = "{platform["survey_id"]}"\nslots = 1\n')
        assert 0 == milepost("milestones", "apply", str(file), settings=given).exit_code
        assert 0 == milepost("run", "replenish", settings=given).exit_code
        teardown = ("pool", "teardown", "landed")
        assert "is not paused" in complaint(milepost(*teardown, settings=given))
        said = milepost(*teardown, "--dry-run", settings=given).stdout
        would, refused = said.splitlines()
        assert "would be removed: 1 mailing list, 1 distribution; alive: 0 links" == would
        assert refused.startswith("it would be refused: milestone landed is not paused")
        with psycopg.connect(given["MILEPOST_DATABASE_URL"], autocommit=True) as database:
            database.execute("UPDATE milestones SET state = 'paused'")
        told = the_object(milepost(*teardown, "--json", settings=given))
    expected = {"milestone": "landed", "dry_run": False, "live_links": 0, "remains": []}
    expected["refusal"] = None
    assert expected | {"lists": 1, "batches": 0, "distributions": 1} == told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_server_ends_in_order(number: signal.Signals, settings: dict[str, str]) -> None:
    """However it is told to end: exit code 0, and nothing more is said."""
    with simulator(0) as ready:
        environment = os.environ | settings | {"MILEPOST_UPSTREAM_URL": ready()["url"]}
        arguments = ("serve", "--port", "0")
        with process(*arguments, environment=environment, stderr=subprocess.PIPE) as started:
            assert started.stderr is not None
            assert started.stderr.readline().startswith(b"Milepost on http://127.0.0.1:")
            started.send_signal(number)
            assert b"" == started.stderr.read()
            assert 0 == started.wait(30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_ends_in_order(number: signal.Signals, settings: dict[str, str]) -> None:
    """It says when it works, answers nobody, and leaves with exit code 0."""
    with simulator(0) as ready:
        environment = os.environ | settings | {"MILEPOST_UPSTREAM_URL": ready()["url"]}
        with process("work", environment=environment, stderr=subprocess.PIPE) as started:
            assert started.stderr is not None
            assert started.stderr.readline() == b"Milepost works\n"
            started.send_signal(number)
            assert b"" == started.stderr.read()
            assert 0 == started.wait(30)


@pytest.mark.parametrize("command", [("work",), ("run", "drain"), ("run", "sweep")], ids=" ".join)
def test_jobs_that_may_hand_out_links_need_the_public_address(
    command: tuple[str, ...], settings: dict[str, str]
) -> None:
    """No server tells them where it is."""
    said = complaint(milepost(*command, settings=settings | {"MILEPOST_PUBLIC_URL": ""}))
    assert "MILEPOST_PUBLIC_URL is missing; for example: https://" in said


def test_a_service_without_a_public_address_says_where_its_links_lead(
    settings: dict[str, str],
) -> None:
    """To this machine, which is right for trying it out; customers could not follow them."""
    with simulator(0) as ready:
        environment = os.environ | settings | {"MILEPOST_UPSTREAM_URL": ready()["url"]}
        del environment["MILEPOST_PUBLIC_URL"]
        arguments = ("serve", "--port", "0")
        with process(*arguments, environment=environment, stderr=subprocess.PIPE) as started:
            assert started.stderr is not None
            warned, said = started.stderr.readline().decode(), started.stderr.readline().decode()
    assert said.startswith("Milepost on http://")
    assert "MILEPOST_PUBLIC_URL is missing: short links lead to http://127.0.0.1:" in warned


def test_a_process_ends_with_the_one_that_started_it() -> None:
    """Also when that one was killed and could tell nobody."""
    code = (
        "import os, signal; from milepost.local import simulator\n"
        "with simulator(0) as ready:\n"
        "    print(ready()['url'], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(  # noqa: S603  (our own code)
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )  # comes back when nobody holds stderr any more, so when the simulator has gone
    port = int(killed.stdout.split(":")[2].partition("/")[0])
    assert -signal.SIGKILL == killed.returncode
    with socket.socket() as probe:
        assert 0 != probe.connect_ex(("127.0.0.1", port))
