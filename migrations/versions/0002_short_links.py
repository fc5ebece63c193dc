"""Short links, and unsettled links that jobs take up when they are due.

A claim of a deferred link touches neither a distribution nor a lookup id, so the unique indexes
that guard these hold only rows that have them, and each serves as the index of its first column.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UPGRADE = """
ALTER TABLE links
    ADD COLUMN token text COLLATE "C" CHECK (token ~ '^[A-Za-z0-9_-]{22}$'),
    ADD COLUMN short_url text,
    ADD COLUMN due_at timestamptz,
    ADD COLUMN lost integer NOT NULL DEFAULT 0,
    ADD COLUMN clicked_at timestamptz,
    ADD COLUMN revoked_at timestamptz;

UPDATE links SET due_at = coalesce(lease_until, milepost_now())
WHERE state IN ('claimed', 'waiting', 'unknown');

ALTER TABLE links
    DROP CONSTRAINT links_place,
    -- The slot is fixed by the claim, the distribution on it is chosen at the call.
    ADD CONSTRAINT links_place CHECK (
        (slot_id IS NULL) = (contact_key IS NULL)
        AND (slot_id IS NOT NULL OR distribution_id IS NULL)),
    ADD CONSTRAINT links_short CHECK (
        (token IS NULL) = (short_url IS NULL)
        AND (token IS NOT NULL) = coalesce(published = 'short', false)),
    ADD CONSTRAINT links_due CHECK (
        (due_at IS NOT NULL) = (state IN ('claimed', 'waiting', 'unknown'))),
    DROP CONSTRAINT links_one_url,
    DROP CONSTRAINT links_one_per_distribution,
    DROP CONSTRAINT links_one_per_contact;
DROP INDEX links_in_a_slot;
DROP INDEX links_of_a_contact;
DROP INDEX links_unsettled;

-- One URL for one link: the same distribution and lookup id are the same URL.
CREATE UNIQUE INDEX links_one_url ON links (lookup_id, distribution_id)
    WHERE lookup_id IS NOT NULL;
-- At most one link per distribution and registrant, and per distribution and contact, from the call
-- on.
CREATE UNIQUE INDEX links_one_per_distribution ON links (registrant_id, distribution_id)
    WHERE slot_id IS NOT NULL;
CREATE UNIQUE INDEX links_one_per_contact ON links (contact_key, distribution_id)
    WHERE contact_key IS NOT NULL;
CREATE UNIQUE INDEX links_token ON links (token) WHERE token IS NOT NULL;
-- What jobs take up: the links whose short URL somebody has opened, and all the others.
CREATE INDEX links_due ON links (state, due_at)
    WHERE due_at IS NOT NULL AND clicked_at IS NULL;
CREATE INDEX links_due_clicked ON links (state, due_at)
    WHERE due_at IS NOT NULL AND clicked_at IS NOT NULL;
-- Whether somebody waits for a milestone's next slot.
CREATE INDEX links_without_place ON links (milestone)
    WHERE state = 'waiting' AND rule = 'no-slot';
"""

DOWNGRADE = """
DROP INDEX links_one_url, links_one_per_distribution, links_one_per_contact, links_token, links_due,
    links_due_clicked, links_without_place;
ALTER TABLE links
    DROP CONSTRAINT links_place,
    DROP CONSTRAINT links_short,
    DROP CONSTRAINT links_due;
-- A place without a distribution is unknown there: the link waits for one again.
UPDATE links SET slot_id = NULL, contact_key = NULL WHERE distribution_id IS NULL;
-- So is a short URL: whoever has one asks again.
UPDATE links SET published = CASE WHEN state = 'issued' THEN 'personal' END
WHERE published = 'short';
ALTER TABLE links
    DROP COLUMN token, DROP COLUMN short_url, DROP COLUMN due_at, DROP COLUMN lost,
    DROP COLUMN clicked_at, DROP COLUMN revoked_at,
    ADD CONSTRAINT links_one_url UNIQUE (distribution_id, lookup_id),
    ADD CONSTRAINT links_one_per_distribution UNIQUE (distribution_id, registrant_id),
    ADD CONSTRAINT links_one_per_contact UNIQUE (distribution_id, contact_key),
    ADD CONSTRAINT links_place CHECK (
        (slot_id IS NULL) = (distribution_id IS NULL)
        AND (slot_id IS NULL) = (contact_key IS NULL));
CREATE INDEX links_in_a_slot ON links (registrant_id, slot_id) WHERE slot_id IS NOT NULL;
CREATE INDEX links_of_a_contact ON links (contact_key, slot_id) WHERE contact_key IS NOT NULL;
CREATE INDEX links_unsettled ON links (id) WHERE state IN ('claimed', 'waiting', 'unknown');
"""


def upgrade() -> None:
    """Make room for short links."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget short URLs, clicks and revocations; every other fact stays."""
    op.execute(DOWNGRADE)
