"""What becomes of a link after it is given out."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make room for its moments, and for the response to it."""
    op.execute("""
        ALTER TABLE links
            ADD COLUMN IF NOT EXISTS delivered_at timestamptz,
            ADD COLUMN IF NOT EXISTS opened_at timestamptz,
            ADD COLUMN IF NOT EXISTS started_at timestamptz,
            ADD COLUMN IF NOT EXISTS response_id text
    """)


def downgrade() -> None:
    """Forget them."""
    op.execute("""
        ALTER TABLE links
            DROP COLUMN delivered_at,
            DROP COLUMN opened_at,
            DROP COLUMN started_at,
            DROP COLUMN response_id
    """)
