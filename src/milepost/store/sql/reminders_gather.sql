-- Look at the links of a milestone that have come to the age at which they may want a reminder, some
-- at a time, and note those that may: they have ended by then, or are due.
--
-- %(milestone)s
-- %(days)s       that age
-- %(link_days)s  whoever looks for the first time begins so many days ago
-- %(limit)s      about how many are looked at; those that were created in one moment are looked at together
--
-- Whether it is due is found out once it is handed out. What is looked at twice is noted once. Nothing
-- younger than a minute is looked at: it may have been created in a transaction that is open still.
WITH milestone AS MATERIALIZED (
    SELECT
        m.key,
        coalesce(m.reminders_until, milepost_now() - make_interval(days => %(link_days)s))
            AT TIME ZONE 'UTC' AS since,
        (milepost_now() - greatest(make_interval(days => %(days)s), interval '1 minute'))
            AT TIME ZONE 'UTC' AS until
    FROM milestones AS m
    WHERE m.key = %(milestone)s
    FOR NO KEY UPDATE
),

upto AS MATERIALIZED (
    SELECT m.key, m.since, coalesce(last.at, m.until) AS until, last.at IS NOT NULL AS is_more
    FROM milestone AS m
    LEFT JOIN LATERAL (
        SELECT l.created_at AT TIME ZONE 'UTC' AS at
        FROM links AS l
        WHERE l.milestone || '' = m.key
            AND l.created_at AT TIME ZONE 'UTC' > m.since
            AND l.created_at AT TIME ZONE 'UTC' <= m.until
        ORDER BY l.created_at AT TIME ZONE 'UTC'
        OFFSET %(limit)s - 1
        LIMIT 1) AS last ON true
),

noted AS (
    INSERT INTO reminders (link_id, milestone, due_at)
    SELECT l.id, l.milestone, milepost_now()
    FROM upto AS u
    CROSS JOIN LATERAL (
        SELECT l.id, l.milestone, l.state, l.reuses, l.finished_at
        FROM links AS l
        WHERE l.milestone || '' = u.key
            AND l.created_at AT TIME ZONE 'UTC' > u.since
            AND l.created_at AT TIME ZONE 'UTC' <= u.until
        OFFSET 0) AS l
    WHERE l.reuses IS NULL
        AND l.finished_at IS NULL
        AND l.state IN ('issued', 'claimed', 'waiting', 'unknown')
    ON CONFLICT (link_id) DO NOTHING
)

UPDATE milestones AS m SET
    reminders_until = greatest(m.reminders_until, u.until AT TIME ZONE 'UTC')
FROM upto AS u
WHERE m.key = u.key
RETURNING u.is_more
