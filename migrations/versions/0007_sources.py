"""Sources of registrants: who stands in one, and who does not any more."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UPGRADE = """
-- source:        the source that has listed them; NULL: none has, so none can take them away.
-- removed_at:    that source does not list them any more; to events they are unknown.
-- contact_stale: the platform was told something else of them than is known here.
ALTER TABLE registrants
    ADD COLUMN source        text,
    ADD COLUMN removed_at    timestamptz,
    ADD COLUMN contact_stale boolean NOT NULL DEFAULT false;
"""

DOWNGRADE = """
ALTER TABLE registrants DROP COLUMN source, DROP COLUMN removed_at, DROP COLUMN contact_stale;
"""


def upgrade() -> None:
    """Make room for sources."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget them."""
    op.execute(DOWNGRADE)
