"""Starts the simulator beside a process that was told `MILEPOST_UPSTREAM_URL=simulator`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from milepost.errors import ConfigurationError
from milepost.settings import SIMULATOR_PORT, Settings

STOP_SECONDS = 10


@contextmanager
def local_simulator(settings: Settings) -> Iterator[None]:
    """A simulator on its usual port while the block runs, unless one listens there already.

    It is a process of its own, keeps its state under the installation's home, and has no limits:
    it is there to try Milepost out.

    Raises:
        ConfigurationError: it does not start.
    """
    if not settings.simulated or is_listening(SIMULATOR_PORT):
        yield
        return
    settings.home.mkdir(parents=True, exist_ok=True)
    with started(SIMULATOR_PORT, "--state", str(settings.home / "simulator.state")):
        yield


@contextmanager
def started(port: int, *options: str) -> Iterator[dict[str, str]]:
    """A simulator process on a port, without limits; yields what it said when it was ready."""
    command = [sys.executable, "-m", "milepost", "simulate", "--port", str(port)]
    process = subprocess.Popen(  # noqa: S603  (our own command)
        [*command, "--limits", "none", *options],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C in the terminal ends us first, and we end it
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        said = process.stdout.readline() if process.stdout else ""
        if not said:
            raise ConfigurationError(f"the simulator does not start on port {port}")
        yield json.loads(said)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def is_listening(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port(wanted: int) -> int:
    """The wanted port, or any free one when it is taken."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0 if is_listening(wanted) else wanted))
        port: int = probe.getsockname()[1]
    return port
