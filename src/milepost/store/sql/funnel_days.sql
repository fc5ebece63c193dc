-- How far the links of a milestone have come, by the day of their creation.
--
-- %(milestone)s
-- %(begin)s, %(end)s  from which moment, and before which
-- %(soonest)s, %(latest)s, %(at_an_age)s  as `stepwise` links are looked at: seconds, and a part
--
-- What became of links that were issued up to a moment is known where the history of their
-- distribution was read after it. Links of route `stepwise` are looked at one by one, in the order in
-- which they are due: no look that is due before `looks.done_until` is missing, and the look before it
-- was at most so much earlier as job `reconcile` lets between two of them.
SELECT
    (f.hour AT TIME ZONE 'UTC')::date AS day,
    sum(f.requested)::bigint AS requested,
    sum(f.reused)::bigint AS reused,
    sum(f.suppressed)::bigint AS suppressed,
    sum(f.failed)::bigint AS failed,
    sum(f.issued)::bigint AS issued,
    sum(f.delivered)::bigint AS delivered,
    sum(f.clicked)::bigint AS clicked,
    sum(f.started)::bigint AS started,
    sum(f.finished)::bigint AS finished,
    coalesce(sum(f.issued) FILTER (WHERE known.until > f.issued_until), 0)::bigint AS looked_at,
    min(known.until) FILTER (WHERE known.until > f.issued_until) AS looked_at_until
FROM funnel AS f
LEFT JOIN distributions AS d ON d.id = f.distribution_id
CROSS JOIN (
    SELECT least(milepost_now(), (
        SELECT coalesce(l.look_due_at, l.issued_at + interval '15 minutes')
        FROM links AS l
        WHERE l.route = 'stepwise' AND l.url IS NOT NULL
        ORDER BY coalesce(
            l.look_due_at AT TIME ZONE 'UTC',
            (l.issued_at AT TIME ZONE 'UTC') + interval '15 minutes')
        LIMIT 1)) AS done_until) AS looks
CROSS JOIN LATERAL (
    SELECT CASE f.distribution_id
        WHEN -1 THEN looks.done_until - least(
            greatest((milepost_now() - f.hour) / %(at_an_age)s, make_interval(secs => %(soonest)s)),
            make_interval(secs => %(latest)s))
        ELSE d.reconciled_at END AS until) AS known
WHERE f.milestone = %(milestone)s
    AND f.hour >= %(begin)s
    AND f.hour < %(end)s
GROUP BY (f.hour AT TIME ZONE 'UTC')::date
ORDER BY (f.hour AT TIME ZONE 'UTC')::date
