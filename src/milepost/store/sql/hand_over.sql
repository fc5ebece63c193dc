-- Hand unsettled links over at their callers' deadlines: with a short URL where the milestone's lanes
-- name `deferred`, with none where they do not. What a settlement has published meanwhile stays.
--
-- %(links)s  JSON array of {id, token}
-- %(short)s  what a token is put behind to make a short URL
--
-- How rows are found: as in settle.sql.
WITH late AS MATERIALIZED (
    SELECT h.id, h.token, m.route, 'deferred' = ANY (m.lanes) AS is_deferred
    FROM (
        SELECT *
        FROM jsonb_to_recordset(%(links)s::jsonb) AS h (id uuid, token text)
        ORDER BY h.id  -- in one order, or two batches would wait for each other in a circle
    ) AS h
    CROSS JOIN LATERAL (
        SELECT l.published, l.state, l.milestone
        FROM links AS l
        WHERE l.id = h.id
        LIMIT 1
        FOR NO KEY UPDATE
    ) AS l
    JOIN milestones AS m ON m.key = l.milestone
    WHERE l.published IS NULL AND l.state IN ('claimed', 'waiting', 'unknown')
)
UPDATE links AS l SET
    published = CASE WHEN h.is_deferred THEN 'short' END,
    token = CASE WHEN h.is_deferred THEN h.token END,
    short_url = CASE WHEN h.is_deferred THEN %(short)s || h.token END,
    lane = CASE WHEN h.is_deferred THEN 'deferred' ELSE 'queued' END,
    route = coalesce(l.route, h.route)
FROM late AS h
WHERE l.id = h.id
