"""Sources: where registrants come from, night after night.

A source is a file, or a folder of files, or a query of another database. It tells its rows page by
page, with the place behind each page: a file that is still the same is read on from there, a query
is asked anew. A source that lists everybody says by that who is there no more; one with a watermark
tells of changes alone, and takes nobody away.

Sources are read in a thread of their own (`jobs/intake.py`), since files and drivers block. What
says nothing for too long is away, and asked again after a pause.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import msgspec
from msgspec import Meta, Struct
from sqlalchemy import Connection, Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from milepost.errors import ConfigurationError, DatabaseError
from milepost.jobs.reading import BLOCK_BYTES, SAMPLE_BYTES, Kind, Reader
from milepost.jobs.rows import (
    BadRow,
    Detected,
    Form,
    Row,
    Table,
    Unreadable,
    WrongForm,
    as_text,
)
from milepost.store.sources import Watermark
from milepost.wording import refusal

KINDS: Final[Mapping[str, Kind]] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}
"""What is in a file, by the end of its name."""

ROWS: Final = 2_000
"""Rows of a query in a page: about as many as a block of a file has."""

STATEMENT_SECONDS: Final = 600
"""How long a Postgres may take for the first rows, and for each page of further ones: a large sort
takes a minute or two, and behind somebody's lock it would wait for ever. Other databases have no
common word for this; there `intake.SILENCE_SECONDS` counts."""

_PATIENT: Final[Mapping[str, int]] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
"""What libpq is told: seconds until a server that does not answer is away, and until one that has
vanished amid a query is. What a URL says itself holds instead."""

_LIBPQ: Final = ("postgresql+psycopg", "postgresql+psycopg2")

_PASSING_STATES: Final = ("08", "40", "53", "55P03", "57")
"""How an SQLSTATE begins that may be another one later: no connection, a conflict with others, no
room, a lock, and what those who run a server do with it."""

_SQLITE_IN_USE: Final = {5, 6}
"""SQLITE_BUSY and SQLITE_LOCKED: of its operational errors those that pass."""

BEGINNING: Final = "1970-01-01 00:00:00"
"""The watermark before there is one: as a text it is a moment to every database."""

_VARIABLE: Final = "MILEPOST_REGISTRANTS_SOURCE"
_FILE_EXAMPLE: Final = (
    '{"path": "/srv/crm/people.csv", "columns": {"ref": "CustomerId", "email": "Mail"}}'
)
_QUERY_EXAMPLE: Final = (
    '{"url": "postgresql://reader:password@crm/people", "query": "SELECT id AS ref, email, '
    'updated_at FROM customers WHERE updated_at >= :watermark", "watermark": "updated_at"}'
)


class SourceAway(DatabaseError):
    """A source cannot be reached, or says nothing: it is asked again after a pause."""


class Place(Struct, frozen=True):
    """Where reading goes on in files that are still the same."""

    files: str
    """What they were, in short: names, sizes, times."""
    file: int
    offset: int
    line: int


class Page(Struct, frozen=True, kw_only=True):
    """Some rows of a source."""

    source: str
    """The file that they are of."""
    rows: Sequence[Row | BadRow]
    detected: Detected
    done: int
    """Bytes read until now, or rows."""
    total: int | None
    place: Place | None = None
    """Where the next page begins; None: this cannot be read on."""
    watermark: Watermark | None = None
    """The highest value until now."""


class Source(Protocol):
    """Where registrants come from.

    Attributes:
        lists_all: Whoever it does not list is gone.
        watermark_of: Under which name its watermark is kept; None: it has none.
    """

    lists_all: bool
    watermark_of: str | None

    def check(self) -> None:
        """See whether it is there; blocks.

        Raises:
            Unreadable, SourceAway: it is not.
        """
        ...

    def is_at(self, place: Place) -> bool:
        """Whether it can be read on from there."""
        ...

    def pages(self, place: Place | None, watermark: Watermark | None) -> Iterator[Page]:
        """Its rows from a place on; blocks.

        Args:
            place: as a page told, where `is_at` says so; None: from the beginning.
            watermark: up to where it was applied; None: it never was.

        Raises:
            Unreadable: it is not there, or holds something else.
            SourceAway: it cannot be reached at the moment.
        """
        ...


# --- files ----------------------------------------------------------------------------------------


class FileSource:
    """A file of registrants, or a folder of files, which are read in the order of their names."""

    lists_all: bool = True
    watermark_of: str | None = None

    def __init__(self, path: Path, form: Form) -> None:
        self._path = path
        self._form = form

    def check(self) -> None:
        """See `Source`."""
        self._files()

    def is_at(self, place: Place) -> bool:
        """See `Source`."""
        return self._fingerprint(self._files()) == place.files

    def pages(self, place: Place | None, watermark: Watermark | None) -> Iterator[Page]:  # noqa: ARG002  (files have none)
        """See `Source`."""
        files = self._files()
        fingerprint = self._fingerprint(files)
        total = sum(size for _, size in files)
        done = 0
        for number, (path, size) in enumerate(files):
            if place is None or number >= place.file:
                begin = place if place and place.file == number else None
                with _readable(path):
                    for rows, reader, read in self._file(path, begin):
                        yield Page(
                            source=path.name,
                            rows=rows,
                            detected=reader.detected,
                            done=done + read,
                            total=total,
                            place=Place(fingerprint, number, reader.offset, reader.line),
                        )
            done += size
        if self._fingerprint(self._files()) != fingerprint:
            raise Unreadable(
                f"{self._path}: it was changed while it was read. Write it beside, rename it when "
                "it is whole, and run this again"
            )

    def _file(
        self, path: Path, begin: Place | None
    ) -> Iterator[tuple[Sequence[Row | BadRow], Reader, int]]:
        """The rows of each block, where their reader stands then, and how many bytes are read."""
        kind = KINDS.get(path.suffix.lower())
        if kind is None:
            raise Unreadable(f"{path}: is it CSV or NDJSON? name it .csv, .tsv, .ndjson or .jsonl")
        with path.open("rb") as raw:
            head = raw.read(SAMPLE_BYTES)
            is_whole = len(head) < SAMPLE_BYTES
            reader = Reader(kind, self._form, path.name, head, is_whole=is_whole)
            if begin is not None:
                reader.go_on(begin.offset, begin.line)
            raw.seek(reader.offset)
            is_last = False
            while not is_last:
                data = raw.read(BLOCK_BYTES)
                is_last = len(data) < BLOCK_BYTES
                yield reader.read(data, is_last=is_last), reader, raw.tell()

    def _files(self) -> list[tuple[Path, int]]:
        """The files, each with its size."""
        with _readable(self._path):
            if not self._path.is_dir():
                return [(self._path, self._path.stat().st_size)]
            found = sorted(
                path
                for path in self._path.iterdir()
                if path.suffix.lower() in KINDS and not path.name.startswith(".")
            )
            if not found:
                raise Unreadable(f"{self._path}: there is no {' nor '.join(KINDS)} in it")
            return [(path, path.stat().st_size) for path in found]

    def _fingerprint(self, files: Sequence[tuple[Path, int]]) -> str:
        digest = hashlib.blake2b(digest_size=12)
        with _readable(self._path):
            for path, size in files:
                about = path.stat()
                known = (path.name, size, about.st_mtime_ns, about.st_ino)
                digest.update(msgspec.json.encode(known))
        return digest.hexdigest()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unreadable(f"{error.filename or path}: {error.strerror or error}") from error


# --- queries --------------------------------------------------------------------------------------


class QuerySource:
    """A query of another database.

    Args:
        url: SQLAlchemy's, of the database.
        query: SELECT; with a watermark it holds `:watermark`.
        columns: our names, and theirs.
        watermark: the column that tells what changed last; None: the query lists everybody.
        start: the watermark before there is one.
    """

    def __init__(
        self,
        url: str,
        query: str,
        columns: Mapping[str, str | None],
        *,
        watermark: str | None = None,
        start: str | float = BEGINNING,
    ) -> None:
        self.lists_all = watermark is None
        known = (query, watermark, sorted(columns.items()))
        self.watermark_of = (
            watermark and hashlib.blake2b(msgspec.json.encode(known), digest_size=12).hexdigest()
        )
        self._engine = _engine(url)
        self._query = text(query)
        self._watermark = watermark
        self._start = start
        # Else every row that somebody touches would have changed.
        if watermark and watermark not in {*columns, *columns.values()}:
            columns = {**columns, watermark: None}
        self._form = Form.of(columns=columns)

    def check(self) -> None:
        """See `Source`; the query is not asked."""
        self._connected().close()

    def is_at(self, place: Place) -> bool:  # noqa: ARG002  (a query has no places)
        """See `Source`."""
        return False

    def pages(self, place: Place | None, watermark: Watermark | None) -> Iterator[Page]:  # noqa: ARG002  (as above)
        """See `Source`."""
        given = {} if self._watermark is None else {"watermark": self._bound(watermark)}
        with (
            closing(self._connected()) as connection,
            _asked(),
            closing(connection.execute(self._query, given)) as result,
        ):
            header = list(result.keys())
            table = Table(header, self._form, "the query")
            at = self._column(header)
            detected = Detected(
                source="query",
                kind="query",
                columns=table.columns,
                passed_over=table.passed_over,
            )
            highest, done = None, 0
            # A page comes also where there is no row.
            for rows in chain(result.partitions(ROWS), [()]):
                if at is not None:
                    highest = _highest([highest, *(row[at] for row in rows)])
                made = [_row(table, number, row) for number, row in enumerate(rows, done + 1)]
                done += len(rows)
                yield Page(
                    source="query",
                    rows=made,
                    detected=detected,
                    done=done,
                    total=None,
                    watermark=None if highest is None else _kept(highest),
                )

    def _connected(self) -> Connection:
        try:
            connection = self._engine.connect()
            if self._engine.dialect.name == "postgresql":
                milliseconds = round(STATEMENT_SECONDS * 1_000)
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
        except DBAPIError as error:
            kind = type(error.orig).__name__
            wrong = SourceAway if _passes(error) else Unreadable
            raise wrong(
                f"the database of the source cannot be reached ({kind}): see whether it runs, and "
                f"whether the url in {_VARIABLE} is right"
            ) from error
        return connection.execution_options(stream_results=True, yield_per=ROWS)

    def _column(self, header: Sequence[str]) -> int | None:
        if self._watermark is None:
            return None
        if self._watermark not in header:
            raise Unreadable(f"the query: it does not select its watermark {self._watermark!r}")
        return header.index(self._watermark)

    def _bound(self, watermark: Watermark | None) -> object:
        return self._start if watermark is None else _KEPT[watermark.kind](watermark.value)


_KEPT: Final[Mapping[str, Any]] = {
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "int": int,
    "float": float,
    "Decimal": Decimal,
    "str": str,
}
"""Kinds of values that a watermark can have, and how each is made of a text."""


def _kept(value: Any) -> Watermark:
    return Watermark(type(value).__name__, str(value))


def _highest(values: Sequence[Any]) -> Any:
    told = [value for value in values if value is not None]
    if odd := next((value for value in told if type(value).__name__ not in _KEPT), None):
        raise Unreadable(
            f"the query: its watermark is a {type(odd).__name__}; select a moment or a number"
        )
    return max(told, default=None)


def _row(table: Table, number: int, values: Sequence[object]) -> Row | BadRow:
    texts = [as_text(value) for value in values]
    told = [one for one in texts if one is not None]
    if len(told) < len(texts):
        return BadRow(number, "a value that is not a text")
    return table.row(number, told, encoding="text")


def _engine(url: str) -> Engine:
    """An engine without connections of its own: it is used once a night."""
    parsed = make_url(url)
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")  # which is there
    patient = _PATIENT if parsed.drivername in _LIBPQ else {}
    return create_engine(
        parsed,
        poolclass=NullPool,
        # Errors must not tell the values with which a statement failed.
        hide_parameters=True,
        connect_args={name: n for name, n in patient.items() if name not in parsed.query},
    )


def _passes(error: DBAPIError) -> bool:
    """Whether what a driver says may be over later.

    Drivers call a missing column or a wrong password an operational error, too. So it passes only
    if its code says so, or if the connection broke; libpq gives no code where there was none.
    """
    said = error.orig
    cause = said and (said.__cause__ or said.__context__)
    if error.connection_invalidated or isinstance(cause, OSError):
        return True
    if (code := getattr(said, "sqlite_errorcode", None)) is not None:
        return code & 0xFF in _SQLITE_IN_USE
    if state := getattr(said, "sqlstate", None) or getattr(said, "pgcode", None):
        return str(state).startswith(_PASSING_STATES)
    is_libpq = type(said).__module__.partition(".")[0] in {"psycopg", "psycopg2"}
    return is_libpq and isinstance(error, OperationalError)


@contextmanager
def _asked() -> Iterator[None]:
    """Turn what a database says of a query into a sentence without people's data."""
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated:
            raise SourceAway("the database of the source has gone away") from error
        kind = type(error.orig).__name__
        holds_data = isinstance(error, DataError | IntegrityError)
        said = kind if holds_data else f"{kind}: {str(error.orig).splitlines()[0]}"
        if _passes(error):
            raise SourceAway(f"the database of the source broke the query off: {said}") from error
        raise Unreadable(f"the query: {said}") from error
    except SQLAlchemyError as error:
        raise Unreadable(f"the query: {type(error).__name__}") from error


