"""The way to a live account: its tests exist where one is named, and leave nothing behind.

A simulator stands in for the account.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.contract.conftest import Wire

ROOT = Path(__file__).parents[2]
REMAINS = (
    "contacts",
    "list_contacts",
    "mailing_lists",
    "distributions",
    "transactions",
    "transaction_batches",
    "subscriptions",
)


def run(*arguments: str, **environment: str) -> str:
    """What a run of its own says."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MILEPOST_LIVE", "PYTEST"))
    }
    module = str(Path(__file__).with_name("test_verbs.py"))
    done = subprocess.run(  # noqa: S603 - our own tests
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", module, *arguments],
        cwd=ROOT,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout + done.stderr


def test_without_an_account_there_is_no_test_for_it() -> None:
    """None at all, instead of one that is skipped."""
    listed = run("--collect-only")
    assert "[simulator]" in listed
    assert "[live]" not in listed


async def test_with_an_account_every_verb_is_tried_there_and_what_was_made_is_removed(
    wire: Wire,
) -> None:
    """As many tests as at the simulator."""
    said = await asyncio.to_thread(
        run,
        "-k",
        "live",
        MILEPOST_LIVE_URL=wire.ready.url,
        MILEPOST_LIVE_TOKEN="simulator",
        MILEPOST_LIVE_SURVEY=wire.ready.survey_id,
    )
    counts = re.search(r"^(\d+) passed, (\d+) deselected in", said, re.MULTILINE)
    assert counts is not None, said
    # Left out are those at the simulator, and the one that needs no account.
    assert int(counts[1]) + 1 == int(counts[2])
    stats = (await wire.web.get("/control/stats")).json()
    assert stats["accepted_writes"] > 50
    assert {kind: stats["held"][kind] for kind in REMAINS} == dict.fromkeys(REMAINS, 0)
