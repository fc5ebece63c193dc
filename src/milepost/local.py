"""Milepost's own processes on this machine: those of `serve`, the simulator beside it, the demo's.

A process that is started here never outlives the one that started it, however that one ended: it
is told to stop at the end of the block, and it stops by itself when its standard input, a pipe that
the kernel closes with the parent, comes to its end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from asyncio.subprocess import Process
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from milepost.errors import ConfigurationError, MilepostError
from milepost.payload import REFERENCE_FIELD
from milepost.settings import SIMULATOR_TOKEN, simulator_url
from milepost.worker import told_to_stop

log = logging.getLogger(__name__)

STOP_SECONDS = 40
"""More than a `serve` needs to take leave of its callers and to finish what is in flight: 15 s for
requests, 10 s for calls."""

STEADY_SECONDS = 10
"""Who lived for so long did not die of how it was started: its successor comes without a pause."""

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10
MOST_DOUBLINGS = 7
"""Before a successor of one that lived shorter; the pauses double."""

STARTS = 5
"""Processes that end one after the other before they answer, until no other one is tried."""

READY = "ready"
ENDING = "ending"
"""The lines that a process of a crew writes to its standard output: that it answers, and that it
was told to end."""

ASK_SECONDS = 5
"""How long whoever listens on the simulator's port may take to say whether it is one."""


@contextmanager
def local_simulator(state: Path, port: int) -> Iterator[Callable[[], str]]:
    """A simulator on a port while the block runs, unless one listens there already.

    It has no limits, and its survey is as Milepost wants one: it is there to try Milepost out. It
    starts while the block goes on.

    Args:
        state: the file in which it keeps the account.
        port: the port.

    Yields:
        Waits until it answers, and says which one it is; raises ConfigurationError when it does not
        start.

    Raises:
        ConfigurationError: another program has the port.
    """
    if is_listening(port):
        found = _survey_of_simulator(port)
        which = f"the simulator that listens on port {port} is the platform"
        yield lambda: f"{which}; its survey is {found}"
        return
    state.parent.mkdir(parents=True, exist_ok=True)
    survey = ("--declare", REFERENCE_FIELD, "--invitation-only")
    with simulator(port, "--state", str(state), *survey) as ready:
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


class StartsInVain(MilepostError):
    """A process ended before it did anything, and so would the next one."""


