"""Registrants out of a file that a person hands over: CSV or NDJSON, row by row.

Good rows go in, bad ones are listed with their line and the reason. The file is read as a stream:
memory does not grow with it. A `ref` that stands twice in a file counts with its last row.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec
from msgspec import Struct

from milepost.errors import MilepostError
from milepost.model import Ref, RegistrantDetails
from milepost.payload import text
from milepost.store import Store
from milepost.store.registrants import CHUNK
from milepost.store.registrants import Counts as Written

COLUMNS: Final = ("ref", "email", "first_name", "last_name", "phone", "language")
"""Columns with a meaning; any other becomes an attribute."""

_MOST_LISTED: Final = 1_000
_LONGEST_LINE: Final = 1 << 20  # of NDJSON, in bytes; all columns and attributes fit many times
_ATTRIBUTE: Final = re.compile("[A-Za-z][A-Za-z0-9_.-]{0,99}")


class UnreadableFile(MilepostError):
    """The file is not one of registrants."""


class BadRow(Struct, frozen=True):
    """A row that was left out, and why."""

    line: int
    reason: str


class Report(Struct, kw_only=True):
    """What an import did, in rows."""

    rows: int = 0
    created: int = 0
    changed: int = 0
    unchanged: int = 0
    repeated: int = 0
    """Rows left out because the same ref comes again within the next 500 rows; one that comes
    again later than that counts as changed or unchanged, under `dry_run` as created."""
    bad: int = 0
    bad_rows: list[BadRow] = []
    """The first of them; `bad` counts them all."""


class _Row(RegistrantDetails, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ref: Ref


async def import_file(
    store: Store,
    path: Path,
    *,
    dry_run: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Write the registrants of a file down.

    Args:
        store: takes them.
        path: `.csv` (commas, a header) or `.ndjson`/`.jsonl` (an object a line), in UTF-8.
        dry_run: only say what would be done.
        progress: is told after each chunk how many bytes of the file were read.

    Raises:
        UnreadableFile: it cannot be opened, is empty, is neither CSV nor NDJSON in UTF-8, or has
            no column `ref`.
    """
    report = Report()
    try:
        with (
            path.open("rb") as raw,
            # What is not UTF-8 becomes lone surrogates, so that only its row is refused.
            TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="") as lines,
        ):
            for chunk in _chunks(_rows(raw, lines, path), report):
                written = await store.registrants.put(chunk, dry_run=dry_run)
                _count(report, written)
                progress(raw.tell())
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror or error}") from error
    return report


def _rows(
    raw: BufferedReader, lines: TextIO, path: Path
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Each row with its line: its values, or what is wrong with it."""
    start = raw.peek(len(codecs.BOM_UTF32_LE))
    if not start:
        raise UnreadableFile(f"{path}: it is empty")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\x00" in start[:4]:
        raise UnreadableFile(f"{path}: it is in UTF-16; save it as UTF-8 and try again")
    match path.suffix.lower():
        case ".csv":
            return _csv(lines, path)
        case ".ndjson" | ".jsonl":
            return _ndjson(raw)
        case _:
            raise UnreadableFile(f"{path}: is it CSV or NDJSON? name it .csv or .ndjson")


def _chunks(
    rows: Iterable[tuple[int, dict[str, Any] | str]], report: Report
) -> Iterator[dict[str, RegistrantDetails]]:
    chunk: dict[str, RegistrantDetails] = {}
    for line, row in rows:
        report.rows += 1
        known = _checked(row)
        if isinstance(known, str):
            report.bad += 1
            if len(report.bad_rows) < _MOST_LISTED:
                report.bad_rows.append(BadRow(line, known))
            continue
        if known.ref in chunk:
            report.repeated += 1
        chunk[known.ref] = known
        if len(chunk) == CHUNK:
            yield chunk
            chunk = {}
    if chunk:
        yield chunk


def _csv(file: TextIO, path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.reader(file, strict=True)
    header = _header(reader, path)
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"not CSV: {error}"
            continue
        if not values:
            continue
        if len(values) != len(header):
            yield reader.line_num, f"{len(values)} values under {len(header)} columns"
            continue
        yield reader.line_num, _row(dict(zip(header, values, strict=True)))


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise UnreadableFile(f"{path}: its first line is not CSV: {error}") from error
    if "ref" not in header:
        for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if "ref" in "".join(header).replace('"', "").split(separator):
                raise UnreadableFile(
                    f"{path}: its columns are separated by {name}; save it with commas"
                )
        raise UnreadableFile(
            f"{path}: there is no column ref; the first line must name the columns "
            f"({', '.join(COLUMNS)}; others become attributes)"
        )
    if odd := next((name for name in header if not _ATTRIBUTE.fullmatch(name)), None):
        raise UnreadableFile(
            f"{path}: {odd!r} cannot name a column; "
            "begin with a letter and use letters, digits, _, . and -"
        )
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise UnreadableFile(f"{path}: the column {twice!r} stands there twice")
    return header


def _ndjson(file: BufferedReader) -> Iterator[tuple[int, dict[str, Any] | str]]:
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if not line.endswith(b"\n") and len(line) == _LONGEST_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(_LONGEST_LINE)
            yield number, f"longer than {_LONGEST_LINE} bytes"
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"not JSON: {error}"
            yield number, reason
            continue
        yield number, _row(value) if isinstance(value, dict) else "not a JSON object"


def _row(values: dict[str, Any]) -> dict[str, Any] | str:
    """A row in the shape of `_Row`; empty values are absent ones."""
    known = {name: values[name] for name in COLUMNS if values.get(name) not in (None, "")}
    others = {name: value for name, value in values.items() if name not in COLUMNS}
    attributes = others.pop("attributes", None) or {}
    if not isinstance(attributes, dict):
        return "attributes: not a JSON object"
    attributes = {
        name: text(value) if isinstance(value, int | float) else value
        for name, value in (attributes | others).items()
        if value is not None and value != ""
    }
    for name, value in (known | attributes).items():
        if isinstance(value, str) and (fault := _fault(name + value)):
            return fault
    return known | {"attributes": attributes}


def _fault(value: str) -> str | None:
    """What keeps Postgres and the platform from taking a text."""
    if "\x00" in value:
        return "a NUL character"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    return None


def _checked(row: dict[str, Any] | str) -> _Row | str:
    """The row as a registrant, or what is wrong with it."""
    if isinstance(row, str):
        return row
    try:
        return msgspec.convert(row, _Row)
    except msgspec.ValidationError as error:
        sentence, _, where = str(error).partition(" - at `$.")
        sentence = sentence.replace("Object missing required field", "missing:")
        return f"{where.rstrip('`')}: {sentence}" if where else sentence


def _count(report: Report, written: Written) -> None:
    report.created += written.created
    report.changed += written.changed
    report.unchanged += written.unchanged
