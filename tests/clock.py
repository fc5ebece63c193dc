"""The database's clock, set by a test: every connection to the test's database travels with it."""

from __future__ import annotations

from datetime import datetime, timedelta

import psycopg

_TRAVEL = """
CREATE TABLE test_clock (ahead interval NOT NULL);
INSERT INTO test_clock VALUES ('0');
CREATE OR REPLACE FUNCTION milepost_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS
    'SELECT statement_timestamp() + (SELECT ahead FROM test_clock)';
"""


class Clock:
    """The clock of a test's database; it goes on by itself.

    `milepost.now` sets it for one connection that is opened afterwards, and stands still.

    Args:
        url: the database.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        with psycopg.connect(url) as connection:
            connection.execute(_TRAVEL)

    def go(self, **ahead: float) -> None:
        """Let time go by: `go(minutes=20)`."""
        with psycopg.connect(self._url) as connection:
            connection.execute("UPDATE test_clock SET ahead = ahead + %s", [timedelta(**ahead)])

    def set(self, moment: datetime) -> None:
        """Set it."""
        with psycopg.connect(self._url) as connection:
            connection.execute("UPDATE test_clock SET ahead = %s - statement_timestamp()", [moment])
