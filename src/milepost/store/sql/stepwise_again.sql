-- When a link's own distribution is to be looked at again, and whether the last look was refused.
--
-- %(link)s
-- %(pause)s       seconds from now on; NULL: never
-- %(is_refused)s  the platform has told nothing of it now
WITH looked AS MATERIALIZED (
    SELECT l.id, l.milestone, l.created_at, coalesce(l.look_refused, false) AS was_refused
    FROM links AS l
    WHERE l.id = %(link)s
    LIMIT 1
    FOR NO KEY UPDATE
),

-- The funnel counts it among those that were looked at, or not any more.
recounted AS (
    INSERT INTO funnel_changes (milestone, hour)
    SELECT l.milestone, date_trunc('hour', l.created_at, 'UTC')
    FROM looked AS l
    WHERE l.was_refused <> %(is_refused)s AND l.created_at <= (SELECT milepost_counted_since())
)

UPDATE links AS l SET
    -- No moment can be missing here: what has none is due soon after it was issued.
    look_due_at = coalesce(
        milepost_now() + make_interval(secs => %(pause)s), make_timestamptz(9999, 1, 1, 0, 0, 0)),
    look_refused = nullif(%(is_refused)s, false)
FROM looked
WHERE l.id = looked.id
