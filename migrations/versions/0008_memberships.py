"""Memberships that are there ahead of events, and data that follow the link."""

from __future__ import annotations

from alembic import op

from milepost.store.migrate import beside_traffic

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UPGRADE = """
-- A place in a slot's list that is known before any event: with it, a link needs no call.
-- It holds for as long as the registrant has the contact under which it was made.
CREATE TABLE IF NOT EXISTS memberships (
    registrant_id bigint NOT NULL REFERENCES registrants (id),
    slot_id       bigint NOT NULL REFERENCES slots (id),
    contact_key   text COLLATE "C" NOT NULL,
    contact_id    text NOT NULL,
    lookup_id     text COLLATE "C" NOT NULL,
    PRIMARY KEY (registrant_id, slot_id),
    CONSTRAINT memberships_lookup UNIQUE (slot_id, lookup_id)
);

-- The personal link of a lookup id, as `personal_link.Template` builds it; NULL where it refuses.
CREATE OR REPLACE FUNCTION milepost_link(template text, lookup_id text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN lookup_id ~ '^(CGC|CTR|MLRP)_[0-9A-Za-z]{15}$'
            AND position(split_part(lookup_id, '_', 1) || '_{}' IN template) > 0
            THEN replace(template, '{}', split_part(lookup_id, '_', 2))
    END
$$;

-- When the platform is to be told the data of a link that was given out before it knew of them.
ALTER TABLE links
    ADD COLUMN IF NOT EXISTS data_due_at timestamptz,
    DROP CONSTRAINT IF EXISTS links_data;
ALTER TABLE links
    ADD CONSTRAINT links_data CHECK (
        data_due_at IS NULL OR (url IS NOT NULL AND data_at IS NULL)) NOT VALID;
"""

# The ledger is read twice for these.
BESIDE_TRAFFIC = (
    "ALTER TABLE links VALIDATE CONSTRAINT links_data",
    "DROP INDEX CONCURRENTLY IF EXISTS links_data_due",
    """
    CREATE INDEX CONCURRENTLY links_data_due ON links (data_due_at)
        WHERE data_due_at IS NOT NULL
    """,
)

DOWNGRADE = """
ALTER TABLE links DROP COLUMN data_due_at;
DROP FUNCTION milepost_link(text, text);
DROP TABLE memberships;
"""


def upgrade() -> None:
    """Make room for memberships."""
    op.execute(UPGRADE)
    with beside_traffic():
        for statement in BESIDE_TRAFFIC:
            op.execute(statement)


def downgrade() -> None:
    """Forget them."""
    op.execute(DOWNGRADE)
