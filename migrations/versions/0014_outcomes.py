"""What became of links: responses, as far as each is known, and what differs from the platform."""

from __future__ import annotations

from alembic import op

from milepost.store.migrate import beside_traffic

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

UPGRADE = """
-- A response that was heard of, by an event call or in a history, and what it was found to be.
-- Exactly those that are still to be read have a `due_at`.
CREATE TABLE IF NOT EXISTS responses (
    survey_id       text COLLATE "C" NOT NULL,
    response_id     text COLLATE "C" NOT NULL,
    heard_by        text NOT NULL CHECK (heard_by IN ('event', 'history')),
    noted_at        timestamptz NOT NULL,
    due_at          timestamptz,
    tries           integer NOT NULL DEFAULT 0,
    -- The link that it came by, where history has told it: EMD_…, and CGC_… or CTR_….
    distribution_id text,
    lookup_id       text COLLATE "C",
    read_at         timestamptz,
    started_at      timestamptz,
    completed_at    timestamptz,
    verdict         text CHECK (verdict IN ('true', 'forged', 'foreign', 'without-reference')),
    rule            text,
    -- The link that it counts for.
    link_id         uuid REFERENCES links (id),
    -- It names no link, and history has not had its time to tell of one.
    is_unexplained  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (survey_id, response_id)
);
CREATE INDEX IF NOT EXISTS responses_due ON responses (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS responses_unexplained ON responses (noted_at) WHERE is_unexplained;

-- In what ledger and platform differ. One row for each fact, however often it is seen.
CREATE TABLE IF NOT EXISTS drift (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text NOT NULL,
    -- What it is about: a response, a link, or a membership, by the ids that it has.
    subject         text COLLATE "C" NOT NULL,
    milestone       text COLLATE "C" REFERENCES milestones (key),
    link_id         uuid REFERENCES links (id),
    survey_id       text,
    response_id     text,
    distribution_id text,
    lookup_id       text,
    rule            text,
    first_seen_at   timestamptz NOT NULL,
    last_seen_at    timestamptz NOT NULL,
    settled_at      timestamptz,
    -- The key of whoever has settled it; NULL: it went by itself.
    settled_by      text,
    CONSTRAINT drift_once UNIQUE (kind, subject),
    CHECK (settled_by IS NULL OR settled_at IS NOT NULL)
);

-- What the platform counted when a distribution was looked at last; and when it was found that it
-- is not there to be looked at any more.
ALTER TABLE distributions
    ADD COLUMN IF NOT EXISTS opened integer,
    ADD COLUMN IF NOT EXISTS started integer,
    ADD COLUMN IF NOT EXISTS finished integer,
    ADD COLUMN IF NOT EXISTS reconciled_at timestamptz,
    ADD COLUMN IF NOT EXISTS given_up_at timestamptz;

-- When the distribution of a link of route `stepwise`, which has one of its own, is looked at next.
ALTER TABLE links ADD COLUMN IF NOT EXISTS look_due_at timestamptz;
"""

# The ledger is read for these.
BESIDE_TRAFFIC = (
    "DROP INDEX CONCURRENTLY IF EXISTS links_of_a_distribution",
    """
    CREATE INDEX CONCURRENTLY links_of_a_distribution ON links (distribution_id, id)
        WHERE url IS NOT NULL
    """,
    "DROP INDEX CONCURRENTLY IF EXISTS links_look_due",
    """
    CREATE INDEX CONCURRENTLY links_look_due ON links (look_due_at)
        WHERE route = 'stepwise' AND url IS NOT NULL
    """,
)

DOWNGRADE = """
ALTER TABLE links DROP COLUMN look_due_at;
DROP INDEX links_of_a_distribution;
ALTER TABLE distributions
    DROP COLUMN opened,
    DROP COLUMN started,
    DROP COLUMN finished,
    DROP COLUMN reconciled_at,
    DROP COLUMN given_up_at;
DROP TABLE drift, responses;
"""


def upgrade() -> None:
    """Make room for it."""
    op.execute(UPGRADE)
    with beside_traffic():
        for statement in BESIDE_TRAFFIC:
            op.execute(statement)


def downgrade() -> None:
    """Forget it: the platform can tell it again."""
    op.execute(DOWNGRADE)
