"""What a restore from a backup leaves to be done, and whether it is done."""

from __future__ import annotations

from alembic import op

from milepost.store.migrate import beside_traffic

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

UPGRADE = """
-- When the ledger was last brought up to what the platform knows, after a restore; NULL again as
-- soon as a process serves without MILEPOST_RECOVER, so that no backup of that time has it.
ALTER TABLE deployment ADD COLUMN IF NOT EXISTS recovered_at timestamptz;

-- A short URL that is kept although its caller may have been given the personal one: which of them
-- it was, a restore forgets.
ALTER TABLE links DROP CONSTRAINT IF EXISTS links_short;
ALTER TABLE links
    ADD CONSTRAINT links_short CHECK (
        (token IS NULL) = (short_url IS NULL)
        AND (token IS NOT NULL OR published IS DISTINCT FROM 'short')) NOT VALID;
"""

# The ledger is read for it.
BESIDE_TRAFFIC = "ALTER TABLE links VALIDATE CONSTRAINT links_short"

DOWNGRADE = """
ALTER TABLE links DROP CONSTRAINT links_short;
UPDATE links SET token = NULL, short_url = NULL
WHERE token IS NOT NULL AND published IS DISTINCT FROM 'short';
ALTER TABLE links
    ADD CONSTRAINT links_short CHECK (
        (token IS NULL) = (short_url IS NULL)
        AND (token IS NOT NULL) = coalesce(published = 'short', false));
ALTER TABLE deployment DROP COLUMN recovered_at;
"""


def upgrade() -> None:
    """Make room for it."""
    op.execute(UPGRADE)
    with beside_traffic():
        op.execute(BESIDE_TRAFFIC)


def downgrade() -> None:
    """Forget it, and the short URLs that were kept beside personal ones."""
    op.execute(DOWNGRADE)
