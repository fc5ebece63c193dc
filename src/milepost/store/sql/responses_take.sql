-- Take responses that are to be read, those that are due for the longest first: for a while they are
-- their taker's alone.
--
-- %(lease)s  seconds
-- %(limit)s
WITH due AS MATERIALIZED (
    SELECT r.survey_id, r.response_id
    FROM responses AS r
    WHERE r.due_at <= milepost_now()
    ORDER BY r.due_at
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED)
UPDATE responses AS r SET
    tries = r.tries + 1,
    due_at = milepost_now() + make_interval(secs => %(lease)s)
FROM due
WHERE r.survey_id = due.survey_id AND r.response_id = due.response_id
RETURNING r.survey_id, r.response_id, r.tries, r.distribution_id, r.lookup_id,
    milepost_now() AS now,
    extract(epoch FROM milepost_now() - r.noted_at)::double precision AS age
