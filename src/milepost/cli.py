"""The commands. Errors are one line and an exit code; `--json` prints one object for programs."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import click
import msgspec
import uvloop

from milepost import settings
from milepost.errors import ConfigurationError, MilepostError, UpstreamError
from milepost.model import Caution, Key, MilestoneDefinition, Scope
from milepost.settings import Settings

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.status import Status

    from milepost import doctor, simulator
    from milepost.app import Milepost
    from milepost.jobs import run as runs
    from milepost.jobs import teardown
    from milepost.local import Crew
    from milepost.matching import Match
    from milepost.replay import Tally
    from milepost.scheduler import Standing
    from milepost.store import Store
    from milepost.store.runs import NumberedFinding, RunRecord

log = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_PORT = 8700

GONE = frozenset({errno.EIO, errno.EPIPE})
"""How writing to a terminal fails that was closed."""

INTERRUPTED = 128 + signal.SIGINT
"""The exit code of a command that was ended by Ctrl-C, SIGTERM or a terminal that was closed."""

SURVEY_ID = re.compile("SV_[0-9A-Za-z]{15}")
SHORT_LINK = re.compile(r"https?://[^/?#]+/l/[\w-]+")
RESPONSE_ID = re.compile("R_[0-9A-Za-z]{15}")

MOST_LISTED = 20
"""Bad rows that a person is shown; `--json` has more."""

TAB = "\t"

WIDEST = 100
"""Characters of a line of prose on a terminal."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
a_file = click.Path(path_type=Path)


class Commands(click.Group):
    """Runs a command; whatever ends it early is one line on stderr and an exit code.

    1 says that it could not be done, 2 that it was not asked for rightly, 130 that it was ended.
    """

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command that was asked for."""
        code: Any = 0
        try:
            code = super().main(
                *args, **kwargs | {"prog_name": "milepost", "standalone_mode": False}
            )
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except click.UsageError as error:
            where = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
            _complain(f"{error.format_message()}{where}")
            code = error.exit_code
        except click.ClickException as error:
            _fail(error.format_message())
        except MilepostError as error:
            _fail(str(error))
        except (click.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        raise SystemExit(code if isinstance(code, int) else 0)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="milepost", message="%(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Log more, on stderr.")
def main(*, verbose: bool) -> None:
    """Personal survey links at the moment a customer passes a milestone.

    Settings come from the environment (MILEPOST_UPSTREAM_URL and others); what is
    missing is named. To see it all at work, without settings: milepost demo
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # What a command started must be ended however it ends itself, so these are as Ctrl-C is.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)


# --- processes ------------------------------------------------------------------------------------


@main.command()
@click.option("--exit", "leave", is_flag=True, help="End after the checks instead of staying up.")
@click.option(
    "--port",
    default=DEFAULT_PORT,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Where Milepost answers; a free one where it is taken.",
)
@click.option(
    "--simulator-port",
    default=settings.SIMULATOR_PORT,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Where the platform answers; a simulator that is there already is used.",
)
def demo(*, leave: bool, port: int, simulator_port: int) -> None:
    """Watch a day of real events turn into personal survey links.

    Runs Postgres, a simulated survey platform and Milepost on this machine, and keeps what they
    need under .milepost/ in this folder.
    """
    from milepost.demo import run_demo

    raise SystemExit(run_demo(stay=not leave, port=port, simulator_port=simulator_port))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    default=DEFAULT_PORT,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0 picks a free one.",
)
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Processes that share the port; one uses one core.",
)
@click.option("--no-worker", is_flag=True, help="Leave the jobs to `milepost work`.")
def serve(*, host: str, port: int, processes: int, no_worker: bool) -> None:
    """Answer the REST API, and run the jobs, until Ctrl-C or SIGTERM."""
    given = settings.load()
    from milepost import app

    with (
        app.listening(host, port, processes) as listeners,
        _simulator(given) as await_simulator,
        app.database(given) as url,
    ):
        named = f"[{host}]" if ":" in host else host
        address = f"http://{named}:{listeners[0].getsockname()[1]}"
        if which := await_simulator():
            click.echo(which[:1].upper() + which[1:], err=True)

        def ready() -> None:
            click.echo(f"Milepost on {address} (documentation: {address}/schema/docs)", err=True)

        given = _reachable(given, address)
        if processes == 1:
            uvloop.run(app.serve(given, url, listeners[0], with_worker=not no_worker, ready=ready))
        else:
            uvloop.run(_crew(given, url, listeners, with_worker=not no_worker).run(ready))


def _reachable(given: Settings, address: str) -> Settings:
    """The settings with a public address: without one, short links lead to this machine."""
    if given.public_url is not None:
        return given
    if not given.simulated:
        log.warning(
            "MILEPOST_PUBLIC_URL is missing: short links lead to %s, where customers may not "
            "come; for example: https://links.example.com",
            address,
        )
    return msgspec.structs.replace(given, public_url=address)


def _crew(given: Settings, url: str, listeners: list[socket.socket], *, with_worker: bool) -> Crew:
    """Processes that serve, each with a listener of its own."""
    from milepost.app import NOTICE_SECONDS
    from milepost.local import Crew

    def leave() -> None:
        for listener in listeners:
            listener.close()

    # What was made or chosen here holds for all of them.
    chosen = {
        "MILEPOST_DATABASE_URL": url,
        "MILEPOST_SECRET": given.secret.decode(),
        "MILEPOST_PUBLIC_URL": given.public_url or "",
    }
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.removesuffix("_FILE") not in chosen
    }
    verbose = ["-v"] if log.isEnabledFor(logging.INFO) else []
    options = ["--with-worker"] if with_worker else []
    descriptors = [listener.fileno() for listener in listeners]
    return Crew(
        [[*verbose, "serve-one", "--listener", str(number), *options] for number in descriptors],
        environment=kept | chosen,
        descriptors=descriptors,
        notice=NOTICE_SECONDS,
        leave=leave,
    )


