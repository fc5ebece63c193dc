"""Real events through a real server: every event its own link, for one call each.

The day is the demo's. The week, with its 6,420 events, is `../shared/data`, where that is there.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import uvloop

import milepost
from milepost import app, settings
from milepost.local import process, simulator
from milepost.model import Field, FieldType, MilestoneDefinition, Scope
from milepost.replay import replay

log = logging.getLogger(__name__)

DAY = Path(milepost.__file__).parent / "demo_data"
WEEK = Path(__file__).parents[2] / "shared" / "data"
SLOTS = 22  # the busiest aircraft of the week landed 22 times
FIELDS = (
    Field(name="carrier"),
    Field(name="flight", type=FieldType.INTEGER),
    Field(name="origin"),
    Field(name="destination"),
    Field(name="arrival_delay_minutes", type=FieldType.INTEGER),
)


@contextmanager
def serving(environment: dict[str, str]) -> Iterator[str]:
    """`milepost serve` in a process of its own; yields its address."""
    arguments = ("serve", "--port", "0")
    with process(*arguments, environment=environment, stderr=subprocess.PIPE) as started:
        assert started.stderr is not None
        said = started.stderr.readline().decode()
        assert said.startswith("Milepost on http://"), said
        yield said.split()[2]


async def set_up(
    given: settings.Settings, registrants: Path, survey_id: str
) -> tuple[str, set[str | None]]:
    """Registrants, milestone and pool; returns a key and the lists of the pool."""
    async with app.opened(given, given.database_url or "") as milepost:
        definition = MilestoneDefinition(
            survey_id=survey_id,
            slots=SLOTS,
            max_slots=SLOTS,
            fields=FIELDS,
            deadline_ms=8000,  # it is no race: each is to have its personal link
        )
        await milepost.store.milestones.put("landed", definition)
        counts = (await milepost.import_file(registrants, asked_by="a test")).counts
        assert 0 == counts["bad"]
        synced = await milepost.run("sync", asked_by="test")
        assert counts["created"] == synced.counts["made"]
        assert SLOTS == (await milepost.replenish.run_once()).ready
        pool = await milepost.store.pools.entries("landed", survey_id)
        _, key = await milepost.store.keys.create("app", [Scope.ISSUE])
        return key, {entry.list_id for entry in pool}


def operations(journal: Path, lists: set[str | None]) -> Counter[str]:
    """What the simulator accepted for these lists, by operation."""
    entries = map(msgspec.json.decode, journal.read_bytes().splitlines())
    return Counter(e["operation"] for e in entries if e["ids"].get("mailing_list") in lists)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(DAY, id="day", marks=pytest.mark.battery),  # the demo shows as much
        *([pytest.param(WEEK, id="week", marks=pytest.mark.battery)] if WEEK.is_dir() else []),
    ],
)
@pytest.mark.timeout(300)  # the week: 13,000 requests, of which half make a call
def test_each_event_has_its_own_link_for_exactly_one_call(
    database_url: str, tmp_path: Path, data: Path
) -> None:
    """By the answers and by the simulator's journal; replayed, the same links for no call."""
    events = (data / "events.ndjson").read_bytes().splitlines()
    journal = tmp_path / "journal"
    with simulator(0, "--journal", str(journal)) as ready:
        on = ready()
        environment = {
            "MILEPOST_DATABASE_URL": database_url,
            "MILEPOST_UPSTREAM_URL": on["url"],
            "MILEPOST_UPSTREAM_TOKEN": "simulator",
            "MILEPOST_SECRET": "a secret of at least sixteen bytes",
            "MILEPOST_PUBLIC_URL": "http://127.0.0.1:8700",
            "MILEPOST_RATE_PER_MINUTE": "1000000",
            "MILEPOST_LIMITS": "none",
        }
        given = settings.load(environment, tmp_path)
        key, lists = uvloop.run(set_up(given, data / "registrants.csv", on["survey_id"]))
        before = operations(journal, lists)
        with serving(environment) as url:
            begun = time.monotonic()
            first = uvloop.run(replay(events, url=url, key=key))
            seconds = time.monotonic() - begun
            after_first = operations(journal, lists)
            again = uvloop.run(replay(events, url=url, key=key))
        after_both = operations(journal, lists)
    took = f"{seconds:.1f} s, {len(events) / seconds:.0f} links a second"
    log.info("%d events in %s; %.0f ms at p99", len(events), took, first.p99_ms)
    assert {} == first.refused
    assert (len(events), 0) == (first.links, first.seen)
    assert len(events) == len(set(first.urls.values()))
    assert len(events) == first.upstream_calls
    assert Counter({"list_contact.add": len(events)}) == after_first - before
    assert (len(events), len(events)) == (again.links, again.seen)
    assert first.urls == again.urls
    assert after_first == after_both
