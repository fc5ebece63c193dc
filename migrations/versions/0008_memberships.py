"""Memberships that are there ahead of events, and data that follow the link."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UPGRADE = """
-- A place in a slot's list that is known before any event: with it, a link needs no call.
-- It holds for as long as the registrant has the contact under which it was made.
CREATE TABLE memberships (
    registrant_id bigint NOT NULL REFERENCES registrants (id),
    slot_id       bigint NOT NULL REFERENCES slots (id),
    contact_key   text COLLATE "C" NOT NULL,
    contact_id    text NOT NULL,
    lookup_id     text COLLATE "C" NOT NULL,
    PRIMARY KEY (registrant_id, slot_id),
    CONSTRAINT memberships_lookup UNIQUE (slot_id, lookup_id)
);
"""

DOWNGRADE = """
DROP TABLE memberships;
"""


def upgrade() -> None:
    """Make room for memberships."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget them."""
    op.execute(DOWNGRADE)
