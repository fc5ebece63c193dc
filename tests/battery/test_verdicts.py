"""The verdicts themselves: what is wrong is found, and named with its number."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import msgspec
import psycopg
import pytest
from tests.battery.load import Answer, Installation, events
from tests.battery.verdicts import Watch, verify

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
    "lane = 'ready'": "1 of 20 added, although they were there before",
    "data_at = NULL": "1 of 20 with data that the ledger does not know to be there",
}
"""What the ledger could hold of a link, by what the verdict then says."""


def test_what_is_wrong_is_found(install: Callable[..., Installation], watch: Watch) -> None:
    """In the answers, at the platform, in a log and in Postgres; and nothing where all is well."""
    on = install(people=20, slots=1)
    answers = on.pour(events(20, people=20), connections=5)
    watch.settled(within=30)
    assert 20 == verify(on, answers, watch=watch).writes

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

    repeat(on, email="somebody-else@example.com")
    with pytest.raises(AssertionError, match=r"1 of 20 made twice(.|\n)*1 of 21 extra"):
        verify(on, answers, watch=watch)

    with on.replicas[0].log.open("a") as log_file:
        log_file.write("the registrant xanthippe-7\n")
    with pytest.raises(AssertionError, match="no person and no link in logs"):
        verify(on, answers, watch=watch)


def repeat(on: Installation, **changes: str) -> None:
    """Make the last add again at the platform, with changes: past Milepost, as a bug would."""
    entries = on.platform.control("GET", "journal")["entries"]
    entry = [entry for entry in entries if "list_contact.add" == entry["operation"]][-1]
    url = f"http://127.0.0.1:{on.platform.port}{entry['path']}"
    headers = {"X-API-TOKEN": "simulator"}
    answer = httpx.post(url, json=entry["body"] | changes, headers=headers, trust_env=False)
    answer.raise_for_status()
