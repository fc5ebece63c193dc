-- Make sure that a milestone has its slots, each with a distribution at least in the making: as many
-- as it starts with, and always one more than are in use, up to its `max_slots`.
--
-- A claim takes the lowest slot that is free for its person, so that a link in the highest one is
-- that of somebody who has links in all the others, and whose next event would find no place. The
-- next slot is made only when the highest one takes links, or a platform whose links are not trusted
-- would be given one list after the other.
--
-- %(milestone)s, %(deployment)s  the deployment's id: every name at the platform carries it
-- %(newest)s  so many of the milestone's links are looked at for one in the highest slot
WITH highest AS MATERIALIZED (
    SELECT s.id, s.survey_id, s.number, m.max_slots, d.calibrated_at
    FROM milestones AS m
    JOIN slots AS s ON s.milestone = m.key AND s.survey_id = m.survey_id
    LEFT JOIN LATERAL (
        SELECT max(d.calibrated_at) AS calibrated_at
        FROM distributions AS d
        WHERE d.slot_id = s.id AND d.state = 'ready') AS d ON true
    WHERE m.key = %(milestone)s
    ORDER BY s.number DESC
    LIMIT 1
),

-- A look ahead, while everybody still has a place: whoever got the last one is most likely among
-- those with the newest links. Where it misses them, their next event says so by itself: it waits for
-- a place, and is found below however many came after it. One that is suppressed instead waits for
-- nothing, and is looked for here as well.
newest AS (
    SELECT l.slot_id, l.survey_id, l.state, l.rule, l.finished_at, l.expires_at, l.created_at
    FROM links AS l
    WHERE l.milestone = %(milestone)s
    ORDER BY l.id DESC
    LIMIT %(newest)s
),

spare AS (
    SELECT h.number + 1 AS number
    FROM highest AS h
    WHERE h.number < h.max_slots
        AND h.calibrated_at IS NOT NULL
        -- Who has waited since before the highest slot was ready finds a place in it, but for the one
        -- who has a link there already.
        AND (EXISTS (
            SELECT FROM links AS l
            WHERE l.milestone = %(milestone)s
                AND l.state = 'waiting'
                AND l.rule = 'no-slot'
                AND l.survey_id = h.survey_id
                AND (l.created_at > h.calibrated_at
                    OR EXISTS (
                        SELECT FROM links AS held
                        WHERE held.registrant_id = l.registrant_id AND held.slot_id = h.id)))
        OR EXISTS (
            SELECT FROM newest AS l
            WHERE (
                l.slot_id = h.id
                AND (l.state IN ('claimed', 'waiting', 'unknown')
                    OR (l.state = 'issued'
                        AND l.finished_at IS NULL
                        AND l.expires_at > milepost_now())))
            OR (l.rule = 'no-slot'
                AND l.survey_id = h.survey_id
                AND l.created_at > h.calibrated_at)))
),

slot AS (
    INSERT INTO slots (milestone, survey_id, number, list_name, created_at)
    SELECT
        m.key, m.survey_id, n,
        format('milepost %%s %%s %%s %%s', %(deployment)s::text, m.key, substr(m.survey_id, 4), n),
        milepost_now()
    FROM milestones AS m
    LEFT JOIN spare AS s ON true
    CROSS JOIN generate_series(1, greatest(m.slots, s.number)) AS n
    WHERE m.key = %(milestone)s
    ON CONFLICT (milestone, survey_id, number) DO NOTHING
    RETURNING id, list_name
)
INSERT INTO distributions (slot_id, generation, description, state, created_at)
SELECT id, 1, list_name || ' g1', 'making', milepost_now() FROM slot
