"""Millions of rows at once: keys and indexes go first and are built again at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

KEYS = """
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
    format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname,
        pg_get_constraintdef(oid))
FROM pg_constraint
WHERE contype IN ('p', 'u', 'f')
    AND (conrelid IN ('links'::regclass, 'registrants'::regclass, 'memberships'::regclass)
        OR confrelid IN ('links'::regclass, 'registrants'::regclass))
ORDER BY contype = 'f' DESC, contype
"""
"""How each key is taken away and put back; foreign keys are the first to go."""

INDEXES = """
SELECT format('DROP INDEX %I', indexname), indexdef
FROM pg_indexes
WHERE tablename IN ('links', 'registrants')
    AND indexname NOT IN (SELECT conname FROM pg_constraint)
"""


@contextmanager
def refilled(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection that fills registrants and links, all empty at first, in one transaction.

    The tables are emptied in the transaction that fills them: so Postgres needs no log of it.
    """
    with psycopg.connect(database_url) as connection:
        connection.execute("SET maintenance_work_mem = '1GB'; SET work_mem = '256MB'")
        rebuilt = [
            *connection.execute(KEYS).fetchall(),
            *connection.execute(INDEXES).fetchall(),
        ]
        for drop, _ in rebuilt:
            connection.execute(drop)
        connection.execute("TRUNCATE registrants, links, memberships")
        yield connection
        for _, create in reversed(rebuilt):
            connection.execute(create)
    with psycopg.connect(database_url, autocommit=True) as connection:
        # Or Postgres would begin with both while we measure.
        connection.execute("VACUUM (ANALYZE)")
        with suppress(InsufficientPrivilege):
            connection.execute("CHECKPOINT")


PEOPLE = sql.SQL("""
INSERT INTO registrants (id, ref, email, contact_key, dedup_key, contact_id, home_lookup_id,
    contact_at, created_at, updated_at)
OVERRIDING SYSTEM VALUE
SELECT n + 1, 'r' || lpad(n::text, 7, '0'), 'r' || n || '@example.com', md5('contact ' || n),
    md5('contact ' || n), 'CID_' || lpad(n::text, 15, '0'), 'CGC_' || lpad(n::text, 15, '0'),
    milepost_now(), milepost_now(), milepost_now()
FROM generate_series(0, {} - 1) AS n
""")
"""Registrants `r0000000` and so on, with contacts of their own. The ids of these are made up: no
row leads to a call that names one."""

MEMBERSHIPS = sql.SQL("""
INSERT INTO memberships (registrant_id, slot_id, contact_key, contact_id, lookup_id)
SELECT r.id, s.id, r.dedup_key, 'CID_' || lpad(r.id::text, 15, '0'),
    'CGC_' || lpad(r.id::text, 15, '0')
FROM registrants AS r, slots AS s
WHERE s.milestone = {} AND s.number = 1
""")
"""All of them in the first list of a milestone, under ids that are made up as well."""

STRANGERS = """
UPDATE registrants SET contact_id = NULL, home_lookup_id = NULL, contact_at = NULL
"""
"""Forget these contacts, so that job `sync` makes real ones."""
