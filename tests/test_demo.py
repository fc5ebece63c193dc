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
from pathlib import Path

import pytest

from milepost.local import free_port

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


def test_the_demo_explains_what_is_in_its_way_and_then_holds(folder: Path) -> None:
    """A foreign program on the simulator's port; the whole of it; a second demo; Ctrl-C."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        refused = run(folder, "--exit", "--simulator-port", taken)
        assert (1, "") == (refused.returncode, refused.stdout)
        assert 1 == len(refused.stderr.splitlines())
        assert f"another program has port {taken}" in refused.stderr
    port, simulator_port = free_port(0), free_port(0)
    ports = ("--port", str(port), "--simulator-port", str(simulator_port))

    with subprocess.Popen(  # noqa: S603  (our own command)
        [*COMMAND, *ports],
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
    assert f"Milepost answers at http://127.0.0.1:{port} " in text
    assert "one call to the platform for each link: 985 by its own journal" in text
    assert "a peak of 985 events is answered in " in text
    assert "the platform has them all: 985 by its own journal" in text
    assert "its response holds B6 2802 JFK BUF 1 and the link's reference" in text
    assert re.search(r"/admin\n\nThe admin's key, which opens the page: mp_\S+\n", text)
    assert 1 == second.returncode
    assert "a demo runs in this folder already" in second.stderr
    data = folder / ".milepost" / "postgres" / "data"
    assert not (data / "postmaster.pid").exists()
