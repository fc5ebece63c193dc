"""The order in which looks are due at links of route `stepwise`, and reminders of each key."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from milepost.store.migrate import beside_traffic, make_index

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

UPGRADE = """
-- The name of the key that asked for the link. NULL: noted by a process that does not write it yet;
-- the next look at the milestone's links fills it in.
ALTER TABLE reminders ADD COLUMN IF NOT EXISTS asked_by text;

-- The platform refused the last look at the link's own distribution.
ALTER TABLE links ADD COLUMN IF NOT EXISTS look_refused boolean;

-- A database that was made while 0014 had no such column, and 0015 its index without an expression.
ALTER TABLE distributions ADD COLUMN IF NOT EXISTS given_up_at timestamptz;
"""

HOURS = "links ((milestone || ''), (created_at AT TIME ZONE 'UTC'))"
HOURS_AS_THEY_ARE = text("SELECT pg_get_indexdef(to_regclass('links_of_an_hour'))")

# The ledger is read for these. A link that was never looked at is due a quarter of an hour behind
# its issue: a look before that costs a call, and mostly tells of nothing.
OF_A_KEY = "reminders (milestone, asked_by, due_at) WHERE due_at IS NOT NULL"
NEXT_LOOK = """
links ((coalesce(
        look_due_at AT TIME ZONE 'UTC',
        (issued_at AT TIME ZONE 'UTC') + interval '15 minutes')))
    WHERE route = 'stepwise' AND url IS NOT NULL
"""

DOWNGRADE = """
CREATE INDEX IF NOT EXISTS links_look_due ON links (look_due_at)
    WHERE route = 'stepwise' AND url IS NOT NULL;
DROP INDEX links_next_look, reminders_of_a_key;
ALTER TABLE reminders DROP COLUMN asked_by;
ALTER TABLE links DROP COLUMN look_refused;
"""


def upgrade() -> None:
    """Make room for it."""
    op.execute(UPGRADE)
    with beside_traffic():
        hours = op.get_bind().scalar(HOURS_AS_THEY_ARE)
        if hours is None or "||" not in hours:
            op.execute("DROP INDEX CONCURRENTLY IF EXISTS links_of_an_hour")
            make_index("links_of_an_hour", HOURS)
        make_index("reminders_of_a_key", OF_A_KEY)
        make_index("links_next_look", NEXT_LOOK)
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS links_look_due")


def downgrade() -> None:
    """Forget whose reminders are; looks that never were come first again."""
    op.execute(DOWNGRADE)
