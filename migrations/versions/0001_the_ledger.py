"""The ledger: who may call, milestones, registrants, pools and links.

Everything that a promise rests on is a constraint here. `docs/store.md` walks through the tables.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UPGRADE = """
-- The one clock of every decision that processes share: the real time, unless a connection sets
-- `milepost.now` (tests, simulated days). STABLE: one answer per statement, and each statement of a
-- transaction sees a later one, so a decision is never older than the locks it waited for.
CREATE FUNCTION milepost_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(
        nullif(current_setting('milepost.now', true), '')::timestamptz, statement_timestamp())
$$;

-- One row: what this deployment is, and what it made at the platform for all milestones.
CREATE TABLE deployment (
    one              boolean PRIMARY KEY DEFAULT true CHECK (one),
    id               text NOT NULL CHECK (id ~ '^[a-z0-9]{8}$'),
    fingerprint_key  bytea NOT NULL CHECK (length(fingerprint_key) = 32),
    directory_id     text,
    dedup_criteria   text[],
    home_list_id     text,
    home_attempt     integer NOT NULL DEFAULT 0,
    home_lease_until timestamptz,
    created_at       timestamptz NOT NULL,
    CHECK ((directory_id IS NULL) = (dedup_criteria IS NULL))
);

CREATE TABLE api_keys (
    id            text COLLATE "C" PRIMARY KEY,
    name          text NOT NULL,
    secret_sha256 bytea NOT NULL CHECK (length(secret_sha256) = 32),
    scopes        text[] NOT NULL
        CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['issue', 'sync', 'read', 'admin']),
    created_at    timestamptz NOT NULL,
    revoked_at    timestamptz
);

CREATE TABLE milestones (
    key                text COLLATE "C" PRIMARY KEY,
    survey_id          text NOT NULL,
    name               text NOT NULL,
    route              text NOT NULL
        CHECK (route IN ('list', 'transaction', 'anonymous', 'stepwise')),
    membership         text NOT NULL CHECK (membership IN ('event', 'ahead')),
    lanes              text[] NOT NULL CHECK (
        lanes <@ ARRAY['ready', 'direct', 'deferred', 'queued']
        AND coalesce(lanes[cardinality(lanes)] IN ('deferred', 'queued'), false)),
    repeat             text NOT NULL CHECK (repeat IN ('once', 'every_event', 'cooldown')),
    cooldown_days      integer CHECK (cooldown_days > 0),
    sample_percent     double precision NOT NULL CHECK (sample_percent BETWEEN 0 AND 100),
    slots              integer NOT NULL CHECK (slots > 0),
    max_slots          integer NOT NULL CHECK (max_slots >= slots),
    when_full          text NOT NULL CHECK (when_full IN ('deferred', 'suppressed')),
    link_days          integer NOT NULL CHECK (link_days > 0),
    min_link_days      integer NOT NULL CHECK (min_link_days >= 0 AND min_link_days < link_days),
    fields             jsonb NOT NULL,
    quiet_links        integer CHECK (quiet_links > 0),
    quiet_days         integer CHECK (quiet_days > 0),
    unknown_registrant text NOT NULL CHECK (unknown_registrant IN ('reject', 'defer')),
    late_data          boolean NOT NULL,
    deadline_ms        integer NOT NULL CHECK (deadline_ms BETWEEN 1 AND 8000),
    state              text NOT NULL CHECK (state IN ('active', 'paused')),
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,
    CHECK ((repeat = 'cooldown') = (cooldown_days IS NOT NULL)),
    CHECK ((quiet_links IS NULL) = (quiet_days IS NULL))
);

-- contact_key: a hash of the directory's dedup criteria's values; NULL when one is missing.
-- dedup_key:   the same, held by the one registrant whose contact it is; the others with the same
--              contact_key share that contact and get no links under route `list`.
CREATE TABLE registrants (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ref                 text COLLATE "C" NOT NULL CHECK (octet_length(ref) BETWEEN 1 AND 800),
    email               text,
    first_name          text,
    last_name           text,
    phone               text,
    language            text,
    attributes          jsonb NOT NULL DEFAULT '{}',
    contact_key         text COLLATE "C",
    dedup_key           text COLLATE "C",
    contact_id          text,
    home_lookup_id      text,
    contact_at          timestamptz,
    contact_attempt     integer NOT NULL DEFAULT 0,
    contact_lease_until timestamptz,
    contact_in_doubt    boolean NOT NULL DEFAULT false,
    contact_looks       integer NOT NULL DEFAULT 0,
    contact_first_look_at timestamptz,
    opted_out_at        timestamptz,
    erased_at           timestamptz,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    CONSTRAINT registrants_ref UNIQUE (ref),
    CONSTRAINT registrants_dedup_key UNIQUE (dedup_key),
    CHECK (dedup_key IS NULL OR dedup_key IS NOT DISTINCT FROM contact_key),
    CHECK ((home_lookup_id IS NULL) = (contact_at IS NULL)),
    CHECK (home_lookup_id IS NULL OR contact_id IS NOT NULL)
);
CREATE INDEX registrants_contact_key ON registrants (contact_key) WHERE contact_key IS NOT NULL;
CREATE INDEX registrants_without_contact ON registrants (id)
    WHERE home_lookup_id IS NULL AND dedup_key IS NOT NULL;

-- A slot is one mailing list of a milestone's pool; its distributions follow one another on it.
CREATE TABLE slots (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    milestone        text COLLATE "C" NOT NULL REFERENCES milestones (key),
    survey_id        text NOT NULL,
    number           integer NOT NULL CHECK (number > 0),
    list_name        text NOT NULL,
    list_id          text UNIQUE,
    probe_contact_id text,
    probe_lookup_id  text,
    rests_until      timestamptz,
    created_at       timestamptz NOT NULL,
    UNIQUE (milestone, survey_id, number),
    CHECK ((probe_contact_id IS NULL) = (probe_lookup_id IS NULL)),
    CHECK (probe_lookup_id IS NULL OR list_id IS NOT NULL)
);

