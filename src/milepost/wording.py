"""Pure: what is said of a value that does not fit its type, in the words of JSON and not of Python.

What callers, milestone files and settings are told is msgspec's finding, which names types of the
language and puts the place of the field behind the sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, get_args

from milepost.errors import InvalidRequest
from milepost.model import (
    Cooldown,
    Email,
    EventId,
    Field,
    FieldName,
    FieldType,
    Key,
    Lane,
    MessageId,
    MessageType,
    Quiet,
    QuietHours,
    Ref,
    RegistrantDetails,
    Reminders,
    Route,
    SurveyId,
    TimeOfDay,
)

_AT: Final = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`\Z")
_NAMED: Final = re.compile(r"field `(?P<name>[^`]*)`")
_EXPECTED: Final = re.compile(r"Expected `(?P<wanted>[^`]+)`(?:, got `(?P<given>\w+)`)?")
_LIMIT: Final = re.compile(r"(?P<length> of length)? (?P<sign><=|>=|<|>) (?P<limit>[\d.]+)\Z")
_NOUNS: Final = {
    "array": "a list",
    "bool": "true or false",
    "date": 'a day such as "2026-11-23"',
    "datetime": 'a moment such as "2026-11-23T21:10:00Z"',
    "float": "a number",
    "int": "a whole number",
    "null": "null",
    "object": "an object",
    "str": "a text",
    "uuid": "a UUID",
}
_SIGNS: Final = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}
_CHOICES: Final[dict[str, list[str]]] = {
    "route": [*Route],
    "lanes": [*Lane],
    "membership": ["event", "ahead"],
    "repeat": ["once", "every_event", '{"cooldown_days": 30}'],
    "when_full": ["deferred", "suppressed"],
    "unknown_registrant": ["reject", "defer"],
    "type": [*FieldType],
    "types": [*MessageType],
}
_NAMES: Final[dict[str, Sequence[str]]] = {
    "registrant": ("ref", *RegistrantDetails.__struct_encode_fields__),
    "fields": Field.__struct_encode_fields__,
    "repeat": Cooldown.__struct_encode_fields__,
    "quiet": Quiet.__struct_encode_fields__,
    "reminders": Reminders.__struct_encode_fields__,
    "quiet_hours": QuietHours.__struct_encode_fields__,
}
"""What objects within others may have."""

_PATTERNS: Final = {
    get_args(kind)[1].pattern: words
    for kind, words in (
        (EventId, "1 to 200 characters, none of them a control character"),
        (Ref, "1 to 200 characters, none of them a control character"),
        (Key, "1 to 60 lower case letters, digits, - and _, not beginning or ending with - or _"),
        (SurveyId, "SV_ and 15 letters or digits"),
        (TimeOfDay, "a time such as 21:30, from 00:00 to 23:59"),
        (MessageId, "a message's id: msg_ and 32 hexadecimal digits"),
        (Email, "an e-mail address such as ann@example.com"),
        (FieldName, "a letter, then up to 99 letters, digits, and . _ -"),
    )
}


def refusal(message: str, field: str = "", names: Sequence[str] = ()) -> InvalidRequest:
    """Turn msgspec's sentence into ours, with the path of the field in the field's own place.

    Args:
        message: the sentence.
        field: what it is said of, where it names no place.
        names: of the fields of the object as a whole.
    """
    at = _AT.search(message)
    # Which member of an object of any names it is, msgspec does not say: the object is named then.
    path = at["path"].replace("[...]", "") if at else field
    sentence = message[: at.start()] if at else message
    if (named := _NAMED.search(sentence)) and sentence.startswith("Object"):
        path = f"{path}.{named['name']}".lstrip(".")
        if "unknown" not in sentence:
            return InvalidRequest(f"The field {named['name']!r} is missing.", field=path)
        known = _NAMES.get(_last(at["path"])) if at else names
        fix = one_of(known) if known else None
        return InvalidRequest(f"There is no field {named['name']!r} here.", fix=fix, field=path)
    if sentence.startswith("Invalid enum value"):
        choices = _CHOICES.get(_last(path))
        fix = one_of(choices) if choices else None
        return InvalidRequest(in_our_words(sentence), fix=fix, field=path or None)
    return InvalidRequest(in_our_words(sentence), field=path or None)


def _last(path: str) -> str:
    """The last name of a path, without a place in a list."""
    return path.rpartition(".")[2].partition("[")[0]


def one_of(choices: Iterable[str]) -> str:
    """The fix where a word is none of those that there are."""
    return f"Use one of: {', '.join(choices)}."


def in_our_words(sentence: str) -> str:
    """Say what msgspec says, in the words of JSON."""
    if sentence.startswith("Invalid enum value"):
        return f"It cannot be {sentence.removeprefix('Invalid enum value ').removesuffix('.')}."
    if "RFC3339" in sentence or "timezone component" in sentence:
        is_day = sentence.removesuffix(".").endswith(" date")
        what = _NOUNS["date"] if is_day else f"{_NOUNS['datetime']}, with its zone"
        return f"It must be {what}."
    if sentence.startswith("Invalid UUID"):
        return "It must be a UUID."
    expected = _EXPECTED.match(sentence)
    if expected is None:
        return f"{sentence}."
    wanted = " or ".join(_NOUNS.get(word, word) for word in expected["wanted"].split(" | "))
    rest = sentence[expected.end() :]
    if limit := _LIMIT.search(rest):
        length = "have a length of" if limit["length"] else "be"
        return f"It must {length} {_SIGNS[limit['sign']]} {limit['limit'].removesuffix('.0')}."
    if "matching regex" in rest:
        pattern = rest.partition("'")[2].removesuffix("'")
        # A sentence shows a pattern as Python would write it, with its backslashes doubled.
        shown = {repr(known)[1:-1]: words for known, words in _PATTERNS.items()}
        wanted = shown.get(pattern) or _PATTERNS.get(pattern, wanted)
    but = ""
    if (given := expected["given"]) and "matching regex" not in rest:
        but = f", not {_NOUNS.get(given, given)}"
    return f"It must be {wanted}{but}."
