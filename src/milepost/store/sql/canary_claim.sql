-- Take the canary of a survey that is new enough: one that is ready, else the right to make one that
-- is in the making, else the right to make another. No row: somebody else is at it.
--
-- %(list)s        the survey's canary list, a slot, which the transaction has locked
-- %(since)s       it is new enough that was made then at the earliest, or is still to be made
-- %(is_patient)s  or that is in the making since whenever: its link is not listed yet; but none is new
--                 enough that is older than a stop of a milestone of the survey, of which it tells
--                 nothing
-- %(days)s        for so many days it is to live
-- %(lease)s       in seconds
WITH dates AS (
    SELECT date_trunc('second', milepost_now()) + make_interval(days => %(days)s) AS expires_at
),

stop AS (
    SELECT max(greatest(m.stopped_at, m.stop_seen_at)) AS at
    FROM milestones AS m
    JOIN slots AS s ON s.survey_id = m.survey_id
    WHERE s.id = %(list)s AND m.stopped_at IS NOT NULL
),

usable AS (
    SELECT d.id, d.state
    FROM distributions AS d
    CROSS JOIN stop
    WHERE d.slot_id = %(list)s
        AND d.state IN ('making', 'ready')
        AND (coalesce(d.made_at >= %(since)s, true) OR (%(is_patient)s AND d.state = 'making'))
        AND (coalesce(d.made_at >= stop.at, true) OR NOT %(is_patient)s)
        -- The link of one that has ended will never be listed.
        AND (d.state = 'ready' OR d.made_at IS NULL OR d.expires_at > milepost_now())
    -- The newest that is ready, since what it shows may have changed since the others; of those that
    -- are not listed yet the oldest, which is the first to be.
    ORDER BY
        d.state = 'ready' DESC,
        CASE d.state WHEN 'ready' THEN -d.generation ELSE d.generation END
    LIMIT 1
),

taken AS (
    -- Its dates stay, so that every attempt means the same one, unless it was not made for a day.
    UPDATE distributions AS d SET
        attempt = d.attempt + 1,
        lease_until = milepost_now() + make_interval(secs => %(lease)s),
        expires_at = dated.expires_at,
        takes_until = dated.expires_at
    FROM usable AS u
    CROSS JOIN LATERAL (
        SELECT
            CASE WHEN l.distribution_id IS NULL AND l.expires_at < dates.expires_at - interval '1 day'
                THEN dates.expires_at ELSE l.expires_at END AS expires_at
        FROM distributions AS l
        CROSS JOIN dates
        WHERE l.id = u.id) AS dated
    WHERE d.id = u.id
        AND u.state = 'making'
        AND coalesce(d.lease_until <= milepost_now(), true)
    RETURNING d.*
),

begun AS (
    INSERT INTO distributions (
        slot_id, generation, description, state, attempt, lease_until, expires_at, takes_until,
        created_at)
    SELECT
        s.id, last.generation + 1, s.list_name || ' g' || (last.generation + 1), 'making', 1,
        milepost_now() + make_interval(secs => %(lease)s), dates.expires_at, dates.expires_at,
        milepost_now()
    FROM slots AS s
    CROSS JOIN dates
    CROSS JOIN LATERAL (
        SELECT coalesce(max(d.generation), 0) AS generation
        FROM distributions AS d
        WHERE d.slot_id = s.id) AS last
    WHERE s.id = %(list)s AND NOT EXISTS (SELECT FROM usable)
    RETURNING *
)

SELECT
    d.id, d.slot_id, d.attempt, d.generation, d.description, d.distribution_id, d.expires_at,
    d.made_at, d.template, d.state = 'ready' AS is_ready, s.milestone, s.survey_id, s.route,
    s.number, s.list_name, s.list_id, s.batch_id, s.probe_contact_id, s.probe_lookup_id, false AS is_filled,
    NULL AS inherited,
    ARRAY(
        SELECT o.distribution_id
        FROM distributions AS o
        WHERE o.slot_id = s.id AND o.distribution_id IS NOT NULL) AS known
FROM (
    SELECT d.*
    FROM distributions AS d
    JOIN usable AS u ON u.id = d.id AND u.state = 'ready'
    UNION ALL
    SELECT * FROM taken
    UNION ALL
    SELECT * FROM begun) AS d
JOIN slots AS s ON s.id = d.slot_id
