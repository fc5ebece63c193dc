"""The doctor: looks at an installation and says, line by line, what is well and what to mend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from milepost import app, settings
from milepost.errors import MilepostError
from milepost.model import Milestone
from milepost.payload import REFERENCE_FIELD
from milepost.settings import Settings
from milepost.store import Store
from milepost.upstream import Directory, Forbidden, NotFound, Unauthorized, Unreachable, Upstream

OLDEST_POSTGRES: Final = 15


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    what: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    fix: str | None = None


async def examine(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Look at settings, database and platform, as far as each can be reached."""
    try:
        given = settings.load(environment)
    except MilepostError as error:
        return [Finding(what="settings", verdict="fail", found=str(error))]
    where = "the simulator on this machine" if given.simulated else given.upstream_url
    findings = [Finding(what="settings", verdict="ok", found=f"the platform is {where}")]
    database, milestones = await _database(given)
    return [*findings, database, *await _platform(given, milestones)]


# --- database -------------------------------------------------------------------------------------


async def _database(given: Settings) -> tuple[Finding, list[Milestone]]:
    try:
        with app.database(given) as url:
            async with await Store.open(url) as store:
                milestones = await store.milestones.all()
                async with store.connections.transaction() as connection:
                    version = connection.dialect.server_version_info or (0,)
    except MilepostError as error:
        return _unusable_database(given, error), []
    return _usable_database(given, version), milestones


def _usable_database(given: Settings, version: tuple[Any, ...]) -> Finding:
    named = ".".join(str(part) for part in version)
    if given.embedded:
        return Finding(
            what="database",
            verdict="warn",
            found=f"the embedded Postgres {named}, for demos, tests and small installations",
            fix="For anything larger, set MILEPOST_DATABASE_URL to a Postgres that is backed up.",
        )
    if version[0] < OLDEST_POSTGRES:
        return Finding(
            what="database",
            verdict="fail",
            found=f"Postgres {named}",
            fix=f"Milepost needs Postgres {OLDEST_POSTGRES} or later: upgrade the server.",
        )
    return Finding(what="database", verdict="ok", found=f"Postgres {named}, all migrations applied")


def _unusable_database(given: Settings, error: MilepostError) -> Finding:
    fix = None
    if not given.embedded and "milepost migrate" not in str(error):
        fix = "Start Postgres, or mend MILEPOST_DATABASE_URL: postgresql://user:password@host/db"
    return Finding(what="database", verdict="fail", found=str(error), fix=fix)


# --- platform -------------------------------------------------------------------------------------


async def _platform(given: Settings, milestones: list[Milestone]) -> list[Finding]:
    try:
        async with Upstream(given.upstream_url, given.upstream_token) as upstream:
            account = await upstream.whoami()
            directory = _directory(given, await upstream.directories())
            surveys = [await _survey(upstream, milestone) for milestone in milestones]
    except MilepostError as error:
        return [_unusable_platform(given, error)]
    token = Finding(what="token", verdict="ok", found=f"it is user {account.user_id}'s")
    return [token, directory, *surveys]


def _unusable_platform(given: Settings, error: MilepostError) -> Finding:
    fix = None
    match error:
        case Unauthorized():
            fix = "Set MILEPOST_UPSTREAM_TOKEN to a token of the account that is not revoked."
        case Unreachable() if given.simulated:
            fix = (
                "Start it with its state, as `milepost serve` does: "
                "milepost simulate --limits none --state .milepost/simulator.state"
            )
        case Unreachable():
            fix = "See whether MILEPOST_UPSTREAM_URL names the account's data centre."
    return Finding(what="platform", verdict="fail", found=str(error), fix=fix)


def _directory(given: Settings, directories: list[Directory]) -> Finding:
    known = {directory.directory_id: directory for directory in directories}
    usual = next((d for d in directories if d.is_default), None)
    directory = known.get(given.directory_id) if given.directory_id else usual
    if directory is None:
        return Finding(
            what="directory",
            verdict="fail",
            found=f"the account has no directory {given.directory_id or 'by default'}",
            fix=f"Set MILEPOST_DIRECTORY_ID to one of: {', '.join(known) or '(it has none)'}.",
        )
    if not directory.dedup_criteria:
        return Finding(
            what="directory",
            verdict="warn",
            found=f"{directory.directory_id} does not merge contacts",
            fix="Set criteria for merging at the platform, or every link makes another contact.",
        )
    criteria = ", ".join(sorted(directory.dedup_criteria))
    return Finding(
        what="directory",
        verdict="ok",
        found=f"{directory.directory_id} merges contacts that have the same {criteria}",
    )


async def _survey(upstream: Upstream, milestone: Milestone) -> Finding:
    what = f"milestone {milestone.key}"
    survey_id = milestone.definition.survey_id
    try:
        survey = await upstream.survey_definition(survey_id)
    except (NotFound, Forbidden):
        return Finding(
            what=what,
            verdict="fail",
            found=f"the token's user sees no survey {survey_id}",
            fix="Share the survey with that user, or give the milestone another survey_id.",
        )
    if not survey.active:
        return Finding(
            what=what,
            verdict="fail",
            found=f"survey {survey_id} is not active",
            fix="Activate it: no distribution can be made for it.",
        )
    wanted = {field.name for field in milestone.definition.fields} | {REFERENCE_FIELD}
    if missing := sorted(wanted - survey.fields):
        return Finding(
            what=what,
            verdict="warn",
            found=f"the flow of survey {survey_id} does not declare {', '.join(missing)}",
            fix="Add them as embedded data at the start of the survey flow, or responses will "
            "not hold them.",
        )
    return Finding(
        what=what,
        verdict="ok",
        found=f"survey {survey_id} is active, its flow declares {', '.join(sorted(wanted))}",
    )
