"""Processes that make distributions are killed at each call, and nothing is made twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from tests.clock import Clock

from milepost.failpoints import VARIABLE
from milepost.simulator import Config, Ready, running

MILESTONE = """
[milestones.landed]
survey_id = "{survey_id}"
slots = 1
link_days = 30
min_link_days = 10
"""

FIRST = ("list of slot", "probe of slot", "distribution of slot")
SUCCESSOR = (
    "distribution of slot",
    "list of the canary",
    "probe of the canary",
    "distribution of the canary",
)

LEASE = {"seconds": 121}


@pytest.fixture
def simulator() -> Iterator[Ready]:
    """The platform."""
    with running(Config(limits="none")) as ready:
        yield ready


@pytest.fixture
def milepost(database_url: str, simulator: Ready) -> Callable[..., int]:
    """Run a command in a process group of its own; returns how it ended."""
    settings = {
        "MILEPOST_DATABASE_URL": database_url,
        "MILEPOST_UPSTREAM_URL": simulator.url,
        "MILEPOST_UPSTREAM_TOKEN": "simulator",
        "MILEPOST_SECRET": "a secret of at least sixteen bytes",
        "MILEPOST_RATE_PER_MINUTE": "1000000",
        "MILEPOST_LIMITS": "none",
    }

    def run(*arguments: str, dies_at: str | None = None) -> int:
        """Run it, and let it die where its words hold these."""
        trigger = {VARIABLE: f"provisioned=kill#{dies_at}"} if dies_at else {}
        return subprocess.run(  # noqa: S603  (our own program)
            [sys.executable, "-m", "milepost", *arguments],
            env={**os.environ, **settings, **trigger},
            start_new_session=True,
            capture_output=True,
            check=False,
            timeout=60,
        ).returncode

    return run


@pytest.mark.battery
def test_whoever_makes_a_distribution_may_die_at_each_call(
    milepost: Callable[..., int], simulator: Ready, database_url: str, tmp_path: Path
) -> None:
    """The first of a list, its successor, and the canary beside it: killed at each of the steps."""
    clock = Clock(database_url)
    file = tmp_path / "milestones.toml"
    file.write_text(MILESTONE.format(survey_id=simulator.survey_id))
    assert 0 == milepost("milestones", "apply", str(file))
    with httpx.Client(base_url=simulator.origin, trust_env=False) as web:

        def travel(**by: float) -> None:
            """Let time go by for both."""
            clock.go(**by)
            seconds = by.get("days", 0) * 86_400 + by.get("seconds", 0)
            web.put("/control/clock", json={"advance_seconds": seconds}).raise_for_status()

        def writes() -> Counter[str]:
            """What the platform has accepted."""
            entries: list[dict[str, Any]] = web.get("/control/journal").json()["entries"]
            return Counter(entry["operation"] for entry in entries if entry["operation"])

        before = writes()
        for job, steps in (("replenish", FIRST), ("rotate", SUCCESSOR)):
            for step in steps:
                assert -signal.SIGKILL == milepost("run", job, dies_at=step), (job, step)
                travel(**LEASE)
            assert 0 == milepost("run", job), job
            travel(days=18)
        made = {"mailing_list.create": 2, "list_contact.add": 2, "distribution.create": 3}
        assert Counter(made) == Counter({k: n for k, n in (writes() - before).items() if k in made})
    with psycopg.connect(database_url) as database:
        states = database.execute("SELECT state FROM distributions ORDER BY id").fetchall()
    assert [("ready",)] * 3 == states
