"""The doctor: looks at an installation and says, line by line, what is well and what to mend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from milepost import app, settings
from milepost.errors import MilepostError
from milepost.model import Milestone
from milepost.payload import REFERENCE_FIELD
from milepost.settings import Settings
from milepost.store import Store
from milepost.upstream import Upstream


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
        return [_failed("settings", error)]
    findings = [_settled(given)]
    try:
        with app.database(given) as url:
            async with await Store.open(url) as store:
                findings.append(_database(given))
                milestones = await store.milestones.all()
    except MilepostError as error:
        return [*findings, _failed("database", error)]
    return findings + await _platform(given, milestones)


def _settled(given: Settings) -> Finding:
    where = "the simulator on this machine" if given.simulated else given.upstream_url
    return Finding(what="settings", verdict="ok", found=f"the platform is {where}")


def _database(given: Settings) -> Finding:
    if given.embedded:
        return Finding(
            what="database",
            verdict="warn",
            found=f"the embedded Postgres under {given.home}",
            fix="Good for trying out, tests and small installations. Otherwise set "
            "MILEPOST_DATABASE_URL to a Postgres 15 or later that is backed up.",
        )
    return Finding(what="database", verdict="ok", found="reachable, and at this version's schema")


async def _platform(given: Settings, milestones: list[Milestone]) -> list[Finding]:
    async with Upstream(given.upstream_url, given.upstream_token) as upstream:
        try:
            account = await upstream.whoami()
            directories = await upstream.directories()
        except MilepostError as error:
            return [_failed("platform", error)]
        findings = [
            Finding(what="platform", verdict="ok", found=f"the token is {account.user_id}'s")
        ]
        directory = next(
            (
                d
                for d in directories
                if (
                    d.is_default
                    if given.directory_id is None
                    else d.directory_id == given.directory_id
                )
            ),
            None,
        )
        if directory is None:
            findings.append(
                Finding(
                    what="directory",
                    verdict="fail",
                    found=f"the account has no directory {given.directory_id or 'by default'}",
                    fix=f"Set MILEPOST_DIRECTORY_ID to one of: "
                    f"{', '.join(d.directory_id for d in directories)}.",
                )
            )
        else:
            criteria = ", ".join(sorted(directory.dedup_criteria))
            findings.append(
                Finding(
                    what="directory",
                    verdict="ok" if criteria else "warn",
                    found=f"{directory.directory_id} recognises contacts by "
                    f"{criteria or 'nothing'}",
                    fix=None
                    if criteria
                    else "Without dedup criteria every link makes another contact: set them.",
                )
            )
        return findings + [await _survey(upstream, milestone) for milestone in milestones]


async def _survey(upstream: Upstream, milestone: Milestone) -> Finding:
    what = f"milestone {milestone.key}"
    survey_id = milestone.definition.survey_id
    try:
        survey = await upstream.survey_definition(survey_id)
    except MilepostError as error:
        return _failed(what, error)
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
    return Finding(what=what, verdict="ok", found=f"survey {survey_id} is active and complete")


def _failed(what: str, error: MilepostError) -> Finding:
    return Finding(what=what, verdict="fail", found=str(error))