# --- the setting ----------------------------------------------------------------------------------


class _Files(Struct, forbid_unknown_fields=True, kw_only=True):
    path: Annotated[str, Meta(min_length=1)]
    columns: dict[str, str | None] = {}
    encoding: str | None = None
    delimiter: str | None = None


class _Query(Struct, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[str, Meta(min_length=1)]
    query: Annotated[str, Meta(min_length=1)]
    columns: dict[str, str | None] = {}
    watermark: Annotated[str, Meta(min_length=1)] | None = None
    start: str | float = BEGINNING


def configured(setting: str | None) -> Source | None:
    """The source that a setting names; None: there is none.

    Args:
        setting: a path; or a JSON object with `path`, or with `url` and `query`.

    Raises:
        ConfigurationError: it is wrong; with an example.
    """
    if setting is None:
        return None
    if not setting.lstrip().startswith("{"):
        if "://" in setting:  # which may hold a password, and would be told as a path
            raise _wrong("it is an address and no path", _QUERY_EXAMPLE)
        return FileSource(Path(setting), Form())
    try:
        given = msgspec.json.decode(setting, type=dict[str, object])
        if "url" in given:
            return _query(msgspec.convert(given, _Query))
        files = msgspec.convert(given, _Files)
        form = Form.of(columns=files.columns, encoding=files.encoding, delimiter=files.delimiter)
    except (msgspec.DecodeError, WrongForm) as error:
        example = _QUERY_EXAMPLE if '"url"' in setting else _FILE_EXAMPLE
        raise _wrong(_said(error), example) from error
    return FileSource(Path(files.path), form)


def _query(given: _Query) -> QuerySource:
    held = text(given.query).compile().params.keys()
    if held - {"watermark"}:
        name = min(held - {"watermark"})
        raise _wrong(f"query: :{name} has no value; only :watermark has one", _QUERY_EXAMPLE)
    if bool(held) != bool(given.watermark):
        raise _wrong(
            "watermark: it names the column whose highest value is :watermark in the query; give "
            "both or none",
            _QUERY_EXAMPLE,
        )
    try:
        return QuerySource(
            given.url,
            given.query,
            given.columns,
            watermark=given.watermark,
            start=given.start,
        )
    except NoSuchModuleError as error:
        raise _wrong("url: SQLAlchemy knows no such database", _QUERY_EXAMPLE) from error
    except ModuleNotFoundError as error:
        raise _wrong(
            f"url: its driver {error.name} is not installed here; install it, or another one that "
            "the url names, as in mysql+pymysql://",
            _QUERY_EXAMPLE,
        ) from error
    except (ArgumentError, ValueError) as error:
        raise _wrong("url: it is not a URL of SQLAlchemy's", _QUERY_EXAMPLE) from error


def _said(error: msgspec.DecodeError | WrongForm) -> str:
    if isinstance(error, msgspec.ValidationError):
        wrong = refusal(str(error))
        said = wrong.detail.removesuffix(".")
        return f"{wrong.field}: {said}" if wrong.field else said
    return (
        "it begins with { and is not JSON" if isinstance(error, msgspec.DecodeError) else str(error)
    )


def _wrong(what: str, example: str) -> ConfigurationError:
    return ConfigurationError(f"{_VARIABLE}: {what}; for example: {example}")
