"""What may be asked of a milestone's funnel."""

from __future__ import annotations

import httpx
import pytest


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "2026-13-01"}, "from"),
        ({"from": "2026-05-02", "to": "2026-05-01"}, "from"),
        ({"from": "2024-01-01", "to": "2026-01-01"}, "from"),
        ({"to": "9999-12-31"}, "to"),
        ({"to": "0001-01-01"}, "to"),
        ({"format": "png"}, "format"),
    ],
    ids=repr,
)
async def test_days_that_cannot_be_are_refused(
    client: httpx.AsyncClient, query: dict[str, str], field: str
) -> None:
    """With the parameter that is wrong."""
    answer = await client.get("/v1/milestones/landed/funnel", params=query)
    assert (400, field) == (answer.status_code, answer.json()["field"])


async def test_a_day_is_asked_for_and_not_a_moment(client: httpx.AsyncClient) -> None:
    """What the answer tells to write is taken."""
    path, query = "/v1/milestones/landed/funnel", {"from": "yesterday"}
    refused = (await client.get(path, params=query)).json()
    assert 'It must be a day such as "2026-11-23".' == refused["detail"]
    assert 200 == (await client.get(path, params={"from": "2026-11-23"})).status_code


async def test_a_milestone_without_links_has_zeros(client: httpx.AsyncClient) -> None:
    """For each of the days that were asked for, before anything was counted, in every form."""
    query = {"from": "2026-05-01", "to": "2026-05-03"}
    path = "/v1/milestones/landed/funnel"
    told = (await client.get(path, params=query)).json()
    assert [0, 0, 0] == [day["requested"]["links"] for day in told["days"]]
    nothing = {"links": 0, "as_of": None, "reconciled": None}
    assert nothing == told["total"]["finished"]
    assert 4 == len((await client.get(path, params=query | {"format": "csv"})).text.splitlines())
    assert "<svg" in (await client.get(path, params=query | {"format": "svg"})).text
    assert 404 == (await client.get("/v1/milestones/departed/funnel")).status_code
