"""Registrants over REST: whatever the app calls them, they are found under that name."""

from __future__ import annotations

from urllib.parse import quote

import httpx
import pytest


@pytest.mark.parametrize(
    "ref", ["crm/17", "/17", "17/", "a//b", "a?b#c", "50%25", "über uns", "import"]
)
async def test_a_ref_is_taken_as_it_was_sent(client: httpx.AsyncClient, ref: str) -> None:
    """Slashes and all, once they are percent-encoded; nobody else is told of or found."""
    place = f"/v1/registrants/{quote(ref, safe='')}"
    answers = [await client.put(place, json={"language": "EN"}) for _ in range(2)]
    assert [(201, ref), (200, ref)] == [(a.status_code, a.json()["ref"]) for a in answers]
    assert ref == (await client.get(place)).json()["ref"]
