"""Where registrants come from: files, folders and queries, and the setting that names one."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, event

from milepost.errors import ConfigurationError
from milepost.jobs import sources
from milepost.jobs.rows import BadRow, Form, Row, Unreadable
from milepost.jobs.sources import FileSource, Page, QuerySource, SourceAway, configured
from milepost.store.connections import sqlalchemy_url
from milepost.store.sources import Watermark

TABLE = (
    "CREATE TABLE customers (id integer, mail text, updated_at {moment}, spent numeric(8, 2),"
    " is_member boolean)"
)


def refs(pages: list[Page]) -> list[str | int]:
    """Whom the rows of some pages tell of; a bad one is its line."""
    return [row.ref if isinstance(row, Row) else row.line for page in pages for row in page.rows]


def change(url: str, *statements: str) -> None:
    """Change something in a database."""
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


# --- files ----------------------------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    """Each file by its own form; what is of another kind, or hidden, is no part of it."""
    (tmp_path / "b.tsv").write_text("ref\tx\nb\t1\nbad\n")
    (tmp_path / "a.csv").write_text("ref;x\na;1\n")
    (tmp_path / "c.JSONL").write_text('{"ref": "c"}\n')
    (tmp_path / ".d.csv").write_text("ref\nhidden\n")
    (tmp_path / "readme.txt").write_text("nothing of ours")
    pages = [*FileSource(tmp_path, Form()).pages(None, None)]
    assert ["a", "b", 3, "c"] == refs(pages)
    assert [("a.csv", ";"), ("b.tsv", "\t"), ("c.JSONL", None)] == [
        (page.source, page.detected.delimiter) for page in pages
    ]
    assert pages[-1].done == pages[-1].total == 37


def test_a_file_is_gone_on_with_from_any_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes behind a page is the same for whoever comes later."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", 10)
    (tmp_path / "a.csv").write_text('ref,x\na1,"two\nlines"\na2,\nbad\na3,3\n')
    (tmp_path / "b.csv").write_text("ref\nb1\nb2\n")
    source = FileSource(tmp_path, Form())
    pages = [*source.pages(None, None)]
    assert ["a1", "a2", 5, "a3", "b1", "b2"] == refs(pages)
    for number, page in enumerate(pages, 1):
        assert page.place is not None
        assert source.is_at(page.place)
        assert refs(pages[number:]) == refs([*source.pages(page.place, None)])
        assert page.done <= (page.total or 0)


def test_a_file_that_has_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    """By its size, its time, or as another file of the same name; so is a folder with one more."""
    path = tmp_path / "a.csv"
    path.write_text("ref\na\n")
    source, folder = FileSource(path, Form()), FileSource(tmp_path, Form())
    place = next(source.pages(None, None)).place
    in_folder = next(folder.pages(None, None)).place
    assert place is not None
    assert in_folder is not None
    assert source.is_at(place)
    os.utime(path, ns=(1, 1))
    assert not source.is_at(place)
    place = next(source.pages(None, None)).place
    assert place is not None
    path.with_suffix(".new").write_text("ref\nb\n")
    os.utime(path.with_suffix(".new"), ns=(1, 1))
    path.with_suffix(".new").replace(path)
    assert not source.is_at(place)
    (tmp_path / "b.csv").write_text("ref\nb\n")
    assert not folder.is_at(in_folder)


def test_a_file_that_changes_while_it_is_read_is_not_taken(tmp_path: Path) -> None:
    """Half of it may be of yesterday."""
    path = tmp_path / "a.csv"
    path.write_text("ref\na\n")
    with pytest.raises(Unreadable, match="it was changed while it was read"):  # noqa: PT012  (amid it)
        for _ in FileSource(path, Form()).pages(None, None):
            path.write_text("ref\na\nb\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [("missing.csv", "No such file or directory"), ("", "there is no .csv nor .tsv")],
)
def test_what_is_not_there_is_named(tmp_path: Path, name: str, said: str) -> None:
    """With its path."""
    with pytest.raises(Unreadable, match=said) as refused:
        next(FileSource(tmp_path / name, Form()).pages(None, None))
    assert str(tmp_path / name) in str(refused.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """By its name, which is to say what it is."""
    path = tmp_path / "people.xlsx"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(Unreadable, match=r"is it CSV or NDJSON\? name it .csv"):
        next(FileSource(path, Form()).pages(None, None))


# --- queries --------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres"])
def customers(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with customers 1 to 5, each changed at that minute."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/crm.db"
    else:
        url = sqlalchemy_url(request.getfixturevalue("database_url"))
    moment = "text" if request.param == "sqlite" else "timestamptz"
    values = (
        f"({n}, 'c{n}@x.test', '2026-01-01 00:0{n}:00', {n}.50, {n % 2 == 0})" for n in range(1, 6)
    )
    change(url, TABLE.format(moment=moment), f"INSERT INTO customers VALUES {', '.join(values)}")
    return url


def test_a_query_lists_everybody(customers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page, its values taken as texts; it lists all, so that who is missing is gone."""
    monkeypatch.setattr(sources, "ROWS", 2)
    source = QuerySource(
        customers,
        "SELECT id, mail, spent, is_member FROM customers ORDER BY id",
        {"ref": "id", "email": "mail"},
    )
    pages = [*source.pages(None, None)]
    assert (True, None) == (source.lists_all, source.watermark_of)
    assert ["1", "2", "3", "4", "5"] == refs(pages)
    assert [2, 2, 1, 0] == [len(page.rows) for page in pages]
    (first, *_) = pages[0].rows
    assert isinstance(first, Row)
    assert "c1@x.test" == first.email
    assert 1.5 == float(first.attributes["spent"])
    assert first.attributes["is_member"] in {"false", "0"}


