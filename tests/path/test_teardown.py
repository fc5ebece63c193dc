"""A pool is taken away at the platform: all that is ours, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from milepost.app import Milepost
from milepost.errors import UnknownMilestone
from milepost.jobs.teardown import NotTornDown, Report, Teardown

Landed = Callable[..., Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]
TornDown = Callable[..., Awaitable[Report]]

SMALL = {"slots": 2, "max_slots": 2, "fields": []}


@pytest.fixture
def tear_down(milepost: Milepost) -> TornDown:
    """Take the pool of `landed` away, or of another milestone."""
    teardown = Teardown(milepost.store, milepost.upstream, milepost.deployment)

    async def run(key: str = "landed", **options: Any) -> Report:
        """Take it away."""
        return await teardown.run_once(key, **options)

    return run


async def ask(client: httpx.AsyncClient, event_id: str, ref: str = "ann") -> dict[str, Any]:
    """The answer to an event."""
    body = {"event_id": event_id, "milestone": "landed", "registrant": ref, "deadline_ms": 8_000}
    link: dict[str, Any] = (await client.post("/v1/links", json=body)).json()
    return link


async def held(platform: Any) -> tuple[int, int]:
    """How many lists and distributions are at the platform."""
    found = (await platform.web.get("/control/stats")).json()["held"]
    return found["mailing_lists"], found["distributions"]


async def test_a_pool_is_taken_away_and_made_anew_when_it_is_resumed(
    *,
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    tear_down: TornDown,
) -> None:
    """With its canary; the lists of others stay, and nothing is left to do for a second one."""
    before = await held(platform)
    directory = milepost.deployment.directory_id or ""
    await milepost.upstream.create_mailing_list(directory, "milepost of somebody else")
    await landed(**SMALL)
    await milepost.run("canary", asked_by="a test")
    await client.post("/v1/milestones/landed/pause")
    assert (3, 3) == ((said := await tear_down(dry_run=True)).lists, said.distributions)
    assert (before[0] + 4, before[1] + 3) == await held(platform)
    seen: list[tuple[int, int]] = []
    report = await tear_down(progress=lambda done, total: seen.append((done, total)))
    assert (3, 3, [], 0) == (report.lists, report.distributions, report.remains, report.live_links)
    assert [(done, 6) for done in range(1, 7)] == seen
    assert (before[0] + 1, before[1]) == await held(platform)
    assert (0, 0) == ((again := await tear_down()).lists, again.distributions)
    assert 0 == (await milepost.replenish.run_once()).planned
    await client.post("/v1/milestones/landed/resume")
    await platform.forget()
    assert 2 == (await milepost.replenish.run_once()).ready
    made = Counter({"mailing_list.create": 2, "list_contact.add": 2, "distribution.create": 2})
    assert made == Counter(await platform.writes())
    entries = (await client.get("/v1/milestones/landed/pool")).json()["distributions"]
    assert [False, True] * 2 == [each["list_id"] is not None for each in entries]
    link = await ask(client, "e1")
    assert 200 == (await platform.web.get(link["url"])).status_code
    assert "done" == (await milepost.run("canary", asked_by="a test")).state
    # The canary belongs to the survey: it stays while another milestone needs it.
    await client.put("/v1/milestones/other", json={"survey_id": platform.ready.survey_id})
    await milepost.replenish.run_once()
    await client.post("/v1/milestones/landed/pause")
    assert (2, 2) == ((report := await tear_down(live_links=1)).lists, report.distributions)


async def test_links_that_stand_on_no_pool_outlive_it(
    client: httpx.AsyncClient,
    milepost: Milepost,
    landed: Landed,
    tear_down: TornDown,
    platform: Any,
) -> None:
    """They have distributions of their own, which no teardown touches."""
    await milepost.run("sync", asked_by="test")
    await landed(route="stepwise")
    link = await ask(client, "e1")
    await client.post("/v1/milestones/landed/pause")
    assert (0, 0, 0) == ((said := await tear_down()).lists, said.distributions, said.live_links)
    assert link["expires_at"] == (await client.get(f"/v1/links/{link['id']}")).json()["expires_at"]
    assert 200 == (await platform.web.get(link["url"])).status_code


async def test_a_pool_that_is_in_use_is_left_as_it_is(
    client: httpx.AsyncClient, landed: Landed, platform: Any, tear_down: TornDown, execute: Execute
) -> None:
    """While it is not paused; and while more or fewer links would die than somebody has said."""
    await landed(**SMALL)
    await ask(client, "e1")
    await ask(client, "e2", "ben")
    await ask(client, "e3", "cleo")
    await execute("UPDATE links SET finished_at = now() WHERE event_id = 'e3'")
    with pytest.raises(NotTornDown, match="is not paused"):
        await tear_down(live_links=2)
    await client.post("/v1/milestones/landed/pause")
    with pytest.raises(NotTornDown, match=r"2 links .* say --live-links 2"):
        await tear_down()
    with pytest.raises(NotTornDown, match="2 links"):
        await tear_down(live_links=1)
    assert 2 == (await tear_down(dry_run=True)).live_links
    assert [] == [operation for operation in await platform.writes() if "delete" in operation]
    assert 2 == (await tear_down(live_links=2)).lists
    await execute("UPDATE links SET finished_at = now()")
    with pytest.raises(NotTornDown, match="leave --live-links out"):
        await tear_down(live_links=2)
    with pytest.raises(UnknownMilestone):
        await tear_down("nothing")


async def test_a_teardown_that_was_broken_off_is_finished_by_the_next(
    *,
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    platform: Any,
    tear_down: TornDown,
) -> None:
    """What could not be deleted is told; also what was made and never written down goes."""
    before = await held(platform)
    await landed(**SMALL)
    await client.post("/v1/milestones/landed/pause")
    ours = (await client.get("/v1/milestones/landed/pool")).json()["distributions"]
    directory = milepost.deployment.directory_id or ""
    await milepost.upstream.create_mailing_list(directory, ours[0]["list_name"])
    await platform.fault("status", status=400, endpoint="DELETE /distributions/{EMD}")
    report = await tear_down()
    assert (2, 1) == (report.lists, report.distributions)
    assert ["distribution", "mailing list"] == [each.kind for each in report.remains]
    await platform.fault("reset", endpoint="DELETE /distributions/{EMD}")
    report = await tear_down()
    assert (1, 1, []) == (report.lists, report.distributions, report.remains)
    assert before == await held(platform)


async def test_a_list_that_does_not_carry_our_name_is_not_touched(
    client: httpx.AsyncClient,
    landed: Landed,
    milepost: Milepost,
    tear_down: TornDown,
    execute: Execute,
) -> None:
    """Whoever has renamed it has other plans."""
    await landed(**SMALL)
    await client.post("/v1/milestones/landed/pause")
    directory = milepost.deployment.directory_id or ""
    other = await milepost.upstream.create_mailing_list(directory, "a newsletter")
    await execute("UPDATE slots SET list_id = %s WHERE number = 1", other)
    report = await tear_down()
    assert 2 == report.lists  # the one of the slot's name is ours, whatever was written down
    (left,) = report.remains
    assert (other, True) == (left.id, "does not carry the name" in left.because)
    assert "a newsletter" == (await milepost.upstream.mailing_list(directory, other)).name
