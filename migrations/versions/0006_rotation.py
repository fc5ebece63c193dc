"""Rotation, canaries, and milestones that are stopped because their links cannot be trusted."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

UPGRADE = """
-- A milestone is paused by a person (`state`), and stopped by us: its links would be wrong ones.
-- The two URLs that differ are links, and so credentials; they stand apart from the sentence.
ALTER TABLE milestones
    ADD COLUMN stopped_at       timestamptz,
    ADD COLUMN stopped_because  text,
    ADD COLUMN stopped_expected text,
    ADD COLUMN stopped_found    text,
    ADD COLUMN trusted_at       timestamptz,
    ADD CONSTRAINT milestones_stopped CHECK (
        (stopped_at IS NULL) = (stopped_because IS NULL)
        AND (stopped_at IS NOT NULL OR (stopped_expected IS NULL AND stopped_found IS NULL)));

-- A slot without a milestone is a survey's canary list: it holds nobody but our probe, ever.
-- list_at: since when the slot has this list; it gets another one when that is gone.
ALTER TABLE slots
    ALTER COLUMN milestone DROP NOT NULL,
    ADD COLUMN list_at timestamptz;
CREATE UNIQUE INDEX slots_one_canary ON slots (survey_id) WHERE milestone IS NULL;

-- made_at: when the platform had made it.
ALTER TABLE distributions ADD COLUMN made_at timestamptz;
"""

DOWNGRADE = """
ALTER TABLE distributions DROP COLUMN made_at;
DELETE FROM distributions AS d USING slots AS s WHERE s.id = d.slot_id AND s.milestone IS NULL;
DELETE FROM slots WHERE milestone IS NULL;
DROP INDEX slots_one_canary;
ALTER TABLE slots ALTER COLUMN milestone SET NOT NULL, DROP COLUMN list_at;
ALTER TABLE milestones
    DROP COLUMN stopped_at, DROP COLUMN stopped_because, DROP COLUMN stopped_expected,
    DROP COLUMN stopped_found, DROP COLUMN trusted_at;
"""


def upgrade() -> None:
    """Make room for what stops a milestone, and for canaries."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget it."""
    op.execute(DOWNGRADE)
