"""Runs of jobs: which was due when, who is at it, how far it is, and what it has to tell."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UPGRADE = """
-- One row per job and due time; `store/runs.py` tells its course. A run that somebody asked for is
-- due when it was asked for.
CREATE TABLE runs (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job         text COLLATE "C" NOT NULL,
    due_at      timestamptz NOT NULL,
    coalesced   integer NOT NULL DEFAULT 0 CHECK (coalesced >= 0),
    asked_by    text,
    options     jsonb NOT NULL DEFAULT '{}',
    state       text NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'stopped')),
    attempt     integer NOT NULL DEFAULT 0,
    failures    integer NOT NULL DEFAULT 0,
    lease_until timestamptz,
    position    jsonb,
    stage       text,
    done        bigint NOT NULL DEFAULT 0,
    total       bigint,
    counts      jsonb NOT NULL DEFAULT '{}',
    error       text,
    created_at  timestamptz NOT NULL,
    started_at  timestamptz,
    ended_at    timestamptz,
    CONSTRAINT runs_due UNIQUE (job, due_at),
    CONSTRAINT runs_lease CHECK ((state = 'running') = (lease_until IS NOT NULL)),
    CONSTRAINT runs_ended CHECK ((state IN ('done', 'failed', 'stopped')) = (ended_at IS NOT NULL)),
    CONSTRAINT runs_explained CHECK (state NOT IN ('failed', 'stopped') OR error IS NOT NULL)
);
-- Whatever else goes wrong, no job runs twice at a time.
CREATE UNIQUE INDEX runs_one_at_a_time ON runs (job) WHERE state = 'running';
CREATE INDEX runs_asked_for ON runs (job, due_at) WHERE state = 'waiting';

-- What a run lists one by one: rows of a source that were left out, contacts that were not made.
CREATE TABLE findings (
    run_id bigint NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    number bigint NOT NULL,
    source text,
    line   bigint,
    ref    text,
    reason text NOT NULL,
    PRIMARY KEY (run_id, number)
);

-- When each job that never ends was last at work, in whichever process, and what it met.
CREATE TABLE rounds (
    job       text COLLATE "C" PRIMARY KEY,
    at        timestamptz NOT NULL,
    error     text,
    error_at  timestamptz
);
"""

DOWNGRADE = """
DROP TABLE rounds, findings, runs;
"""


def upgrade() -> None:
    """Make the tables."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget what ran when."""
    op.execute(DOWNGRADE)
