"""A Milepost, its simulator and a real Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest
import uvloop
from playwright.sync_api import Browser, Page, sync_playwright

from milepost import app, settings
from milepost.local import process
from milepost.model import Field, FieldType, Lane, MilestoneDefinition, RegistrantDetails, Scope
from milepost.simulator import Config, running

PHONE = {"width": 390, "height": 844}
QUIET = ("--disable-gpu", "--disable-background-networking", "--disable-component-update")
NO_WELCOME = ("--no-first-run", "--disable-sync")


class Site(msgspec.Struct, frozen=True):
    """A Milepost that serves, and what it needs to be asked for a link."""

    url: str
    key: str
    admin_key: str
    simulator: str

    def link(self, event_id: str, milestone: str = "landed") -> str:
        """The link of an event of `ann`; a short one where the milestone is `visited`."""
        event = {
            "event_id": event_id,
            "milestone": milestone,
            "registrant": "ann",
            "data": {"flight": 4711, "gate": "A-secret-gate"},
        }
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = httpx.post(f"{self.url}/v1/links", json=event, headers=headers, trust_env=False)
        assert 201 == answer.status_code, answer.text
        return str(answer.json()["url"])

    def slow_down(self, milliseconds: int) -> None:
        """Let the platform take so long for every answer from now on."""
        settings = {"latency_ms": milliseconds}
        answer = httpx.put(f"{self.simulator}/control/settings", json=settings, trust_env=False)
        answer.raise_for_status()

    def let_days_pass(self, days: int) -> None:
        """Put the platform's clock ahead."""
        ahead = {"advance_seconds": days * 86_400}
        answer = httpx.put(f"{self.simulator}/control/clock", json=ahead, trust_env=False)
        answer.raise_for_status()


@pytest.fixture(scope="module")  # while it is open, no test of this process can have a loop
def chromium() -> Iterator[Browser]:
    """The machine's Chromium, which asks nobody for anything by itself."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no Chromium on this machine: none of {', '.join(names)} is in PATH")
    root = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=[*QUIET, *NO_WELCOME, *root]
        )
        yield browser
        browser.close()


@pytest.fixture
def phone(chromium: Browser) -> Iterator[Page]:
    """A page on a phone's screen, without JavaScript."""
    with chromium.new_context(
        viewport=PHONE, has_touch=True, is_mobile=True, java_script_enabled=False
    ) as context:
        yield context.new_page()


@pytest.fixture
def desk(chromium: Browser) -> Iterator[Page]:
    """A page on a desk's screen, with JavaScript."""
    with chromium.new_context() as context:
        yield context.new_page()


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Site]:
    """A Milepost with registrant `ann` and milestone `landed`, served by a process without jobs."""
    with running(Config(limits="none", declared_fields=("flight", "gate", "milepost_ref"))) as on:
        environment = {
            "MILEPOST_DATABASE_URL": database_url,
            "MILEPOST_UPSTREAM_URL": on.url,
            "MILEPOST_UPSTREAM_TOKEN": "simulator",
            "MILEPOST_SECRET": "a secret of at least sixteen bytes",
        }
        given = settings.load(environment, tmp_path)
        with ThreadPoolExecutor(1) as thread:  # this one has playwright's loop
            key, admin_key = thread.submit(
                lambda: uvloop.run(_set_up(given, on.survey_id))
            ).result()
        arguments = ("serve", "--port", "0", "--no-worker")  # a short link waits for its click
        with process(*arguments, environment=environment, stderr=subprocess.PIPE) as started:
            assert started.stderr is not None
            ready = next(line for line in started.stderr if line.startswith(b"Milepost on "))
            url = ready.decode().split()[2]
            yield Site(url=url, key=key, admin_key=admin_key, simulator=on.origin)


async def _set_up(given: settings.Settings, survey_id: str) -> tuple[str, str]:
    async with app.opened(given, given.database_url or "") as milepost:
        fields = (Field(name="flight", type=FieldType.INTEGER), Field(name="gate"))
        definition = MilestoneDefinition(survey_id=survey_id, fields=fields)
        await milepost.store.milestones.put("landed", definition)
        deferred = msgspec.structs.replace(definition, lanes=(Lane.DEFERRED,))
        await milepost.store.milestones.put("visited", deferred)
        ann = RegistrantDetails(email="ann@example.com", first_name="Ann", language="EN")
        await milepost.store.registrants.put({"ann": ann})
        await milepost.replenish.run_once()
        _, key = await milepost.store.keys.create("app", [Scope.ISSUE])
        _, admin_key = await milepost.store.keys.create("admin", [Scope.ADMIN])
        return key, admin_key
