"""Sources of registrants: who stands in one, and who does not any more."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UPGRADE = """
-- source:        the source that has listed them; NULL: none has, so none can take them away.
-- removed_at:    that source does not list them any more; to events they are unknown.
-- contact_stale: the platform was told something else of them than is known here.
ALTER TABLE registrants
    ADD COLUMN source        text,
    ADD COLUMN removed_at    timestamptz,
    ADD COLUMN contact_stale boolean NOT NULL DEFAULT false;

-- What came in at one time, out of the source, a file or a request: its rows are staged until a run
-- applies them. `read` says how it was read, `rows` and `bad` count; they are told when all of it
-- has come.
CREATE TABLE intakes (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id     bigint REFERENCES runs (id) ON DELETE SET NULL,
    rows       bigint,
    bad        bigint,
    read       jsonb,
    touched_at timestamptz NOT NULL,
    CONSTRAINT intakes_whole CHECK (num_nulls(rows, bad, read) IN (0, 3))
);

-- A row of an intake: a registrant, or what is wrong with it, and then the ref only if it could be
-- told or guessed. Nothing ties it to its intake: a million rows are deleted in pieces, before it.
CREATE TABLE staged (
    intake_id  bigint NOT NULL,
    number     bigint NOT NULL,
    ref        text COLLATE "C",
    email      text,
    first_name text,
    last_name  text,
    phone      text,
    language   text,
    attributes jsonb,
    source     text,
    line       bigint,
    reason     text,
    is_guess   boolean NOT NULL,
    PRIMARY KEY (intake_id, number),
    CONSTRAINT staged_good_or_bad CHECK ((reason IS NULL) = (attributes IS NOT NULL)),
    CONSTRAINT staged_named CHECK (reason IS NOT NULL OR ref IS NOT NULL)
);
CREATE INDEX staged_by_ref ON staged (intake_id, ref, number) WHERE ref IS NOT NULL;
CREATE INDEX staged_bad ON staged (intake_id, number) WHERE reason IS NOT NULL;

-- Up to where a source that tells of changes alone was applied.
CREATE TABLE watermarks (
    source text COLLATE "C" PRIMARY KEY,
    kind   text NOT NULL,
    value  text NOT NULL
);
"""

DOWNGRADE = """
DROP TABLE watermarks, staged, intakes;
ALTER TABLE registrants DROP COLUMN source, DROP COLUMN removed_at, DROP COLUMN contact_stale;
"""


def upgrade() -> None:
    """Make room for sources."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget them."""
    op.execute(DOWNGRADE)
