"""What is read as registrants: good rows are made, bad ones told, and nothing is too strange."""

from __future__ import annotations

import codecs
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost.jobs import reading
from milepost.jobs.reading import Kind, Reader
from milepost.jobs.rows import BadRow, Form, Row, Unreadable, WrongForm

Told = tuple[int, str, str | None]
"""Line, reason and ref of a bad row."""

PEOPLE = "ref,email,first_name,seats\na,ä@example.com,Ada,3\nb,,,\nc,c@example.com,Jörg,1\n"


_STRANGE = (
    *("cp037", "utf-7", "utf-32", "iso2022_jp", "hz"),
    *("rot13", "zip", "idna", "punycode", "raw_unicode_escape"),
)
"""Encodings that Python knows, and in which nobody's export is."""


def read(content: bytes, kind: Kind = "csv", blocks: int = 1 << 30, **form: Any) -> Any:
    """The reader of some content, which it was given in blocks of so many bytes, and all rows."""
    reader = Reader(kind, Form.of(**form), "people", content, is_whole=True)
    rows: list[Row | BadRow] = []
    place, is_last = reader.offset, False
    while not is_last:
        data, place = content[place : place + blocks], place + blocks
        is_last = place >= len(content)
        rows += reader.read(data, is_last=is_last)
    assert len(content) == reader.offset
    return reader, rows


def good(content: bytes, kind: Kind = "csv", **form: Any) -> list[Row]:
    """The rows of some content, none of which is bad."""
    rows: list[Row | BadRow] = read(content, kind, **form)[1]
    assert [] == [row for row in rows if isinstance(row, BadRow)]
    return [row for row in rows if isinstance(row, Row)]


def bad(content: bytes, kind: Kind = "csv", **form: Any) -> list[Told]:
    """What is told of the bad rows of some content."""
    rows: list[Row | BadRow] = read(content, kind, **form)[1]
    return [
        (row.line, row.reason, None if row.is_guess else row.ref)
        for row in rows
        if isinstance(row, BadRow)
    ]


# --- how it is written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (PEOPLE.encode(), "utf-8"),
        (codecs.BOM_UTF8 + PEOPLE.encode(), "utf-8"),
        (PEOPLE.encode("utf-16"), "utf-16-le"),
        (PEOPLE.encode("utf-16-le"), "utf-16-le"),
        (codecs.BOM_UTF16_BE + PEOPLE.encode("utf-16-be"), "utf-16-be"),
        (PEOPLE.encode("utf-16-be"), "utf-16-be"),
        (PEOPLE.encode("cp1252"), "cp1252"),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encoding_and_delimiter_are_detected_and_told(
    content: bytes, encoding: str, delimiter: str, newline: str
) -> None:
    """Whatever wrote the file; empty values are absent, columns without a meaning attributes."""
    written = content.decode(encoding).replace(",", delimiter).replace("\n", newline)
    reader, (ada, bare, third) = read(written.encode(encoding))
    assert (encoding, delimiter) == (reader.detected.encoding, reader.detected.delimiter)
    assert ("ä@example.com", {"seats": "3"}) == (ada.email, ada.attributes)
    assert (None, {}) == (bare.email, bare.attributes)
    assert "Jörg" == third.first_name


def test_what_is_said_is_not_detected() -> None:
    """A file in another encoding, and one whose header could be taken for another."""
    assert ["Łukasz"] == [
        row.first_name
        for row in good("ref,first_name\na,Łukasz\n".encode("cp1250"), encoding="cp1250")
    ]
    for encoding in ("utf-8-sig", "utf-8", "u8"):
        content = codecs.BOM_UTF8 + "ref,first_name\na,Łukasz\n".encode()
        assert ["Łukasz"] == [row.first_name for row in good(content, encoding=encoding)]
    (row,) = good(b"ref;id,name\n1;a,b\n", delimiter=",", columns={"ref": "ref;id"})
    assert ("1;a", {"name": "b"}) == (row.ref, row.attributes)


def test_a_broken_character_in_utf_8_costs_its_row_alone() -> None:
    """It is no reason to take the whole file for something else."""
    content = "ref,first_name\na,Jörg\nb,Zoë\n".encode() + b"c,J\xf6rg\n"
    assert [(4, "not utf-8", "c")] == bad(content)