def test_a_query_with_a_watermark_tells_of_what_is_behind_it(customers: str) -> None:
    """From the beginning on, the first time; the column itself is no attribute."""
    source = QuerySource(
        customers,
        "SELECT id AS ref, updated_at FROM customers WHERE updated_at > :watermark",
        {},
        watermark="updated_at",
    )
    (*_, last) = pages = [*source.pages(None, None)]
    assert not source.lists_all
    assert ["1", "2", "3", "4", "5"] == sorted(map(str, refs(pages)))
    (first, *_) = pages[0].rows
    assert isinstance(first, Row)
    assert {} == first.attributes
    assert last.watermark is not None
    assert "2026-01-01 00:05:00" == last.watermark.value[:19]
    (page,) = source.pages(None, last.watermark)
    assert ([], None) == (page.rows, page.watermark)
    change(customers, "UPDATE customers SET updated_at = '2026-01-02' WHERE id = 3")
    (page, _) = source.pages(None, last.watermark)
    assert ["3"] == refs([page])


def test_a_watermark_may_be_a_number(customers: str) -> None:
    """If it is said where it begins."""
    source = QuerySource(
        customers,
        "SELECT id AS ref, id AS version FROM customers WHERE id > :watermark",
        {},
        watermark="version",
        start=2,
    )
    (*_, last) = pages = [*source.pages(None, None)]
    assert ["3", "4", "5"] == sorted(map(str, refs(pages)))
    assert Watermark("int", "5") == last.watermark


def test_a_watermark_is_of_one_query(customers: str) -> None:
    """Whoever selects another column wants to have it of everybody."""
    query = "SELECT id AS ref, {more}id FROM customers WHERE id > :watermark"
    same, again, other = (
        QuerySource(customers, query.format(more=more), {}, watermark="id", start=0).watermark_of
        for more in ("", "", "mail AS email, ")
    )
    assert same == again != other


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT mail FROM customers", "the query: there is no column ref"),
        ("SELECT id AS ref FROM nothing", "nothing"),
        ("SELEKT", "SELEKT"),
        ("SELECT id AS ref, mail AS x, spent AS x FROM customers", "stands there twice"),
    ],
)
def test_a_query_that_cannot_be_is_explained(customers: str, query: str, said: str) -> None:
    """In a sentence, and not tried again."""
    with pytest.raises(Unreadable, match=said):
        next(QuerySource(customers, query, {}).pages(None, None))


def test_a_bad_row_of_a_query_is_told(customers: str) -> None:
    """With its place among the rows."""
    query = "SELECT id AS ref, CASE WHEN id = 2 THEN '{}' ELSE mail END AS email FROM customers"
    source = QuerySource(customers, query.format("x" * 300) + " ORDER BY id", {})
    (page, _) = source.pages(None, None)
    assert BadRow(2, "email: more than 254 characters", "2") == page.rows[1]


def test_values_that_are_no_texts_are_bad_rows(database_url: str) -> None:
    """Bytes and arrays are nothing that anybody could be told."""
    query = "SELECT 1 AS ref, '\\x00'::bytea AS x UNION ALL SELECT 2, NULL"
    (page, _) = QuerySource(database_url, query, {}).pages(None, None)
    assert [BadRow(1, "a value that is not a text"), "2"] == [
        row if isinstance(row, BadRow) else row.ref for row in page.rows
    ]


def test_a_database_that_is_away_is_asked_again(database_url: str) -> None:
    """Nobody there, and one that goes away amid the query; neither tells the address."""
    with pytest.raises(SourceAway, match="cannot be reached") as away:
        next(QuerySource("postgresql://u:secret@127.0.0.1:1/db", "SELECT 1", {}).pages(None, None))
    assert "secret" not in str(away.value)
    query = "SELECT generate_series(1, 100000)::text AS ref, pg_backend_pid()::text AS pid"
    pages = QuerySource(database_url, query, {}).pages(None, None)
    (first, *_) = next(pages).rows
    assert isinstance(first, Row)
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 1000)", [int(first.attributes["pid"])])
    with pytest.raises(SourceAway, match="has gone away"):
        list(pages)


