"""A person's word that a stopped milestone is to go on, and looks for a list that found none."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

UPGRADE = """
-- resumed_at: a person has resumed it although it is stopped; a canary that was made after the stop
-- is learnt, however late it is listed. stop_seen_at: when it was last seen that it has to be
-- stopped. Both go with the stop. No constraint says so: the version before ends stops, and knows
-- neither.
ALTER TABLE milestones
    ADD COLUMN resumed_at   timestamptz,
    ADD COLUMN stop_seen_at timestamptz;

-- list_misses: so many looks for the list that it is to stand on were answered that there is none.
ALTER TABLE distributions ADD COLUMN list_misses integer NOT NULL DEFAULT 0;
"""

DOWNGRADE = """
ALTER TABLE distributions DROP COLUMN list_misses;
ALTER TABLE milestones DROP COLUMN resumed_at, DROP COLUMN stop_seen_at;
"""


def upgrade() -> None:
    """Make room for them."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget them."""
    op.execute(DOWNGRADE)
