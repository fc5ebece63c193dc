-- Put the hours of milestones that have links among those to be counted, from an hour before the last
-- time on: whatever changed of them since has not been written down (`milepost_counted_since`). A
-- milestone that was never counted has all of its hours put there.
--
-- A minute more is for transactions that were open then.
WITH RECURSIVE milestone AS MATERIALIZED (
    SELECT
        m.key,
        date_trunc('hour', f.marked_until - interval '61 minutes', 'UTC') AS since
    FROM milestones AS m
    LEFT JOIN funnel_folds AS f ON f.milestone = m.key
),

-- From link to link, each the first of an hour behind the one before.
first_link AS (
    SELECT m.key, first.at
    FROM milestone AS m
    CROSS JOIN LATERAL (
        SELECT l.created_at AT TIME ZONE 'UTC' AS at
        FROM links AS l
        WHERE l.milestone || '' = m.key
            AND l.created_at AT TIME ZONE 'UTC'
                >= coalesce(m.since AT TIME ZONE 'UTC', '-infinity')
        ORDER BY l.created_at AT TIME ZONE 'UTC'
        LIMIT 1) AS first
    UNION ALL
    SELECT f.key, following.at
    FROM first_link AS f
    CROSS JOIN LATERAL (
        SELECT l.created_at AT TIME ZONE 'UTC' AS at
        FROM links AS l
        WHERE l.milestone || '' = f.key
            AND l.created_at AT TIME ZONE 'UTC' >= date_trunc('hour', f.at) + interval '1 hour'
        ORDER BY l.created_at AT TIME ZONE 'UTC'
        LIMIT 1) AS following
),

marked AS (
    INSERT INTO funnel_changes (milestone, hour)
    SELECT f.key, date_trunc('hour', f.at) AT TIME ZONE 'UTC' FROM first_link AS f
),

-- Issued links stand under 0 where a process of a version before has counted them: it knows of no
-- other number for those that it did not find on a distribution of a pool (`funnel_count.sql`).
of_before AS (
    INSERT INTO funnel_changes (milestone, hour)
    SELECT f.milestone, f.hour FROM funnel AS f WHERE f.distribution_id = 0 AND f.issued > 0
)

INSERT INTO funnel_folds AS f (milestone, marked_until)
SELECT m.key, milepost_now() FROM milestone AS m
ON CONFLICT (milestone) DO UPDATE SET marked_until = excluded.marked_until
