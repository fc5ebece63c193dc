"""Is one answer of the same form as another? Keys, types, what is null, and the form of texts.

Values are of no interest: an id is like any id of its kind, a moment like any that is written the
same way. What two answers to the same request may differ in is named, each with its reason, by the
test that compares them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

# In the order in which they are tried; a boolean is a number to Python.
_TYPES = (
    (type(None), "null"),
    (bool, "boolean"),
    ((int, float), "number"),
    (list, "list"),
    (dict, "object"),
)
_FORMS = (
    # The old lookup ids are gone since June 2026; a recording that has one would have today's now.
    ("id CGC_", r"(?:CGC|MLRP)_[0-9A-Za-z]{15}"),
    ("uuid", r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    ("moment in seconds", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    ("moment in milliseconds", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"),
    ("date and time without a zone", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"),
    ("URL", r"https?://[^\s]+"),
    ("status line", r"\d{3} - [A-Z][A-Za-z ]+"),
)
_ID = re.compile(r"([A-Z]+_)[0-9A-Za-z]{15}")


def form(value: object) -> str:
    """What a value is, in a word or two.

    >>> form("CID_000000000000000"), form(None), form(3)
    ('id CID_', 'null', 'number')
    """
    for types, name in _TYPES:
        if isinstance(value, types):
            return name
    text = str(value)
    for name, pattern in _FORMS:
        if re.fullmatch(pattern, text):
            return name
    found = _ID.fullmatch(text)
    return f"id {found[1]}" if found else "text"


def differences(
    recorded: object, answered: object, *, apart_from: Collection[str] = ()
) -> list[str]:
    """Say in a line each where an answer is not like the recorded one; none: it is like it.

    Every element of a list must be like the first recorded one, and there must be one; a list that
    was recorded empty says nothing of its elements.

    Args:
        recorded: What the platform answered, decoded.
        answered: What is compared with it.
        apart_from: Paths that may differ in any way or be missing: `result.elements[].link`.
    """
    return list(_differences(recorded, answered, "", frozenset(apart_from)))


def _differences(
    recorded: object, answered: object, at: str, apart_from: frozenset[str]
) -> Iterator[str]:
    if at in apart_from:
        return
    if isinstance(recorded, dict) and isinstance(answered, dict):
        inner = f"{at}." if at else ""
        for key in [*recorded, *(key for key in answered if key not in recorded)]:
            where = f"{inner}{key}"
            if where in apart_from:
                continue
            if key not in answered:
                yield f"{where}: recorded as {form(recorded[key])}, missing in the answer"
            elif key not in recorded:
                yield f"{where}: not in the recording, {form(answered[key])} in the answer"
            else:
                yield from _differences(recorded[key], answered[key], where, apart_from)
    elif isinstance(recorded, list) and isinstance(answered, list):
        yield from _in_lists(recorded, answered, at, apart_from)
    elif form(recorded) != form(answered):
        yield f"{at}: recorded as {form(recorded)}, {form(answered)} in the answer"


def _in_lists(
    recorded: list[object], answered: list[object], at: str, apart_from: frozenset[str]
) -> Iterator[str]:
    if recorded and not answered:
        yield f"{at}: recorded with elements, none in the answer"
    for element in answered if recorded else []:
        yield from _differences(recorded[0], element, f"{at}[]", apart_from)


def lacks(described: object, answered: object) -> list[str]:
    """Say where an answer lacks what is known of it; it may hold more than that.

    Args:
        described: A part of the answer, as a document or a client knows it.
        answered: The answer.
    """
    return [line for line in differences(described, answered) if "not in the recording" not in line]
