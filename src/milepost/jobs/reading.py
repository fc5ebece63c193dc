"""Registrants out of bytes: CSV or NDJSON, in whichever encoding, block by block.

A `Reader` looks at the beginning of what it is to read, says how it reads it (encoding, delimiter,
whose column is whose), and then makes rows of one block after another: good ones, and bad ones with
their line and the reason. However the bytes are cut into blocks, the rows are the same, and between
two blocks `offset` and `line` say where somebody else would go on. Memory does not grow with what
is read: a row has at most `LONGEST_ROW` bytes.

A bad row costs itself alone. Where a quote is not closed, what follows would be swallowed up to the
next quote, so reading goes on with the line after the one on which the bad row begins.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Sequence
from io import StringIO
from typing import Final, Literal

import msgspec

from milepost.jobs.rows import (
    DELIMITERS,
    WIDE,
    BadRow,
    Detected,
    Form,
    Objects,
    Row,
    Table,
    Unreadable,
    sound,
)

Kind = Literal["csv", "ndjson"]

SAMPLE_BYTES: Final = 1 << 18
"""How much of the beginning is looked at to tell how the whole is to be read: some thousand rows,
among which a name with an accent stands, if there is one anywhere."""

BLOCK_BYTES: Final = 1 << 18
"""Some thousand rows: few enough to stage them in a moment."""

LONGEST_ROW: Final = 1 << 20
"""In bytes; all columns and attributes fit many times."""

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ESCAPED: Final = re.compile("[\udc80-\udcff]")
_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f\udc80-\udcff]")
_TOO_LONG: Final = f"longer than {LONGEST_ROW} bytes"


class Reader:
    """Makes rows of bytes, block by block.

    Args:
        kind: what it is.
        form: what is said of it.
        source: its name, for errors and for people.
        head: its beginning, at least `SAMPLE_BYTES` if there are as many.
        is_whole: the head is all of it.

    Attributes:
        detected: How it is read.
        offset: Where the next row begins, in bytes; the first block is to begin there.
        line: The lines before that.

    Raises:
        Unreadable: it is empty, or nothing that holds registrants.
    """

    def __init__(
        self,
        kind: Kind,
        form: Form,
        source: str,
        head: bytes,
        *,
        is_whole: bool,
    ) -> None:
        self._source = source
        self._encoding, bom = _encoding(head, form.encoding, source, is_whole=is_whole)
        self._is_wide = self._encoding in WIDE
        self.offset = bom
        self.line = 0
        self._held = b""
        self._is_skipping = False
        self._newline = "\n".encode(self._encoding)
        if not self._decoded(head[bom:])[0].strip():
            raise Unreadable(f"{source}: it is empty")
        self._ref = form.columns.get("ref") or "ref"
        if kind == "csv":
            self._begin(form, head[bom:], is_whole=is_whole)
            self.detected = Detected(
                source=source,
                kind=kind,
                encoding=self._encoding,
                delimiter=self._delimiter,
                columns=self._table.columns,
                passed_over=self._table.passed_over,
            )
        else:
            self._rows = self._lines
            self._objects = Objects(form)
            self.detected = Detected(
                source=source,
                kind=kind,
                encoding=self._encoding,
                columns={ours: theirs for ours, theirs in form.columns.items() if theirs},
                passed_over=[ours for ours, theirs in form.columns.items() if theirs is None],
            )

    def go_on(self, offset: int, line: int) -> None:
        """Go on where another reader of the same bytes was between two blocks."""
        self.offset, self.line = offset, line

    def read(self, data: bytes, *, is_last: bool) -> list[Row | BadRow]:
        """The rows of the next block, as far as they are whole.

        Args:
            data: the block; what is left of it is read with the next.
            is_last: nothing follows.
        """
        self._held += data
        if self._is_skipping:
            self._skip(is_last=is_last)
        end = len(self._held) if is_last else self._end_of_lines()
        if end:
            rows, used, lines = self._rows(self._held[:end], is_last=is_last)
            self._use(used, lines)
        else:
            rows = []
            if len(self._held) > LONGEST_ROW:
                rows.append(BadRow(self.line + 1, _TOO_LONG))
                self._is_skipping = True
                self._skip(is_last=False)
        return rows

    def _use(self, used: int, lines: int) -> None:
        self._held = self._held[used:]
        self.offset += used
        self.line += lines

    def _end_of_lines(self) -> int:
        """Behind the last end of a line that is held; 0: there is none."""
        end = self._held.rfind(self._newline)
        while self._is_wide and end > 0 and end % 2:
            end = self._held.rfind(self._newline, 0, end + 1)
        return end + len(self._newline) if end >= 0 else 0

    def _skip(self, *, is_last: bool) -> None:
        """Pass over the rest of a line that is too long."""
        end = self._held.find(self._newline)
        while self._is_wide and end > 0 and end % 2:
            end = self._held.find(self._newline, end + 1)
        if end >= 0:
            self._use(end + len(self._newline), 1)
            self._is_skipping = False
        else:
            left = 0 if is_last else len(self._held) % len(self._newline)
            self._use(len(self._held) - left, 0)

    def _decoded(self, data: bytes) -> tuple[str, bool]:
        """Data as text, and whether anything in it must be looked for.

        What cannot be decoded becomes lone surrogates, so that only its row is refused.
        """
        try:
            decoded = data.decode(self._encoding)
        except UnicodeDecodeError:
            if not self._is_wide:
                return data.decode(self._encoding, "surrogateescape"), True
            half = "\udcff" if len(data) % 2 else ""
            whole = data[: len(data) - len(half)]
            return whole.decode(self._encoding, "surrogatepass") + half, True
        return decoded, "\x00" in decoded

    # --- CSV --------------------------------------------------------------------------------------

    def _begin(self, form: Form, head: bytes, *, is_whole: bool) -> None:
        """Find out how the columns are separated, and which they are."""
        if b"\n" not in head and b"\r" in head:
            self._newline = "\r".encode(self._encoding)
        self._held = head
        end = len(head) if is_whole else self._end_of_lines()
        self._held = b""
        if end == 0:
            raise Unreadable(f"{self._source}: its first line is longer than {len(head)} bytes")
        decoded, _ = self._decoded(head[:end])
        headers: dict[str, tuple[list[str], int, int]] = {}
        flaw = ""
        for delimiter in (form.delimiter,) if form.delimiter else DELIMITERS:
            source = StringIO(decoded, newline="")
            reader = csv.reader(source, delimiter=delimiter, strict=True)
            try:
                names = [name.strip() for name in next(filter(_is_told, reader), ())]
            except csv.Error as error:
                flaw = str(error)
                continue
            headers[delimiter] = names, source.tell(), reader.line_num
        if not headers:
            raise Unreadable(f"{self._source}: its first line is not CSV: {flaw}")
        self._delimiter = next(
            (delimiter for delimiter, (names, _, _) in headers.items() if self._ref in names),
            max(headers, key=lambda delimiter: len(headers[delimiter][0])),
        )
        names, at, lines = headers[self._delimiter]
        self._table = Table(names, form, self._source)
        self._use(self._bytes_before(head[:end], decoded, at, lines), lines)
        self._rows = self._records

    def _records(self, data: bytes, *, is_last: bool) -> tuple[list[Row | BadRow], int, int]:
        """The rows of a block of whole lines; how many of its bytes and lines they are."""
        decoded, is_odd = self._decoded(data)
        encoding = self._encoding if is_odd else None
        source = StringIO(decoded, newline="")
        reader = csv.reader(source, delimiter=self._delimiter, strict=True)
        rows: list[Row | BadRow] = []
        before = 0  # lines that earlier readers of this block have seen
        while True:
            at, lines = source.tell(), before + reader.line_num
            line = self.line + lines + 1
            try:
                values = next(reader)
            except StopIteration:
                if is_last and rows and not decoded.endswith(("\n", "\r")):
                    rows[-1] = _perhaps_cut_off(rows[-1], line - 1)
                return rows, len(data), lines
            except csv.Error as error:
                end = source.tell()
                if end == len(decoded) and not is_last and end - at <= LONGEST_ROW:
                    # It may be whole with the next block.
                    return rows, self._bytes_before(data, decoded, at, lines), lines
                source.seek(at)
                rows.append(self._broken(line, source.readline(), error, end - source.tell()))
            else:
                if source.tell() - at <= LONGEST_ROW:
                    if values:
                        rows.append(self._table.row(line, values, encoding=encoding))
                    continue
                source.seek(at)
                source.readline()
                rows.append(BadRow(line, _TOO_LONG))
            before = lines + 1
            reader = csv.reader(source, delimiter=self._delimiter, strict=True)

    def _broken(self, line: int, first: str, error: csv.Error, beyond: int) -> BadRow:
        """A row that is not CSV.

        Args:
            line: on which it begins.
            first: that line.
            error: what was said of it.
            beyond: so many characters behind that line it was said.
        """
        is_open = beyond > 0 or first.count('"') % 2 == 1
        value = first.split(self._delimiter, maxsplit=1)[0].rstrip("\r\n")
        value = value[1:-1] if value.startswith('"') and value.endswith('"') else value
        reason = "a quote is not closed" if is_open else f"not CSV: {error}"
        return self._table.broken(line, reason, "" if '"' in value else value)

    def _bytes_before(self, data: bytes, decoded: str, at: int, lines: int) -> int:
        """How many bytes of the data the first `at` characters are, which are so many lines."""
        if at == len(decoded):
            return len(data)
        if self._is_wide:
            return len(decoded[:at].encode(self._encoding, "surrogatepass"))
        return sum(map(len, data.splitlines(keepends=True)[:lines]))

    # --- NDJSON -----------------------------------------------------------------------------------

    def _lines(
        self,
        data: bytes,
        *,
        is_last: bool,  # noqa: ARG002  (a line is whole, or it is not JSON)
    ) -> tuple[list[Row | BadRow], int, int]:
        """The rows of a block of whole lines, and how many of its bytes and lines they are."""
        used = len(data)
        if self._encoding != "utf-8":
            data = self._decoded(data)[0].encode("utf-8", "surrogatepass")
        lines = data.split(b"\n")
        rows = [
            self._object(number, line)
            for number, line in enumerate(lines, self.line + 1)
            if line and not line.isspace()
        ]
        return rows, used, len(lines) - 1

    def _object(self, number: int, line: bytes) -> Row | BadRow:
        if len(line) > LONGEST_ROW:
            return BadRow(number, _TOO_LONG)
        try:
            value = msgspec.json.decode(line)
        except UnicodeDecodeError:
            return BadRow(number, f"not {self._encoding}", self._ref_in(line))
        except (msgspec.DecodeError, RecursionError) as error:
            flaw = str(error).removeprefix("JSON is malformed: ").partition(" - at ")[0]
            return BadRow(number, f"not JSON: {flaw}", self._ref_in(line))
        if not isinstance(value, dict):
            return BadRow(number, "not a JSON object")
        encoding = self._encoding if b"\\u0000" in line else None
        return self._objects.row(number, value, encoding=encoding)

    def _ref_in(self, line: bytes) -> str | None:
        """Whose a line is that is not JSON."""
        name = re.escape(msgspec.json.encode(self._ref))
        found = re.search(name + rb'\s*:\s*"([^"\\]{1,800})"', line)
        return sound(found[1].decode(errors="surrogateescape")) if found else None


def _encoding(head: bytes, said: str | None, source: str, *, is_whole: bool) -> tuple[str, int]:
    """How the bytes are to be decoded, and how many of them only say so.

    A byte order mark tells; so does a NUL beside the first letter, which UTF-16 has. Otherwise it
    is UTF-8, unless more bytes are wrong in it than there are characters beyond ASCII that are
    right: then it is what Windows writes in the west, cp1252. A few wrong bytes in UTF-8 are a few
    bad rows.
    """
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise Unreadable(f"{source}: it is in UTF-32; save it as UTF-8")
    if said is None or said.startswith("utf"):
        for bom, name in _BOMS:
            if head.startswith(bom):
                return name, len(bom)
    if said is not None:
        return said, 0
    match head[:2].find(b"\x00"), head[:2].count(b"\x00"):
        case (1, 1):
            return "utf-16-le", 0
        case (0, 1):
            return "utf-16-be", 0
    # The head may end amid a character.
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    decoded = decoder.decode(head, final=is_whole)
    wrong = len(_ESCAPED.findall(decoded))
    return ("cp1252" if wrong > len(_BEYOND_ASCII.findall(decoded)) else "utf-8"), 0


def _perhaps_cut_off(row: Row | BadRow, line: int) -> Row | BadRow:
    """The last row, where its line has no end."""
    if isinstance(row, BadRow) and row.line == line:
        reason = f"{row.reason}; all ends amid this row, perhaps too early"
        return msgspec.structs.replace(row, reason=reason)
    return row


def _is_told(names: Sequence[str]) -> bool:
    return any(name.strip() for name in names)
