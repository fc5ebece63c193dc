"""The log of accepted writes: on disk before the answer leaves, or no answer.

Two files may be kept, line for line the same form: the *journal*, from which verdicts are taken,
and the *state*, which also holds what only a restart needs (how the account was made, its switches,
its clock). A crash may cut the last line short; nobody was ever answered for it, so it is dropped.

Writes that arrive while the disk is busy wait for the next fsync together. One write alone waits
for nothing but its own.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from msgspec import Struct

KEPT_ENTRIES = 10_000
"""Entries kept in memory for the control API: some minutes of the fastest client, about 5 MB."""

KEPT_BYTES = 1 << 25
"""Their bytes at most: one import alone can be a megabyte."""

READ_SIZE = 1 << 20


class Entry(Struct, frozen=True, omit_defaults=True):
    """One accepted write.

    Attributes:
        seq: Grows by one with each write of the account; switches and clock repeat the last one.
        at: The account's time, ISO 8601 with milliseconds.
        operation: Such as `list_contact.add`.
        ids: What it was about and what it made, by kind.
        body: As accepted. Kept as JSON, since only its own shape reads every number rightly.
        effect: What became of it where one operation can do several things.
        minted: The ids it drew, in the order in which it drew them.
    """

    seq: int
    at: str
    operation: str
    method: str
    path: str
    ids: dict[str, str]
    body: msgspec.Raw
    effect: str | None = None
    minted: tuple[str, ...] = ()


class Log:
    """An append-only file of lines, held by one process at a time.

    Raises:
        OSError: The file cannot be opened; `BlockingIOError` if another process holds it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._drop_torn_line()
        except BaseException:
            os.close(self._file)
            raise

    def _drop_torn_line(self) -> None:
        end = os.lseek(self._file, 0, os.SEEK_END)
        position = end
        while position > 0:
            start = max(0, position - READ_SIZE)
            found = os.pread(self._file, position - start, start).rfind(b"\n")
            if found >= 0:
                position = start + found + 1
                break
            position = start
        if position != end:
            os.ftruncate(self._file, position)

    def lines(self) -> Iterator[bytes]:
        """Every whole line, from the start."""
        with os.fdopen(os.dup(self._file), "rb", READ_SIZE) as reader:
            reader.seek(0)
            yield from reader

    def append(self, lines: list[bytes]) -> None:
        """Write lines and wait until the disk has them."""
        data = memoryview(b"".join(lines))
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


class _Batch:
    """Writes that will share one fsync."""

    __slots__ = ("done", "journal", "state")

    def __init__(self) -> None:
        self.journal: list[bytes] = []
        self.state: list[bytes] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Journal:
    """Takes entries, and returns when they are durable."""

    def __init__(self, journal: Path | None, state: Path | None) -> None:
        self._journal = Log(journal) if journal else None
        try:
            self._state = Log(state) if state else None
        except BaseException:
            if self._journal:
                self._journal.close()
            raise
        self._disk = ThreadPoolExecutor(1, "journal") if journal or state else None
        self._batch: _Batch | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._broken: OSError | None = None
        self.recent: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0

    def history(self) -> Iterator[Entry]:
        """The state's entries, oldest first."""
        decode = msgspec.json.Decoder(Entry).decode
        for line in self._state.lines() if self._state else ():
            yield decode(line)

    def last_seq(self) -> int:
        """The number of the journal's last entry, 0 for an empty one."""
        last = b""
        for line in self._journal.lines() if self._journal else ():
            last = line
        return int(msgspec.json.decode(last)["seq"]) if last else 0

    async def append(self, entry: Entry, *, state_only: bool = False) -> None:
        """Write an entry; when this returns the disk has it.

        Raises:
            OSError: The disk refused, now or before: nothing more is accepted then, since the world
                in memory is ahead of its log.
        """
        line = msgspec.json.encode(entry) + b"\n"
        if not state_only:
            self._keep(entry.seq, line)
        if self._disk is None:
            return
        if self._broken is not None:
            raise OSError("the journal is broken") from self._broken
        if self._batch is None:
            self._batch = _Batch()
        batch = self._batch
        if self._state is not None:
            batch.state.append(line)
        if self._journal is not None and not state_only:
            batch.journal.append(line)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush(self._disk))
        await asyncio.shield(batch.done)

    def _keep(self, seq: int, line: bytes) -> None:
        self.recent.append((seq, line))
        self._kept_bytes += len(line)
        while len(self.recent) > KEPT_ENTRIES or (
            self._kept_bytes > KEPT_BYTES and len(self.recent) > 1
        ):
            self._kept_bytes -= len(self.recent.popleft()[1])

    async def _flush(self, disk: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while self._batch is not None:
            batch, self._batch = self._batch, None
            try:
                await loop.run_in_executor(disk, self._write, batch)
            except OSError as error:
                self._broken = error
                batch.done.set_exception(error)
            else:
                batch.done.set_result(None)

    def _write(self, batch: _Batch) -> None:
        if self._state is not None and batch.state:
            self._state.append(batch.state)
        if self._journal is not None and batch.journal:
            self._journal.append(batch.journal)

    async def close(self) -> None:
        """Finish what is in flight and let go of the files."""
        if self._flushing is not None:
            await self._flushing
        if self._disk is not None:
            self._disk.shutdown()
        for log in (self._journal, self._state):
            if log is not None:
                log.close()
