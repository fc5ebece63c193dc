"""The doctor: a line for each thing that was looked at, whatever is down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from milepost import app, settings
from milepost.doctor import Finding, examine
from milepost.model import Field, MilestoneDefinition
from milepost.simulator import Config, Ready, running


@pytest.fixture
def simulator() -> Iterator[Ready]:
    """A simulator whose survey declares nothing."""
    with running(Config(limits="none")) as ready:
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


async def found(environment: dict[str, str]) -> dict[str, Finding]:
    """The findings, by what was looked at; each that is not well names the way out."""
    findings = await examine(environment)
    assert all("\n" not in f"{finding.found}{finding.fix}" for finding in findings)
    return {finding.what: finding for finding in findings}


def verdicts(findings: dict[str, Finding]) -> dict[str, str]:
    """Only the verdicts."""
    return {what: finding.verdict for what, finding in findings.items()}


async def test_an_installation_that_is_well(environment: dict[str, str]) -> None:
    """Settings, database, token, directory: all ok, with what was found."""
    findings = await found(environment)
    expected = dict.fromkeys(("settings", "database", "token", "directory"), "ok")
    assert expected == verdicts(findings)
    assert "email" in findings["directory"].found
    assert findings["database"].found.startswith("Postgres ")


async def test_a_survey_that_does_not_declare_the_fields_is_warned_of(
    environment: dict[str, str], simulator: Ready, tmp_path: Path
) -> None:
    """With the fields that are missing, `milepost_ref` among them; an unknown survey fails."""
    given = settings.load(environment, tmp_path)
    async with app.opened(given, environment["MILEPOST_DATABASE_URL"]) as milepost:
        for key, survey_id in (("known", simulator.survey_id), ("unknown", f"SV_{'0' * 15}")):
            definition = MilestoneDefinition(survey_id=survey_id, fields=(Field(name="gate"),))
            await milepost.store.milestones.put(key, definition)
    findings = await found(environment)
    assert "warn" == findings["milestone known"].verdict
    assert "does not declare gate, milepost_ref" in findings["milestone known"].found
    assert "fail" == findings["milestone unknown"].verdict
    assert findings["milestone unknown"].fix


async def test_whatever_is_down_fails_by_itself(environment: dict[str, str]) -> None:
    """Postgres and the platform are looked at apart."""
    nowhere = "127.0.0.1:1"
    no_database = environment | {"MILEPOST_DATABASE_URL": f"postgresql://u:secret@{nowhere}/db"}
    findings = await found(no_database)
    assert ("fail", "ok") == (findings["database"].verdict, findings["token"].verdict)
    assert "secret" not in findings["database"].found
    findings = await found(environment | {"MILEPOST_UPSTREAM_URL": f"http://{nowhere}/API/v3"})
    assert ("ok", "fail") == (findings["database"].verdict, findings["platform"].verdict)


async def test_a_token_that_is_refused_is_named(environment: dict[str, str]) -> None:
    """With the setting to change."""
    findings = await found(environment | {"MILEPOST_UPSTREAM_TOKEN": "wrong"})
    assert "MILEPOST_UPSTREAM_TOKEN" in str(findings["platform"].fix)


async def test_a_directory_that_is_not_there_is_named(environment: dict[str, str]) -> None:
    """With those that are."""
    findings = await found(environment | {"MILEPOST_DIRECTORY_ID": f"POOL_{'0' * 15}"})
    assert "fail" == findings["directory"].verdict
    assert "POOL_" in str(findings["directory"].fix)


async def test_wrong_settings_are_all_that_is_said(environment: dict[str, str]) -> None:
    """Nothing else can be looked at without them."""
    findings = await found(environment | {"MILEPOST_UPSTREAM_URL": ""})
    assert {"settings": "fail"} == verdicts(findings)
