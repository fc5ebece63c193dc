-- How the slots of a milestone's present survey and route stand, and what the milestone says of its
-- pool.
--
-- %(milestone)s
-- %(newest)s  so many of the milestone's newest links are counted in the newest batch
-- %(lately)s  seconds that are lately
SELECT
    milepost_now() AS now,
    m.survey_id,
    m.route,
    m.slots AS least,
    m.max_slots AS most,
    m.link_days,
    m.min_link_days,
    m.state = 'active' AND m.stopped_at IS NULL AS is_tended,
    (
        SELECT coalesce(json_agg(slot ORDER BY slot.number), '[]')
        FROM (
            SELECT
                s.id AS slot_id, s.number, s.created_at AS planned_at,
                d.generation, d.takes_until, d.ready_at, d.was_ready,
                d.is_making, d.stops, d.stopped_at, s.rests_until IS NOT NULL AS was_missed,
                l.links, l.lately
            FROM slots AS s
            CROSS JOIN LATERAL (
                SELECT
                    max(d.generation) AS generation,
                    max(d.takes_until) FILTER (WHERE d.state = 'ready') AS takes_until,
                    max(d.calibrated_at) FILTER (WHERE d.state = 'ready') AS ready_at,
                    coalesce(bool_or(d.calibrated_at IS NOT NULL), false) AS was_ready,
                    coalesce(bool_or(d.state = 'making'), false) AS is_making,
                    count(*) FILTER (WHERE d.is_stop) AS stops,
                    max(d.created_at) FILTER (WHERE d.is_stop) AS stopped_at
                FROM (
                    SELECT
                        d.*,
                        d.state = 'stopped'
                            AND d.calibrated_at IS NULL
                            AND d.generation > coalesce(
                                max(d.generation) FILTER (WHERE d.calibrated_at IS NOT NULL) OVER (),
                                0)
                            AS is_stop
                    FROM distributions AS d
                    WHERE d.slot_id = s.id) AS d) AS d
            -- No more than were asked for since its distribution is ready.
            CROSS JOIN LATERAL (
                SELECT
                    count(*) AS links,
                    count(*) FILTER (
                        WHERE l.created_at >= milepost_now() - make_interval(secs => %(lately)s)
                    ) AS lately
                FROM (
                    SELECT l.created_at FROM links AS l
                    WHERE l.milestone = m.key
                        AND m.route = 'transaction'
                        AND s.number = (
                            SELECT max(n.number) FROM slots AS n
                            WHERE n.milestone = m.key
                                AND n.survey_id = m.survey_id
                                AND n.route = m.route)
                    ORDER BY l.id DESC
                    LIMIT %(newest)s) AS l
                WHERE l.created_at >= d.ready_at) AS l
            WHERE s.milestone = m.key AND s.survey_id = m.survey_id AND s.route = m.route) AS slot
    ) AS slots
FROM milestones AS m
WHERE m.key = %(milestone)s