@main.command(hidden=True)
@click.option("--listener", required=True, type=int, help="The descriptor of a socket.")
@click.option("--with-worker", is_flag=True, help="Run the jobs, too.")
def serve_one(*, listener: int, with_worker: bool) -> None:
    """Be one of the processes of `serve --processes`, with what that one has set up."""
    given = settings.load()
    from milepost import app
    from milepost.local import ENDING, READY

    def ending() -> bool:
        try:
            click.echo(ENDING)
        except OSError:  # the one that would start a successor has died
            return False
        return True

    with socket.socket(fileno=listener) as inherited:
        uvloop.run(
            app.serve(
                given,
                given.database_url or "",
                inherited,
                with_worker=with_worker,
                ready=lambda: click.echo(READY),
                ending=ending,
            )
        )


@main.command()
def work() -> None:
    """Run the jobs without answering requests, until Ctrl-C or SIGTERM."""
    given = settings.load()
    settings.demand_public_url(given)
    from milepost import app

    with _simulator(given) as await_simulator, app.database(given) as url:
        if which := await_simulator():
            click.echo(which[:1].upper() + which[1:], err=True)
        uvloop.run(app.work(given, url, lambda: click.echo("Milepost works", err=True)))


@contextmanager
def _simulator(given: Settings) -> Iterator[Callable[[], str]]:
    """The simulator, where it is the platform; yields what waits for it and says which it is."""
    if not given.simulated:
        yield lambda: ""
        return
    from milepost.local import local_simulator

    with local_simulator(given.home / "simulator.state", settings.SIMULATOR_PORT) as ready:
        yield ready


