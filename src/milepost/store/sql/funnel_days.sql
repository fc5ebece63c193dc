-- How far the links of a milestone have come, by the day of their creation.
--
-- %(milestone)s
-- %(begin)s, %(end)s  from which moment, and before which
--
-- What became of links that were issued up to a moment is known where the history of their
-- distribution was read after it.
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
    coalesce(sum(f.issued) FILTER (WHERE d.reconciled_at >= f.issued_until), 0)::bigint AS looked_at,
    min(d.reconciled_at) FILTER (WHERE d.reconciled_at >= f.issued_until) AS looked_at_until
FROM funnel AS f
LEFT JOIN distributions AS d ON d.id = f.distribution_id
WHERE f.milestone = %(milestone)s
    AND f.hour >= %(begin)s
    AND f.hour < %(end)s
GROUP BY (f.hour AT TIME ZONE 'UTC')::date
ORDER BY (f.hour AT TIME ZONE 'UTC')::date
