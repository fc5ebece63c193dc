-- Look at the links of a milestone that have come to the age at which they may want a reminder, some
-- at a time, and note those that may: they have ended by then, or are due. Reminders that nobody has
-- fetched are forgotten once their link has ended.
--
-- %(milestone)s
-- %(days)s       that age
-- %(link_days)s  whoever looks for the first time begins so many days ago; most links of that age have ended
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
    INSERT INTO reminders (link_id, milestone, asked_by, due_at)
    SELECT l.id, l.milestone, l.asked_by, milepost_now()
    FROM upto AS u
    CROSS JOIN LATERAL (
        SELECT l.id, l.milestone, l.asked_by, l.state, l.reuses, l.finished_at
        FROM links AS l
        WHERE l.milestone || '' = u.key
            AND l.created_at AT TIME ZONE 'UTC' > u.since
            AND l.created_at AT TIME ZONE 'UTC' <= u.until
        OFFSET 0) AS l
    WHERE l.reuses IS NULL
        AND l.finished_at IS NULL
        AND l.state IN ('issued', 'claimed', 'waiting', 'unknown')
    ON CONFLICT (link_id) DO NOTHING
),

-- What a process of the version before has noted.
named AS (
    UPDATE reminders AS r SET asked_by = bare.asked_by
    FROM (
        SELECT r.link_id, l.asked_by
        FROM milestone AS m
        CROSS JOIN LATERAL (
            SELECT r.link_id
            FROM reminders AS r
            WHERE r.milestone = m.key AND r.asked_by IS NULL AND r.due_at IS NOT NULL
            LIMIT %(limit)s
            FOR NO KEY UPDATE SKIP LOCKED) AS r
        CROSS JOIN LATERAL (
            SELECT l.asked_by FROM links AS l WHERE l.id = r.link_id LIMIT 1) AS l) AS bare
    WHERE r.link_id = bare.link_id
    RETURNING r.link_id
),

forgotten AS (
    DELETE FROM reminders AS r
    USING (
        SELECT r.link_id
        FROM milestone AS m
        CROSS JOIN LATERAL (
            SELECT r.link_id
            FROM reminders AS r
            WHERE r.milestone = m.key
                AND r.due_at <= milepost_now() - make_interval(days => %(link_days)s - %(days)s)
            ORDER BY r.due_at
            LIMIT %(limit)s
            FOR UPDATE SKIP LOCKED) AS r
        CROSS JOIN LATERAL (
            SELECT l.state, l.expires_at FROM links AS l WHERE l.id = r.link_id LIMIT 1) AS l
        WHERE l.expires_at <= milepost_now() OR l.state IN ('suppressed', 'failed')) AS ended
    WHERE r.link_id = ended.link_id
)

UPDATE milestones AS m SET
    reminders_until = greatest(m.reminders_until, u.until AT TIME ZONE 'UTC')
FROM upto AS u
WHERE m.key = u.key
RETURNING u.is_more OR (SELECT count(*) FROM named) = %(limit)s AS is_more
