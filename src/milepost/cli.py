"""The commands. Errors are one line and an exit code; `--json` prints one object for programs."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from milepost import app, doctor, personal_link, policy, replay, settings, simulator
from milepost.app import Milepost
from milepost.demo import run_demo
from milepost.errors import MilepostError
from milepost.jobs.registrants_file import Report, import_file
from milepost.local import local_simulator
from milepost.model import Key, MilestoneDefinition, Scope
from milepost.settings import Settings
from milepost.store import Store, migrate

T = TypeVar("T")

console = Console(stderr=True, highlight=False)

DEFAULT_PORT = 8700

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


class Commands(click.Group):
    """Runs a command; an error of ours becomes one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except MilepostError as error:
            _fail(str(error))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="milepost", message="%(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def main(*, verbose: bool) -> None:
    """Personal survey links at the moment a customer passes a milestone."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )


# --- processes ------------------------------------------------------------------------------------


@main.command()
@click.option("--exit", "leave", is_flag=True, help="End after the checks instead of staying up.")
def demo(*, leave: bool) -> None:
    """Watch a day of real events turn into personal survey links."""
    raise SystemExit(run_demo(stay=not leave))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65535))
def serve(*, host: str, port: int) -> None:
    """Answer the REST API."""
    given = settings.load()
    with app.database(given) as url, local_simulator(given):
        click.echo(f"Milepost on http://{host}:{port} (documentation: /schema/docs)", err=True)
        uvloop.run(app.serve(given, url, host=host, port=port))


@main.command()
@click.option("--port", default=settings.SIMULATOR_PORT, show_default=True, type=int)
@click.option("--journal", type=click.Path(path_type=Path), help="Append accepted writes here.")
@click.option("--state", type=click.Path(path_type=Path), help="Keep the account here.")
@click.option("--latency-ms", default=0, type=click.IntRange(min=0))
@click.option("--rate-per-minute", default=None, type=click.IntRange(min=1))
@click.option("--limits", default="published", help="published, none, or a JSON file.")
@click.option("--dedup", default="on", type=click.Choice(["on", "off"]), show_default=True)
@click.option("--seed", default=None, type=int)
def simulate(
    *,
    port: int,
    journal: Path | None,
    state: Path | None,
    latency_ms: int,
    rate_per_minute: int | None,
    limits: str,
    dedup: str,
    seed: int | None,
) -> None:
    """Stand in for the survey platform; the token is: simulator."""
    try:
        config = simulator.Config(
            journal=journal,
            state=state,
            latency_ms=latency_ms,
            rate_per_minute=rate_per_minute,
            limits=_limits(limits),
            dedup=dedup == "on",
            seed=seed,
        )
    except ValueError as error:
        _fail(f"--limits: {error}")

    def ready(on: simulator.Ready) -> None:
        wanted = {"url": on.url, "directory_id": on.directory_id, "survey_id": on.survey_id}
        click.echo(json.dumps(wanted))

    uvloop.run(simulator.serve(config, port=port, ready=ready))


def _limits(given: str) -> Any:
    if given in {"published", "none"}:
        return given
    try:
        return msgspec.json.decode(Path(given).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.DecodeError) as error:
        _fail(f"--limits: {given}: {error}")


# --- set-up ---------------------------------------------------------------------------------------


@main.command("migrate")
def migrate_() -> None:
    """Bring the database to what this version needs."""
    given = settings.load()
    with _any_database(given) as url:
        applied = migrate.upgrade(url)
    click.echo(f"applied: {', '.join(applied)}" if applied else "nothing to do")


@contextmanager
def _any_database(given: Settings) -> Iterator[str]:
    """The database, also one that is behind."""
    if given.database_url is not None:
        yield given.database_url
        return
    with app.database(given) as url:
        yield url


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
    """Make an API key and print it, this once."""
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
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@as_json
def apply_milestones(*, file: Path, as_json: bool) -> None:
    """Register the milestones of a TOML file; all of them, or none if one is wrong."""
    definitions = _milestones_in(file)

    async def apply(store: Store) -> dict[str, str]:
        return {
            key: "created" if (await store.milestones.put(key, definition))[1] else "replaced"
            for key, definition in definitions.items()
        }

    outcome = _with_store(apply)
    if as_json:
        _print({"milestones": outcome})
    else:
        for key, what in outcome.items():
            click.echo(f"{key}: {what}")


def _milestones_in(file: Path) -> dict[str, MilestoneDefinition]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8")).get("milestones")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        _fail(f"{file}: not TOML: {error}")
    if not isinstance(tables, dict) or not tables:
        _fail(f"{file}: there is no table [milestones.KEY]")
    definitions = {}
    for key, table in tables.items():
        try:
            checked = msgspec.convert(key, Key)
            definitions[checked] = msgspec.convert(table, MilestoneDefinition)
            policy.check_definition(definitions[checked])
        except (msgspec.ValidationError, MilepostError) as error:
            _fail(f"{file}: [milestones.{key}]: {error}")
    return definitions


@main.group()
def registrants() -> None:
    """The people, in our source of truth."""


@registrants.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@as_json
def import_registrants(*, file: Path, dry_run: bool, as_json: bool) -> None:
    """Write down the registrants of a CSV or NDJSON file; bad rows are listed."""
    size = file.stat().st_size

    async def run(milepost: Milepost) -> Report:
        with _bar("registrants", size, quiet=as_json) as advance:
            return await import_file(milepost.store, file, dry_run=dry_run, progress=advance.to)

    report = _with_milepost(run)
    if as_json:
        _print({**msgspec.to_builtins(report), "dry_run": dry_run})
        return
    would = "would be " if dry_run else ""
    click.echo(
        f"{report.rows} rows: {report.created} {would}created, {report.changed} {would}changed, "
        f"{report.unchanged} unchanged, {report.bad} bad"
    )
    for row in report.bad_rows:
        click.echo(f"  line {row.line}: {row.reason}", err=True)


# --- work -----------------------------------------------------------------------------------------


@main.command()
@click.argument("job", type=click.Choice(["replenish", "sync"]))
@as_json
def run(*, job: str, as_json: bool) -> None:
    """Run a job once, now."""

    async def work(milepost: Milepost) -> Any:
        with _bar(job, None, quiet=as_json) as advance:
            if job == "sync":
                return await milepost.sync.run_once(advance.by)
            return await milepost.replenish.run_once(advance.by)

    counts = msgspec.to_builtins(_with_milepost(work))
    if as_json:
        _print(counts)
    else:
        told = {name: count for name, count in counts.items() if isinstance(count, int)}
        click.echo(", ".join(f"{count} {name}" for name, count in told.items()))
        for error in counts["errors"]:
            click.echo(f"  {error}", err=True)
    if counts["failed"] or counts["errors"]:
        raise SystemExit(1)


@main.group()
def events() -> None:
    """What happened to registrants."""


@events.command("replay")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--url", default=f"http://127.0.0.1:{DEFAULT_PORT}", show_default=True)
@click.option("--key", envvar="MILEPOST_KEY", required=True, help="An API key (or MILEPOST_KEY).")
@click.option("--per-minute", type=click.IntRange(min=1), help="Events a minute; else: full speed.")
@as_json
def replay_events(*, file: Path, url: str, key: str, per_minute: int | None, as_json: bool) -> None:
    """Send the events of an NDJSON file to a running Milepost."""
    total = sum(1 for _ in replay.read(file))

    async def send() -> replay.Tally:
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
            click.echo(f"{name.replace('_', ' '):>15}  {value or 0}")
    if tally.refused:
        raise SystemExit(1)


# --- looking --------------------------------------------------------------------------------------


@main.group()
def link() -> None:
    """Personal links."""


@link.command("explain")
@click.argument("url")
def explain_link(*, url: str) -> None:
    """Take a personal link apart, and show it rebuilt from its parts."""
    _print(personal_link.explain(url))


@main.command("doctor")
@as_json
def doctor_(*, as_json: bool) -> None:
    """See whether this installation can do its work."""
    findings = asyncio.run(doctor.examine())
    if as_json:
        _print({"findings": [msgspec.to_builtins(finding) for finding in findings]})
    else:
        marks = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}
        out = Console(highlight=False, soft_wrap=True)
        for finding in findings:
            out.print(f"{marks[finding.verdict]}  {finding.what}: {finding.found}")
            if finding.fix:
                out.print(f"      [dim]{finding.fix}[/]")
    if any(finding.verdict == "fail" for finding in findings):
        raise SystemExit(1)


# --- what commands share --------------------------------------------------------------------------


def _with_store(verb: Callable[[Store], Awaitable[T]]) -> T:
    """Run a verb on the store alone; the platform is not needed."""
    given = settings.load()

    async def work(url: str) -> T:
        async with await Store.open(url) as store:
            return await verb(store)

    with app.database(given) as url:
        return uvloop.run(work(url))


def _with_milepost(verb: Callable[[Milepost], Awaitable[T]]) -> T:
    """Run a verb on everything; a simulator must be listening where it is the platform."""
    given = settings.load()

    async def work(url: str) -> T:
        async with app.opened(given, url) as milepost:
            return await verb(milepost)

    with app.database(given) as url:
        return uvloop.run(work(url))


class _Advance:
    """How far a progress bar is."""

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)

    def to(self, done: int) -> None:
        """So much is done."""
        self._progress.update(self._task, completed=done)

    def by(self, more: int) -> None:
        """So much more is done."""
        self._progress.advance(self._task, more)


@contextmanager
def _bar(what: str, total: int | None, *, quiet: bool) -> Iterator[_Advance]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        yield _Advance(progress, total)


def _print(value: object) -> None:
    click.echo(msgspec.json.encode(value).decode())


def _fail(sentence: str) -> NoReturn:
    click.echo(f"milepost: {sentence}", err=True)
    raise SystemExit(1)
