"""`milepost simulate`: what it can be told on the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import httpx
import pytest

SIMULATE = [sys.executable, "-m", "milepost", "simulate", "--port", "0"]


def test_everything_can_be_said_on_the_command_line() -> None:
    """And is told by the control API in the same words."""
    options = {
        "--latency-ms": "uniform:1:2",
        "--rate-per-minute": "600",
        "--limits": "none",
        "--limit-kind": "bucket",
        "--dedup": "off",
        "--seed": "5",
        "--fact": "late_link=false",
        "--fault": '{"kind": "html", "endpoint": "GET /whoami"}',
    }
    given = [word for option in options.items() for word in option]
    given += ["--declare", "milepost_ref", "--declare", "order", "--invitation-only"]
    given += ["--fact", "import_seconds=2.5", "--fact", "throttle=empty"]
    with subprocess.Popen(SIMULATE + given, stdout=subprocess.PIPE) as process:  # noqa: S603 - ours
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        origin = ready["url"].removesuffix("/API/v3")
        with httpx.Client(base_url=origin, trust_env=False) as web:
            settings = web.get("/control/settings").json()
            faults = web.get("/control/faults").json()
        process.terminate()
    assert settings["latency_ms"] == "uniform:1:2"
    assert (settings["rate_per_minute"], settings["limit_kind"]) == (600, "bucket")
    assert settings["deduplication_criteria"]["email"] is False
    assert ["milepost_ref", "order"] == settings["declared_fields"]
    assert settings["invitation_only"] is True
    facts = settings["facts"]
    assert (facts["late_link"], facts["import_seconds"], facts["throttle"]) == (False, 2.5, "empty")
    assert [(one["kind"], one["endpoint"]) for one in faults] == [("html", "GET /whoami")]


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--latency-ms", "fast", "latency_ms"),
        ("--fact", "late_link", "NAME=VALUE"),
        ("--fact", "late_link=no", "milepost: late_link is true or false"),
        ("--fact", "throttle=no", "throttle"),
        ("--declare", "", "declared"),
        ("--fact", "nothing=true", "nothing"),
        ("--fault", "{", "--fault"),
        ("--fault", '{"kind": "redirect"}', "location"),
        ("--fault", '{"kind": "html", "call_class": "nothing"}', "nothing"),
    ],
)
def test_a_wrong_option_is_one_line(option: str, value: str, word: str) -> None:
    """That names what is wrong, and exit code 2."""
    done = subprocess.run([*SIMULATE, option, value], capture_output=True, check=False)  # noqa: S603 - ours
    said = done.stderr.decode()
    assert (done.returncode, done.stdout, said.count("\n")) == (2, b"", 1)
    assert word in said