class Crew:
    """Processes that do the same work side by side, each in a place of its own.

    A place is filled again when its process dies. A process that is told to end goes on until its
    successor answers, so that its place is never empty.

    Args:
        commands: the arguments of `milepost`, for each place.
        environment: of all processes.
        descriptors: the open files that they inherit.
        notice: seconds from being told to stop, which each process shows its callers at once, until
            it takes no more connections.
        leave: closes what this process holds open for the others, once nobody succeeds them.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        *,
        environment: Mapping[str, str],
        descriptors: Sequence[int],
        notice: float,
        leave: Callable[[], None],
    ) -> None:
        self._notice = notice
        self._leave = leave
        self._commands = commands
        self._environment = environment
        self._descriptors = descriptors

    async def run(self, ready: Callable[[], None]) -> None:
        """Keep every place filled until SIGTERM or SIGINT; then end all processes, and return.

        Args:
            ready: is called once, when all of them answer.

        Raises:
            StartsInVain: a process does not come to answer.
        """
        stop = asyncio.Event()

        def told(number: int) -> None:
            if number == signal.SIGINT:
                self._notice = 0.0  # whoever presses Ctrl-C waits for the end
            stop.set()

        with told_to_stop(told):
            stopping = asyncio.create_task(stop.wait())
            keeping = asyncio.create_task(self._keep_all(ready))
            await asyncio.wait({stopping, keeping}, return_when=asyncio.FIRST_COMPLETED)
            # A listener that stays open here would go on collecting callers for nobody.
            self._leave()
            stopping.cancel()
            keeping.cancel()
            try:
                await keeping
            except asyncio.CancelledError:
                pass
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None

    async def _keep_all(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as places:
            for command in self._commands:
                answers = asyncio.Event()
                places.create_task(self._keep(command, answers))
                await answers.wait()  # what keeps the first from answering is told once
            ready()

    async def _keep(self, command: Sequence[str], answers: asyncio.Event) -> None:
        """Keep a place filled, until it is cancelled."""
        clock = asyncio.get_running_loop().time
        alive: dict[Process, signal.Signals] = {}
        in_vain = short_lives = 0
        try:
            while True:
                alive = {old: number for old, number in alive.items() if old.returncode is None}
                begun = clock()
                process = await self._start(command)
                alive[process] = signal.SIGTERM
                if await _line(process) == READY:
                    alive[process] = signal.SIGINT  # which says as well that nobody succeeds it
                    answers.set()
                    in_vain = 0
                    for predecessor in [*alive][:-1]:
                        _release(predecessor)
                    if await _line(process) == ENDING:
                        log.info("a process was told to end; another takes its place")
                        short_lives = 0
                        continue
                else:
                    in_vain += 1
                code = await process.wait()
                if in_vain == STARTS or not answers.is_set():
                    raise StartsInVain(f"a process ended before it answered {_how(code)}")
                short_lives = 0 if clock() - begun > STEADY_SECONDS else short_lives + 1
                log.warning("a process died %s; another takes its place", _how(code))
                await asyncio.sleep(_pause(short_lives))
        finally:
            await asyncio.gather(
                *(_end(process, number, self._notice) for process, number in alive.items())
            )

    async def _start(self, command: Sequence[str]) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "milepost.local",
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            pass_fds=self._descriptors,
            start_new_session=True,  # Ctrl-C in the terminal ends us first, and we end it
        )


async def _line(process: Process) -> str:
    """The next line that a process writes; nothing when it has ended."""
    line = await process.stdout.readline() if process.stdout else b""
    return line.decode().strip()


def _release(predecessor: Process) -> None:
    """Say that nobody has to wait for a successor any more: it ends by itself then."""
    if predecessor.stdin is not None:
        predecessor.stdin.close()


async def _end(process: Process, number: signal.Signals, notice: float) -> None:
    with suppress(ProcessLookupError):
        if number is signal.SIGINT and notice:
            process.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), notice)
        process.send_signal(number)
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def _pause(short_lives: int) -> float:
    """Seconds before the next start, after so many processes in a row that died young."""
    if not short_lives:
        return 0
    doublings = min(short_lives - 1, MOST_DOUBLINGS)
    return float(min(FIRST_PAUSE_SECONDS * 2**doublings, LONGEST_PAUSE_SECONDS))


def _how(code: int) -> str:
    return f"(signal {-code})" if code < 0 else f"(exit code {code})"


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


def _survey_of_simulator(port: int) -> str:
    """The survey of the simulator on a port; raises when what listens is another program."""
    connection = HTTPConnection("127.0.0.1", port, timeout=ASK_SECONDS)
    try:
        path = urlsplit(simulator_url(port)).path + "/surveys"
        connection.request("GET", path, headers={"X-API-TOKEN": SIMULATOR_TOKEN})
        answer = connection.getresponse()
        if answer.status == HTTPStatus.OK:
            return str(json.loads(answer.read())["result"]["elements"][0]["id"])
    except (OSError, HTTPException, ValueError, TypeError, LookupError):
        pass
    finally:
        connection.close()
    raise ConfigurationError(
        f"another program has port {port}, which the simulator needs: end that program, or choose "
        "another port: milepost demo --simulator-port; or start `milepost simulate` on it and give "
        "its address as MILEPOST_UPSTREAM_URL"
    )


def _end_with_parent() -> None:
    os.read(0, 1)  # comes back when nobody holds the other end any more
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runpy.run_module("milepost", run_name="__main__", alter_sys=True)
