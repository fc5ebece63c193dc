"""Files of registrants: good rows go in, bad ones are listed, and no file is too strange."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from milepost.jobs.registrants_file import BadRow, Report, UnreadableFile, import_file
from milepost.store import Store


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """An empty store."""
    async with await Store.open(database_url) as store:
        yield store


async def imported(
    store: Store, tmp_path: Path, name: str, content: bytes, *, dry_run: bool = False
) -> Report:
    """What the import of a file with this content reports."""
    path = tmp_path / name
    path.write_bytes(content)
    return await import_file(store, path, dry_run=dry_run)


async def test_columns_without_a_meaning_become_attributes(store: Store, tmp_path: Path) -> None:
    """A BOM and CRLF are taken, empty values are absent ones."""
    content = codecs.BOM_UTF8 + "ref,email,seats\r\na,ä@example.com,3\r\nb,,\r\n".encode()
    report = await imported(store, tmp_path, "people.csv", content)
    assert (2, 2, 0) == (report.rows, report.created, report.bad)
    known, bare = await store.registrants.get("a"), await store.registrants.get("b")
    assert known is not None
    assert bare is not None
    assert ("ä@example.com", {"seats": "3"}) == (known.details.email, known.details.attributes)
    assert (None, {}) == (bare.details.email, bare.details.attributes)


async def test_numbers_in_ndjson_are_taken_as_texts(store: Store, tmp_path: Path) -> None:
    """Beside the known names and inside `attributes` alike; null is absent."""
    line = b'{"ref": "a", "seats": 55, "attributes": {"old": true, "x": 1.5, "none": null}}'
    await imported(store, tmp_path, "people.ndjson", codecs.BOM_UTF8 + line)
    known = await store.registrants.get("a")
    assert known is not None
    assert {"seats": "55", "old": "true", "x": "1.5"} == known.details.attributes


async def test_bad_rows_are_listed_and_good_ones_go_in(store: Store, tmp_path: Path) -> None:
    """Each with its line and the reason, whatever is wrong with it."""
    content = b'ref,first_name\na,J\xf6rg\nb,\x00\nc,x,y\n,z\nd,ok\n"e,open\n'
    report = await imported(store, tmp_path, "people.csv", content)
    assert (6, 1, 5) == (report.rows, report.created, report.bad)
    assert [
        BadRow(2, "not UTF-8"),
        BadRow(3, "a NUL character"),
        BadRow(4, "3 values under 2 columns"),
        BadRow(5, "missing: `ref`"),
        BadRow(7, "not CSV: unexpected end of data"),
    ] == report.bad_rows


async def test_bad_lines_of_ndjson_are_listed(store: Store, tmp_path: Path) -> None:
    """Deep nesting, endless lines and wrong types cost their line and nothing else."""
    lines = (b"[" * 100_000, b"x" * 3_000_000, b"[1]", b'{"ref": 1}', b'{"ref": "ok"}')
    report = await imported(store, tmp_path, "people.ndjson", b"\n".join(lines))
    assert (5, 1) == (report.rows, report.created)
    assert [1, 2, 3, 4] == [row.line for row in report.bad_rows]


async def test_the_last_row_of_a_ref_counts(store: Store, tmp_path: Path) -> None:
    """The rows before it are counted as repeated."""
    report = await imported(store, tmp_path, "people.csv", b"ref,first_name\na,x\na,y\n")
    known = await store.registrants.get("a")
    assert known is not None
    assert (2, 1, 1) == (report.rows, report.created, report.repeated)
    assert "y" == known.details.first_name


async def test_a_dry_run_says_what_would_be_and_changes_nothing(
    store: Store, tmp_path: Path
) -> None:
    """Twice the same report, and nobody is known afterwards."""
    for _ in range(2):
        report = await imported(store, tmp_path, "people.csv", b"ref\na\nb\n", dry_run=True)
        assert (2, 2) == (report.rows, report.created)
    assert await store.registrants.get("a") is None


async def test_importing_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    """More rows than one transaction takes, and `progress` ends at the end of the file."""
    path = tmp_path / "people.csv"
    path.write_text("ref\n" + "".join(f"r{number}\n" for number in range(1_200)))
    told: list[int] = []
    first = await import_file(store, path, progress=told.append)
    again = await import_file(store, path)
    assert (1_200, 0) == (first.created, first.unchanged)
    assert (0, 1_200) == (again.created, again.unchanged)
    assert (3, path.stat().st_size) == (len(told), told[-1])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("people.csv", b"", "it is empty"),
        ("people.csv", "ref,email\na,b\n".encode("utf-16"), "it is in UTF-16"),
        ("people.csv", "ref,email\na,b\n".encode("utf-16-le"), "it is in UTF-16"),
        ("people.csv", b"ref;email\na;b\n", "separated by semicolons; save it with commas"),
        ("people.csv", b"ref\temail\na\tb\n", "separated by tabs"),
        ("people.csv", b"email\na\n", "there is no column ref"),
        ("people.csv", b"ref,e mail\na,b\n", "'e mail' cannot name a column"),
        ("people.csv", b"ref,x,x\na,b,c\n", "the column 'x' stands there twice"),
        ("people.csv", b'"ref', "its first line is not CSV"),
        ("people.xlsx", b"PK\x03\x04", "is it CSV or NDJSON?"),
    ],
)
async def test_a_file_of_another_kind_is_explained(
    store: Store, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    """Nothing is imported, and the text says what to do."""
    with pytest.raises(UnreadableFile, match=said.replace("?", r"\?")):
        await imported(store, tmp_path, name, content)


async def test_a_file_that_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    """As every command names it."""
    with pytest.raises(UnreadableFile, match="No such file or directory"):
        await import_file(store, tmp_path / "missing.csv")
