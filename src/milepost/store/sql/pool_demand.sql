-- What the people who are likely to need most of a milestone's places hold and ask for.
--
-- %(milestone)s
-- %(newest)s  so many of the milestone's newest links are looked at for them
-- %(people)s  so many of them are looked at
-- %(links)s   so many links of each, at the most
-- %(recent)s  days that count as recent
--
-- A claim takes the lowest place that is free for its person, so that who holds a high one holds most
-- of those below.
WITH newest AS MATERIALIZED (
    SELECT l.ref, l.slot_id
    FROM links AS l
    WHERE l.milestone = %(milestone)s
    ORDER BY l.id DESC
    LIMIT %(newest)s
),

busiest AS MATERIALIZED (
    SELECT n.ref
    FROM newest AS n
    LEFT JOIN slots AS s ON s.id = n.slot_id
    GROUP BY n.ref
    ORDER BY max(s.number) DESC NULLS LAST, count(*) DESC
    LIMIT %(people)s
)

SELECT p.held, p.recent
FROM milestones AS m
CROSS JOIN busiest AS b
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (
            WHERE l.survey_id = m.survey_id
                AND (
                    (l.slot_id IS NOT NULL AND l.state IN ('claimed', 'waiting', 'unknown'))
                    OR (l.slot_id IS NOT NULL AND l.state = 'issued'
                        AND l.finished_at IS NULL AND l.expires_at > milepost_now())
                    OR (l.state = 'waiting' AND l.rule = 'no-slot'))
        ) AS held,
        count(*) FILTER (
            WHERE l.created_at > milepost_now() - make_interval(days => %(recent)s)
                AND l.reuses IS NULL
                AND (l.state IN ('claimed', 'waiting', 'unknown', 'issued') OR l.rule = 'no-slot')
        ) AS recent
    FROM (
        SELECT l.*
        FROM links AS l
        WHERE l.ref = b.ref
            -- No link lives longer than its distribution.
            AND l.created_at
                > milepost_now() - make_interval(days => greatest(m.link_days, %(recent)s))
        ORDER BY l.created_at DESC
        LIMIT %(links)s) AS l
    WHERE l.milestone = m.key) AS p
WHERE m.key = %(milestone)s
