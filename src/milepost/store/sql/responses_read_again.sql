-- Have responses read again that nobody could read, and that nobody has settled since.
--
-- %(rule)s   under which they are flagged
-- %(limit)s
WITH flagged AS MATERIALIZED (
    SELECT r.survey_id, r.response_id
    FROM drift AS d
    JOIN responses AS r ON r.survey_id = d.survey_id AND r.response_id = d.response_id
    WHERE d.rule = %(rule)s AND d.settled_at IS NULL AND r.due_at IS NULL
    ORDER BY r.survey_id, r.response_id
    LIMIT %(limit)s
    FOR NO KEY UPDATE OF r)
UPDATE responses AS r SET due_at = milepost_now()
FROM flagged AS f
WHERE r.survey_id = f.survey_id AND r.response_id = f.response_id
