-- End the wait for a history that would tell by which links these responses came.
--
-- %(seconds)s  they were noted so long ago
-- %(limit)s
WITH late AS MATERIALIZED (
    SELECT r.survey_id, r.response_id
    FROM responses AS r
    WHERE r.is_unexplained AND r.noted_at <= milepost_now() - make_interval(secs => %(seconds)s)
    ORDER BY r.noted_at
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED)
UPDATE responses AS r SET is_unexplained = false
FROM late
WHERE r.survey_id = late.survey_id AND r.response_id = late.response_id
RETURNING r.survey_id, r.response_id, r.rule
