"""The languages of the pages that customers see, and which one a customer reads.

The words stand in `languages.toml`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

import msgspec
from msgspec import Struct

DEFAULT_LANGUAGE: Final = "en"


class Words(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the pages behind a short link say, in one language."""

    survey: str
    open_text: str
    open_button: str
    waiting: str
    waiting_text: str
    later: str
    later_text: str
    again_button: str
    gone: str
    gone_text: str
    unknown: str
    unknown_text: str


WORDS: Final[Mapping[str, Words]] = msgspec.toml.decode(
    files("milepost.api").joinpath("languages.toml").read_bytes(), type=dict[str, Words]
)

_WANTED: Final = re.compile(
    r"\s*(?P<language>[A-Za-z]{2,8})(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q=(?P<weight>[01](?:\.\d{0,3})?)\s*)?"
)
_LONGEST_HEADER: Final = 1_000


def language_of(registrant: str | None, accept_language: str | None) -> str:
    """The best of our languages for a customer.

    Args:
        registrant: the language they are registered with, in the platform's way (`PT-BR`); it wins.
        accept_language: the header that their browser sends.
    """
    known = re.split("[-_]", (registrant or "").strip().lower(), maxsplit=1)[0]
    if known in WORDS:
        return known
    wanted: dict[str, float] = {}
    for part in (accept_language or "")[:_LONGEST_HEADER].split(","):
        if (match := _WANTED.fullmatch(part)) and (language := match["language"].lower()) in WORDS:
            wanted.setdefault(language, float(match["weight"] or 1))
    best = max(wanted, key=wanted.__getitem__, default=DEFAULT_LANGUAGE)
    return best if wanted.get(best) else DEFAULT_LANGUAGE
