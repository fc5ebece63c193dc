"""A person's word that a stopped milestone is to go on, and looks for a list that found none."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

UPGRADE = """
-- resumed_at: a person has resumed it although it is stopped; the next canary that is listed is
-- learnt, however late that is. It goes with the stop.
ALTER TABLE milestones
    ADD COLUMN resumed_at timestamptz,
    ADD CONSTRAINT milestones_resumed CHECK (resumed_at IS NULL OR stopped_at IS NOT NULL);

-- list_misses: so many looks for the list that it is to stand on were answered that there is none.
ALTER TABLE distributions ADD COLUMN list_misses integer NOT NULL DEFAULT 0;
"""

DOWNGRADE = """
ALTER TABLE distributions DROP COLUMN list_misses;
ALTER TABLE milestones DROP COLUMN resumed_at;
"""


def upgrade() -> None:
    """Make room for both."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget them."""
    op.execute(DOWNGRADE)
