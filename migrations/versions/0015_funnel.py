"""What is counted of links by the hour, and the reminders of those that nobody has answered."""

from __future__ import annotations

from alembic import op

from milepost.store.migrate import beside_traffic

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

UPGRADE = """
-- How many links of a milestone that were created in an hour have come how far, by the distribution
-- that they stand on (0: none), whose history tells what became of them.
CREATE TABLE IF NOT EXISTS funnel (
    milestone       text COLLATE "C" NOT NULL REFERENCES milestones (key),
    hour            timestamptz NOT NULL,
    distribution_id bigint NOT NULL,
    requested       bigint NOT NULL,
    reused          bigint NOT NULL,
    suppressed      bigint NOT NULL,
    failed          bigint NOT NULL,
    issued          bigint NOT NULL,
    delivered       bigint NOT NULL,
    clicked         bigint NOT NULL,
    started         bigint NOT NULL,
    finished        bigint NOT NULL,
    issued_until    timestamptz,
    PRIMARY KEY (milestone, hour, distribution_id)
);

-- Hours that are to be counted again. Rows are only added, and taken away by the count: it sees all
-- that was written together with those that it took.
CREATE TABLE IF NOT EXISTS funnel_changes (
    milestone text COLLATE "C" NOT NULL,
    hour      timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS funnel_changes_hour ON funnel_changes (milestone, hour);

-- Up to when a milestone's newest hours were put among those to be counted, and of which moment all
-- its counts are.
CREATE TABLE IF NOT EXISTS funnel_folds (
    milestone    text COLLATE "C" PRIMARY KEY REFERENCES milestones (key),
    marked_until timestamptz NOT NULL,
    as_of        timestamptz
);

-- Links that were created since then are counted again without being named as ones that have
-- changed, so that an event and its settlement have nothing to write for it.
CREATE OR REPLACE FUNCTION milepost_counted_since()
RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT milepost_now() - interval '1 hour'
$$;

ALTER TABLE milestones
    ADD COLUMN IF NOT EXISTS reminders jsonb,
    -- Links that were created until then have been looked at for reminders.
    ADD COLUMN IF NOT EXISTS reminders_until timestamptz;

-- Links that may want a reminder. Without a foreign key to them: it would be looked at by each
-- settlement.
CREATE TABLE IF NOT EXISTS reminders (
    link_id   uuid PRIMARY KEY,
    milestone text COLLATE "C" NOT NULL REFERENCES milestones (key),
    due_at    timestamptz,
    handed_at timestamptz,
    sent_at   timestamptz,
    CONSTRAINT reminders_due CHECK ((due_at IS NULL) = (sent_at IS NOT NULL))
);
CREATE INDEX IF NOT EXISTS reminders_by_due_time ON reminders (milestone, due_at)
    WHERE due_at IS NOT NULL;
"""

# The ledger is read for it. One that broke off is there and serves nobody. Of expressions that the
# statements of the path do not use: planned while the ledger is empty, one of them would come to
# find a link among all links of its milestone.
BESIDE_TRAFFIC = (
    "DROP INDEX CONCURRENTLY IF EXISTS links_of_an_hour",
    """
    CREATE INDEX CONCURRENTLY links_of_an_hour
        ON links ((milestone || ''), (created_at AT TIME ZONE 'UTC'))
    """,
)

DOWNGRADE = """
DROP INDEX links_of_an_hour;
DROP TABLE reminders, funnel, funnel_changes, funnel_folds;
DROP FUNCTION milepost_counted_since();
ALTER TABLE milestones
    DROP COLUMN reminders,
    DROP COLUMN reminders_until;
"""


def upgrade() -> None:
    """Make room for both."""
    op.execute(UPGRADE)
    with beside_traffic():
        for statement in BESIDE_TRAFFIC:
            op.execute(statement)


def downgrade() -> None:
    """Forget them."""
    op.execute(DOWNGRADE)