def test_a_locked_table_is_asked_again(
    customers: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for for ever, and what is said of it is said once."""
    monkeypatch.setattr(sources, "STATEMENT_SECONDS", 0.05)
    locking: Any
    is_sqlite = customers.startswith("sqlite")
    url = f"{customers}?timeout=0.05" if is_sqlite else customers
    if is_sqlite:
        locking = sqlite3.connect(customers.removeprefix("sqlite:///"), isolation_level=None)
        locking.execute("BEGIN EXCLUSIVE")
    else:
        locking = psycopg.connect(database_url)
        locking.execute("LOCK TABLE customers")
    with closing(locking), pytest.raises(SourceAway) as away:
        next(QuerySource(url, "SELECT id AS ref FROM customers", {}).pages(None, None))
    said = "OperationalError: database is locked" if is_sqlite else "QueryCanceled: canceling"
    assert str(away.value).startswith(f"the database of the source broke the query off: {said}")


@pytest.mark.parametrize("moment", ["do_connect", "do_execute"])
@pytest.mark.parametrize("is_broken", [True, False])
def test_a_driver_whose_codes_are_not_known_passes_only_with_its_connection(
    moment: str, *, is_broken: bool
) -> None:
    """A wrong password and a missing column are operational errors to some, and stay."""
    source = QuerySource("sqlite://", "SELECT 1 AS ref", {})

    def fail(*_: object) -> None:
        """Say what a driver of MySQL says."""
        error = sqlite3.OperationalError(2003 if is_broken else 1045, "no")
        assert not hasattr(error, "sqlite_errorcode")
        raise error from (ConnectionRefusedError() if is_broken else None)

    event.listen(source._engine, moment, fail)  # noqa: SLF001  (no such driver is installed)
    with pytest.raises(SourceAway if is_broken else Unreadable, match="OperationalError"):
        next(source.pages(None, None))


def test_an_error_of_a_query_tells_no_values(database_url: str) -> None:
    """What a database says of data are people's data."""
    query = "SELECT ('xanthippe' || n)::integer AS ref FROM generate_series(1, 2) AS n"
    with pytest.raises(Unreadable, match="InvalidTextRepresentation") as refused:
        list(QuerySource(database_url, query, {}).pages(None, None))
    assert "xanthippe" not in str(refused.value)


# --- the setting ----------------------------------------------------------------------------------


def test_the_setting_names_a_source(tmp_path: Path) -> None:
    """A path, a file with its form, a query; none is none."""
    assert configured(None) is None
    path = tmp_path / "people.csv"
    path.write_bytes("Id;Nom\n1;Zoé\n".encode("cp1250"))
    mapped = '{"path": "%s", "columns": {"ref": "Id", "last_name": "Nom"}, "encoding": "cp1250"}'
    source = configured(mapped % path)
    assert source is not None
    ((row,),) = [page.rows for page in source.pages(None, None)]
    assert isinstance(row, Row)
    assert ("1", "Zoé") == (row.ref, row.last_name)
    plain = configured(str(path))
    assert plain is not None
    with pytest.raises(Unreadable, match="there is no column ref"):
        next(plain.pages(None, None))
    query = configured('{"url": "sqlite://", "query": "SELECT 7 AS ref"}')
    assert query is not None
    assert ["7"] == refs([*query.pages(None, None)])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("{", "MILEPOST_REGISTRANTS_SOURCE: it begins with { and is not JSON; for"),
        ('{"path": 3}', "SOURCE: path: It must be a text, not a whole number; for"),
        ('{"path": ""}', "path: It must have a length of at least 1; for"),
        (
            '{"path": "a", "columns": {"ref": 3}}',
            "columns: It must be a text or null, not a whole number",
        ),
        ('{"path": "a", "colums": {}}', "colums: There is no field 'colums' here"),
        ('{"url": "sqlite://"}', "query: The field 'query' is missing"),
        ('{"path": "a", "encoding": "klingon"}', "encoding: 'klingon' is no encoding"),
        ('{"path": "a", "columns": {"ref": null}}', "columns: ref is needed"),
        ('{"url": "klingon://x", "query": "SELECT 1"}', "url: SQLAlchemy knows no such database"),
        ('{"url": "oracle://x", "query": "SELECT 1"}', "url: its driver oracledb is not installed"),
        ('{"url": "nonsense", "query": "SELECT 1"}', "url: it is not a URL of SQLAlchemy's"),
        ('{"url": "sqlite://", "query": "SELECT :a"}', "query: :a has no value"),
        ('{"url": "sqlite://", "query": "SELECT :watermark"}', "watermark: it names the column"),
        ('{"url": "sqlite://", "query": "SELECT 1", "watermark": "x"}', "give both or none"),
    ],
)
def test_a_wrong_setting_is_explained_with_an_example(setting: str, said: str) -> None:
    """The field that is wrong, and how one of its kind looks."""
    with pytest.raises(ConfigurationError) as refused:
        configured(setting)
    assert said in str(refused.value)
    example = '{"url": "postgresql://' if '"url"' in setting else '{"path": "/srv/'
    assert f"for example: {example}" in str(refused.value)
