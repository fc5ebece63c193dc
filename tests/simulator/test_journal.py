"""The log of accepted writes, and the state that survives a restart."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from milepost.simulator import Config, Ready, running
from milepost.simulator.journal import KEPT_BYTES, Entry, Journal

Customer = Any
Start = Any

PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from milepost.simulator import Config, serve
config = Config(state=Path(sys.argv[1]), journal=Path(sys.argv[2]), limits="none")
asyncio.run(serve(config, port=0, ready=lambda ready: print(ready.url, flush=True)))
print("ended", flush=True)
"""


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_every_accepted_write_is_a_line(start: Start, tmp_path: Path) -> None:
    """In order, with what it made; what was refused or only read is none."""
    own = start(journal=tmp_path / "journal")
    path = own.mailing_list()
    contact, lookup = own.add(path, email="a@example.com", privateEmbeddedData={"n": 1})
    own.error("POST", f"{path}/contacts", {"email": 1})
    own.result("GET", path)
    own.add(path, email="A@example.com")
    own.result("PUT", f"{path}/contacts/{contact}", {"phone": "1"})
    link = own.links(own.distribute(path))[0]
    own.control("PUT", "settings", {"survey_active": True})
    own.answer(link, QID3="x")
    lines = _lines(tmp_path / "journal")
    assert [(one["seq"], one["operation"], one.get("effect")) for one in lines] == [
        (1, "mailing_list.create", None),
        (2, "list_contact.add", "contact_created"),
        (3, "list_contact.add", "list_contact_modified"),
        (4, "list_contact.update", None),
        (5, "distribution.create", None),
        (6, "session.start", None),
        (7, "response.complete", None),
    ]
    added = lines[1]
    assert (added["method"], added["path"]) == ("POST", f"/API/v3{path}/contacts")
    assert added["body"] == {"email": "a@example.com", "privateEmbeddedData": {"n": 1}}
    assert added["ids"] == {
        "directory": own.ready.directory_id,
        "mailing_list": path.rsplit("/", 1)[1],
        "contact": contact,
        "lookup": lookup,
    }
    assert lines[6]["body"] == {"values": {"QID1": 5, "QID3": "x"}}
    assert own.control("GET", "journal")["entries"] == lines
    assert own.control("GET", "journal?after=2&limit=1")["entries"] == lines[2:3]
    assert own.control("GET", "journal?after=7") == {"last": 7, "oldest": 1, "entries": []}


def test_no_line_holds_the_token_or_a_query_string(start: Start, tmp_path: Path) -> None:
    """A session's path is the survey's; who it belongs to stands in its ids."""
    own = start(journal=tmp_path / "journal")
    own.open(own.link())
    text = (tmp_path / "journal").read_text()
    assert "Q_DL" not in text
    assert "X-API-TOKEN" not in text


def test_many_writers_each_have_their_line(start: Start, tmp_path: Path) -> None:
    """Writes that share an fsync are all there, numbered without a gap."""
    own = start(journal=tmp_path / "journal", state=tmp_path / "state")
    path = own.mailing_list()
    with ThreadPoolExecutor(16) as people:
        made = list(
            people.map(
                lambda number: own.result(
                    "POST", f"{path}/contacts", {"email": f"p{number}@example.com"}
                ),
                range(200),
            )
        )
    lines = _lines(tmp_path / "journal")
    assert [one["seq"] for one in lines] == list(range(1, 202))
    assert {one["ids"]["lookup"] for one in lines[1:]} == {one["contactLookupId"] for one in made}


def test_the_state_is_the_same_after_a_restart(start: Start, tmp_path: Path) -> None:
    """Contacts, links, sessions, switches and the clock; and ids go on without repeating."""
    files = {"state": tmp_path / "state", "journal": tmp_path / "journal", "seed": 5}
    config = Config(limits="none", **files)  # type: ignore[arg-type]
    before = start(**files)
    path = before.mailing_list()
    gone = before.mailing_list()
    data = {"big": 10**30 + 1, "small": 1.5}
    contact, lookup = before.add(
        path, email="a@example.com", embeddedData=data, privateEmbeddedData={"o": "1"}
    )
    before.add(gone)
    before.result("DELETE", gone)
    distribution = before.distribute(path)
    before.control("PUT", "settings", {"undeclared_fields": "dropped", "declared_fields": ["o"]})
    before.control("PUT", "clock", {"advance_seconds": 3600})
    link = before.links(distribution)[0]
    session = before.open(link)
    reads = [
        "/directories",
        f"{path}/contacts?includeEmbedded=true",
        before.lists,
        f"/distributions/{distribution}?surveyId={before.ready.survey_id}",
    ]
    seen = [before.result("GET", read) for read in reads]
    with pytest.raises(BlockingIOError), running(config):
        pass
    before.stop()
    after = start(**files)
    assert (after.ready.directory_id, after.ready.survey_id) == (
        before.ready.directory_id,
        before.ready.survey_id,
    )
    assert [after.result("GET", read) for read in reads] == seen
    settings = after.control("GET", "settings")
    assert (settings["undeclared_fields"], settings["declared_fields"]) == ("dropped", ["o"])
    assert after.control("GET", "clock")["real"] is False
    link = link.replace(before.ready.origin, after.ready.origin)
    assert after.open(link) == session
    assert after.answer(link)["o"] == "1"
    assert after.add(path, email="a@example.com") == (contact, lookup)
    after.add(after.mailing_list())
    lines = _lines(tmp_path / "journal")
    assert [one["seq"] for one in lines] == list(range(1, len(lines) + 1))
    kept = _lines(tmp_path / "state")
    drawn = [made.partition("_")[2] for one in kept for made in one.get("minted", ())]
    assert len(drawn) == len(set(drawn))


