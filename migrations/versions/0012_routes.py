"""Routes by which a link takes no place in a list, or several calls."""

from __future__ import annotations

from alembic import op

from milepost.store.migrate import beside_traffic

revision = "0012"
down_revision = "0010"
branch_labels = None
depends_on = None

UPGRADE = """
-- What a pool is made for: a milestone that changes its route gets another one.
-- A slot of route `transaction` is a transaction batch, with our probe's transaction in it.
ALTER TABLE slots
    ADD COLUMN IF NOT EXISTS route text NOT NULL DEFAULT 'list'
        CHECK (route IN ('list', 'transaction', 'anonymous')),
    ADD COLUMN IF NOT EXISTS batch_id text UNIQUE,
    DROP CONSTRAINT IF EXISTS slots_check1,
    DROP CONSTRAINT IF EXISTS slots_probe,
    DROP CONSTRAINT IF EXISTS slots_milestone_survey_id_number_key,
    DROP CONSTRAINT IF EXISTS slots_number;
ALTER TABLE slots
    ADD CONSTRAINT slots_probe CHECK (
        probe_lookup_id IS NULL OR list_id IS NOT NULL OR route = 'transaction'),
    ADD CONSTRAINT slots_number UNIQUE (milestone, survey_id, route, number);
-- A survey has a canary list, and a canary batch where a milestone of it has route `transaction`.
DROP INDEX slots_one_canary;
CREATE UNIQUE INDEX slots_one_canary ON slots (survey_id, route) WHERE milestone IS NULL;

-- The ids of what was made on the way to a link of several calls, each written before the next one.
-- Only under route `list` does a link take a slot: a place that its contact has in a list.
ALTER TABLE links
    ADD COLUMN IF NOT EXISTS steps jsonb,
    DROP CONSTRAINT IF EXISTS links_place;
ALTER TABLE links
    ADD CONSTRAINT links_place CHECK ((slot_id IS NULL) = (contact_key IS NULL)) NOT VALID;

-- The survey's own link with an opaque reference, on the host of a personal link of it; NULL where
-- that is none.
CREATE OR REPLACE FUNCTION milepost_plain_link(template text, survey_id text, reference text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT substring(template FROM '^https?://[^/?#]+')
        || '/jfe/form/' || survey_id || '?milepost_ref=' || reference
$$;
"""

# The ledger is read for it.
BESIDE_TRAFFIC = "ALTER TABLE links VALIDATE CONSTRAINT links_place"

DOWNGRADE = """
DROP FUNCTION milepost_plain_link(text, text, text);
ALTER TABLE links
    DROP COLUMN steps,
    DROP CONSTRAINT links_place,
    ADD CONSTRAINT links_place CHECK (
        (slot_id IS NULL) = (contact_key IS NULL)
        AND (slot_id IS NOT NULL OR distribution_id IS NULL));
DROP INDEX slots_one_canary;
CREATE UNIQUE INDEX slots_one_canary ON slots (survey_id) WHERE milestone IS NULL;
ALTER TABLE slots
    DROP CONSTRAINT slots_number,
    DROP CONSTRAINT slots_probe,
    ADD CONSTRAINT slots_check1 CHECK (probe_lookup_id IS NULL OR list_id IS NOT NULL),
    DROP COLUMN batch_id,
    DROP COLUMN route,
    ADD CONSTRAINT slots_milestone_survey_id_number_key UNIQUE (milestone, survey_id, number);
"""


def upgrade() -> None:
    """Make room for them."""
    op.execute(UPGRADE)
    with beside_traffic():
        op.execute(BESIDE_TRAFFIC)


def downgrade() -> None:
    """Take them away; links that were made by them must be gone."""
    op.execute(DOWNGRADE)
