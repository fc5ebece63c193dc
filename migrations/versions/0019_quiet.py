"""How many links a registrant was given of late, without a look at the links."""

from __future__ import annotations

from alembic import op

from milepost.store.migrate import beside_traffic, make_index

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# The ledger is read for it. A registrant's links lie far apart in it, and each claim of a milestone
# with quiet days counts them: the index says by itself which of them count.
GIVEN = "links (ref, created_at) INCLUDE (state, reuses)"

DOWNGRADE = """
CREATE INDEX IF NOT EXISTS links_of_a_registrant ON links (ref, created_at);
DROP INDEX links_given;
"""


def upgrade() -> None:
    """Make the index, and take away the one that it stands for."""
    with beside_traffic():
        make_index("links_given", GIVEN)
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS links_of_a_registrant")


def downgrade() -> None:
    """Have the index as it was."""
    op.execute(DOWNGRADE)