def test_columns_may_have_names_of_their_own() -> None:
    """Ours are said of theirs; what is passed over is not taken, and a name is filled once."""
    columns = {"ref": "Customer Id", "email": "Mail", "tier": "Kundenstufe", "notes": None}
    header = "Customer Id,Mail,Kundenstufe,notes,email,city\n"
    reader, (row,) = read(
        f"{header}1,a@x.test,gold,secret,old@x.test,Rome\n".encode(), columns=columns
    )
    assert ("1", "a@x.test") == (row.ref, row.email)
    assert {"tier": "gold", "city": "Rome"} == row.attributes
    assert ["notes", "email"] == reader.detected.passed_over
    line = {"Customer Id": "1", "Mail": "a@x.test", "Kundenstufe": 1, "notes": 2, "city": "Rome"}
    (row,) = good(json.dumps(line).encode(), "ndjson", columns=columns)
    assert ("1", "a@x.test", {"tier": "1", "city": "Rome"}) == (row.ref, row.email, row.attributes)


def test_a_line_whose_ref_has_another_name_is_told() -> None:
    """The name that was looked for; how another one is said, where none is."""
    line = json.dumps({"Id": "1", "email": "a@x.test"}).encode()
    ((_, reason, ref),) = bad(line, "ndjson", said_by="command")
    assert (None, True) == (ref, reason.startswith("ref: the line has no 'ref'; if it is called"))
    assert reason.endswith("--column ref=CustomerId")
    assert [(1, "ref: the line has no 'CustomerId'", None)] == bad(
        line, "ndjson", columns={"ref": "CustomerId"}
    )


def test_numbers_in_ndjson_are_taken_as_texts() -> None:
    """Beside the known names and inside `attributes` alike; null is absent."""
    line = b'{"ref": "a", "seats": 55, "attributes": {"old": true, "x": 1.5, "none": null}}'
    (row,) = good(codecs.BOM_UTF8 + line, "ndjson")
    assert {"seats": "55", "old": "true", "x": "1.5"} == row.attributes


@pytest.mark.parametrize(
    ("said", "field", "detail"),
    [
        ({"encoding": "klingon"}, "encoding", "'klingon' is no encoding of texts"),
        *(
            ({"encoding": name}, "encoding", f"{name} is not supported; save it as UTF-8")
            for name in _STRANGE
        ),
        ({"delimiter": "x"}, "delimiter", "'x' is none of , ; | and tab"),
        ({"columns": {"ref": None}}, "columns", "ref is needed"),
        ({"columns": {"e mail": "Mail"}}, "columns", "'e mail' cannot name an attribute"),
    ],
)
def test_a_form_that_cannot_be_is_refused(said: Any, field: str, detail: str) -> None:
    """With the field that is wrong, and what to say instead."""
    with pytest.raises(WrongForm) as refused:
        Form.of(**said)
    assert field == refused.value.field
    assert refused.value.detail.startswith(detail)


# --- bad rows -------------------------------------------------------------------------------------


def test_bad_rows_are_told_and_good_ones_made() -> None:
    """Each with the line on which it begins, the reason, and whose it is where that is certain."""
    content = (
        b"ref,first_name,email\na,J\xf6rg,\nb,\x00,\nc,x\n,z,\nd,ok,\n"
        b'"e,open,\nf,"y"z,\ng,ok,\n'
        b"h,,%b\ni\x07,,\n%b,,\n" % (b"x" * 255, b"j" * 201)
    )
    told = bad(content, encoding="utf-8")
    assert [
        (2, "not utf-8", "a"),
        (3, "a NUL character", "b"),
        (4, "2 values under 3 columns", None),
        (5, "ref: it is missing", None),
        (7, "a quote is not closed", None),
        (8, "not CSV: ',' expected after '\"'", None),
        (10, "email: more than 254 characters", "h"),
        (11, "ref: a control character", None),
        (12, "ref: more than 200 characters", None),
    ] == told
    rows = read(content, encoding="utf-8")[1]
    assert ["d", "g"] == [row.ref for row in rows if isinstance(row, Row)]


def test_a_quote_across_lines_is_one_row() -> None:
    """Lines are counted all the same, and a row that is left open costs no other."""
    content = b'ref,first_name\na,"two\nlines, ""quoted"""\nb\nc,"open\nd,x\n'
    reader, rows = read(content)
    assert 'two\nlines, "quoted"' == rows[0].first_name
    assert [(4, "1 value under 2 columns", None), (5, "a quote is not closed", None)] == bad(
        content
    )
    assert ("d", 6) == (rows[-1].ref, reader.line)


