"""Registrants out of a file that a person hands over: CSV or NDJSON, row by row.

Good rows go in, bad ones are listed with their line and the reason. The file is read as a stream:
memory does not grow with it. A `ref` that stands twice in a file counts with its last row.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from io import TextIOWrapper
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
        path: `.csv` (with a header) or `.ndjson`/`.jsonl`, in UTF-8.
        dry_run: only say what would be done.
        progress: is told after each chunk how many bytes of the file were read.

    Raises:
        UnreadableFile: it cannot be opened, is not UTF-8, or has no column `ref`.
    """
    deployment = await store.deployment.load()
    criteria = deployment.dedup_criteria or frozenset()
    report = Report()
    try:
        with (
            path.open("rb") as raw,
            TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file,
        ):
            rows = _csv(file, path) if path.suffix.lower() == ".csv" else _ndjson(file)
            for chunk in _chunks(rows, report):
                written = await store.registrants.put(chunk, criteria, dry_run=dry_run)
                _count(report, written)
                progress(raw.tell())
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UnreadableFile(
            f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8 and try again"
        ) from error
    return report


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
            report.unchanged += 1
        chunk[known.ref] = known
        if len(chunk) == CHUNK:
            yield chunk
            chunk = {}
    if chunk:
        yield chunk


def _csv(file: TextIO, path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.reader(file, strict=True)
    header = [name.strip() for name in next(reader, [])]
    if "ref" not in header:
        raise UnreadableFile(
            f"{path}: there is no column ref; the first line must name the columns "
            f"({', '.join(COLUMNS)}; others become attributes)"
        )
    if odd := next((name for name in header if not _ATTRIBUTE.fullmatch(name)), None):
        raise UnreadableFile(
            f"{path}: {odd!r} cannot name a column; use letters, digits, _, . and -"
        )
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise UnreadableFile(f"{path}: the column {twice!r} stands there twice")
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


def _ndjson(file: TextIO) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            value = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            yield number, f"not JSON: {error}"
            continue
        yield number, _row(value) if isinstance(value, dict) else "not a JSON object"


def _row(values: dict[str, Any]) -> dict[str, Any] | str:
    """A row in the shape of `_Row`; empty values are absent ones."""
    known = {name: value for name, value in values.items() if value is not None and value != ""}
    if any(isinstance(value, str) and "\x00" in value for value in known.values()):
        return "a NUL character in it"
    attributes = known.pop("attributes", {})
    others = {
        name: text(value) if isinstance(value, int | float) else value
        for name, value in known.items()
        if name not in COLUMNS
    }
    if isinstance(attributes, dict):
        attributes = {**attributes, **others}
    return {name: known[name] for name in COLUMNS if name in known} | {"attributes": attributes}


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
