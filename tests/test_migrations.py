"""The schema: made, taken away, made again, the same as `tables.py`, and strict."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from milepost.errors import DatabaseError
from milepost.store import migrate
from milepost.store.connections import sqlalchemy_url
from milepost.store.tables import metadata

OBJECTS = (
    "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    " AND relname NOT LIKE 'alembic%'"
)
MILESTONE = (
    "INSERT INTO milestones VALUES ('m', 's', 'n', 'list', 'event', '{direct,deferred}', 'once',"
    " NULL, 100, 1, 1, 'deferred', 60, 14, '[]', NULL, NULL, 'reject', false, 1500, 'active',"
    " now(), now())"
)
REGISTRANT = (
    "INSERT INTO registrants (ref, created_at, updated_at, dedup_key, home_lookup_id, contact_at)"
    " VALUES ('r', now(), now(), "
)
LINK = (
    "INSERT INTO links (id, event_id, milestone, survey_id, ref, data, fingerprint, asked_by,"
    " attempt, created_at, state, rule, lease_until, lookup_id, url, expires_at, issued_at,"
    " published, reuses) VALUES (gen_random_uuid(), 'e', 'm', 's', 'r', '{}', '{}', 'a', 0, now(), "
)


WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
INDEXES = """
SELECT c.relname, c.oid, i.indisvalid
FROM pg_class AS c
JOIN pg_index AS i ON i.indexrelid = c.oid
WHERE c.relname = ANY (%s)
"""
EVENT = (
    "INSERT INTO registrants (ref, contact_id, created_at, updated_at)"
    " VALUES (gen_random_uuid()::text, 'CID', now(), now())"
)


def differences(database_url: str) -> object:
    """What Alembic finds to be otherwise in a database than in `tables.py`."""
    engine = create_engine(sqlalchemy_url(database_url))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        found = compare_metadata(context, metadata)
    engine.dispose()
    return found


@contextmanager
def upgrading(database_url: str) -> Iterator[Future[list[str]]]:
    """Bring the database to the newest schema, beside the block."""
    with ThreadPoolExecutor(1) as others:
        yield others.submit(migrate.upgrade, database_url)


def until_waiting(upgraded: Future[list[str]], connection: psycopg.Connection) -> None:
    """Wait until the migration waits for a lock."""
    while connection.execute(WAITING).fetchone() == (0,):
        assert not wait([upgraded], timeout=0.01).done


def test_up_down_and_up_again(database_url: str) -> None:
    """Everything is taken back, and comes back."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        there = connection.execute(OBJECTS).fetchone()
        migrate.downgrade(database_url, "base")
        assert (0,) == connection.execute(OBJECTS).fetchone()
        pending = migrate.pending(database_url)
        assert pending == migrate.upgrade(database_url)
        assert [] == migrate.pending(database_url)
        assert there == connection.execute(OBJECTS).fetchone()


def test_the_tables_are_what_the_migrations_made(database_url: str) -> None:
    """Alembic finds no difference between `tables.py` and the migrated database."""
    assert [] == differences(database_url)


