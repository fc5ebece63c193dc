-- The next distributions whose links may become something, up to some days behind their end: who has
-- begun before the end may finish after it. The look at the end of those days is the last.
--
-- %(after)s  behind this one
-- %(days)s   so many
-- %(limit)s
SELECT
    d.id, d.distribution_id, d.slot_id, s.survey_id, s.milestone, s.probe_lookup_id,
    d.opened, d.started, d.finished,
    m.membership = 'ahead' AND s.route = 'list' AND s.number = 1 AS is_ahead,
    d.expires_at <= milepost_now() AS is_over,
    d.expires_at + make_interval(days => %(days)s) <= milepost_now() AS is_last
FROM distributions AS d
JOIN slots AS s ON s.id = d.slot_id
JOIN milestones AS m ON m.key = s.milestone
WHERE d.id > %(after)s
    AND d.distribution_id IS NOT NULL
    AND d.calibrated_at IS NOT NULL
    -- One that was torn down before its end is not there any more; no history tells of plain links.
    AND NOT (d.state = 'retired' AND d.expires_at > milepost_now())
    AND s.route IN ('list', 'transaction')
    AND d.given_up_at IS NULL
    AND coalesce(d.reconciled_at < d.expires_at + make_interval(days => %(days)s), true)
ORDER BY d.id
LIMIT %(limit)s
