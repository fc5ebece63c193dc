-- Claim distributions that are in the making, with their slots. Its dates are fixed by the first
-- claim, so that every later attempt means the same distribution.
--
-- %(limit)s, %(lease)s in seconds
UPDATE distributions AS d SET
    attempt = d.attempt + 1,
    lease_until = milepost_now() + make_interval(secs => %(lease)s),
    expires_at = coalesce(d.expires_at, free.expires_at),
    takes_until = coalesce(d.takes_until, free.expires_at - make_interval(days => free.min_link_days))
FROM (
    SELECT
        d.id, m.min_link_days,
        date_trunc('second', milepost_now()) + make_interval(days => m.link_days) AS expires_at
    FROM distributions AS d
    JOIN slots AS s ON s.id = d.slot_id
    JOIN milestones AS m ON m.key = s.milestone
    WHERE d.state = 'making'
        AND coalesce(d.lease_until <= milepost_now(), true)
        AND s.survey_id = m.survey_id
    ORDER BY s.number, d.id
    LIMIT %(limit)s
    FOR NO KEY UPDATE OF d SKIP LOCKED
) AS free, slots AS s
WHERE d.id = free.id AND s.id = d.slot_id
RETURNING
    d.id, d.slot_id, d.attempt, d.generation, d.description, d.distribution_id, d.expires_at,
    s.milestone, s.survey_id, s.number, s.list_name, s.list_id, s.probe_contact_id,
    s.probe_lookup_id
