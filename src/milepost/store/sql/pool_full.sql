-- Whether somebody is in a pool's highest slot, so that their next event would find no place, or
-- waits for a place already.
--
-- %(milestone)s, %(survey)s
-- %(slot)s      the highest slot
-- %(ready_at)s  since when it takes links
-- %(newest)s    so many of the milestone's newest links are looked at
--
-- Whoever got the last place is most likely among those with the newest links. Where the look misses
-- them, their next event says so by itself: it waits for a place, and is found by an index however
-- many came after it. One that is suppressed instead waits for nothing, and is looked for among the
-- newest as well.
WITH newest AS (
    SELECT l.slot_id, l.survey_id, l.state, l.rule, l.finished_at, l.expires_at, l.created_at
    FROM links AS l
    WHERE l.milestone = %(milestone)s
    ORDER BY l.id DESC
    LIMIT %(newest)s
)

-- Who has waited since before the highest slot was ready finds a place in it, but for the one who has
-- a link there already.
SELECT EXISTS (
    SELECT FROM links AS l
    WHERE l.milestone = %(milestone)s
        AND l.state = 'waiting'
        AND l.rule = 'no-slot'
        AND l.survey_id = %(survey)s
        AND (l.created_at > %(ready_at)s
            OR EXISTS (
                SELECT FROM links AS held
                WHERE held.registrant_id = l.registrant_id AND held.slot_id = %(slot)s)))
OR EXISTS (
    SELECT FROM newest AS l
    WHERE (
        l.slot_id = %(slot)s
        AND (l.state IN ('claimed', 'waiting', 'unknown')
            OR (l.state = 'issued'
                AND l.finished_at IS NULL
                AND l.expires_at > milepost_now())))
    OR (l.rule = 'no-slot' AND l.survey_id = %(survey)s AND l.created_at > %(ready_at)s))
AS is_full