def test_a_row_that_is_broken_keeps_its_registrant() -> None:
    """If the ref stands first, it is guessed; anywhere else it could be another value."""
    for header, guess in ((b"ref,first_name", "a"), (b"first_name,ref", None)):
        (row,) = read(header + b"\na,b,c\n")[1]
        assert (guess, guess is not None) == (row.ref, row.is_guess)


def test_bad_lines_of_ndjson_are_told() -> None:
    """Deep nesting, endless lines and wrong types cost their line and nothing else."""
    lines = (
        b"[" * 100_000,
        b"x" * 3_000_000,
        b"[1]",
        b'{"ref": 1}',
        b'{"ref": "b", "email": "b@x',
        b'{"ref": "c", "seats": {}}',
        b'{"ref": "d", "1": "x"}',
        b'{"ref": "e", "x": "\\u0000"}',
        b'{"ref": "f", "attributes": 5}',
        b'{"ref": "g", "x": "\xf6"}',
        b'{"ref": "h", "x": ' + b"9" * 5_000 + b"}",
        b"",
        b'{"ref": "ok"}',
    )
    content = b"\n".join(lines)
    assert [
        (1, "not JSON", None),
        (2, "longer than 1048576 bytes", None),
        (3, "not a JSON object", None),
        (4, "ref: not a text", None),
        (5, "not JSON: Input data was truncated", "b"),
        (6, "attributes: a value that is not a text", "c"),
        (7, "attributes: a name", "d"),
        (8, "a NUL character", "e"),
        (9, "attributes: not a JSON object", "f"),
        (10, "not utf-8", "g"),
        (11, "not JSON: Integer value out of range", "h"),
    ] == [
        (line, reason.partition(" that is not a letter")[0].partition(": maximum")[0], ref)
        for line, reason, ref in bad(content, "ndjson", encoding="utf-8")
    ]
    assert "ok" == read(content, "ndjson")[1][-1].ref


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_a_line_without_an_end_costs_itself_alone(encoding: str) -> None:
    """However long it is, it is passed over, and nothing of it is kept."""
    content = ("ref\na\n" + "x" * 3_000_000 + "\nb\n").encode(encoding)
    head, rows = content[: 1 << 18], []
    reader = Reader("csv", Form(), "people", head, is_whole=False)
    for place in range(reader.offset, len(content), 1 << 17):
        data = content[place : place + (1 << 17)]
        rows += reader.read(data, is_last=place + (1 << 17) >= len(content))
        assert reading.LONGEST_ROW + (1 << 18) > len(reader._held)  # noqa: SLF001  (what it keeps)
    assert ["a", (3, "longer than 1048576 bytes"), "b"] == [
        row.ref if isinstance(row, Row) else (row.line, row.reason) for row in rows
    ]


def test_a_file_that_breaks_off_amid_a_row_says_so() -> None:
    """Of a last line without an end nobody knows whether it was meant to be so."""
    (told,) = bad(b"ref,first_name,email\na,x,a@x.test\nb,")
    assert (3, "2 values under 3 columns; all ends amid this row, perhaps too early", None) == told
    assert [] == bad(b"ref,first_name\na,x\nb,y")


def test_a_reason_never_repeats_a_value() -> None:
    """What a row holds is people's data, and findings are read by others."""
    marker = "xanthippe"
    rows = (
        f"{marker},{marker}",
        f'{marker},"{marker}"{marker},',
        f'{marker},"{marker},',
        f"{marker},{marker},{marker * 40}",
        f"{marker}\x00,,",
    )
    content = "ref,first_name,email\n" + "\n".join(rows)
    told = bad(content.encode())
    told += bad(b'{"ref": "%(m)s", "x": %(m)s}\n{"%(m)s": 1}' % {b"m": marker.encode()}, "ndjson")
    assert 7 == len(told)
    assert [] == [reason for _, reason, _ in told if marker in reason]


