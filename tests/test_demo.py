"""The demo, as a newcomer runs it: `milepost demo`, in an empty folder, with real ports."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from milepost.settings import SIMULATOR_PORT

COMMAND = (sys.executable, "-m", "milepost", "demo")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder; what the demo's Postgres places elsewhere for root is removed with it."""
    yield tmp_path
    shutil.rmtree((tmp_path / ".milepost" / "postgres").resolve(), ignore_errors=True)


def environment() -> dict[str, str]:
    """A terminal without settings."""
    kept = {name: value for name, value in os.environ.items() if "MILEPOST" not in name}
    return kept | {"PYTHONUNBUFFERED": "1"}


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The demo, run to its end."""
    return subprocess.run(  # noqa: S603  (our own command)
        [*COMMAND, *options],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


# One test, in this order, since there is only one such port on a machine.
def test_the_demo_explains_what_is_in_its_way_and_then_holds(folder: Path) -> None:
    """A foreign program on the simulator's port; the whole of it; a second demo; Ctrl-C."""
    with suppress(OSError), socket.create_server(("127.0.0.1", SIMULATOR_PORT)):
        refused = run(folder, "--exit")
        assert (1, "") == (refused.returncode, refused.stdout)
        assert 1 == len(refused.stderr.splitlines())
        assert f"another program has port {SIMULATOR_PORT}" in refused.stderr

    with subprocess.Popen(  # noqa: S603  (our own command)
        COMMAND,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        said = []
        for line in demo.stdout:
            said.append(line)
            if "Up until Ctrl-C." in line:
                break
        second = run(folder, "--exit")
        demo.send_signal(signal.SIGINT)
        rest, errors = demo.communicate(timeout=60)
    assert (0, "Ending.", "") == (demo.returncode, rest.strip(), errors)
    text = "".join(said)
    assert "✗" not in text
    assert "one call to the platform for each link: 985 by its own journal" in text
    assert "a peak of 985 events is answered in " in text
    assert "the platform has them all: 985 by its own journal" in text
    assert "its response holds B6 2802 JFK BUF 1 and the link's reference" in text
    assert re.search(r"/admin\n\nThe admin's key, which opens the page: mp_\S+\n", text)
    assert 1 == second.returncode
    assert "a demo runs in this folder already" in second.stderr
    data = folder / ".milepost" / "postgres" / "data"
    assert not (data / "postmaster.pid").exists()
