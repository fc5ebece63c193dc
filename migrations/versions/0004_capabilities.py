"""Capabilities: what this account has been proved to accept, or not to.

A fact without a row was never tried, and counts as true.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UPGRADE = """
CREATE TABLE capabilities (
    fact      text COLLATE "C" PRIMARY KEY,
    holds     boolean NOT NULL,
    figure    integer,
    evidence  text NOT NULL,
    probed_at timestamptz NOT NULL
);

-- How many seconds a search may take to find a contact, before what it does not find is not there:
-- a minute, or twice as long as it was seen to take.
CREATE FUNCTION milepost_look_seconds() RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT greatest(60, 2 * max(figure)) FROM capabilities
    WHERE fact = 'prompt_search' AND NOT holds
$$;
"""

DOWNGRADE = """
DROP FUNCTION milepost_look_seconds();
DROP TABLE capabilities;
"""


def upgrade() -> None:
    """Make the table."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget what was tried: doctor can try it again."""
    op.execute(DOWNGRADE)
