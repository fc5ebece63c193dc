"""What the platform lists of a mailing list, page by page, until it is applied."""

from __future__ import annotations

from alembic import op

from milepost.store.migrate import beside_traffic

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

UPGRADE = """
-- The listing that is being read, and nothing of it once it is applied. `contact_key` is what a
-- registrant of the listed values has (`registrants.contact_key`).
CREATE TABLE IF NOT EXISTS listed_members (
    list_id     text NOT NULL,
    contact_id  text NOT NULL,
    lookup_id   text NOT NULL,
    number      bigint NOT NULL,
    ref         text COLLATE "C",
    contact_key text COLLATE "C",
    PRIMARY KEY (list_id, contact_id)
);
CREATE INDEX IF NOT EXISTS listed_members_ref ON listed_members (list_id, ref)
    WHERE ref IS NOT NULL;

-- home_listed_at: when the home list was last read to its end; NULL: it is to be read.
ALTER TABLE deployment ADD COLUMN IF NOT EXISTS home_listed_at timestamptz;
"""

# Who opted out is told by the contact.
BESIDE_TRAFFIC = (
    "DROP INDEX CONCURRENTLY IF EXISTS registrants_contact",
    """
    CREATE INDEX CONCURRENTLY registrants_contact ON registrants (contact_id)
        WHERE contact_id IS NOT NULL
    """,
    "DROP INDEX CONCURRENTLY IF EXISTS registrants_stale",
    "CREATE INDEX CONCURRENTLY registrants_stale ON registrants (id) WHERE contact_stale",
)

DOWNGRADE = """
DROP INDEX registrants_stale, registrants_contact;
ALTER TABLE deployment DROP COLUMN home_listed_at;
DROP TABLE listed_members;
"""


def upgrade() -> None:
    """Make room for listings."""
    op.execute(UPGRADE)
    with beside_traffic():
        for statement in BESIDE_TRAFFIC:
            op.execute(statement)


def downgrade() -> None:
    """Forget them."""
    op.execute(DOWNGRADE)