CREATE TABLE distributions (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slot_id         bigint NOT NULL REFERENCES slots (id),
    generation      integer NOT NULL CHECK (generation > 0),
    description     text NOT NULL,
    distribution_id text UNIQUE,
    template        text,
    state           text NOT NULL
        CHECK (state IN ('making', 'ready', 'stopped', 'draining', 'retired')),
    stopped_because text,
    last_error      text,
    attempt         integer NOT NULL DEFAULT 0,
    lease_until     timestamptz,
    expires_at      timestamptz,
    takes_until     timestamptz,
    calibrated_at   timestamptz,
    created_at      timestamptz NOT NULL,
    UNIQUE (slot_id, generation),
    CHECK (takes_until <= expires_at),
    CHECK ((state = 'stopped') = (stopped_because IS NOT NULL)),
    CHECK (state NOT IN ('ready', 'draining') OR (
        distribution_id IS NOT NULL AND template IS NOT NULL AND calibrated_at IS NOT NULL
        AND expires_at IS NOT NULL AND takes_until IS NOT NULL))
);
CREATE INDEX distributions_in_the_making ON distributions (id) WHERE state = 'making';

-- One row per event, for ever. What is true at the platform (`state`) stands apart from what the
-- caller was given (`published`).
CREATE TABLE links (
    id              uuid PRIMARY KEY,
    event_id        text COLLATE "C" NOT NULL CHECK (octet_length(event_id) BETWEEN 1 AND 200),
    milestone       text COLLATE "C" NOT NULL REFERENCES milestones (key),
    survey_id       text NOT NULL,
    ref             text COLLATE "C" NOT NULL CHECK (octet_length(ref) BETWEEN 1 AND 800),
    registrant_id   bigint REFERENCES registrants (id),
    occurred_at     timestamptz,
    data            jsonb NOT NULL,
    fingerprint     jsonb NOT NULL,
    asked_by        text NOT NULL,
    state           text NOT NULL CHECK (
        state IN ('claimed', 'waiting', 'unknown', 'issued', 'suppressed', 'failed')),
    rule            text,
    rule_until      timestamptz,
    rule_detail     text,
    route           text CHECK (route IN ('list', 'transaction', 'anonymous', 'stepwise')),
    lane            text CHECK (lane IN ('ready', 'direct', 'deferred', 'queued')),
    published       text CHECK (published IN ('personal', 'short')),
    attempt         integer NOT NULL CHECK (attempt >= 0),
    lease_until     timestamptz,
    waiting_until   timestamptz,
    looks           integer NOT NULL DEFAULT 0,
    first_look_at   timestamptz,
    slot_id         bigint REFERENCES slots (id),
    distribution_id bigint REFERENCES distributions (id),
    contact_key     text COLLATE "C",
    lookup_id       text COLLATE "C",
    url             text,
    reuses          uuid REFERENCES links (id),
    upstream_calls  double precision NOT NULL DEFAULT 0,
    expires_at      timestamptz,
    created_at      timestamptz NOT NULL,
    issued_at       timestamptz,
    data_at         timestamptz,
    finished_at     timestamptz,
    CONSTRAINT links_event_id UNIQUE (event_id),
    -- One URL for one link: the same distribution and lookup id are the same URL.
    CONSTRAINT links_one_url UNIQUE (distribution_id, lookup_id),
    -- At most one link per distribution and registrant, and per distribution and contact, from the
    -- claim on.
    CONSTRAINT links_one_per_distribution UNIQUE (distribution_id, registrant_id),
    CONSTRAINT links_one_per_contact UNIQUE (distribution_id, contact_key),
    CONSTRAINT links_place CHECK (
        (slot_id IS NULL) = (distribution_id IS NULL)
        AND (slot_id IS NULL) = (contact_key IS NULL)),
    CONSTRAINT links_lease CHECK (state <> 'claimed' OR lease_until IS NOT NULL),
    CONSTRAINT links_waiting CHECK (state <> 'waiting' OR waiting_until IS NOT NULL),
    CONSTRAINT links_explained CHECK (state NOT IN ('suppressed', 'failed') OR rule IS NOT NULL),
    -- A personal URL exists exactly when a link was issued and is not another link's.
    CONSTRAINT links_url CHECK (
        (url IS NOT NULL) = (state = 'issued' AND reuses IS NULL)
        AND (url IS NULL) = (issued_at IS NULL)
        AND (url IS NULL OR (lookup_id IS NOT NULL AND expires_at IS NOT NULL))),
    CONSTRAINT links_reuse CHECK (reuses IS NULL OR state = 'issued'),
    CONSTRAINT links_published CHECK (state <> 'issued' OR published IS NOT NULL)
);
CREATE INDEX links_of_a_registrant ON links (ref, created_at);
CREATE INDEX links_in_a_slot ON links (registrant_id, slot_id) WHERE slot_id IS NOT NULL;
CREATE INDEX links_of_a_contact ON links (contact_key, slot_id) WHERE contact_key IS NOT NULL;
CREATE INDEX links_of_a_milestone ON links (milestone, id);
CREATE INDEX links_unsettled ON links (id) WHERE state IN ('claimed', 'waiting', 'unknown');
"""

DOWNGRADE = """
DROP TABLE links, distributions, slots, registrants, milestones, api_keys, deployment;
DROP FUNCTION milepost_now();
"""


def upgrade() -> None:
    """Make the ledger."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Take it away with all it holds."""
    op.execute(DOWNGRADE)
