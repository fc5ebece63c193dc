"""What may be asked of an export."""

from __future__ import annotations

import httpx
import pytest


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"milestone": "departed"}, 404, "milestone"),
        ({"from": "2026-05-01T00:00:00"}, 400, "from"),
        ({"to": "soon"}, 400, "to"),
        ({"cursor": "00000000-0000-0000-0000-000000000000"}, 400, "cursor"),
        ({"format": "xlsx"}, 400, "format"),
    ],
    ids=repr,
)
async def test_what_cannot_be_exported_is_refused(
    client: httpx.AsyncClient, query: dict[str, str], status: int, field: str
) -> None:
    """With the parameter that is wrong, before anything is sent."""
    answer = await client.get("/v1/exports/links", params=query)
    assert (status, field) == (answer.status_code, answer.json()["field"])


async def test_without_links_there_are_names(client: httpx.AsyncClient) -> None:
    """In CSV; NDJSON has nothing then."""
    as_csv = await client.get("/v1/exports/links", params={"milestone": "landed"})
    assert [True] == [line.startswith("id,event_id,") for line in as_csv.text.splitlines()]
    accepted = {"Accept": "application/x-ndjson"}
    as_json = await client.get("/v1/exports/links", headers=accepted)
    assert ("", "application/x-ndjson") == (
        as_json.text,
        as_json.headers["Content-Type"].partition(";")[0],
    )