def test_a_migration_that_has_to_wait_lets_others_pass(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes while it stands in line for a table gets through before it does."""
    monkeypatch.setattr(migrate, "LOCK_SECONDS", 0.2)
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.01)
    migrate.downgrade(database_url, "0007")
    with (
        psycopg.connect(database_url) as reader,
        psycopg.connect(database_url, autocommit=True) as event,
        upgrading(database_url) as upgraded,
    ):
        event.execute("SET statement_timeout = '5s'")
        reader.execute("SELECT FROM links")
        for _ in range(2):
            until_waiting(upgraded, event)
            event.execute("SELECT FROM links")
        assert not upgraded.done()
        reader.rollback()
        assert "0008" in upgraded.result()
    assert [] == differences(database_url)


def test_large_tables_are_read_beside_the_traffic(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what is read waits for a transaction, writers do not; broken off, it is done again."""
    migrate.downgrade(database_url, "0008")
    with (
        psycopg.connect(database_url) as writer,
        psycopg.connect(database_url, autocommit=True) as event,
    ):
        event.execute("SET statement_timeout = '5s'")
        writer.execute(EVENT)
        with monkeypatch.context() as impatient:
            impatient.setattr(migrate, "BESIDE_SECONDS", 0.05)
            impatient.setattr(migrate, "PATIENCE_SECONDS", 0.0)
            with pytest.raises(DatabaseError, match="at each try"):
                migrate.upgrade(database_url)
        with upgrading(database_url) as upgraded:
            until_waiting(upgraded, event)
            event.execute(EVENT)
            writer.commit()
            assert "0009" in upgraded.result()
    assert [] == differences(database_url)


@pytest.mark.parametrize(
    ("held", "is_made"),
    [("LOCK TABLE links IN ROW EXCLUSIVE MODE", False), ("SELECT FROM links", True)],
    ids=["in the making", "made"],
)
def test_a_try_that_is_broken_off_leaves_the_path_a_valid_index(
    database_url: str, monkeypatch: pytest.MonkeyPatch, held: str, *, is_made: bool
) -> None:
    """Who writes holds up the making of the new one, who reads the taking away of the former one.

    What is made is not made again, and what is broken off is.
    """
    migrate.downgrade(database_url, "0018")
    index, former = "links_given", "links_of_a_registrant"
    with (
        psycopg.connect(database_url) as other,
        psycopg.connect(database_url, autocommit=True) as connection,
    ):

        def there() -> tuple[dict[str, bool], object]:
            """Which of both are valid, as far as they are there; and which the new one is."""
            rows = connection.execute(INDEXES, [[index, former]]).fetchall()
            oids = {name: oid for name, oid, _ in rows}
            return {name: is_valid for name, _, is_valid in rows}, oids[index]

        other.execute(held.encode())
        with monkeypatch.context() as impatient:
            impatient.setattr(migrate, "BESIDE_SECONDS", 0.05)
            impatient.setattr(migrate, "PATIENCE_SECONDS", 0.0)
            with pytest.raises(DatabaseError, match="at each try"):
                migrate.upgrade(database_url)
        valid, made = there()
        assert {index: is_made, former: not is_made} == valid
        with upgrading(database_url) as upgraded:
            until_waiting(upgraded, connection)
            assert valid == there()[0]
            other.rollback()
            upgraded.result()
        valid, made_last = there()
        assert ({index: True}, is_made) == (valid, made == made_last)
    assert [] == differences(database_url)


def test_a_migration_does_not_wait_for_ever(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what a person can do; meanwhile nothing has changed."""
    for name, value in {"LOCK_SECONDS": 0.05, "PAUSE_SECONDS": 0, "PATIENCE_SECONDS": 0.2}.items():
        monkeypatch.setattr(migrate, name, value)
    migrate.downgrade(database_url, "0007")
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT FROM links")
        with pytest.raises(DatabaseError, match=r"at each try.*milepost migrate"):
            migrate.upgrade(database_url)
    assert "0008" in migrate.pending(database_url)


def test_two_migrations_at_once_are_one(database_url: str) -> None:
    """The other waits without a transaction, for which an index would wait; then all is done."""
    migrate.downgrade(database_url, "0007")
    with upgrading(database_url) as one, upgrading(database_url) as other:
        applied = [one.result(), other.result()]
    assert [] in applied
    assert any("0009" in names for names in applied)


def test_the_clock_can_be_set(database_url: str) -> None:
    """`milepost_now()` is each statement's own time, unless the connection sets another."""
    with psycopg.connect(database_url) as connection:
        one, two = [connection.execute("SELECT milepost_now(), now()").fetchone() for _ in range(2)]
        assert one is not None
        assert two is not None
        assert one[0] < two[0]
        assert one[1] == two[1]
        connection.execute("SET milepost.now = '2030-01-01T00:00:00Z'")
        row = connection.execute("SELECT milepost_now()").fetchone()
    assert row is not None
    assert 2030 == row[0].year


@pytest.mark.parametrize(
    "statement",
    [
        LINK + "'issued', NULL, NULL, 'c', NULL, now(), NULL, 'personal', NULL)",
        LINK + "'issued', NULL, NULL, NULL, 'u', now(), now(), 'personal', NULL)",
        LINK + "'issued', NULL, NULL, 'c', 'u', now(), now(), NULL, NULL)",
        LINK + "'waiting', NULL, NULL, 'c', 'u', now(), now(), NULL, NULL)",
        LINK + "'claimed', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        LINK + "'waiting', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        LINK + "'suppressed', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        LINK + "'lost', 'r', NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        LINK.replace("'e'", "repeat('é', 101)")
        + "'unknown', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        MILESTONE.replace("'m'", "'n'").replace("{direct,deferred}", "{}"),
        MILESTONE.replace("'m'", "'n'").replace("{direct,deferred}", "{deferred,direct}"),
        MILESTONE.replace("'m'", "'n'").replace("'once'", "'cooldown'"),
        REGISTRANT + "'k', NULL, NULL)",
        REGISTRANT + "NULL, 'l', now())",
        REGISTRANT.replace("'r'", "repeat('x', 801)") + "NULL, NULL, NULL)",
        "INSERT INTO api_keys VALUES ('i', 'n', sha256(''), '{}', now())",
        "INSERT INTO api_keys VALUES ('i', 'n', sha256(''), '{root}', now())",
    ],
)
def test_the_tables_hold_what_a_promise_rests_on(database_url: str, statement: str) -> None:
    """A row that would break a promise is refused by Postgres itself."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(MILESTONE)
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(statement)  # type: ignore[call-overload]
