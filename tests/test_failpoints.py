"""Failpoints: a process dies or freezes where it was told to, and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from milepost import failpoints

PASSES = """
from milepost.failpoints import reach
for n in range(1, 6):
    for name in ("arrived", "claimed", "made", "settled", "answered-late"):
        print(n, name, flush=True)
        reach(name, f"event-{n}")
"""


def passing(triggers: str) -> subprocess.Popen[str]:
    """A process, in a group of its own, in which five events pass all failpoints."""
    return subprocess.Popen(  # noqa: S603  (our own program)
        [sys.executable, "-c", PASSES],
        env={**os.environ, failpoints.VARIABLE: triggers},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("triggers", "last"),
    [
        ("claimed=kill@3", "3 claimed"),
        ("made=kill#event-4", "4 made"),
        ("settled=kill#event-4,answered-late=kill@2", "2 answered-late"),
        ("settled=kill@5,settled=kill@1", "1 settled"),
    ],
)
def test_it_dies_at_the_passage_or_the_event_that_was_named(triggers: str, last: str) -> None:
    """By SIGKILL, before the statement that follows."""
    process = passing(triggers)
    said, _ = process.communicate(timeout=30)
    assert (-signal.SIGKILL, last) == (process.returncode, said.splitlines()[-1])


def test_the_whole_group_dies() -> None:
    """The process that started this one, in the same group, is gone as well."""
    starter = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {PASSES!r}])"
    parent = subprocess.Popen(  # noqa: S603  (our own program)
        [sys.executable, "-c", starter],
        env={**os.environ, failpoints.VARIABLE: "arrived=kill@1"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    assert -signal.SIGKILL == parent.wait(timeout=30)


def test_it_freezes_and_goes_on() -> None:
    """SIGCONT lets a stopped process pass on as if nothing had been."""
    process = passing("made=stop@2")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.killpg(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=30)
    assert (0, "5 answered-late") == (process.returncode, said.splitlines()[-1])


def test_nothing_is_watched_unless_it_is_asked_for() -> None:
    """Without triggers all events pass, by a function that does nothing."""
    process = passing("")
    said, _ = process.communicate(timeout=30)
    assert (0, "5 answered-late") == (process.returncode, said.splitlines()[-1])
    assert failpoints.reach is not failpoints._watch  # noqa: SLF001  (what costs nothing is the point)


@pytest.mark.parametrize(
    ("triggers", "complaint"),
    [
        ("setled=kill@1", "there is no failpoint 'setled', only arrived, claimed, made"),
        ("settled", "'settled' is none of name=kill@N"),
        ("settled=kill", "'settled=kill' is none of name=kill@N"),
        ("settled=kill@0", "'settled=kill@0' is none of name=kill@N"),
        ("settled=exit@1", "'settled=exit@1' is none of name=kill@N"),
        ("settled=kill#", "'settled=kill#' is none of name=kill@N"),
    ],
)
def test_a_mistake_is_refused_at_start(triggers: str, complaint: str) -> None:
    """The program does not start, and says what it can be told."""
    process = passing(triggers)
    said, error = process.communicate(timeout=30)
    assert ("", 1) == (said, process.returncode)
    assert f"ConfigurationError: MILEPOST_FAILPOINTS: {complaint}" in error
