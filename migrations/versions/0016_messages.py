"""Webhooks: endpoints, what is sent to them, and what came of each try."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

UPGRADE = """
-- Ids that lie in the order of their making, as those of links do: 48 bits of milliseconds, then
-- random ones, with the marks of version 7 (RFC 9562).
CREATE FUNCTION milepost_uuid7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT encode(
        set_bit(set_bit(
            overlay(
                uuid_send(gen_random_uuid())
                PLACING substring(
                    int8send((extract(epoch FROM milepost_now()) * 1000)::bigint) FROM 3)
                FROM 1 FOR 6),
            52, 1), 53, 1),
        'hex')::uuid
$$;

CREATE TABLE endpoints (
    id uuid PRIMARY KEY DEFAULT milepost_uuid7(),
    url text NOT NULL,
    types text[] NOT NULL,  -- which messages it wants; empty: all
    description text NOT NULL,
    state text NOT NULL CHECK (state IN ('active', 'disabled')),
    disabled_because text,
    -- Whoever reads these can sign in our name. They have to be kept as they are to sign with.
    secret text NOT NULL,
    secret_before text,
    secret_before_until timestamptz,
    created_at timestamptz NOT NULL,
    CONSTRAINT endpoints_disabled CHECK ((state = 'disabled') = (disabled_because IS NOT NULL)),
    CONSTRAINT endpoints_secret_before
        CHECK ((secret_before IS NULL) = (secret_before_until IS NULL))
);

-- What an endpoint may be sent at once: a row is held by whoever sends, by the database's clock.
CREATE TABLE endpoint_lines (
    endpoint_id uuid REFERENCES endpoints ON DELETE CASCADE,
    number smallint CHECK (number IN (1, 2)),
    message_id uuid,
    lease_until timestamptz,
    delivered_at timestamptz,
    failed_at timestamptz,
    PRIMARY KEY (endpoint_id, number),
    CONSTRAINT endpoint_lines_held CHECK ((message_id IS NULL) = (lease_until IS NULL))
);

-- Neither endpoint nor link is a foreign key: a message is written by the statements of the path of
-- an event, which would lock a row of `endpoints` each time.
CREATE TABLE messages (
    id uuid PRIMARY KEY DEFAULT milepost_uuid7(),
    endpoint_id uuid NOT NULL,
    type text NOT NULL,
    link_id uuid,  -- it tells of this link, as it is when it is sent
    data jsonb,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'parked')),
    attempt integer NOT NULL DEFAULT 0,
    attempts_before integer NOT NULL DEFAULT 0,  -- its last replay
    due_at timestamptz,
    created_at timestamptz NOT NULL,
    CONSTRAINT messages_content CHECK ((link_id IS NULL) <> (data IS NULL)),
    CONSTRAINT messages_due CHECK ((state = 'waiting') = (due_at IS NOT NULL))
);
CREATE INDEX messages_due_at ON messages (endpoint_id, due_at) WHERE state = 'waiting';
CREATE INDEX messages_of_endpoint ON messages (endpoint_id, id);
CREATE INDEX messages_parked ON messages (endpoint_id, id) WHERE state = 'parked';

CREATE TABLE attempts (
    message_id uuid REFERENCES messages ON DELETE CASCADE,
    number integer,
    at timestamptz NOT NULL,
    seconds double precision NOT NULL,
    code integer,
    error text,
    said text,
    PRIMARY KEY (message_id, number)
);

-- Since when a pool is low: it is told once.
ALTER TABLE milestones ADD COLUMN pool_low_at timestamptz;
"""

DOWNGRADE = """
ALTER TABLE milestones DROP COLUMN pool_low_at;
DROP TABLE attempts, messages, endpoint_lines, endpoints;
DROP FUNCTION milepost_uuid7();
"""


def upgrade() -> None:
    """Make them."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Take them away; what was not sent is lost."""
    op.execute(DOWNGRADE)
