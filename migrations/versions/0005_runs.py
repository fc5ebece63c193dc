"""Runs of jobs: which was due when, who is at it, how far it is, and what it has to tell."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UPGRADE = """
-- One row per job, from the moment at which a scheduler first knew of it. Whoever decides which run
-- of a job comes next holds its row.
--
-- accounted_until: up to here every due time has its run, or is one that a run stands for.
-- done_until:      up to here every due time is done; of a job that never ends, when somebody was
--                  last at it.
-- error:           what a job that never ends met last.
CREATE TABLE jobs (
    name            text COLLATE "C" PRIMARY KEY,
    accounted_until timestamptz NOT NULL,
    done_until      timestamptz NOT NULL,
    error           text,
    error_at        timestamptz,
    CONSTRAINT jobs_error CHECK ((error IS NULL) = (error_at IS NULL))
);

-- One row per execution; `store/runs.py` tells its course. One that somebody asked for is due when
-- it was asked for.
CREATE TABLE runs (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job          text COLLATE "C" NOT NULL REFERENCES jobs (name),
    due_at       timestamptz NOT NULL,
    coalesced    integer NOT NULL DEFAULT 0 CHECK (coalesced >= 0),
    asked_by     text,
    options      jsonb NOT NULL DEFAULT '{}',
    state        text NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'stopped')),
    attempt      integer NOT NULL DEFAULT 0,
    failures     integer NOT NULL DEFAULT 0,
    lease_until  timestamptz,
    paused_until timestamptz,
    position     jsonb,
    stage        text,
    done         bigint NOT NULL DEFAULT 0,
    total        bigint,
    counts       json NOT NULL,  -- which stay in their order
    idle         boolean NOT NULL DEFAULT false,
    error        text,
    created_at   timestamptz NOT NULL,
    started_at   timestamptz,
    ended_at     timestamptz,
    CONSTRAINT runs_lease CHECK ((state = 'running') = (lease_until IS NOT NULL)),
    CONSTRAINT runs_pause CHECK (
        (state = 'waiting' AND started_at IS NOT NULL) = (paused_until IS NOT NULL)),
    CONSTRAINT runs_begun CHECK (state = 'waiting' OR started_at IS NOT NULL),
    CONSTRAINT runs_ended CHECK ((state IN ('done', 'failed', 'stopped')) = (ended_at IS NOT NULL)),
    CONSTRAINT runs_explained CHECK (state NOT IN ('failed', 'stopped') OR error IS NOT NULL)
);
-- Whatever else goes wrong: no due time has two runs, and what was begun is ended before the next
-- run of the job begins.
CREATE UNIQUE INDEX runs_due ON runs (job, due_at) WHERE asked_by IS NULL;
CREATE UNIQUE INDEX runs_one_at_a_time ON runs (job)
    WHERE started_at IS NOT NULL AND ended_at IS NULL;
-- Asked for twice before it begins, it is one run.
CREATE UNIQUE INDEX runs_asked_for ON runs (job, options) WHERE started_at IS NULL;
-- Of runs that found nothing to do only the last is kept, or they would hide the others.
CREATE UNIQUE INDEX runs_idle ON runs (job) WHERE idle;
CREATE INDEX runs_history ON runs (job, id);

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
"""

DOWNGRADE = """
DROP TABLE findings, runs, jobs;
"""


def upgrade() -> None:
    """Make the tables."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget what ran when."""
    op.execute(DOWNGRADE)
