"""The database's clock, set by a test: every connection to the test's database travels with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.conftest import set_clock_ahead


class Clock:
    """The clock of a test's database; it goes on by itself.

    Args:
        url: the database.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._ahead = timedelta()

    def go(self, **by: float) -> None:
        """Let time go by: `go(minutes=20)`."""
        self._set(self._ahead + timedelta(**by))

    def set(self, moment: datetime) -> None:
        """Set it."""
        self._set(moment - datetime.now(UTC))

    def _set(self, ahead: timedelta) -> None:
        self._ahead = ahead
        set_clock_ahead(self._url, ahead)
