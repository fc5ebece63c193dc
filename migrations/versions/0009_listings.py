"""What the platform lists of a mailing list, page by page, until it is applied."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

UPGRADE = """
SELECT 1;
"""

DOWNGRADE = """
SELECT 1;
"""


def upgrade() -> None:
    """Make room for listings."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget them."""
    op.execute(DOWNGRADE)