# --- other kinds of files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b" \r\n\n", "it is empty"),
        (codecs.BOM_UTF16_LE, "it is empty"),
        ("ref\na\n".encode("utf-32"), "it is in UTF-32; save it as UTF-8"),
        (b"email\na\n", "there is no column ref; its columns are: 'email'. Say which one it is"),
        (b"Ref,email\na,b\n", """such as "columns": {"ref":"Ref"}, or call it ref"""),
        (b"ref,e mail\na,b\n", "'e mail' cannot name an attribute"),
        (b"ref,attributes\na,b\n", "'attributes' cannot name an attribute"),
        (b"ref,x,x\na,b,c\n", "the column 'x' stands there twice"),
        (b"ref" + b",a" * 2, "the column 'a' stands there twice"),
        (("ref," + ",".join(f"a{n}" for n in range(101))).encode(), "more than 100 columns"),
        (b'"ref', "its first line is not CSV: unexpected end of data"),
        (b"PK\x03\x04" + bytes(range(256)), "does not look like the names of its"),
        (b"17,ann@example.com,Ann\n", "does not look like the names of its 3 columns"),
        (b"ref," + b"a," * 1_000, "more than 1000 columns"),
    ],
)
def test_a_file_of_another_kind_is_explained(content: bytes, said: str) -> None:
    """No row is made, and the text says what to do."""
    with pytest.raises(Unreadable) as refused:
        read(content)
    assert str(refused.value).startswith("people: ")
    assert said in str(refused.value)


def test_a_column_that_is_named_and_missing_is_told() -> None:
    """With those that there are."""
    with pytest.raises(Unreadable, match=r"there is no column 'Mail' for email; .*'ref', 'e'"):
        read(b"ref,e\n", columns={"email": "Mail"})


# --- whatever comes -------------------------------------------------------------------------------

SEEDS = [
    PEOPLE.encode(),
    PEOPLE.encode("cp1252").replace(b",", b";"),
    PEOPLE.encode("utf-16"),
    b'ref,email\r\na,"x ""y""\r\nz"\r\nb,c\r\n',
    b'{"ref": "a", "x": 1}\n{"ref": "b", "attributes": {"y": "z"}}\n',
]
PIECES = [
    b"",
    b'"',
    b'""',
    b"\n",
    b"\r",
    b"\x00",
    b",",
    b";",
    b"\xff\xfe",
    b"\xf6",
    b"{",
    b"ref",
    b"\xef\xbb\xbf",
]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes, Kind, int, Form]:
    """A file that somebody has broken, what it is taken for, and how much is read at once."""
    content = draw(st.sampled_from(SEEDS)) * draw(st.integers(1, 3))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 12)))
        content = (
            content[:start] + draw(st.sampled_from(PIECES) | st.binary(max_size=6)) + content[end:]
        )
    kind: Kind = draw(st.sampled_from(["csv", "ndjson"]))
    form = Form.of(
        encoding=draw(st.sampled_from([None, None, "utf-8", "cp1252", "utf-16", "shift_jis"])),
        delimiter=draw(st.sampled_from([None, None, ",", ";"])),
        columns=draw(st.sampled_from([{}, {}, {"ref": "email"}, {"seats": None}])),
    )
    return content, kind, draw(st.integers(1, 40)), form


def hold(case: tuple[bytes, Kind, int, Form]) -> None:
    """Reading ends in rows or in one sentence; blocks make no difference, and it can be gone on."""
    content, kind, size, form = case
    said = msgspec.structs.asdict(form)
    try:
        _, whole = read(content, kind, **said)
    except Unreadable:
        return
    assert whole == read(content, kind, size, **said)[1]
    for row in whole:
        if isinstance(row, Row):
            assert row == msgspec.convert(msgspec.to_builtins(row), Row)
            msgspec.json.encode(row).decode()
            assert "\x00" not in str(row)
        else:
            assert len(row.reason) < 200
    reader = Reader(kind, form, "people", content, is_whole=True)
    cut = reader.offset + size
    rows = reader.read(content[reader.offset : cut], is_last=cut >= len(content))
    other = Reader(kind, form, "people", content, is_whole=True)
    other.go_on(reader.offset, reader.line)
    if cut < len(content):
        rows += other.read(content[reader.offset :], is_last=True)
    assert whole == rows


@settings(max_examples=300, deadline=None, derandomize=True)
@given(mutated())
def test_whatever_is_read_ends_in_rows_or_in_a_sentence(
    case: tuple[bytes, Kind, int, Form],
) -> None:
    """Never in a crash; and the rows are the same however the bytes are cut."""
    hold(case)


@pytest.mark.battery
@pytest.mark.timeout(1_800)
@settings(max_examples=10_000, deadline=None)
@given(mutated())
def test_ten_thousand_broken_files(case: tuple[bytes, Kind, int, Form]) -> None:
    """The same, long."""
    hold(case)
