-- Write down what the platform says became of links: opened, started, finished, and by which response.
--
-- %(outcomes)s  JSON array of {link_id, opened_at, started_at, finished_at, response_id}, no link twice
--
-- It may be said again, in any order and by several at a time: a moment that is written is never taken
-- back nor moved, and a link keeps its first response. Whoever has finished has started, and whoever
-- has started has opened: where only the later moment is told, it stands for the earlier ones.
--
-- Returns one row for each link that has changed, and none for the others: the link as it is now, and
-- which of its moments are of this statement (is_opened, is_started, is_finished). What is to follow
-- exactly once from a link's moment is to be written by this statement, from these rows: messages to
-- the endpoints that want to hear of it.
--
-- Each row is found and locked by a subquery with a LIMIT, in one order, as in settle.sql.
WITH told AS MATERIALIZED (
    SELECT
        o.*, l.milestone, l.created_at,
        l.opened_at IS NULL AND o.opened_at IS NOT NULL AS is_opened,
        l.started_at IS NULL AND o.started_at IS NOT NULL AS is_started,
        l.finished_at IS NULL AND o.finished_at IS NOT NULL AS is_finished
    FROM (
        SELECT
            o.link_id,
            coalesce(o.opened_at, o.started_at, o.finished_at) AS opened_at,
            coalesce(o.started_at, o.finished_at) AS started_at,
            o.finished_at,
            o.response_id
        FROM jsonb_to_recordset(%(outcomes)s::jsonb) AS o (
            link_id uuid, opened_at timestamptz, started_at timestamptz, finished_at timestamptz,
            response_id text)
        ORDER BY o.link_id
    ) AS o
    CROSS JOIN LATERAL (
        SELECT
            l.opened_at, l.started_at, l.finished_at, l.response_id, l.milestone, l.created_at
        FROM links AS l
        WHERE l.id = o.link_id
        LIMIT 1
        FOR NO KEY UPDATE
    ) AS l
    WHERE (l.opened_at IS NULL AND o.opened_at IS NOT NULL)
        OR (l.started_at IS NULL AND o.started_at IS NOT NULL)
        OR (l.finished_at IS NULL AND o.finished_at IS NOT NULL)
        OR (l.response_id IS NULL AND o.response_id IS NOT NULL)
),

-- It changes a count that is done, as in settle.sql.
recounted AS (
    INSERT INTO funnel_changes (milestone, hour)
    SELECT DISTINCT t.milestone, date_trunc('hour', t.created_at, 'UTC')
    FROM told AS t
    WHERE (t.is_started OR t.is_finished) AND t.created_at <= (SELECT milepost_counted_since())
),

changed AS (
    UPDATE links AS l SET
        opened_at = coalesce(l.opened_at, t.opened_at),
        started_at = coalesce(l.started_at, t.started_at),
        finished_at = coalesce(l.finished_at, t.finished_at),
        response_id = coalesce(l.response_id, t.response_id)
    FROM told AS t
    WHERE l.id = t.link_id
    RETURNING
        l.id AS link_id, l.event_id, l.milestone, l.survey_id, l.ref, l.opened_at, l.started_at,
        l.finished_at, l.response_id, t.is_opened, t.is_started, t.is_finished
),

message AS (
    INSERT INTO messages (endpoint_id, type, link_id, due_at, created_at)
    SELECT e.id, c.type, c.link_id, c.at, c.at
    FROM (
        SELECT c.link_id, 'survey.started' AS type, (SELECT milepost_now()) AS at
        FROM changed AS c
        WHERE c.is_started
        UNION ALL
        SELECT c.link_id, 'survey.finished', (SELECT milepost_now())
        FROM changed AS c
        WHERE c.is_finished
    ) AS c
    JOIN endpoints AS e ON e.state = 'active' AND (e.types = '{}' OR c.type = ANY (e.types))
)

SELECT * FROM changed
