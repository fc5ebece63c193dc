"""Milepost's own processes on this machine: the simulator beside `serve`, both beside the demo.

A process that is started here never outlives the one that started it, however that one ended: it
is told to stop at the end of the block, and it stops by itself when its standard input, a pipe that
the kernel closes with the parent, comes to its end.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from milepost.errors import ConfigurationError
from milepost.settings import SIMULATOR_PORT, SIMULATOR_TOKEN, SIMULATOR_URL

STOP_SECONDS = 40
"""More than a `serve` needs to finish what is in flight: 15 s for requests, 10 s for calls."""

ASK_SECONDS = 5
"""How long whoever listens on the simulator's port may take to say whether it is one."""


@contextmanager
def local_simulator(state: Path) -> Iterator[Callable[[], str]]:
    """A simulator on its usual port while the block runs, unless one listens there already.

    It has no limits: it is there to try Milepost out. It starts while the block goes on.

    Args:
        state: the file in which it keeps the account.

    Yields:
        Waits until it answers, and says which one it is; raises ConfigurationError when it does not
        start.

    Raises:
        ConfigurationError: another program has the port.
    """
    if is_listening(SIMULATOR_PORT):
        _recognise_simulator()
        yield lambda: f"the simulator that listens on port {SIMULATOR_PORT} is the platform"
        return
    state.parent.mkdir(parents=True, exist_ok=True)
    with simulator(SIMULATOR_PORT, "--state", str(state)) as ready:
        yield lambda: f"a simulator is the platform; its survey is {ready()['survey_id']}"


@contextmanager
def simulator(port: int, *options: str) -> Iterator[Callable[[], dict[str, str]]]:
    """A simulator process without limits; yields what waits for its ready line and returns it."""
    arguments = ("simulate", "--port", str(port), "--limits", "none", *options)
    with process(*arguments, stdout=subprocess.PIPE) as started:

        def ready() -> dict[str, str]:
            said = started.stdout.readline() if started.stdout else b""
            if not said:
                raise ConfigurationError(f"the simulator does not start on port {port}")
            known: dict[str, str] = json.loads(said)
            return known

        yield ready


@contextmanager
def process(
    *arguments: str,
    environment: Mapping[str, str] = os.environ,
    stdout: int | None = None,
    stderr: int | IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """`milepost` with these arguments, in a process that ends with the block."""
    started = subprocess.Popen(  # noqa: S603  (our own command)
        [sys.executable, "-m", "milepost.local", *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env=environment,
        start_new_session=True,  # Ctrl-C in the terminal ends us first, and we end it
    )
    with started:  # closes the pipes, and waits
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                started.kill()


def is_listening(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port(wanted: int) -> int:
    """The wanted port, or any free one when it is taken."""
    for port in (wanted, 0):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as probe:
            found: int = probe.getsockname()[1]
            return found
    raise ConfigurationError("no port of this machine is free")


def _recognise_simulator() -> None:
    """Raise when what listens on the simulator's port is another program."""
    connection = HTTPConnection("127.0.0.1", SIMULATOR_PORT, timeout=ASK_SECONDS)
    try:
        path = urlsplit(SIMULATOR_URL).path + "/whoami"
        connection.request("GET", path, headers={"X-API-TOKEN": SIMULATOR_TOKEN})
        answer = connection.getresponse()
        if answer.status == HTTPStatus.OK and "result" in json.loads(answer.read()):
            return
    except (OSError, HTTPException, ValueError, TypeError):
        pass
    finally:
        connection.close()
    raise ConfigurationError(
        f"another program has port {SIMULATOR_PORT}, which the simulator needs: end that program, "
        "or start `milepost simulate` on another port and give its address as MILEPOST_UPSTREAM_URL"
    )


def _end_with_parent() -> None:
    os.read(0, 1)  # comes back when nobody holds the other end any more
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runpy.run_module("milepost", run_name="__main__", alter_sys=True)
