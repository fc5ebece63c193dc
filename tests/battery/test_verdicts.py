"""The verdicts themselves: what is wrong is found, and named with its number."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import psycopg
import pytest
import uvloop
from tests.battery.load import Answer, Installation, Platform, events, register, seat_of
from tests.battery.verdicts import Watch, assert_responses_show_their_own_data, verify

replaced = msgspec.structs.replace

LIES: dict[str, Callable[[Answer], Answer]] = {
    "every answer within 1.5 s; came: 1 of 20": lambda a: replaced(a, seconds=1.7),
    "no 5xx but a 503 with Retry-After; came: 1 of 20": lambda a: replaced(a, status=500),
    "every acknowledged event in the ledger; came: 1 of 20": lambda a: replaced(a, event_id="x"),
    "the URL that was published; came: 1 of 20": lambda a: replaced(
        a, link=replaced(a.link, url="https://elsewhere.example")
    ),
    "no person and no link in logs and errors": lambda a: replaced(a, problem="for xanthippe-1"),
}
"""What a caller could have seen, by what the verdict then says."""


MISTAKES = {
    "lane = 'ready'": "1 of 40 added, although they were there before",
    "data_at = NULL": "1 of 40 with data that the ledger does not know to be there",
}
"""What the ledger could hold of a link, by what the verdict then says."""


def test_what_is_wrong_is_found(
    install: Callable[..., Installation], watch: Watch, tmp_path: Path
) -> None:
    """In the answers, at the platform, in a log and in Postgres; and nothing where all is well."""
    on = install(people=20, slots=1)
    uvloop.run(register(on, tmp_path, {"shared": {"route": "transaction"}}))
    answers = on.pour(events(20, people=20), connections=5)
    on.platform.control("PUT", "settings", {"latency_ms": 300})  # who comes meanwhile shares calls
    shared = on.pour(events(20, people=20, prefix="s", milestone="shared"), connections=20)
    on.platform.control("PUT", "settings", {"latency_ms": 0})
    watch.settled(within=30)
    assert 40 == verify(on, answers + shared, watch=watch).writes

    for expected, lie in LIES.items():
        with pytest.raises(AssertionError, match=expected):
            verify(on, [*answers[1:], lie(answers[0])], watch=watch)

    with psycopg.connect(on.database_url, autocommit=True) as ledger:
        for change, expected in MISTAKES.items():
            ledger.execute(f"UPDATE links SET {change} WHERE event_id = 'e0'".encode())
            with pytest.raises(AssertionError, match=expected):
                verify(on, answers, watch=watch)
        ledger.execute("UPDATE links SET lane = 'direct' WHERE event_id = 'e0'")

    with psycopg.connect(on.database_url) as left:
        left.execute("SELECT 1")
        time.sleep(1.1)  # it is the idle time that is looked at
        with pytest.raises(AssertionError, match="nothing idle in transaction; came: 1"):
            verify(on, answers, watch=watch)

    for change, count in ((with_the_first_ones_data, r"\d+"), (with_another_ones_data, "1")):
        mixed_up = rf"{count} of 40 with the data of another event, such as [es]"
        with falsified(on.platform, change), pytest.raises(AssertionError, match=mixed_up):
            verify(on, answers, watch=watch)
    with psycopg.connect(on.database_url, autocommit=True) as ledger:
        ledger.execute("UPDATE links SET event_id = 'another' WHERE event_id = 's1'")
        with pytest.raises(AssertionError, match="data of its own event; came: 1 of 40 not"):
            assert_responses_show_their_own_data(on)
        ledger.execute("UPDATE links SET event_id = 's1' WHERE event_id = 'another'")

    repeat(on, email="somebody-else@example.com")
    with pytest.raises(AssertionError, match=r"1 of 40 made twice(.|\n)*1 of 41 extra"):
        verify(on, answers, watch=watch)

    with on.replicas[0].log.open("a") as log_file:
        log_file.write("the registrant xanthippe-7\n")
    with pytest.raises(AssertionError, match="no person and no link in logs"):
        verify(on, answers, watch=watch)


def with_the_first_ones_data(line: bytes) -> bytes:
    """A call of the journal in which all that share it have the data of the first."""
    seats = re.compile(rb'(?<="seat":")[^"]*')
    first = seats.search(line)
    return seats.sub(first[0], line) if first else line


def with_another_ones_data(line: bytes) -> bytes:
    """The call for one event with the data of another."""
    return line.replace(f'"{seat_of("e0")}"'.encode(), f'"{seat_of("e1")}"'.encode())


@contextmanager
def falsified(platform: Platform, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """Let the journal that is read say something else of each call while the block runs."""
    journal = platform.journal
    lines = journal.read_bytes().splitlines(keepends=True)
    platform.journal = journal.with_name("falsified")
    platform.journal.write_bytes(b"".join(change(line) for line in lines))
    yield
    platform.journal = journal


def repeat(on: Installation, **changes: str) -> None:
    """Make a link's add again at the platform, with changes: past Milepost, as a bug would."""
    entries = on.platform.control("GET", "journal")["entries"]
    adds = [entry for entry in entries if "list_contact.add" == entry["operation"]]
    entry = [entry for entry in adds if "privateEmbeddedData" in entry["body"]][-1]
    url = f"http://127.0.0.1:{on.platform.port}{entry['path']}"
    headers = {"X-API-TOKEN": "simulator"}
    answer = httpx.post(url, json=entry["body"] | changes, headers=headers, trust_env=False)
    answer.raise_for_status()
