"""Reminders: of which links, when, each once; and what milestones may say of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from milepost import policy
from milepost.app import Milepost
from milepost.model import QuietHours, Reminders, Scope
from milepost.store.reminders import LEASE_SECONDS

Landed = Callable[..., Awaitable[None]]
Travel = Callable[..., Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

AFTER_THREE = {"after_days": 3}


async def ask(
    client: httpx.AsyncClient, event_id: str, ref: str = "ann", key: str | None = None
) -> dict[str, Any]:
    """The link of an event."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"event_id": event_id, "milestone": "landed", "registrant": ref}
    link: dict[str, Any] = (await client.post("/v1/links", json=body, headers=headers)).json()
    return link


async def due(
    client: httpx.AsyncClient, key: str | None = None, **query: int
) -> list[dict[str, Any]]:
    """What is handed out."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = await client.get("/v1/reminders/due", params=query, headers=headers)
    assert 200 == answer.status_code, answer.text
    reminders: list[dict[str, Any]] = answer.json()["reminders"]
    return reminders


def events(reminders: list[dict[str, Any]]) -> set[str]:
    """The events of these reminders."""
    return {reminder["event_id"] for reminder in reminders}


async def test_a_link_has_one_reminder(
    client: httpx.AsyncClient, landed: Landed, travel: Travel
) -> None:
    """After its delay, handed out again while nobody says that it was sent, and then never."""
    await landed(fields=[], reminders=AFTER_THREE)
    link = await ask(client, "e1")
    await travel(days=2)
    assert [] == await due(client)
    await travel(days=1)
    (reminder,) = await due(client)
    assert (link["id"], link["url"], "ann") == (
        *(reminder[name] for name in ("link_id", "url", "registrant")),
    )
    assert [] == await due(client)
    await travel(seconds=LEASE_SECONDS)
    assert {"e1"} == events(await due(client))
    first, again = [
        (await client.post(f"/v1/reminders/{link['id']}/sent")).json()["sent_at"] for _ in range(2)
    ]
    assert first == again
    await travel(days=5)
    assert [] == await due(client)


async def test_without_a_delay_a_link_is_due_in_a_minute(
    client: httpx.AsyncClient, landed: Landed, travel: Travel
) -> None:
    """So that reminders can be tried; what may not be committed yet is not looked at."""
    await landed(fields=[], reminders={"after_days": 0})
    await ask(client, "e1")
    assert [] == await due(client)
    await travel(seconds=40)
    await ask(client, "e2", "ben")
    await travel(seconds=30)
    assert {"e1"} == events(await due(client))
    await travel(seconds=40)
    assert {"e2"} == events(await due(client))


async def test_nobody_is_reminded_of_what_has_ended(
    client: httpx.AsyncClient, landed: Landed, travel: Travel, execute: Execute
) -> None:
    """Finished, revoked, reused and suppressed links, and people who have opted out."""
    await landed(fields=[], reminders=AFTER_THREE, repeat="once")
    await ask(client, "finished", "ann")
    revoked = await ask(client, "revoked", "ben")
    await ask(client, "of one who opts out", "cleo")
    assert (await ask(client, "reused", "cleo"))["reused"]
    await travel(days=3)
    await execute("UPDATE links SET finished_at = now() WHERE event_id = 'finished'")
    await client.post(f"/v1/links/{revoked['id']}/revoke")
    await execute("UPDATE registrants SET opted_out_at = now() WHERE ref = 'cleo'")
    assert [] == await due(client)
    assert [(0,)] == await execute("SELECT count(*) FROM reminders")


async def test_a_link_that_ends_behind_the_look_is_not_handed_out(
    client: httpx.AsyncClient, landed: Landed, travel: Travel, execute: Execute
) -> None:
    """Whether it is still to be answered, and by somebody who is there, is asked each time."""
    await landed(fields=[], reminders=AFTER_THREE, repeat="every_event", slots=2)
    people = {"finished": "ann", "expired": "ann", "erased": "ben", "removed": "cleo"}
    for event_id, ref in people.items():
        await ask(client, event_id, ref)
    await travel(days=3)
    assert {*people} == events(await due(client))
    await execute("UPDATE links SET finished_at = now() WHERE event_id = 'finished'")
    await execute("UPDATE links SET expires_at = now() WHERE event_id = 'expired'")
    await execute("UPDATE registrants SET erased_at = now() WHERE ref = 'ben'")
    await execute("UPDATE registrants SET removed_at = now() WHERE ref = 'cleo'")
    await travel(seconds=LEASE_SECONDS)
    assert set() == events(await due(client))


async def test_a_link_that_is_made_late_is_reminded_of_late(
    client: httpx.AsyncClient, landed: Landed, travel: Travel, milepost: Milepost
) -> None:
    """So many days after it was made, by its short URL."""
    await landed(fields=[], reminders=AFTER_THREE, lanes=["deferred"])
    link = await ask(client, "e1")
    await travel(days=4)
    assert [] == await due(client)
    await milepost.drain.run_once()
    await travel(days=1)
    assert [] == await due(client)
    await travel(days=2, hours=1)
    (reminder,) = await due(client)
    assert link["url"] == reminder["url"]
    assert "/l/" in reminder["url"]


async def test_two_callers_are_handed_different_ones(
    client: httpx.AsyncClient, landed: Landed, travel: Travel
) -> None:
    """At the same moment, each reminder to one of them."""
    await landed(fields=[], reminders=AFTER_THREE, slots=4)
    for number in range(4):
        await ask(client, f"e{number}", ("ann", "ben")[number % 2])
    await travel(days=3)
    one, other = await asyncio.gather(due(client, limit=2), due(client, limit=2))
    rest = await due(client)
    assert 4 == len(one) + len(other) + len(rest)
    assert {"e0", "e1", "e2", "e3"} == events(one) | events(other) | events(rest)


async def test_a_key_is_handed_its_own(
    client: httpx.AsyncClient, landed: Landed, travel: Travel, keys: dict[Scope, str]
) -> None:
    """Others' reminders are neither shown to it nor taken, nor can it say that they were sent."""
    await landed(fields=[], reminders=AFTER_THREE)
    theirs = await ask(client, "admin's")
    await ask(client, "own", "ben", keys[Scope.ISSUE])
    await travel(days=3)
    assert {"own"} == events(await due(client, keys[Scope.ISSUE]))
    assert {"admin's"} == events(await due(client))
    path = f"/v1/reminders/{theirs['id']}/sent"
    own = {"Authorization": f"Bearer {keys[Scope.ISSUE]}"}
    refused = await client.post(path, headers=own)
    assert (404, "unknown-reminder") == (refused.status_code, refused.json()["code"])


