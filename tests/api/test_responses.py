"""Whose a response is, over REST, while the platform is away."""

from __future__ import annotations

import httpx
import pytest


async def test_nothing_is_said_of_a_response_that_cannot_be_asked_for(
    client: httpx.AsyncClient,
) -> None:
    """It is worth coming back: the platform's own words are not passed on."""
    answer = await client.get("/v1/responses/SV_000000000000001/R_000000000000001")
    assert (503, "upstream-away") == (answer.status_code, answer.json()["code"])
    assert int(answer.headers["Retry-After"]) > 0
    assert "ConnectError" not in answer.text


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("SV_0/R_000000000000001", "survey_id"),
        ("SV_000000000000001/SV_000000000000001", "response_id"),
        ("SV_000000000000001/R_00000000000000%0A", "response_id"),
    ],
)
async def test_what_is_no_id_is_refused_before_anybody_is_asked(
    client: httpx.AsyncClient, path: str, field: str
) -> None:
    """Anything else in a path could name another resource of the platform."""
    answer = await client.get(f"/v1/responses/{path}")
    assert (400, field) == (answer.status_code, answer.json()["field"])
