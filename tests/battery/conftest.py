"""Whole installations of Milepost, each in processes of its own, on a database of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.battery.load import PUBLIC_URL, SECRET, Installation, Platform, Replica, found, variables
from tests.battery.verdicts import Watch, watching

from milepost.failpoints import VARIABLE


@pytest.fixture
def install(
    database_url: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Installation]]:
    """Sets up an installation: `install(people=…, platform=(…), settings={…}, replicas=1, …)`.

    `platform` are options of `milepost simulate`, `settings` those of Milepost without their
    prefix, `options` those of `milepost serve`, `replicas` how many processes serve. Whatever else
    is given is handed to `load.found`, which makes the milestone. The platform has counted no call
    yet.
    """
    folder = tmp_path_factory.getbasetemp()
    # Of several workers each has its own folder, and all of them the one that these are in.
    of_run = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with ExitStack() as stack:

        def begin(
            *,
            people: int,
            platform: tuple[str, ...] = ("--limits", "none"),
            settings: dict[str, str] | None = None,
            options: tuple[str, ...] = (),
            replicas: int = 1,
            **definition: Any,
        ) -> Installation:
            simulator = Platform(tmp_path, *platform)
            stack.callback(simulator.stop)
            simulator.start()
            given = {
                "DATABASE_URL": database_url,
                "UPSTREAM_URL": simulator.url,
                "UPSTREAM_TOKEN": "simulator",
                "SECRET": SECRET,
                "PUBLIC_URL": PUBLIC_URL,
                **(settings or {}),
            }
            environment = variables(given)
            survey_id = simulator.survey_id
            key = uvloop.run(
                found(environment, tmp_path, survey_id=survey_id, people=people, **definition)
            )
            made = Installation(of_run / "turn", database_url, simulator, environment, key)
            for number in range(replicas):
                replica = Replica(tmp_path / f"serve{number}.log", environment, *options)
                made.replicas.append(replica)
                stack.callback(replica.stop)
                replica.start()
            simulator.control("DELETE", "stats")
            return made

        yield begin


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[Callable[..., Replica]]:
    """Starts a further replica that has triggers at failpoints: `arm(on, "claimed=kill@5", …)`."""
    numbers = itertools.count()
    with ExitStack() as stack:

        def start(on: Installation, triggers: str, *options: str) -> Replica:
            log_file = tmp_path / f"armed{next(numbers)}.log"
            replica = Replica(log_file, on.environment | {VARIABLE: triggers}, *options)
            stack.callback(replica.stop)
            replica.start()
            on.replicas.append(replica)
            return replica

        yield start


@pytest.fixture
def watch(database_url: str) -> Iterator[Watch]:
    """A watch over the test's ledger."""
    with watching(database_url) as watch:
        yield watch