async def test_what_another_process_noted_without_its_key_is_handed_out(  # noqa: PLR0917  (fixtures)
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    travel: Travel,
    keys: dict[Scope, str],
    execute: Execute,
) -> None:
    """One of the version before, while an upgrade rolls, does not write whose a reminder is."""
    await landed(fields=[], reminders=AFTER_THREE)
    await ask(client, "admin's")
    await ask(client, "own", "ben", keys[Scope.ISSUE])
    await travel(days=3)
    await milepost.store.reminders.gather("landed", after_days=3, link_days=60)
    await execute("UPDATE reminders SET asked_by = NULL")
    assert {"own"} == events(await due(client, keys[Scope.ISSUE]))


async def test_reminders_that_nobody_fetches_are_forgotten_when_their_links_have_ended(
    client: httpx.AsyncClient,
    landed: Landed,
    travel: Travel,
    keys: dict[Scope, str],
    execute: Execute,
) -> None:
    """Whoever asks for others does so; what was sent stays known, and so does what may be due."""
    await landed(fields=[], reminders=AFTER_THREE, repeat="every_event", slots=2)
    sent = await ask(client, "sent", "ann")
    await ask(client, "ended", "ben")

    async def left() -> set[str]:
        """The events whose reminders are noted, after somebody else has asked."""
        assert [] == await due(client, keys[Scope.ISSUE])
        noted = await execute(
            "SELECT l.event_id FROM reminders AS r JOIN links AS l ON l.id = r.link_id"
        )
        return {event_id for (event_id,) in noted}

    await travel(days=3)
    await due(client)
    await client.post(f"/v1/reminders/{sent['id']}/sent")
    await ask(client, "alive", "cleo")
    assert {"sent", "ended"} == await left()
    await travel(days=3)
    assert {"sent", "ended", "alive"} == await left()
    await execute(
        "UPDATE links SET expires_at = expires_at + interval '9 days' WHERE event_id = 'alive'"
    )
    await travel(days=57)
    assert {"sent", "alive"} == await left()


async def test_paused_and_silent_milestones_remind_nobody(
    client: httpx.AsyncClient, landed: Landed, travel: Travel
) -> None:
    """Until they are resumed, or say that they remind: then of links from before as well."""
    await landed(fields=[])
    await ask(client, "e1")
    await travel(days=3)
    assert [] == await due(client)
    await landed(fields=[], reminders=AFTER_THREE)
    await client.post("/v1/milestones/landed/pause")
    assert [] == await due(client)
    await client.post("/v1/milestones/landed/resume")
    assert {"e1"} == events(await due(client))


async def test_nobody_is_reminded_at_quiet_hours(
    client: httpx.AsyncClient, landed: Landed, travel: Travel
) -> None:
    """What is due by then is handed out behind them."""
    hour = datetime.now(UTC).hour
    quiet = {"from": f"{hour:02}:00", "to": f"{(hour + 2) % 24:02}:00"}
    await landed(fields=[], reminders={**AFTER_THREE, "quiet_hours": quiet})
    await ask(client, "e1")
    await travel(days=3)
    assert [] == await due(client)
    await travel(hours=2)
    assert {"e1"} == events(await due(client))


@pytest.mark.parametrize(
    ("hours", "moment", "is_quiet"),
    [
        (("21:00", "08:00"), "2026-01-15T19:59:59+00:00", False),  # 20:59 in Vienna
        (("21:00", "08:00"), "2026-01-15T20:00:00+00:00", True),
        (("21:00", "08:00"), "2026-01-15T06:59:59+00:00", True),
        (("21:00", "08:00"), "2026-01-15T07:00:00+00:00", False),
        (("21:00", "08:00"), "2026-07-15T06:00:00+00:00", False),  # summer time
        (("12:00", "13:00"), "2026-01-15T11:30:00+00:00", True),
        (("12:00", "13:00"), "2026-01-15T12:00:00+00:00", False),
        (("00:00", "23:59"), "2026-01-15T22:59:00+00:00", False),
    ],
    ids=repr,
)
def test_quiet_hours_are_those_of_the_wall(
    hours: tuple[str, str], moment: str, *, is_quiet: bool
) -> None:
    """In the milestone's time zone, over midnight too, the end not included."""
    reminders = Reminders(after_days=3, quiet_hours=QuietHours(*hours), time_zone="Europe/Vienna")
    assert is_quiet == policy.is_quiet(reminders, datetime.fromisoformat(moment))
