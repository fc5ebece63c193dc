"""An event's payload, from the caller's values to the platform's texts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.errors import InvalidData
from milepost.model import Event, Field, FieldType, Scalar
from milepost.payload import (
    check,
    differing,
    embedded,
    fingerprint,
    present,
    seal,
    text,
    unseal,
)

KEY = b"k" * 32
SECRET = b"a secret of at least sixteen bytes"
LINK = UUID("0193572e-5b8a-7c3e-9f00-0123456789ab")
REFERENCE = "AZNXLluKfD6fAAEjRWeJq1UHHGn1UvQoUdY"
MOMENT = datetime(2026, 11, 23, 13, tzinfo=timezone(timedelta(hours=1)))


def event(occurred_at: datetime | None = None, **data: Scalar) -> Event:
    """Ann's landing."""
    return Event(
        event_id="e1",
        milestone="landed",
        ref="ann",
        data=data,
        occurred_at=occurred_at,
        asked_by="app",
    )


def test_fingerprints_are_the_same_for_ever() -> None:
    """A retry years later is known again: these values may never change."""
    assert {
        "milestone": "f8a2dcc261694968",
        "registrant": "71d928fcc5bdfebb",
        "occurred_at": "cab813b307d9518b",
        "data.flight": "91db2101747faae8",
        "data.delay": "4563d9e222da5738",
        "data.gate": "14df420d0199cf4b",
        "data.late": "4a282466a5925d43",
    } == fingerprint(event(MOMENT, flight=17, delay=2.5, gate="B4", late=True), KEY)


@pytest.mark.parametrize(
    ("one", "other", "fields"),
    [
        (event(n=5), event(n=5.0), []),
        (event(n=5), event(n="5"), ["data.n"]),
        (event(n=1), event(n=True), ["data.n"]),
        (event(n="true"), event(n=True), ["data.n"]),
        (event(MOMENT), event(MOMENT.astimezone(UTC)), []),
        (event(), event(MOMENT), ["occurred_at"]),
        (event(a=1), event(b=1), ["data.a", "data.b"]),
        (event(a="milestone"), event(milestone="a"), ["data.a", "data.milestone"]),
    ],
)
def test_values_count_with_their_type(one: Event, other: Event, fields: list[str]) -> None:
    """The fields that differ are named; a number is the same however it is written."""
    assert fields == differing(fingerprint(one, KEY), fingerprint(other, KEY))


def test_a_fingerprint_tells_nothing_without_its_key() -> None:
    """Another deployment's hashes of the same event are others."""
    one, other = fingerprint(event(n=5), KEY), fingerprint(event(n=5), b"x" * 32)
    assert sorted(one) == differing(one, other)


def test_null_is_absent_and_structures_are_refused() -> None:
    """What is left are the scalars; a list or a number beyond 64 bits is named."""
    values = {"gate": "B4", "late": False, "none": None, "most": 2**63 - 1, "least": -(2**63)}
    assert {name: value for name, value in values.items() if value is not None} == present(values)
    for wrong in ([], {}, 2**63, -(2**63) - 1):
        with pytest.raises(InvalidData) as refused:
            present({"wrong": wrong})
        assert "data.wrong" == refused.value.field


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (FieldType.TEXT, ["", "x"], [1, True]),
        (FieldType.INTEGER, [0, -1], [1.0, 1.5, "1", True]),
        (FieldType.NUMBER, [0, 1.5], ["1", False]),
        (FieldType.BOOLEAN, [True, False], [0, "true"]),
        (
            FieldType.DATE,
            ["2026-11-23", "2024-02-29"],
            [
                "2026-02-29",
                "2026-1-1",
                "20261123",
                "2026-11-23T00:00:00",
                20261123,
                "\uff12026-11-23",
            ],
        ),
    ],
)
def test_values_fit_their_field(kind: FieldType, right: list[Scalar], wrong: list[Scalar]) -> None:
    """Each declared type takes its own values, and no others."""
    fields = [Field("f", kind)]
    for value in right:
        check({"f": value}, fields)
    for value in wrong:
        with pytest.raises(InvalidData):
            check({"f": value}, fields)


@pytest.mark.parametrize("data", [{}, {"gate": "B4", "undeclared": 1}, {"gate": "B4567"}])
def test_fields_are_complete_and_declared(data: dict[str, Scalar]) -> None:
    """A missing, an undeclared and a long value are each refused."""
    with pytest.raises(InvalidData):
        check(data, [Field("gate", required=True, max_length=4)])


def test_all_that_is_wrong_is_told_at_once() -> None:
    """In the order of what was sent, and then what is missing; with all that is to be done."""
    fields = [Field("gate", max_length=4), Field("row", FieldType.INTEGER), Field("seat")]
    with pytest.raises(InvalidData) as refused:
        check({"row": "7", "gate": "B4567", "x": 1}, [*fields, Field("late", required=True)])
    assert ("data.row", "data.gate", "data.x", "data.late") == refused.value.fields
    assert refused.value.fields[0] == refused.value.field
    assert "'gate' has 5 characters" in refused.value.detail
    assert "Send a text as 'late'." in (refused.value.fix or "")


@pytest.mark.parametrize(
    ("value", "said"),
    [(True, "true"), (False, "false"), (17, "17"), (17.0, "17"), (-0.0, "0"), (2.5, "2.5")],
)
def test_values_become_texts(value: Scalar, said: str) -> None:
    """As the platform wants them: booleans as words, whole numbers without a point."""
    assert said == text(value)


def test_the_platform_is_given_what_is_there() -> None:
    """Declared fields of the event, else of the registrant; nothing empty, nothing undeclared."""
    assert {"gate": "B4", "tier": "gold", "milepost_ref": "r"} == embedded(
        {"gate": "B4", "empty": ""},
        {"tier": "gold", "gate": "other", "secret": "x"},
        [Field("gate"), Field("tier"), Field("empty"), Field("absent")],
        "r",
    )


def test_references_are_the_same_for_ever() -> None:
    """A response that comes years later is matched: this value may never change."""
    assert REFERENCE == seal(LINK, SECRET)
    assert LINK == unseal(REFERENCE, [SECRET])


def test_references_of_a_former_secret_are_taken_as_long_as_it_lives() -> None:
    """Whichever of the live ones has signed: afterwards they are nobody's."""
    after = b"the secret that came after it"
    assert LINK == unseal(REFERENCE, [after, SECRET])
    assert LINK == unseal(seal(LINK, after), [after, SECRET])
    assert None is unseal(REFERENCE, [after])
    assert None is unseal(REFERENCE, [])


@given(st.text() | st.binary(max_size=40).map(bytes.hex))
def test_what_was_not_sealed_is_not_unsealed(reference: str) -> None:
    """Whatever somebody types, nothing but None comes back."""
    assert None is unseal(reference, [SECRET])


@given(st.integers(0, 34), st.sampled_from("AZaz09-_é=\0"))
def test_an_altered_reference_names_nothing(position: int, letter: str) -> None:
    """One other letter anywhere, or another secret, and the reference is nobody's."""
    altered = REFERENCE[:position] + letter + REFERENCE[position + 1 :]
    assert (LINK if altered == REFERENCE else None) == unseal(altered, [SECRET])
    assert None is unseal(REFERENCE, [SECRET[:-1]])
