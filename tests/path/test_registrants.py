"""Registrants from their source to the platform, and what events make of those who went."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from milepost import app
from milepost.app import Milepost
from milepost.errors import ConfigurationError
from milepost.settings import Settings

Landed = Callable[..., Awaitable[None]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file that the source is."""
    return tmp_path / "people.csv"


@pytest.fixture
def settings(settings: Settings, path: Path) -> Settings:
    """A Milepost with a source."""
    return msgspec.structs.replace(settings, registrants_source=str(path))


def lists(path: Path, *numbers: int, first_name: str = "Ann") -> None:
    """Let the source list these."""
    rows = (f"r{number},{number}@x.test,{first_name}\n" for number in numbers)
    path.write_text("ref,email,first_name\n" + "".join(rows))


async def event(client: httpx.AsyncClient, ref: str, number: int) -> int:
    """The status with which an event of somebody is answered."""
    given = {"event_id": f"{ref}-{number}", "milestone": "landed", "registrant": ref}
    return (await client.post("/v1/links", json=given)).status_code


async def test_whom_the_source_lists_has_a_contact(
    client: httpx.AsyncClient, *, milepost: Milepost, platform: Any, landed: Landed, path: Path
) -> None:
    """Told of what changes; to events who went is unknown, and known once they are back."""
    await landed(lanes=["direct", "deferred"])
    lists(path, *range(20))
    first = await milepost.run("sync", asked_by="test")
    assert ("done", 20, 23) == (first.state, first.counts["created"], first.counts["made"])
    assert 201 == await event(client, "r19", 1)
    await platform.forget()
    lists(path, *range(19), first_name="Eve")
    dry = await milepost.run("sync", asked_by="test", options={"dry_run": True})
    assert (19, 1) == (dry.counts["changed"], dry.counts["removed"])
    assert [] == await platform.writes()
    second = await milepost.run("sync", asked_by="test")
    assert ("done", 1, 19) == (second.state, second.counts["removed"], second.counts["updated"])
    assert 422 == await event(client, "r19", 2)
    lists(path, *range(20), first_name="Eve")
    third = await milepost.run("sync", asked_by="test")
    assert (1, 0) == (third.counts["returned"], third.counts["made"])
    assert 201 == await event(client, "r19", 2)


async def test_a_source_that_stops_leaves_the_rest_of_sync(
    milepost: Milepost, platform: Any, path: Path
) -> None:
    """Those who are known have their contacts all the same; the run asks at its end."""
    run = await milepost.run("sync", asked_by="test")
    assert ("stopped", 3) == (run.state, run.counts["made"])
    assert f"{path}: No such file or directory" == run.error
    assert 3 == (await platform.writes()).count("list_contact.add")


async def test_what_is_sent_is_taken_in(client: httpx.AsyncClient, milepost: Milepost) -> None:
    """By a worker; the API tells how far it is, and lists the bad rows."""
    answer = await client.post(
        "/v1/registrants/import",
        content=b"ref,email\ndora,dora@x.test\nbad\n",
        headers={"Content-Type": "text/csv"},
    )
    run = answer.json()["run"]
    await milepost.scheduler.run_due("import", asyncio.Event())
    told = (await client.get(f"/v1/runs/{run['id']}")).json()
    assert ("done", 1, 1) == (told["state"], told["counts"]["created"], told["counts"]["bad"])
    listed = (await client.get(f"/v1/runs/{run['id']}/findings")).json()["findings"]
    assert [("the body", 3)] == [(bad["source"], bad["line"]) for bad in listed]


async def test_a_source_that_cannot_be_keeps_milepost_from_starting(settings: Settings) -> None:
    """The setting is named, with an example."""
    wrong = msgspec.structs.replace(settings, registrants_source='{"path": 3}')
    with pytest.raises(ConfigurationError, match=r"MILEPOST_REGISTRANTS_SOURCE: .*for example: "):
        async with app.opened(wrong, wrong.database_url or ""):
            pass
