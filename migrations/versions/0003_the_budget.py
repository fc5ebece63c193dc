"""The budget: what was granted of each call class lately, and what 429s have taught.

`store/sql/budget_room.sql` says how the two tables are read.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UPGRADE = """
-- What the platform's 429s have taught of a call class; one that has no row was never refused. The
-- row `brand` is always there: who grants locks it, so that grants come one after another.
CREATE TABLE call_classes (
    call_class   text COLLATE "C" PRIMARY KEY,
    factor       double precision NOT NULL DEFAULT 1 CHECK (factor > 0 AND factor <= 1),
    cut_at       timestamptz,
    closed_until timestamptz
);
INSERT INTO call_classes (call_class) VALUES ('brand');

-- How many calls were granted, and how many were wanted, in each half second of the last minute. A
-- ring: `slot` is `number` modulo 128, and a row whose number has gone by is written over. No index
-- holds what changes, so with room on its page a row is changed in place.
CREATE TABLE grants (
    call_class text COLLATE "C" NOT NULL,
    purpose    text COLLATE "C" NOT NULL
        CHECK (purpose IN ('click', 'direct', 'drain', 'provisioning', 'reconcile')),
    slot       smallint NOT NULL CHECK (slot = number % 128),
    number     bigint NOT NULL,
    granted    integer NOT NULL CHECK (granted >= 0),
    wanted     integer NOT NULL CHECK (wanted >= 0),
    PRIMARY KEY (call_class, purpose, slot)
) WITH (fillfactor = 40);
"""

DOWNGRADE = """
DROP TABLE grants, call_classes;
"""


def upgrade() -> None:
    """Make the budget's tables."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget what was granted: the next minute may see twice the limit."""
    op.execute(DOWNGRADE)