@main.command()
@click.option(
    "--port",
    default=settings.SIMULATOR_PORT,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0 picks a free one.",
)
@click.option("--journal", type=a_file, help="Append each accepted write to this file.")
@click.option("--state", type=a_file, help="Keep the account in this file; else: in memory.")
@click.option(
    "--latency-ms",
    default="0",
    show_default=True,
    metavar="N|uniform:LEAST:MOST|lognormal:MEDIAN:P99",
    help="Wait before each answer: always as long, or drawn for each.",
)
@click.option(
    "--rate-per-minute",
    type=click.IntRange(min=1),
    help="Calls a minute of the whole brand; else: 3,000 with published limits.",
)
@click.option(
    "--limits",
    default="published",
    show_default=True,
    metavar="published|none|FILE",
    help='Calls a minute of each call class; FILE is JSON: {"list_contacts": 500}.',
)
@click.option(
    "--limit-kind",
    default="window",
    type=click.Choice(["window", "bucket"]),
    show_default=True,
    help="No more in any 60 s, or a bucket that leaks evenly.",
)
@click.option(
    "--dedup",
    default="on",
    type=click.Choice(["on", "off"]),
    show_default=True,
    help="Whether contacts with the same e-mail address are merged.",
)
@click.option(
    "--declare",
    "declared",
    multiple=True,
    metavar="NAME",
    help="Let the survey's flow declare this embedded data; repeatable.",
)
@click.option("--invitation-only", is_flag=True, help="Let the survey have no anonymous link.")
@click.option("--seed", type=int, help="Make every id, time and fault predictable.")
@click.option(
    "--fact",
    "facts",
    multiple=True,
    metavar="NAME=VALUE",
    help="Answer what nobody knows of the platform otherwise, as late_link=false; repeatable.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="JSON",
    help='Let calls go wrong: {"kind": "timeout", "times": 3}; repeatable.',
)
def simulate(
    *,
    port: int,
    journal: Path | None,
    state: Path | None,
    latency_ms: str,
    rate_per_minute: int | None,
    limits: str,
    limit_kind: Literal["window", "bucket"],
    dedup: str,
    declared: tuple[str, ...],
    invitation_only: bool,
    seed: int | None,
    facts: tuple[str, ...],
    faults: tuple[str, ...],
) -> None:
    """Stand in for the survey platform, until Ctrl-C or SIGTERM.

    The token is: simulator (an OAuth client of that id and secret works, too). Prints a line of
    JSON when it is ready: url, directory_id, survey_id.
    """
    from milepost import simulator

    chosen = _limits(limits)
    try:
        config = simulator.Config(
            journal=journal,
            state=state,
            latency_ms=latency_ms,
            rate_per_minute=rate_per_minute,
            limits=chosen,
            limit_kind=limit_kind,
            dedup=dedup == "on",
            declared_fields=declared,
            invitation_only=invitation_only,
            seed=seed,
            facts=dict(_fact(text) for text in facts),
            faults=tuple(_fault(text) for text in faults),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error

    def ready(on: simulator.Ready) -> None:
        wanted = {"url": on.url, "directory_id": on.directory_id, "survey_id": on.survey_id}
        click.echo(json.dumps(wanted))  # which also flushes

    try:
        uvloop.run(simulator.serve(config, port=port, ready=ready))
    except BlockingIOError:
        _fail("another simulator uses the journal or the state: choose another file, or end it")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            _fail(f"another program has port {port}: end it, or choose another with --port")
        _fail(f"{error.filename or 'the simulator'}: {error.strerror or error}")
    except ValueError as error:
        _fail(str(error))


def _fact(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals:
        raise click.UsageError(f"--fact: {given!r} is not NAME=VALUE, such as late_link=false")
    return name.strip(), value.strip()


def _fault(given: str) -> simulator.Fault:
    from milepost.simulator import Fault

    try:
        return msgspec.json.decode(given, type=Fault)
    except msgspec.DecodeError as error:
        message = f'--fault: {error}; for example: {{"kind": "timeout", "times": 3}}'
        raise click.UsageError(message) from error


def _limits(given: str) -> Any:
    if given in {"published", "none"}:
        return given
    try:
        return msgspec.json.decode(Path(given).read_bytes(), type=dict[str, int])
    except OSError as error:
        _fail(
            f"--limits: {given}: {error.strerror}; it is published, none, or a JSON file "
            'such as {"list_contacts": 500}'
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _fail(f'--limits: {given}: {error}; for example: {{"list_contacts": 500}}')


# --- set-up ---------------------------------------------------------------------------------------


@main.command("migrate")
@as_json
def migrate_(*, as_json: bool) -> None:
    """Bring the database to what this version needs."""
    given = settings.load()
    from milepost.store import migrate

    with _any_database(given) as url:
        applied = migrate.upgrade(url)
    if as_json:
        _print({"applied": applied})
    else:
        click.echo(f"applied: {', '.join(applied)}" if applied else "nothing to do")


@contextmanager
def _any_database(given: Settings) -> Iterator[str]:
    """The database, also one that is behind."""
    if given.database_url is not None:
        yield given.database_url
        return
    from milepost.embedded import EmbeddedPostgres

    _say_if_made(given)
    with EmbeddedPostgres(given.home) as url:
        yield url


def _say_if_made(given: Settings) -> None:
    """Say that an embedded database is made now: who meant another one is in the wrong folder."""
    from milepost.embedded import is_there

    if given.database_url is None and not is_there(given.home):
        where = given.home.absolute()
        click.echo(f"There is no database in this folder: one is made, in {where}", err=True)


@main.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What the key may do; may be given more than once.",
)
@as_json
def create_key(*, name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make an API key and print it, this once.

    NAME says whose it is. A name may have several keys: make the next one, hand it over, and only
    then revoke the last.
    """
    if not name.strip():
        _fail("NAME is empty; for example: ticketing-app")

    async def create(store: Store) -> tuple[str, str]:
        return await store.keys.create(name, {Scope(scope) for scope in scopes})

    key_id, key = _with_store(create)
    if as_json:
        _print({"id": key_id, "key": key, "scopes": sorted(set(scopes))})
    else:
        click.echo(key)


@main.group()
def milestones() -> None:
    """Surveys, registered as milestones."""


@milestones.command("apply")
@click.argument("file", type=a_file)
@as_json
def apply_milestones(*, file: Path, as_json: bool) -> None:
    """Register the milestones of a TOML file; none of them if one is wrong.

    Each is a table [milestones.KEY] with the keys of PUT /v1/milestones/KEY.
    """
    from milepost import policy

    definitions = _milestones_in(file)

    async def apply(store: Store) -> tuple[dict[str, str], dict[str, list[Caution]]]:
        account = await store.capabilities.all()
        earlier = {known.key: known.definition for known in await store.milestones.all()}
        for key, definition in definitions.items():
            try:
                policy.check_account(definition, account, earlier.get(key))
            except MilepostError as error:
                _fail(f"{file}: milestones.{key}: {error}")
        firsts = await store.milestones.put_all(definitions)
        return (
            {key: "created" if is_first else "replaced" for key, is_first in firsts.items()},
            {key: policy.cautions(definitions[key], account) for key in definitions},
        )

    outcome, cautions = _with_store(apply)
    if as_json:
        _print({"milestones": outcome, "cautions": msgspec.to_builtins(cautions)})
        return
    for key, what in outcome.items():
        click.echo(f"{key}: {what}")
    for caution in dict.fromkeys(one for found in cautions.values() for one in found):
        click.echo(f"Caution: {caution.detail} {caution.fix}", err=True)


def _milestones_in(file: Path) -> dict[str, MilestoneDefinition]:
    import tomllib

    from milepost import policy
    from milepost.wording import refusal

    try:
        with file.open("rb") as opened:
            tables = tomllib.load(opened).get("milestones")
    except OSError as error:
        _fail(f"{file}: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        _fail(f"{file}: not TOML: {error}")
    if not isinstance(tables, dict) or not tables:
        _fail(f"{file}: there is no table [milestones.KEY]")
    definitions = {}
    for key, table in tables.items():
        try:
            checked = msgspec.convert(key, Key)
            definitions[checked] = msgspec.convert(table, MilestoneDefinition)
            policy.check_definition(definitions[checked])
        except msgspec.ValidationError as error:
            wrong = refusal(str(error))
            place = ".".join(filter(None, ("milestones", key, wrong.field)))
            _fail(f"{file}: {place}: {wrong}")
        except MilepostError as error:
            _fail(f"{file}: milestones.{key}: {error}")
    return definitions


@main.group()
def registrants() -> None:
    """The people, in our source of truth."""


@registrants.command("import")
@click.argument("file", type=a_file)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="OURS=THEIRS",
    help="What one of our columns is called in the file; OURS= passes one over; repeatable.",
)
@click.option("--encoding", metavar="NAME", help="Such as utf-8 or cp1252; else: detected.")
@click.option("--delimiter", metavar="CHARACTER", help="One of , ; | tab; else: detected.")
@as_json
def import_registrants(
    *,
    file: Path,
    dry_run: bool,
    columns: tuple[str, ...],
    encoding: str | None,
    delimiter: str | None,
    as_json: bool,
) -> None:
    """Write down the registrants of a CSV or NDJSON file; bad rows are listed.

    CSV (.csv, .tsv) has a header, NDJSON (.ndjson, .jsonl) an object a line. Columns: ref, email,
    first_name, last_name, phone, language; any other becomes an attribute. Nobody is removed. A
    folder is read in the order of its files' names. The exit code is 1 when there were bad rows.
    """
    from milepost.jobs.rows import Form
    from milepost.jobs.sources import FileSource

    form = Form.of(
        columns=_columns(columns), encoding=encoding, delimiter=delimiter, said_by="command"
    )
    FileSource(file, form).check()  # before anything is started for it

    async def run(milepost: Milepost) -> tuple[RunRecord, list[NumberedFinding]]:
        with _stages("import", quiet=as_json) as stages:
            done = await milepost.import_file(
                file,
                form,
                asked_by="command line",
                dry_run=dry_run,
                progress=stages.show,
                following=stages.follow,
            )
        return done, await _listed(milepost.store, done, is_all=as_json)

    done, listed = _with_milepost(run)
    if done.error is not None:
        _fail(done.error)
    counts = dict(done.counts)
    if as_json:
        bad_rows = [
            {name: value for name, value in msgspec.to_builtins(bad).items() if name != "number"}
            for bad in listed
        ]
        _print({"run": done.id, "dry_run": dry_run, **counts, "bad_rows": bad_rows})
    else:
        _tell_import(counts, dry_run=dry_run)
        _tell_findings(done, listed)
    if counts["bad"]:
        raise SystemExit(1)


async def _listed(store: Store, run: RunRecord, *, is_all: bool) -> list[NumberedFinding]:
    """What a run lists one by one: all of it, or as much as a person looks at."""
    listed = await store.runs.findings(run.id, limit=MOST_LISTED)
    while is_all and (page := await store.runs.findings(run.id, after=len(listed) - 1)):
        listed += page
    return listed


def _columns(given: tuple[str, ...]) -> dict[str, str | None]:
    """What our columns are called there, as it was said on the command line."""
    columns: dict[str, str | None] = {}
    for one in given:
        ours, equals, theirs = one.partition("=")
        if not equals or not ours:
            raise click.UsageError(f"--column: {one!r} is not OURS=THEIRS, such as ref=CustomerId")
        columns[ours] = theirs or None
    return columns


def _tell_import(counts: dict[str, Any], *, dry_run: bool) -> None:
    """Print how a file was read, and what became of its rows."""
    from milepost.jobs.rows import COLUMNS

    for read in counts["read"]:
        delimiter = read["delimiter"]
        separated = (
            f", separated by {'tabs' if delimiter == TAB else delimiter}" if delimiter else ""
        )
        click.echo(f"{read['source']}: {read['kind'].upper()} in {read['encoding']}{separated}")
        renamed = [
            f"{ours} is {theirs}" for ours, theirs in read["columns"].items() if ours != theirs
        ]
        passed_over = [f"{name} is passed over" for name in read["passed_over"]]
        if renamed or passed_over:
            click.echo(f"  {', '.join(renamed + passed_over)}")
        filled = {*read["columns"], *read["passed_over"]}
        if delimiter and (empty := [name for name in COLUMNS if name not in filled]):
            click.echo(f"  no column fills {', '.join(empty)}; any other column is an attribute")
    would = "would be " if dry_run else ""
    told = [
        f"{counts['created']} {would}created",
        f"{counts['changed']} {would}changed",
        *([f"{counts['returned']} {would}back"] if counts["returned"] else []),
        f"{counts['unchanged']} unchanged",
        *([f"{counts['repeated']} repeated"] if counts["repeated"] else []),
        f"{counts['bad']} bad",
    ]
    click.echo(f"{_count('rows', counts['rows'])}: {', '.join(told)}")
    if counts["fields"]:
        named = ", ".join(f"{name} {count}" for name, count in counts["fields"].items())
        click.echo(f"  of those who {'would change' if dry_run else 'changed'}: {named}")


# --- work -----------------------------------------------------------------------------------------


@main.command()
@click.argument("job")
@click.option(
    "--accept-removals", is_flag=True, help="sync: remove however many a source lists no more."
)
@click.option(
    "--accept-losses",
    is_flag=True,
    help="sync: go on however many contacts are not there any more.",
)
@click.option("--dry-run", is_flag=True, help="sync: only say what the source would change.")
@click.option("--thorough", is_flag=True, help="reconcile: read every history, moved or not.")
@as_json
def run(*, job: str, as_json: bool, **accepted: bool) -> None:
    """Run a job now, and wait for its end; `milepost jobs` lists them.

    A run of it that is under way comes first. After Ctrl-C the run is left where it stands, and
    whoever runs the jobs goes on with it. The exit code is 1 if it did not do all.
    """
    options = _wishes(job, accepted)

    async def work(
        milepost: Milepost,
    ) -> tuple[RunRecord, list[NumberedFinding], list[RunRecord]]:
        ran = await _run(milepost, job, options, quiet=as_json)
        findings = await _listed(milepost.store, ran, is_all=as_json)
        before = await milepost.store.runs.page(job, before=ran.id, limit=3)
        return ran, findings, [run for run in before if _ended_since(run, ran.created_at)]

    # What it says of how the run ended is what is printed here.
    logging.getLogger("milepost.scheduler").addFilter(lambda said: said.levelno < logging.ERROR)
    ran, findings, before = _with_milepost(work)
    if as_json:
        from milepost.api.jobs import view

        _print({**msgspec.to_builtins(view(ran)), "findings": msgspec.to_builtins(findings)})
    else:
        for run in reversed(before):
            click.echo(f"run {run.id}, which came first: {_counted(run.counts) or run.state}")
        _tell_run(ran, findings)
    if ran.ended_at is None:
        _complain(
            f"{job} is left where it stands: `milepost serve` or `milepost work` goes on with it, "
            f"or milepost run {job}"
        )
        raise SystemExit(INTERRUPTED)
    if ran.error:
        _fail(f"{job} {ran.state}: {ran.error}")
    is_sourceless = "rows" not in ran.counts and settings.load().registrants_source is not None
    if job == "sync" and is_sourceless:
        _fail(
            "the source was not read: the process that ran it has no MILEPOST_REGISTRANTS_SOURCE; "
            "give all processes the same settings, and run it again"
        )
    if any(ran.counts.get(name) for name in ("failed", "errors", "unfinished", "broken_off")):
        raise SystemExit(1)


async def _run(milepost: Milepost, job: str, options: dict[str, bool], *, quiet: bool) -> RunRecord:
    """Run a job, until its end or until this process is told to end; then it is left."""
    from milepost.worker import told_to_stop

    stopping, task = asyncio.Event(), asyncio.current_task()

    def stop(_: int) -> None:
        """Leave the run at the end of a page; told again, at once."""
        if stopping.is_set() and task is not None:
            task.cancel()
        stopping.set()

    with _stages(job, quiet=quiet) as stages, told_to_stop(stop):
        try:
            return await milepost.run(
                job,
                asked_by="command line",
                options=options,
                progress=stages.show,
                following=stages.follow,
                stopping=stopping,
            )
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


def _wishes(job: str, accepted: Mapping[str, bool]) -> dict[str, bool]:
    """The options of a run, if there is such a job and they are for it."""
    from milepost.scheduler import CADENCES

    if job not in CADENCES:
        raise click.UsageError(f"there is no job {job!r}; there are: {', '.join(CADENCES)}")
    if by := CADENCES[job].by:
        raise click.UsageError(f"{job} is not run by its name: {by}")
    options = {name: True for name, is_accepted in accepted.items() if is_accepted}
    if wrong := [name for name in options if name not in CADENCES[job].options]:
        raise click.UsageError(f"--{wrong[0].replace('_', '-')} is not for {job}")
    if job in {"drain", "sweep"}:
        settings.demand_public_url(settings.load())
    return options


def _ended_since(run: RunRecord, moment: datetime) -> bool:
    return run.ended_at is not None and run.ended_at >= moment


def _tell_run(ran: RunRecord, findings: Sequence[NumberedFinding]) -> None:
    if ran.counts or not ran.error:
        click.echo(_counted(ran.counts) or "nothing was done")
    for error in ran.counts.get("errors", ()):
        click.echo(f"  {error}", err=True)
    _tell_findings(ran, findings)


def _tell_findings(ran: RunRecord, findings: Sequence[NumberedFinding]) -> None:
    for finding in findings:
        line = f"line {finding.line}" if finding.line is not None else None
        place = " ".join(part for part in (finding.source, line, finding.ref) if part)
        click.echo(f"  {place}: {finding.reason}" if place else f"  {finding.reason}", err=True)
    if (more := ran.counts.get("found", 0) - len(findings)) > 0:
        click.echo(
            f"  and {more} more: GET /v1/runs/{ran.id}/findings?format=csv has them all", err=True
        )


def _counted(counts: Mapping[str, Any]) -> str:
    return ", ".join(
        _count(name, count) for name, count in counts.items() if isinstance(count, int) and count
    )


_OF_WHAT = {
    "hours": ("hours", "counted anew"),
    "moved": ("distributions", "moved"),
    "entries": ("lines", "of histories read"),
    "opened": ("links", "opened"),
    "started": ("links", "started"),
    "finished": ("links", "finished"),
    "read": ("responses", "read"),
    "unread": ("responses", "not read"),
    "drift": ("differences", "flagged"),
}
"""What jobs count, where the name of a count does not say of what."""


def _count(name: str, count: int) -> str:
    noun, *rest = _OF_WHAT.get(name, (name.replace("_", " "),))
    return " ".join([str(count), noun.removesuffix("s") if count == 1 else noun, *rest])


@main.command("jobs")
@as_json
def jobs_(*, as_json: bool) -> None:
    """See when each job is due, and what became of its last run.

    The exit code is 1 when one is later than it may be.
    """
    from milepost import scheduler
    from milepost.jobs.sources import configured

    given = settings.load()
    configured(given.registrants_source)  # raises if it is wrong: no process would start with it
    when = scheduler.timetable(given.schedule, given.time_zone)
    found = _with_store(lambda store: scheduler.standings(store.runs, when))
    if as_json:
        from milepost.api.jobs import job_view

        _print({"jobs": [msgspec.to_builtins(job_view(standing)) for standing in found]})
    else:
        for standing in found:
            upcoming = f", next {_local(standing.next_due_at)}" if standing.next_due_at else ""
            _tell(
                "ok" if standing.is_well else "fail",
                f"{standing.name}: {standing.calendar}{upcoming}",
                _last(standing),
            )
        if not found:
            click.echo("no process has looked at the jobs yet: start `milepost serve`")
    if not all(standing.is_well for standing in found):
        raise SystemExit(1)


def _last(standing: Standing) -> str | None:
    """What became of a job lately."""
    run = standing.run
    if standing.error and standing.error_at:
        return f"met at {_local(standing.error_at)}: {standing.error}"
    if run is None or run.started_at is None:
        return None
    moment = run.ended_at or run.started_at
    since = "since" if run.ended_at is None else "at"
    told = ": ".join(part for part in (_counted(run.counts), run.error) if part)
    return f"{run.state} {since} {_local(moment)}" + (f": {told}" if told else "")


def _local(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


@main.group()
def pool() -> None:
    """What milestones have at the platform."""


@pool.command("teardown")
@click.argument("key")
@click.option("--dry-run", is_flag=True, help="Say what would be taken away, and touch nothing.")
@click.option(
    "--live-links",
    default=0,
    type=click.IntRange(min=0),
    metavar="N",
    help="So many links that are alive may die with it: as many as there are.",
)
@as_json
def tear_down(*, key: str, dry_run: bool, live_links: int, as_json: bool) -> None:
    """Take the lists, batches and distributions of a milestone's pool away at the platform.

    Only what carries this deployment's name is touched, and batches that it has made. The milestone
    must be paused; when it is resumed, its pool is made anew. Broken off, it is finished by the
    next one. The exit code is 1 when something stays behind.
    """
    from milepost.jobs.teardown import Teardown

    async def work(milepost: Milepost) -> teardown.Report:
        ours = Teardown(milepost.store, milepost.upstream, milepost.deployment)
        with _bar("teardown", None, quiet=as_json) as advance:
            return await ours.run_once(
                key, dry_run=dry_run, live_links=live_links, progress=advance.to
            )

    report = _with_milepost(work)
    if as_json:
        _print(msgspec.to_builtins(report))
    else:
        would = "would be " if dry_run else ""
        batch = "batch" if report.batches == 1 else "batches"
        batches = f"{report.batches} {batch}, " if report.batches else ""
        click.echo(
            f"{would}removed: {_count('mailing_lists', report.lists)}, {batches}"
            f"{_count('distributions', report.distributions)}; "
            f"{'dead by it' if not dry_run else 'alive'}: {_count('links', report.live_links)}"
        )
        if report.refusal:
            click.echo(f"it would be refused: {report.refusal}")
        for left in report.remains:
            click.echo(f"  {left.kind} {left.id}, {left.name}: {left.because}", err=True)
    if report.remains:
        raise SystemExit(1)


@main.group()
def events() -> None:
    """What happened to registrants; and what the platform tells of their responses."""


@events.command("replay")
@click.argument("file", type=a_file)
@click.option("--url", default=f"http://127.0.0.1:{DEFAULT_PORT}", show_default=True)
@click.option("--key", envvar="MILEPOST_KEY", required=True, help="An API key (or MILEPOST_KEY).")
@click.option("--per-minute", type=click.IntRange(min=1), help="Events a minute; else: full speed.")
@as_json
def replay_events(*, file: Path, url: str, key: str, per_minute: int | None, as_json: bool) -> None:
    """Send the events of an NDJSON file to a running Milepost, and count what comes back."""
    from milepost import replay

    total = sum(1 for _ in replay.read(file))

    async def send() -> Tally:
        with _bar("events", total, quiet=as_json) as advance:
            return await replay.replay(
                replay.read(file),
                url=url,
                key=key,
                per_minute=per_minute,
                progress=lambda tally: advance.to(tally.events),
            )

    tally = uvloop.run(send())
    told = {
        "events": tally.events,
        "links": tally.links,
        "lanes": tally.lanes,
        "seen": tally.seen,
        "waiting": tally.waiting,
        "without_link": tally.without_link,
        "refused": tally.refused,
        "calls_per_link": round(tally.calls_per_link, 3),
        "median_ms": round(tally.median_ms, 1),
        "p99_ms": round(tally.p99_ms, 1),
    }
    if as_json:
        _print(told)
    else:
        for name, value in told.items():
            if isinstance(value, dict):
                value = ", ".join(f"{count} {what}" for what, count in value.items()) or 0  # noqa: PLW2901  (as it is told)
            click.echo(f"{name.replace('_', ' '):>15}  {value}")
    if tally.refused:
        raise SystemExit(1)


@events.command("subscribe")
@click.option("--dry-run", is_flag=True, help="Say what would be asked for, and ask for nothing.")
@as_json
def subscribe(*, dry_run: bool, as_json: bool) -> None:
    """Have the platform call when a survey of a milestone is answered.

    Only what no subscription to our address is there for is asked for: run it again for surveys
    that come in later. It takes a brand administrator's token.
    """
    from milepost.jobs import subscriptions
    from milepost.store import LOCAL_URL

    given = settings.load()
    if given.events_key is None:
        raise ConfigurationError(
            "MILEPOST_EVENTS_KEY is missing; for example: the output of: openssl rand -hex 32"
        )
    settings.demand_public_url(given)
    key, url = given.events_key, subscriptions.address(given.public_url or LOCAL_URL)

    async def work(milepost: Milepost) -> tuple[list[str], list[str]]:
        surveys = {m.definition.survey_id for m in await milepost.store.milestones.all()}
        wanted = await subscriptions.lacking(milepost.upstream, surveys, url)
        if not dry_run:
            for survey_id in wanted:
                await subscriptions.subscribe(milepost.upstream, survey_id, url, key)
        return wanted, sorted(surveys.difference(wanted))

    asked, there = _with_milepost(work)
    if as_json:
        _print({"url": url, "dry_run": dry_run, "subscribed": asked, "there": there})
        return
    for survey_id in asked:
        click.echo(f"{survey_id}: {'would be ' if dry_run else ''}subscribed, calls go to {url}")
    for survey_id in there:
        click.echo(f"{survey_id}: is subscribed already")


# --- looking --------------------------------------------------------------------------------------


@main.group()
def link() -> None:
    """Personal links."""


@link.command("explain")
@click.argument("url")
def explain_link(*, url: str) -> None:
    """Take a personal link apart; prints its parts, and it rebuilt from them, as JSON."""
    from milepost import personal_link
    from milepost.payload import REFERENCE_FIELD

    try:
        _print(personal_link.explain(url))
    except personal_link.NotAPersonalLink as error:
        if SHORT_LINK.fullmatch(url):
            _fail(
                f"{error}. It looks like a short link of Milepost's own: GET /v1/links?event_id=… "
                "tells an admin of the personal one behind it"
            )
        if f"{REFERENCE_FIELD}=" in url:
            _fail(
                f"{error}. It looks like a survey's plain link with a reference, as route "
                "anonymous gives out: milepost response explain tells of its response"
            )
        raise


@main.group()
def response() -> None:
    """What customers have answered."""


@response.command("explain")
@click.argument("survey_id")
@click.argument("response_id")
@as_json
def explain_response(*, survey_id: str, response_id: str, as_json: bool) -> None:
    """Say whether a response is of the link that it names: true, forged, foreign, or none named."""
    _check_ids(survey_id, response_id)

    async def work(milepost: Milepost) -> Match:
        return await milepost.matching.explain(survey_id, response_id)

    match = _with_milepost(work)
    if as_json:
        _print(msgspec.to_builtins(match))
        return
    click.echo(match.verdict.value)
    if match.reason is not None:
        click.echo(f"  {match.reason.rule}: {match.reason.detail}")
    if (link := match.link) is not None:
        click.echo(f"  link {link.id}, {link.state.value}")
        click.echo(f"  event {link.event_id} of milestone {link.milestone}")
        click.echo(f"  registrant {link.registrant}")


@response.command("note")
@click.argument("survey_id")
@click.argument("response_ids", nargs=-1, required=True)
def note_responses(*, survey_id: str, response_ids: tuple[str, ...]) -> None:
    """Have responses read of which the platform has told while the database was not there.

    It is as if the platform had called for each: job reconcile reads it, and matches it to its
    link. Those that are known already are left as they are.
    """
    _check_ids(survey_id, *response_ids)

    async def note(store: Store) -> int:
        return sum([await store.responses.note(survey_id, each) for each in response_ids])

    noted = _with_store(note)
    click.echo(f"{noted} of {len(response_ids)} were not known, and are read now")


@main.command("doctor")
@click.option(
    "--probe",
    is_flag=True,
    help="Also try on the account what Milepost takes for granted, and remember the answers.",
)
@click.option("--survey", metavar="SV_…", help="To probe with; else: the first active milestone's.")
@click.option(
    "--wait",
    default=300,
    show_default=True,
    type=click.IntRange(0, 1_800),
    help="Seconds that you have to answer the probe's survey; with 0 you are not asked.",
)
@click.option(
    "--throttle",
    is_flag=True,
    help="Provoke a 429 as well: everybody who shares the brand's calls may feel it for a minute.",
)
@as_json
def doctor_(*, probe: bool, survey: str | None, wait: int, throttle: bool, as_json: bool) -> None:
    """See whether this installation can do its work.

    Looking changes nothing. --probe makes lists, contacts, distributions and transactions at the
    platform, all named "milepost probe", and removes them; on a terminal it asks you to answer the
    survey once. The exit code is 1 when something fails, or stays behind.
    """
    if not probe and (survey or throttle):
        raise click.UsageError(f"{'--survey' if survey else '--throttle'} goes with --probe")
    if survey is not None and not SURVEY_ID.fullmatch(survey):
        raise click.UsageError(
            f"--survey: {survey!r} is not the id of a survey, such as SV_0123456789abcde"
        )
    from milepost import doctor

    with suppress(ConfigurationError):  # it is a finding
        _say_if_made(settings.load())
    with _unlogged():
        findings = uvloop.run(doctor.examine(probing=probe))
    told: dict[str, Any] = {"findings": msgspec.to_builtins(findings)}
    is_well = all(finding.verdict != "fail" for finding in findings)
    if not as_json:
        for finding in findings:
            _tell(finding.verdict, f"{finding.what}: {finding.found}", finding.fix)
    if probe and findings[1:]:  # with wrong settings there is nothing to probe
        with _unlogged():
            report = _probe(survey, wait, throttle=throttle, quiet=as_json)
        told["probe"] = msgspec.to_builtins(report)
        is_well = is_well and not report.remains
        if not as_json:
            _tell_report(report)
    if as_json:
        _print(told)
    if not is_well:
        raise SystemExit(1)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep log lines out of a report that says the same; with -v they are wanted."""
    if log.isEnabledFor(logging.INFO):
        yield
        return
    # But what a probe that is broken off leaves behind is told nowhere else.
    levels = {"milepost": logging.CRITICAL, "milepost.doctor": logging.WARNING}
    before = {name: logging.getLogger(name).level for name in levels}
    try:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _probe(survey: str | None, wait: int, *, throttle: bool, quiet: bool) -> doctor.Report:
    """Probe, with whoever is there to answer the survey: a person, or the simulator's machine."""
    from rich.console import Console

    from milepost import doctor

    is_watched = sys.stderr.isatty() and not quiet
    status = Console(stderr=True, quiet=not is_watched).status("probing")
    try:
        status.start()
        answerer: doctor.Answerer | None = None
        if wait and settings.load().simulated:
            answerer = doctor.FormFiller()
        elif wait and is_watched and sys.stdin.isatty():
            answerer = _Person(status)
        return uvloop.run(
            _until_ended(
                lambda progress: doctor.probe(
                    survey_id=survey,
                    answerer=answerer,
                    patience=doctor.Patience(person=float(wait)),
                    throttle=throttle,
                    progress=progress,
                ),
                status.update,
            )
        )
    except OSError as error:
        if error.errno not in GONE:
            raise
        raise KeyboardInterrupt from error
    finally:
        with suppress(OSError):
            status.stop()


async def _until_ended(
    work: Callable[[Callable[[str], None]], Awaitable[T]], show: Callable[[str], None]
) -> T:
    """Work, and break it off once when this process is to end or its terminal is gone.

    What the work does on its way out is not broken off: a terminal that is closed may say so twice.

    Args:
        work: is handed what it is to tell its progress.
        show: shows the progress; may raise OSError.

    Raises:
        KeyboardInterrupt: it was broken off.
    """
    loop = asyncio.get_running_loop()
    is_ending = False

    def end() -> None:
        """Break the work off."""
        nonlocal is_ending
        if not is_ending:
            is_ending = True
            task.cancel()

    def tell(what: str) -> None:
        """Show what is done, as long as there is a terminal."""
        try:
            show(what)
        except OSError:
            end()

    task = asyncio.ensure_future(work(tell))
    before = {
        number: handler
        for number in (signal.SIGTERM, signal.SIGHUP)
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN  # as under nohup
    }
    for number in before:
        loop.add_signal_handler(number, end)
    try:
        return await task
    except asyncio.CancelledError:
        if is_ending:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


class _Person:
    """Whoever sits at the terminal."""

    def __init__(self, status: Status) -> None:
        self._status = status

    async def answer(self, url: str) -> doctor.Outcome:
        """Ask them to answer the survey behind a link."""
        self._status.stop()
        click.echo(
            f"\nPlease open this link in a browser, and answer the survey:\n\n{url}\n\n"
            "It goes on when the platform has counted your response, or when you press Enter.\n"
            "If the link shows no survey, type n and press Enter: ",
            err=True,
            nl=False,
        )
        try:
            line = await _line()
        finally:
            with suppress(OSError):  # the terminal may be gone, and there is more to end
                click.echo(err=True)
                self._status.start()
        if not line:
            return "nobody"
        return "shut" if line.strip().lower().startswith("n") else "answered"


async def _line() -> str:
    """The next line that is typed; nothing when there will be none."""
    loop = asyncio.get_running_loop()
    typed = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline()


_COLOURS = {
    "ok": "green",
    "yes": "green",
    "warn": "yellow",
    "no": "yellow",
    "not known": "cyan",
    "fail": "red",
}


def _tell(verdict: str, *sentences: str | None, room: int = 4) -> None:
    """Print a verdict with what belongs to it below, in lines that fit the terminal."""
    width = min(get_terminal_size().columns, WIDEST) if sys.stdout.isatty() else sys.maxsize
    edge = " " * (room + 2)
    text = "\n".join(
        click.wrap_text(sentence, width, edge, edge) for sentence in sentences if sentence
    )
    click.echo(click.style(verdict, fg=_COLOURS[verdict]) + text[len(verdict) :])


def _tell_report(report: doctor.Report) -> None:
    click.echo(f"\nTried on the account, with survey {report.survey_id}:\n")
    for answer in report.answers:
        seen, so = f"Seen: {answer.evidence}.", f"So: {answer.consequence}"
        _tell(answer.answer, answer.assumption, seen, so, room=9)
    for response_id in report.responses:
        click.echo(f"\nThe survey has kept a response that is no customer's: {response_id}")
    if report.unnamed_responses:
        click.echo(
            f"\nThe survey may have kept {report.unnamed_responses} more, of Milepost Probe, whose "
            "ids the platform does not tell."
        )
    if report.remains:
        click.echo("\nThis is left at the platform, and should be removed by hand:\n")
    for remains in report.remains:
        named = f"{remains.kind} {remains.id or '(if it was made)'}, named {remains.name}"
        _tell("warn", named, remains.because)


# --- what commands share --------------------------------------------------------------------------


def _check_ids(survey_id: str, *response_ids: str) -> None:
    for given, form, example in (
        (survey_id, SURVEY_ID, "SV_0123456789abcde"),
        *((each, RESPONSE_ID, "R_0123456789abcde") for each in response_ids),
    ):
        if not form.fullmatch(given):
            raise click.UsageError(f"{given!r} is not an id such as {example}")


def _with_store(verb: Callable[[Store], Awaitable[T]]) -> T:
    """Run a verb on the store alone; the platform is not needed."""
    given = settings.load()
    from milepost import app
    from milepost.store import Store

    async def work(url: str) -> T:
        async with await Store.open(url) as store:
            return await verb(store)

    _say_if_made(given)
    with app.database(given) as url:
        return uvloop.run(work(url))


def _with_milepost(verb: Callable[[Milepost], Awaitable[T]]) -> T:
    """Run a verb on everything; a simulator must be listening where it is the platform."""
    given = settings.load()
    from milepost import app
    from milepost.local import is_listening

    if given.simulated and not is_listening(settings.SIMULATOR_PORT):
        _fail(
            f"no simulator listens on port {settings.SIMULATOR_PORT}; start one in another "
            "terminal with `milepost serve` or `milepost simulate`"
        )

    async def work(url: str) -> T:
        try:
            async with app.opened(given, url) as milepost:
                return await verb(milepost)
        except UpstreamError as error:
            raise UpstreamError(f"the platform at {given.upstream_url}: {error}") from error

    _say_if_made(given)
    with app.database(given) as url:
        return uvloop.run(work(url))


class _Advance:
    """How far a progress bar is."""

    def __init__(self, progress: Progress, what: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=total)

    def to(self, done: int, total: int | None = None) -> None:
        """So much is done, of as much as there is."""
        self._progress.update(self._task, completed=done, total=total)


class _Stages:
    """How far a run is, and which one it is where another process has it."""

    def __init__(self, progress: Progress, job: str, *, quiet: bool) -> None:
        self._progress = progress
        self._job = job
        self._quiet = quiet
        self._bars: dict[str, TaskID] = {}
        self._followed: int | None = None

    def show(self, at: runs.Progress) -> None:
        """So far is the run in this process."""
        self._progress.update(self._of(at.stage), completed=at.done, total=at.total)

    def follow(self, run: RunRecord) -> None:
        """So far is the one in another process, which is said once."""
        if self._followed != run.id and not self._quiet and run.started_at is not None:
            share = f", at {100 * run.done // run.total} %" if run.total else ""
            click.echo(
                f"{run.job} is under way in another process since {_local(run.started_at)}{share}",
                err=True,
            )
            self._followed = run.id
        self._progress.update(self._of(run.stage), completed=run.done, total=run.total)

    def _of(self, stage: str | None) -> TaskID:
        name = stage or self._job
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=None)
        return self._bars[name]


@contextmanager
def _bar(what: str, total: int | None, *, quiet: bool) -> Iterator[_Advance]:
    """A progress bar on stderr, where that is a terminal."""
    with _bars(quiet=quiet) as progress:
        yield _Advance(progress, what, total)


@contextmanager
def _stages(job: str, *, quiet: bool) -> Iterator[_Stages]:
    """A progress bar for each stage of a run, likewise."""
    with _bars(quiet=quiet) as progress:
        yield _Stages(progress, job, quiet=quiet)


@contextmanager
def _bars(*, quiet: bool) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    disable = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disable) as progress:
        yield progress


def _print(value: object) -> None:
    click.echo(msgspec.json.encode(value).decode())


def _complain(sentence: str) -> None:
    click.echo(f"milepost: {' '.join(sentence.split())}", err=True)


def _fail(sentence: str) -> NoReturn:
    _complain(sentence)
    raise SystemExit(1)
