-- Hand unsettled links that are due to one worker for a while: to nobody else meanwhile, and to the
-- next one if this one dies. Those whose short URL somebody has opened come first.
--
-- %(state)s  the links' state
-- %(limit)s  how many
-- %(hold)s   seconds for which they are this worker's
WITH clicked AS (
    SELECT l.id
    FROM links AS l
    WHERE l.state = %(state)s
        AND l.due_at <= milepost_now()
        AND l.clicked_at IS NOT NULL
    ORDER BY l.due_at
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
),

other AS (
    SELECT l.id
    FROM links AS l
    WHERE l.state = %(state)s
        AND l.due_at <= milepost_now()
        AND l.clicked_at IS NULL
    ORDER BY l.due_at
    LIMIT greatest(%(limit)s - (SELECT count(*) FROM clicked), 0)
    FOR NO KEY UPDATE SKIP LOCKED
)

UPDATE links AS l SET due_at = milepost_now() + make_interval(secs => %(hold)s)
WHERE l.id = ANY (ARRAY(SELECT id FROM clicked UNION ALL SELECT id FROM other))
RETURNING
    l.event_id, l.milestone, l.ref, l.data, l.occurred_at, l.asked_by,
    (SELECT m.route FROM milestones AS m WHERE m.key = l.milestone) AS route,
    l.clicked_at IS NULL AS is_later, l.created_at,
    l.state = 'claimed' AND l.lost > 1 AS alone
