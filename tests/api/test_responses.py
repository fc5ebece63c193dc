"""Whose a response is, over REST, while the platform is away."""

from __future__ import annotations

import httpx


async def test_nothing_is_said_of_a_response_that_cannot_be_asked_for(
    client: httpx.AsyncClient,
) -> None:
    """It is worth coming back, and the platform's own words are not passed on.

    What is no id is refused before anybody is asked: it could name another resource there.
    """
    answer = await client.get("/v1/responses/SV_000000000000001/R_000000000000001")
    assert (503, "upstream-away") == (answer.status_code, answer.json()["code"])
    assert int(answer.headers["Retry-After"]) > 0
    assert "ConnectError" not in answer.text
    for path, field in (
        ("SV_0/R_000000000000001", "survey_id"),
        ("SV_000000000000001/SV_000000000000001", "response_id"),
        ("SV_000000000000001/R_00000000000000%0A", "response_id"),
    ):
        refused = await client.get(f"/v1/responses/{path}")
        assert (path, 400, field) == (path, refused.status_code, refused.json()["field"])
