-- Count the links of a milestone that were created in an hour, by how far they have come.
--
-- %(milestone)s, %(hour)s
--
-- What is reused or suppressed has got no link of its own, and nothing that became of it counts. Links
-- of route `stepwise` are counted together (-1): each has a distribution of its own, at which it is
-- looked by itself. So are those that were issued and of which nothing tells (-2): plain ones, and those
-- at whose distribution the platform refused the last look. What has none yet is under 0.
INSERT INTO funnel (
    milestone, hour, distribution_id, requested, reused, suppressed, failed, issued, delivered,
    clicked, started, finished, issued_until)
SELECT
    %(milestone)s,
    %(hour)s,
    coalesce(l.distribution_id, 0),
    count(*),
    count(*) FILTER (WHERE l.is_reused),
    count(*) FILTER (WHERE l.state = 'suppressed'),
    count(*) FILTER (WHERE l.state = 'failed'),
    count(*) FILTER (WHERE l.is_eligible AND l.state = 'issued'),
    count(*) FILTER (WHERE l.is_eligible AND l.delivered_at IS NOT NULL),
    count(*) FILTER (WHERE l.is_eligible AND l.clicked_at IS NOT NULL),
    count(*) FILTER (
        WHERE l.is_eligible AND (l.started_at IS NOT NULL OR l.finished_at IS NOT NULL)),
    count(*) FILTER (WHERE l.is_eligible AND l.finished_at IS NOT NULL),
    max(l.issued_at)
FROM (
    SELECT
        l.state, l.issued_at, l.delivered_at, l.clicked_at, l.started_at, l.finished_at,
        CASE
            WHEN l.route = 'anonymous' OR l.look_refused THEN -2
            WHEN l.route = 'stepwise' THEN -1
            WHEN l.state = 'issued' THEN coalesce(l.distribution_id, -2)
            ELSE l.distribution_id END AS distribution_id,
        l.reuses IS NOT NULL AS is_reused,
        l.reuses IS NULL AND l.state <> 'suppressed' AS is_eligible
    FROM links AS l
    WHERE l.milestone || '' = %(milestone)s
        AND l.created_at AT TIME ZONE 'UTC' >= %(hour)s::timestamptz AT TIME ZONE 'UTC'
        AND l.created_at AT TIME ZONE 'UTC'
            < (%(hour)s::timestamptz + interval '1 hour') AT TIME ZONE 'UTC'
) AS l
GROUP BY coalesce(l.distribution_id, 0)
