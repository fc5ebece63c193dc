"""Rotation, and milestones that are stopped because their links cannot be trusted."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

UPGRADE = """
-- A milestone is paused by a person (`state`), and stopped by us: its links would be wrong ones.
ALTER TABLE milestones
    ADD COLUMN stopped_at      timestamptz,
    ADD COLUMN stopped_because text,
    ADD CONSTRAINT milestones_stopped CHECK ((stopped_at IS NULL) = (stopped_because IS NULL));
"""

DOWNGRADE = """
ALTER TABLE milestones DROP COLUMN stopped_at, DROP COLUMN stopped_because;
"""


def upgrade() -> None:
    """Make room for what stops a milestone."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget it."""
    op.execute(DOWNGRADE)
