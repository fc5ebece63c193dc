"""What a milestone may say of its reminders."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

VIENNA = {
    "after_days": 3,
    "quiet_hours": {"from": "21:00", "to": "08:00"},
    "time_zone": "Europe/Vienna",
}


async def put(client: httpx.AsyncClient, reminders: Any) -> httpx.Response:
    """Define the milestone with these."""
    definition = {"survey_id": "SV_000000000000001", "reminders": reminders}
    return await client.put("/v1/milestones/landed", json=definition)


async def test_they_are_kept_and_told(client: httpx.AsyncClient) -> None:
    """As they were said; what is left out by default; none where none are wanted."""
    for said, told in (
        (VIENNA, VIENNA),
        ({"after_days": 0}, {"after_days": 0, "quiet_hours": None, "time_zone": "UTC"}),
        (None, None),
    ):
        assert told == (await put(client, said)).json()["reminders"]
        assert told == (await client.get("/v1/milestones/landed")).json()["reminders"]


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"after_days": -1}, 400, "reminders.after_days"),
        ({"after_days": 60}, 422, "reminders.after_days"),
        ({"quiet_hours": {"from": "24:00", "to": "08:00"}}, 400, "reminders.quiet_hours.from"),
        ({"quiet_hours": {"from": "8:00", "to": "08:00"}}, 400, "reminders.quiet_hours.from"),
        ({"quiet_hours": {"from": "08:00", "to": "08:00"}}, 422, "reminders.quiet_hours"),
        ({"quiet_hours": {"from": "08:00"}}, 400, "reminders.quiet_hours.to"),
        ({"time_zone": "Europe/Vindobona"}, 422, "reminders.time_zone"),
        ({"time_zone": "../etc/passwd"}, 422, "reminders.time_zone"),
        ({"weekly": True}, 400, "reminders.weekly"),
    ],
    ids=repr,
)
async def test_what_cannot_be_is_refused(
    client: httpx.AsyncClient, changes: dict[str, Any], status: int, field: str
) -> None:
    """With the field that is wrong."""
    answer = await put(client, VIENNA | changes)
    assert (status, field) == (answer.status_code, answer.json()["field"]), answer.text


async def test_what_was_never_handed_out_cannot_have_been_sent(client: httpx.AsyncClient) -> None:
    """It is told as unknown."""
    nothing = "00000000-0000-0000-0000-000000000000"
    answer = await client.post(f"/v1/reminders/{nothing}/sent")
    assert (404, "unknown-reminder") == (answer.status_code, answer.json()["code"])
