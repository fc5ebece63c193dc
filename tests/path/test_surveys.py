"""A survey that the platform does not have: at registration, and where it was not asked then."""

from __future__ import annotations

import httpx
import pytest
from litestar import Litestar
from tests.path.conftest import Platform

from milepost import api
from milepost.app import Milepost

UNKNOWN = {"survey_id": "SV_000000000000000"}


@pytest.fixture
def application(milepost: Milepost) -> Litestar:
    """The REST API as it is served: it asks the platform for the survey of a milestone."""
    return api.create(
        milepost.store,
        milepost.issuing,
        milepost.budget,
        milepost.scheduler,
        milepost.matching,
        upstream=milepost.upstream,
        webhooks=milepost.webhooks,
    )


async def test_a_survey_that_is_not_there_is_refused(
    client: httpx.AsyncClient, platform: Platform
) -> None:
    """With its field; one that is there is taken."""
    refused = await client.put("/v1/milestones/landed", json=UNKNOWN)
    assert (422, "invalid-milestone", "survey_id") == (
        refused.status_code,
        refused.json()["code"],
        refused.json()["field"],
    )
    assert [] == (await client.get("/v1/milestones")).json()["milestones"]
    known = {"survey_id": platform.ready.survey_id}
    assert 201 == (await client.put("/v1/milestones/landed", json=known)).status_code


async def test_a_platform_that_does_not_answer_is_not_waited_for(
    client: httpx.AsyncClient,
    milepost: Milepost,
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The milestone is taken; by and by its pool says what the platform says, and where to look."""
    monkeypatch.setattr("milepost.api.milestones.SEE_SECONDS", 0.1)
    await platform.fault("slow", seconds=1, moment="before")
    assert 201 == (await client.put("/v1/milestones/landed", json=UNKNOWN)).status_code
    again = await client.put("/v1/milestones/landed", json=UNKNOWN | {"slots": 1})
    assert 200 == again.status_code  # what is registered is not asked for again
    counts = await milepost.replenish.run_once()
    pool = (await client.get("/v1/milestones/landed/pool")).json()
    (said,) = {each["last_error"] for each in pool["distributions"]}
    assert 'the platform says: "Invalid surveyId parameter. Survey not found"' in said
    assert said.endswith("see: milepost doctor")
    assert any(error.endswith(said) for error in counts.errors)


async def test_a_plain_link_needs_a_survey_that_it_opens(
    client: httpx.AsyncClient, platform: Platform
) -> None:
    """Also where a milestone that is there changes its route."""
    survey = {"survey_id": platform.ready.survey_id}
    await platform.switch(invitation_only=True)
    assert 201 == (await client.put("/v1/milestones/landed", json=survey)).status_code
    plain = survey | {"route": "anonymous"}
    refused = await client.put("/v1/milestones/landed", json=plain)
    assert (422, "route") == (refused.status_code, refused.json()["field"])
    await platform.switch(invitation_only=False)
    assert 200 == (await client.put("/v1/milestones/landed", json=plain)).status_code
