-- Hand reminders that are due to one caller for a while: to nobody else meanwhile, and to the next one
-- if this one does not say that it was sent. Those whose link has ended are forgotten.
--
-- %(milestones)s  JSON array of {key, days}: the milestones that may send reminders now, and the age
--                 of a link at which it gets one
-- {whose}         nothing, or only those that a key of one name asked for
-- %(limit)s       how many are looked at
-- %(lease)s       seconds for which they are this caller's
WITH candidate AS MATERIALIZED (
    SELECT r.link_id, r.milestone, m.days
    FROM jsonb_to_recordset(%(milestones)s::jsonb) AS m (key text, days integer)
    CROSS JOIN LATERAL (
        SELECT r.link_id, r.milestone
        FROM reminders AS r
        WHERE r.milestone = m.key
            AND r.due_at <= milepost_now()
            {whose}
        ORDER BY r.due_at
        LIMIT %(limit)s
        FOR NO KEY UPDATE SKIP LOCKED) AS r
    LIMIT %(limit)s
),

judged AS MATERIALIZED (
    SELECT
        c.link_id,
        l.issued_at + make_interval(days => c.days) AS ripe_at,
        l.reuses IS NOT NULL
            OR l.state IN ('suppressed', 'failed')
            OR l.finished_at IS NOT NULL
            OR l.revoked_at IS NOT NULL
            OR l.expires_at <= milepost_now()
            OR p.opted_out_at IS NOT NULL
            OR p.erased_at IS NOT NULL
            OR p.removed_at IS NOT NULL AS has_ended,
        l.event_id, l.milestone, l.ref AS registrant, l.issued_at, l.expires_at, l.delivered_at,
        l.clicked_at, l.started_at,
        CASE l.published WHEN 'short' THEN l.short_url ELSE l.url END AS url
    FROM candidate AS c
    CROSS JOIN LATERAL (SELECT l.* FROM links AS l WHERE l.id = c.link_id LIMIT 1) AS l
    LEFT JOIN LATERAL (
        SELECT p.* FROM registrants AS p WHERE p.id = l.registrant_id LIMIT 1) AS p ON true
),

forgotten AS (
    DELETE FROM reminders AS r
    USING judged AS j
    WHERE r.link_id = j.link_id AND j.has_ended
),

-- A link that is not made yet is looked at again, and one that was made late once it is old enough.
handed AS (
    UPDATE reminders AS r SET
        due_at = CASE WHEN j.ripe_at <= milepost_now()
            THEN milepost_now() + make_interval(secs => %(lease)s)
            ELSE coalesce(j.ripe_at, milepost_now() + interval '1 hour') END,
        handed_at = CASE WHEN j.ripe_at <= milepost_now() THEN milepost_now() ELSE r.handed_at END
    FROM judged AS j
    WHERE r.link_id = j.link_id AND NOT j.has_ended
    RETURNING r.link_id, r.due_at
)

SELECT
    coalesce(j.ripe_at <= milepost_now(), false) AND NOT j.has_ended AS is_due,
    j.link_id, j.event_id, j.milestone, j.registrant, j.url, j.issued_at, j.expires_at,
    j.delivered_at, j.clicked_at, j.started_at,
    h.due_at AS lease_until
FROM judged AS j
LEFT JOIN handed AS h ON h.link_id = j.link_id
ORDER BY j.issued_at
