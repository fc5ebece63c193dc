-- Claim distributions that are in the making, with their slots. Its dates are fixed by the first
-- claim, so that every later attempt means the same distribution; they are set anew only for one that
-- could not be made for a day.
--
-- %(limit)s, %(lease)s in seconds
-- %(without)s  not these
-- %(routes)s   only for milestones of these
UPDATE distributions AS d SET
    attempt = d.attempt + 1,
    lease_until = milepost_now() + make_interval(secs => %(lease)s),
    expires_at = free.expires_at,
    takes_until = free.expires_at - make_interval(days => free.min_link_days)
FROM (
    SELECT
        d.id, m.min_link_days,
        CASE WHEN d.distribution_id IS NOT NULL OR d.expires_at > dates.expires_at - interval '1 day'
            THEN d.expires_at ELSE dates.expires_at END AS expires_at
    FROM distributions AS d
    JOIN slots AS s ON s.id = d.slot_id
    JOIN milestones AS m ON m.key = s.milestone
    CROSS JOIN LATERAL (
        SELECT date_trunc('second', milepost_now()) + make_interval(days => m.link_days)
            AS expires_at) AS dates
    WHERE d.state = 'making'
        AND d.id <> ALL (%(without)s::bigint[])
        AND coalesce(d.lease_until <= milepost_now(), true)
        AND s.survey_id = m.survey_id
        AND s.route = m.route
        AND s.route = ANY (%(routes)s)
        -- What is made for one that is paused or stopped may be taken away again, or not be trusted.
        AND m.state = 'active'
        AND m.stopped_at IS NULL
    ORDER BY s.number, d.id
    LIMIT %(limit)s
    FOR NO KEY UPDATE OF d SKIP LOCKED
) AS free, slots AS s
WHERE d.id = free.id AND s.id = d.slot_id
RETURNING
    d.id, d.slot_id, d.attempt, d.generation, d.description, d.distribution_id, d.expires_at,
    d.made_at, s.milestone, s.survey_id, s.route, s.number, s.list_name, s.list_id, s.batch_id,
    s.probe_contact_id, s.probe_lookup_id,
    -- Others than our probe are in the list, or may be.
    s.list_id IS NOT NULL AND (
        EXISTS (
            SELECT FROM distributions AS o
            WHERE o.slot_id = s.id
                AND o.calibrated_at IS NOT NULL
                AND coalesce(o.calibrated_at >= s.list_at, true))
        OR EXISTS (SELECT FROM memberships AS ahead WHERE ahead.slot_id = s.id)) AS is_filled,
    (
        SELECT o.template
        FROM slots AS other
        JOIN distributions AS o ON o.slot_id = other.id
        WHERE other.milestone = s.milestone
            AND other.survey_id = s.survey_id
            AND other.route = s.route
            AND o.state IN ('ready', 'draining')
        ORDER BY other.id = s.id DESC, o.generation DESC, o.id
        LIMIT 1
    ) AS inherited,
    ARRAY(
        SELECT o.distribution_id
        FROM distributions AS o
        WHERE o.slot_id = s.id AND o.distribution_id IS NOT NULL) AS known
