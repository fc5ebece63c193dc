"""Rows as registrants: whose column is whose, and what is wrong with a row.

Rows come under a header (CSV, a query) or as JSON objects, with their own names or with ours. A
reason never repeats a value: findings are kept for months, and values are people's data.
"""

from __future__ import annotations

import codecs
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from shlex import quote
from typing import Any, Final, Literal, get_args
from urllib.parse import quote as urlquote
from uuid import UUID

import msgspec
from msgspec import Struct

from milepost.errors import MilepostError
from milepost.jobs.run import NeedsAPerson
from milepost.model import FieldName, Ref, RegistrantDetails
from milepost.payload import text

COLUMNS: Final = ("ref", "email", "first_name", "last_name", "phone", "language")
"""Columns with a meaning; any other becomes an attribute."""

MOST_COLUMNS: Final = 1_000
"""Ten times as many as are taken; the rest can be passed over."""
MOST_ATTRIBUTES: Final = 100

MOST_NAMED: Final = 12
"""Columns that an error names."""

DELIMITERS: Final = (",", ";", "\t", "|")

WIDE: Final = ("utf-16-le", "utf-16-be")
"""Encodings in which the end of a line is two bytes. In all others that are taken it is one, which
is no part of anything else."""

_ENCODINGS: Final = {
    *("utf-8", "ascii", *WIDE),
    *(f"cp{n}" for n in (1250, 1251, 1252, 1253, 1254, 1255, 1256, 1257, 1258)),
    *(f"iso8859-{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)),
    *(f"cp{n}" for n in (437, 720, 737, 775, 850, 852, 855, 857, 858, 862, 864, 866, 874)),
    *("koi8-r", "koi8-u", "tis-620", "mac-roman", "mac-latin2", "mac-cyrillic", "mac-greek"),
    *("shift_jis", "cp932", "euc_jp", "gb2312", "gbk", "gb18030", "big5", "cp950"),
    *("euc_kr", "cp949"),
}
"""What is taken, by Python's names. It knows more, in which a text is a domain name or source code,
or in which bytes mean something else behind an escape: blocks of these cannot be read by
themselves."""

_REF: Final = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,200}")
_ATTRIBUTE: Final = re.compile(get_args(FieldName)[1].pattern)
_PLACE: Final = re.compile(r" - at (?P<key>`key` in )?`\$\.(?P<path>\w+)(?P<inside>\[...\])?`\Z")


SaidBy = Literal["setting", "command", "address"]
"""How the form of registrants is said: by `MILEPOST_REGISTRANTS_SOURCE`, by options of a command or
by parameters of a request."""


class Unreadable(NeedsAPerson):
    """It cannot be read as registrants: there is nothing, or it is something else."""