def test_a_refused_write_takes_no_place_in_the_order(start: Start, tmp_path: Path) -> None:
    """The log does not hold it: after a restart the cursors would be others."""
    before = start(state=tmp_path / "state")
    path = before.mailing_list()
    body = {
        "surveyId": before.ready.survey_id,
        "linkType": "Individual",
        "description": "ours",
        "action": "CreateDistribution",
        "mailingListId": path.rsplit("/", 1)[1],
        "expirationDate": "never",
    }
    assert before.error("POST", "/distributions", body)[0] == 400
    for _ in range(2):
        before.add(path)

    def cursor(of: Customer) -> str:
        """Of the second page of a list."""
        return str(of.result("GET", f"{path}/contacts?pageSize=1")["nextPage"]).rpartition("=")[2]

    seen = cursor(before)
    before.stop()
    assert cursor(start(state=tmp_path / "state")) == seen


@pytest.mark.parametrize("torn", [b'{"seq":', b"\x00" * 300, b"x" * (1 << 21)], ids=range(3))
def test_a_line_cut_short_is_dropped(start: Start, tmp_path: Path, torn: bytes) -> None:
    """Nobody was answered for it; what follows starts on a line of its own."""
    files = {"state": tmp_path / "state", "journal": tmp_path / "journal"}
    before = start(**files)
    path = before.mailing_list()
    before.stop()
    for file in files.values():
        with file.open("ab") as log:
            log.write(torn)
    after = start(**files)
    after.add(path)
    assert [one["seq"] for one in _lines(files["journal"])] == [1, 2]


def test_a_state_that_is_none_is_refused(tmp_path: Path) -> None:
    """By the number of the last entry that could be done."""
    (tmp_path / "state").write_bytes(b'{"some":"thing"}\n')
    with (
        pytest.raises(ValueError, match="cannot be replayed after entry 0"),
        running(Config(state=tmp_path / "state")),
    ):
        pass


async def test_large_entries_are_kept_for_less_long() -> None:
    """Memory is bounded by bytes as well as by entries; the last one is always there."""
    journal = Journal(None, None)
    body = msgspec.Raw(b'"' + b"x" * (KEPT_BYTES // 4) + b'"')
    for seq in range(1, 8):
        await journal.append(Entry(seq, "2026-01-01T00:00:00Z", "x", "", "", {}, body))
    assert [seq for seq, _ in journal.recent] == [5, 6, 7]
    huge = msgspec.Raw(b'"' + b"x" * KEPT_BYTES + b'"')
    await journal.append(Entry(8, "2026-01-01T00:00:00Z", "x", "", "", {}, huge))
    assert [seq for seq, _ in journal.recent] == [8]
    await journal.close()


async def test_what_was_not_written_is_not_answered(tmp_path: Path) -> None:
    """A disk that refuses is an error for this write and for all that follow."""
    journal = Journal(tmp_path / "journal", None)
    entry = Entry(
        seq=1,
        at="2026-01-01T00:00:00Z",
        operation="x",
        method="",
        path="",
        ids={},
        body=msgspec.Raw(b"{}"),
    )
    await journal.append(entry)
    read_only = os.open(tmp_path / "journal", os.O_RDONLY)
    journal._journal._file, good = read_only, journal._journal._file  # type: ignore[union-attr]  # noqa: SLF001 - a full disk cannot be had otherwise
    with pytest.raises(OSError, match="Bad file descriptor"):
        await journal.append(entry)
    journal._journal._file = good  # type: ignore[union-attr]  # noqa: SLF001 - as above
    os.close(read_only)
    with pytest.raises(OSError, match="the journal is broken"):
        await journal.append(entry)
    await journal.close()
    assert len(_lines(tmp_path / "journal")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_an_answered_write_survives_the_end_of_the_process(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    """However it ends; asked to end, it ends in order."""
    files = {"state": tmp_path / "state", "journal": tmp_path / "journal"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        *map(str, files.values()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    async with httpx.AsyncClient(
        base_url=url, headers={"X-API-TOKEN": "simulator"}, trust_env=False
    ) as api:
        directory = (await api.get("/directories")).json()["result"]["elements"][0]["directoryId"]
        path = f"/directories/{directory}/mailinglists"
        made = (await api.post(path, json={"name": "kept"})).json()["result"]["id"]
        process.send_signal(number)
        out, err = await process.communicate()
    assert (out, err) == (b"" if number == signal.SIGKILL else b"ended\n", b"")
    assert process.returncode == (-number if number == signal.SIGKILL else 0)
    after = await asyncio.to_thread(start, **files)
    assert isinstance(after.ready, Ready)
    assert after.elements(path)[0]["mailingListId"] == made
    assert _lines(files["journal"])[0]["ids"]["mailing_list"] == made
