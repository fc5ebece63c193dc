"""The comparison that the other tests rest on finds each way of being different, and says where."""

from __future__ import annotations

import pytest
from tests.contract.likeness import differences, lacks

RECORDED = {
    "result": {
        "elements": [
            {
                "contactId": "CID_000000000000000",
                "link": "https://a.example/jfe",
                "expires": "2026-11-24T00:00:00Z",
                "firstName": None,
                "unsubscribed": False,
            }
        ],
        "nextPage": None,
    }
}


def changed(**values: object) -> dict[str, object]:
    """The recorded answer with one element that differs; `...` takes a key away."""
    element = RECORDED["result"]["elements"][0] | values  # type: ignore[index]
    kept = {key: value for key, value in element.items() if value is not ...}
    return {"result": {"elements": [kept], "nextPage": None}}


def test_another_answer_of_the_same_form_is_alike() -> None:
    """Ids, moments and addresses may be any, and a list as long as it likes."""
    other = changed(
        contactId="CID_abcdefghijklmno", link="http://b.example/x", expires="2027-01-01T10:20:30Z"
    )
    other["result"]["elements"] *= 3  # type: ignore[index]
    assert differences(RECORDED, other) == []


@pytest.mark.parametrize(
    ("answered", "said"),
    [
        (changed(firstName=...), "firstName: recorded as null, missing in the answer"),
        (changed(middle="x"), "middle: not in the recording, text in the answer"),
        (changed(firstName="Ada"), "firstName: recorded as null, text in the answer"),
        (changed(unsubscribed="0"), "unsubscribed: recorded as boolean, text in the answer"),
        (changed(unsubscribed=0), "unsubscribed: recorded as boolean, number in the answer"),
        (
            changed(contactId="CGC_000000000000000"),
            "contactId: recorded as id CID_, id CGC_ in the answer",
        ),
        (
            changed(expires="2026-11-24T00:00:00.000Z"),
            "expires: recorded as moment in seconds, moment in milliseconds in the answer",
        ),
        (changed(link=[]), "link: recorded as URL, list in the answer"),
    ],
)
def test_a_difference_is_said_with_its_place(answered: object, said: str) -> None:
    """Which key, what was recorded and what came instead."""
    assert differences(RECORDED, answered) == [f"result.elements[].{said}"]


def test_an_answer_without_elements_is_like_none_that_has_some() -> None:
    """Or nothing would be compared; a list that was recorded empty may hold any."""
    empty = {"result": {"elements": [], "nextPage": None}}
    said = "result.elements: recorded with elements, none in the answer"
    assert differences(RECORDED, empty) == [said]
    assert lacks(RECORDED, empty) == [said]
    assert differences(empty, RECORDED) == []


def test_what_may_differ_is_left_out() -> None:
    """By its path, whether it is another value or missing."""
    path = "result.elements[].firstName"
    assert differences(RECORDED, changed(firstName="Ada"), apart_from=[path]) == []
    assert differences(RECORDED, changed(firstName=...), apart_from=[path]) == []


def test_a_description_may_be_exceeded_and_not_fallen_short_of() -> None:
    """What is documented must be there; the platform adds to its answers without notice."""
    assert lacks(changed(firstName=...), RECORDED) == []
    assert lacks(RECORDED, changed(firstName=...)) == [
        "result.elements[].firstName: recorded as null, missing in the answer"
    ]
