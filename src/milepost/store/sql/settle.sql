-- Settle a batch of claims, each only while it is still its taker's: a claim that somebody else
-- took over has another attempt number, and a late writer changes nothing. A link that goes on
-- waiting is handed over with a short URL, where its milestone's lanes name `deferred`. Endpoints that
-- want to hear of it get a message, in the same transaction.
--
-- %(settlements)s  JSON array of {id, attempt, state, rule, detail, route, lane, lookup_id, url,
--                  expires_at, calls, looked, outcome_unknown, leaves, pause, token}
-- %(short)s        what a token is put behind to make a short URL
--
-- Each row is found and locked by a subquery with a LIMIT, as in claim.sql: by an index, always. What
-- does not hold is left out here and not in the UPDATE, where the planner would begin with it and read
-- the ledger for the few rows that it expects to be claimed.
WITH settlement AS MATERIALIZED (
    SELECT
        s.*, l.milestone, l.created_at,
        s.url IS NULL AND s.state <> 'failed' AND l.published IS NULL AND EXISTS (
            SELECT FROM milestones AS m WHERE m.key = l.milestone AND 'deferred' = ANY (m.lanes))
            AS is_deferred
    FROM (
        SELECT *
        FROM jsonb_to_recordset(%(settlements)s::jsonb) AS s (
            id uuid, attempt integer, state text, rule text, detail text, route text, lane text,
            lookup_id text, url text, expires_at timestamptz, calls double precision, looked boolean,
            outcome_unknown boolean, leaves boolean, pause double precision, token text)
        ORDER BY s.id  -- in one order, or two batches would wait for each other in a circle
    ) AS s
    CROSS JOIN LATERAL (
        SELECT l.attempt, l.state, l.published, l.milestone, l.created_at
        FROM links AS l
        WHERE l.id = s.id
        LIMIT 1
        FOR NO KEY UPDATE
    ) AS l
    WHERE l.attempt = s.attempt AND l.state = 'claimed'
),

-- What waited for long changes a count that is done.
recounted AS (
    INSERT INTO funnel_changes (milestone, hour)
    SELECT s.milestone, date_trunc('hour', s.created_at, 'UTC')
    FROM settlement AS s
    WHERE s.created_at <= (SELECT milepost_counted_since())
),

settled AS (
    UPDATE links AS l SET
        state = s.state,
        rule = s.rule,
        rule_until = NULL,
        rule_detail = s.detail,
        route = CASE WHEN s.url IS NOT NULL OR s.is_deferred THEN s.route ELSE l.route END,
        lane = CASE WHEN s.url IS NOT NULL THEN coalesce(l.lane, s.lane)
            WHEN s.is_deferred THEN 'deferred' ELSE l.lane END,
        published = CASE WHEN s.url IS NOT NULL THEN coalesce(l.published, 'personal')
            WHEN s.is_deferred THEN coalesce(l.published, 'short') ELSE l.published END,
        token = CASE WHEN s.is_deferred AND l.published IS NULL THEN s.token ELSE l.token END,
        short_url = CASE WHEN s.is_deferred AND l.published IS NULL THEN %(short)s || s.token
            ELSE l.short_url END,
        lease_until = CASE WHEN s.pause > 0 THEN milepost_now() + make_interval(secs => s.pause) END,
        due_at = CASE WHEN s.state IN ('waiting', 'unknown')
            THEN milepost_now() + make_interval(secs => s.pause) END,
        lost = 0,
        -- Empty looks since a call went out whose outcome is unknown; one that could not be made tells
        -- nothing, and takes nothing away.
        looks = CASE WHEN s.looked THEN l.looks + 1
            WHEN s.state = 'unknown' AND NOT s.outcome_unknown THEN l.looks ELSE 0 END,
        first_look_at = CASE WHEN s.looked THEN coalesce(l.first_look_at, milepost_now())
            WHEN s.state = 'unknown' AND NOT s.outcome_unknown THEN l.first_look_at END,
        slot_id = CASE WHEN NOT s.leaves THEN l.slot_id END,
        distribution_id = CASE WHEN NOT s.leaves THEN l.distribution_id END,
        contact_key = CASE WHEN NOT s.leaves THEN l.contact_key END,
        lookup_id = s.lookup_id,
        url = s.url,
        expires_at = s.expires_at,
        upstream_calls = l.upstream_calls + s.calls,
        issued_at = CASE WHEN s.url IS NOT NULL THEN milepost_now() END,
        data_at = CASE WHEN s.url IS NOT NULL THEN milepost_now() END
    FROM settlement AS s
    WHERE l.id = s.id
    RETURNING {members}
),

told AS (
    INSERT INTO messages (endpoint_id, type, link_id, due_at, created_at)
    SELECT e.id, s.type, s.id, s.at, s.at
    FROM (
        SELECT s.id, 'link.' || s.state AS type, (SELECT milepost_now()) AS at
        FROM settled AS s
        WHERE EXISTS (SELECT FROM endpoints) AND s.state IN ('issued', 'failed')
    ) AS s
    JOIN endpoints AS e ON e.state = 'active' AND (e.types = '{}' OR s.type = ANY (e.types))
)

SELECT *, NULL::text AS reused_url FROM settled
