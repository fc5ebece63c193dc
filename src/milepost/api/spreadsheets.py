"""CSV in which no spreadsheet finds a formula, and of which nothing is lost.

A cell that a spreadsheet would run is text of somebody else's: it gets an apostrophe before it. So
that this can be undone, a cell that begins with one gets another: whoever reads takes one away
where there is one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO
from typing import Any, Final

CSV: Final = "text/csv"

_DEFUSED: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
"""What a spreadsheet takes for the beginning of a formula, or drops before it looks for one; and
the sign that says so."""


def lines(rows: Iterable[Iterable[Any]]) -> str:
    """Lines of CSV: text is defused, None is an empty cell."""
    text = StringIO()
    csv.writer(text).writerows(
        [
            f"'{value}" if isinstance(value, str) and value.startswith(_DEFUSED) else value
            for value in row
        ]
        for row in rows
    )
    return text.getvalue()