class WrongForm(MilepostError):
    """What is said of the form of registrants cannot be.

    Args:
        detail: what is wrong, in one sentence.
        field: of `Form`.
    """

    def __init__(self, detail: str, field: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.detail = detail
        self.field = field


class Form(Struct, frozen=True, kw_only=True):
    """What is said of how registrants are written down; what is not said is detected."""

    columns: Mapping[str, str | None] = {}
    """Our names, and what they are called there; None: a column of that name is passed over."""
    encoding: str | None = None
    delimiter: str | None = None
    said_by: SaidBy = "setting"

    def naming(self, ours: str, theirs: str | None) -> str:
        """How a person says what a column is called there, in the way in which this was said.

        Args:
            ours: our name of it.
            theirs: its name there; None: it is passed over.
        """
        ours, theirs = _printable(ours), theirs and _printable(theirs)
        pair = f"{ours}={theirs or ''}"
        match self.said_by:
            case "command":
                return f"--column {quote(pair)}"
            case "address":
                return f"?column={urlquote(pair, safe='=')}"
        return f'"columns": {msgspec.json.encode({ours: theirs}).decode()}'

    @classmethod
    def of(
        cls,
        *,
        columns: Mapping[str, str | None] | None = None,
        encoding: str | None = None,
        delimiter: str | None = None,
        said_by: SaidBy = "setting",
    ) -> Form:
        """A form that can be.

        Args:
            columns: our names, and theirs.
            encoding: as Python knows it: `utf-8`, `cp1252`.
            delimiter: one of `DELIMITERS`; `tab` is one of them, too.
            said_by: in which way it is said, for hints.

        Raises:
            WrongForm: something cannot be.
        """
        for ours, theirs in (columns or {}).items():
            if ours == "ref" and theirs is None:
                raise WrongForm("ref is needed", "columns")
            if theirs is not None and not _ATTRIBUTE.fullmatch(ours):
                raise WrongForm(
                    f"{ours!r} cannot name an attribute; begin with a letter and use letters, "
                    "digits, _, . and -",
                    "columns",
                )
        return cls(
            columns=columns or {},
            encoding=None if encoding is None else _codec(encoding),
            delimiter=None if delimiter is None else _delimiter(delimiter),
            said_by=said_by,
        )


class Detected(Struct, frozen=True, kw_only=True):
    """How something is read."""

    source: str
    kind: Literal["csv", "ndjson", "query"]
    encoding: str | None = None
    """As Python knows it."""
    delimiter: str | None = None
    columns: Mapping[str, str] = {}
    """What stands in which column of theirs, by our names; attributes are among them. Of NDJSON it
    is what was said: each line has names of its own."""
    passed_over: Sequence[str] = ()
    """Columns that are not taken."""


class Row(RegistrantDetails, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A registrant."""

    ref: Ref


class BadRow(Struct, frozen=True):
    """A row that is left out, and why."""

    line: int
    """On which it begins; of a query, which of its rows it is."""
    reason: str
    ref: str | None = None
    """Whose it is, if that can be told."""
    is_guess: bool = False
    """The ref may as well be another value: it keeps its registrant, and is shown to nobody."""


def _codec(encoding: str) -> str:
    try:
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError) as error:
        raise WrongForm(
            f"{encoding!r} is no encoding of texts; for example: utf-8, cp1252, utf-16", "encoding"
        ) from error
    # A byte order mark is looked for in any case.
    name = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le"}.get(codec.name, codec.name)
    if name not in _ENCODINGS:
        raise WrongForm(f"{encoding} is not supported; save it as UTF-8", "encoding")
    return name


def _printable(name: str) -> str:
    """A name of a column, which comes out of a file, on one line."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _delimiter(given: str) -> str:
    delimiter = "\t" if given == "tab" else given
    if delimiter not in DELIMITERS:
        raise WrongForm(f"{given!r} is none of , ; | and tab", "delimiter")
    return delimiter


def _is_data(header: Sequence[str]) -> bool:
    """Whether it is rather somebody's row: their values must stand in no error."""
    return "ref" not in header and any(
        "@" in name or name.strip().isdigit() or not name.isprintable() for name in header
    )


class Table:
    """Rows under a header: whose column is whose.

    Args:
        header: the names of the columns.
        form: what is said of them.
        source: what is read, for errors.

    Raises:
        Unreadable: a column that is needed is missing, or a name stands twice or cannot be one.
    """

    def __init__(self, header: Sequence[str], form: Form, source: str) -> None:
        if len(header) > MOST_COLUMNS:
            raise Unreadable(f"{source}: more than {MOST_COLUMNS} columns")
        if _is_data(header):
            raise Unreadable(
                f"{source}: its first line does not look like the names of its {len(header)} "
                "columns, of which one is ref"
            )
        names = {name: at for at, name in enumerate(header)}
        if len(names) < len(header):
            twice = next(name for at, name in enumerate(header) if names[name] != at)
            raise Unreadable(f"{source}: the column {twice!r} stands there twice")
        taken = {ours: theirs for ours, theirs in form.columns.items() if theirs is not None}
        for ours, theirs in taken.items():
            if theirs not in names:
                raise Unreadable(
                    f"{source}: there is no column {theirs!r} for {ours}; its columns are: "
                    f"{_listed(header)}"
                )
        passed = {*taken.values(), *form.columns}
        taken |= {name: name for name in header if name not in passed}
        if "ref" not in taken:
            alike = next((name for name in header if name.lower() == "ref"), header[0])
            raise Unreadable(
                f"{source}: there is no column ref; its columns are: {_listed(header)}. Say which "
                f"one it is, such as {form.naming('ref', alike)}, or call it ref"
            )
        attributes = [ours for ours in taken if ours not in COLUMNS]
        for ours in attributes:
            if not _ATTRIBUTE.fullmatch(ours) or ours == "attributes":
                raise Unreadable(
                    f"{source}: {ours!r} cannot name an attribute; begin with a letter and use "
                    "letters, digits, _, . and -. Say what it is, such as "
                    f"{form.naming('name', ours)}, or pass it over with {form.naming(ours, None)}"
                )
        if len(attributes) > MOST_ATTRIBUTES:
            raise Unreadable(f"{source}: more than {MOST_ATTRIBUTES} columns become attributes")
        self.columns = taken
        self.passed_over = [name for name in header if name not in taken.values()]
        self._width = len(header)
        self._known = [(ours, names[taken[ours]]) for ours in COLUMNS if ours in taken]
        self._attributes = [(ours, names[taken[ours]]) for ours in attributes]
        self._ref = names[taken["ref"]]

    def row(self, line: int, values: Sequence[str], *, encoding: str | None = None) -> Row | BadRow:
        """A row of the table.

        Args:
            line: on which it begins.
            values: an empty one is an absent one.
            encoding: to be said of a value in which something could not be decoded; None: nobody
                has to look for one, nor for NUL.
        """
        if len(values) != self._width:
            said = "1 value" if len(values) == 1 else f"{len(values)} values"
            return self.broken(line, f"{said} under {self._width} columns", values[0])
        if encoding is not None and (fault := _fault("".join(values), encoding)):
            return BadRow(line, fault, sound(values[self._ref]))
        row: dict[str, Any] = {ours: value for ours, at in self._known if (value := values[at])}
        row["attributes"] = {ours: value for ours, at in self._attributes if (value := values[at])}
        return _checked(line, row)

    def broken(self, line: int, reason: str, first: str) -> BadRow:
        """A row of which nobody can tell which value stands in which column.

        Args:
            line: on which it begins.
            reason: what is wrong with it.
            first: its first value; if that is the ref, what is wrong comes behind it.
        """
        ref = sound(first) if self._ref == 0 else None
        return BadRow(line, reason, ref, is_guess=ref is not None)


class Objects:
    """Rows that are JSON objects, each with names of its own.

    Args:
        form: what is said of the names.
    """

    def __init__(self, form: Form) -> None:
        self._taken = {ours: theirs for ours, theirs in form.columns.items() if theirs is not None}
        self._passed = {*form.columns, *self._taken.values()}
        self._ref = self._taken.get("ref", "ref")
        self._hint = (
            ""
            if "ref" in self._taken
            else f"; if it is called otherwise, say so, such as {form.naming('ref', 'CustomerId')}"
        )

    def row(
        self, line: int, values: Mapping[str, Any], *, encoding: str | None = None
    ) -> Row | BadRow:
        """A row of the objects.

        Args:
            line: on which it stands.
            values: null and the empty text are absent; numbers are taken as texts.
            encoding: as `Table.row`.
        """
        if self._ref not in values:
            return BadRow(line, f"ref: the line has no {self._ref!r}{self._hint}")
        named = {
            ours: values[theirs] for ours, theirs in self._taken.items() if theirs in values
        } | {name: value for name, value in values.items() if name not in self._passed}
        row = {name: named.pop(name, None) for name in COLUMNS}
        row = {name: value for name, value in row.items() if value not in (None, "")}
        attributes = named.pop("attributes", None) or {}
        if not isinstance(attributes, dict):
            return BadRow(line, "attributes: not a JSON object", sound(row.get("ref")))
        row["attributes"] = {
            name: text(value) if isinstance(value, int | float) else value
            for name, value in (attributes | named).items()
            if value is not None and value != ""
        }
        if encoding is not None:
            texts = (row | row["attributes"]).items()
            said = "".join(name + value for name, value in texts if isinstance(value, str))
            if fault := _fault(said, encoding):
                return BadRow(line, fault, sound(row.get("ref")))
        return _checked(line, row)


def as_text(value: object) -> str | None:
    """A value of a query's row as text; empty: it is absent. None: it cannot be one."""
    match value:
        case None | str():
            return value or ""
        case int() | float():
            return text(value)
        case Decimal():
            return format(value, "f")
        case dt.date() | dt.time() | UUID():
            return str(value)
    return None


def _listed(header: Sequence[str]) -> str:
    """The columns of a header, for a sentence."""
    listed = ", ".join(repr(name) for name in header[:MOST_NAMED])
    return f"{listed} …" if len(header) > MOST_NAMED else listed


def sound(ref: object) -> str | None:
    """A ref, if it can be one."""
    return ref if isinstance(ref, str) and _REF.fullmatch(ref) else None


def _fault(value: str, encoding: str) -> str | None:
    """What keeps Postgres and the platform from taking a text."""
    if "\x00" in value:
        return "a NUL character"
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"not {encoding}"
    return None


def _checked(line: int, row: dict[str, Any]) -> Row | BadRow:
    """The row as a registrant, or what is wrong with it."""
    try:
        return msgspec.convert(row, Row)
    except msgspec.ValidationError as error:
        return BadRow(line, _reason(str(error)), sound(row.get("ref")))


def _reason(sentence: str) -> str:
    """What msgspec says of a row, in our words."""
    place = _PLACE.search(sentence)
    if place is None:
        return "ref: it is missing"
    name = place["path"]
    length = sentence[: place.start()].rpartition(" of length <= ")[2]
    if length.isdecimal():
        what = "attributes" if name == "attributes" else "characters"
        return f"{name}: more than {length} {what}"
    if place["key"]:
        return "attributes: a name that is not a letter and up to 99 letters, digits, _, . and -"
    if "matching regex" in sentence and name == "email":
        return "email: not an address such as ann@example.com"
    if "matching regex" in sentence:
        return f"{name}: a control character"
    return f"{name}: {'a value that is ' if place['inside'] else ''}not a text"
