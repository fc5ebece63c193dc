-- Those of these responses that are of links which have another response already.
--
-- %(judged)s  as in responses_judge.sql
SELECT r.survey_id, r.response_id, r.link_id, l.milestone
FROM jsonb_to_recordset(%(judged)s::jsonb) AS j (survey_id text, response_id text)
JOIN responses AS r ON r.survey_id = j.survey_id AND r.response_id = j.response_id
CROSS JOIN LATERAL (
    SELECT l.milestone, l.response_id FROM links AS l WHERE l.id = r.link_id LIMIT 1) AS l
WHERE l.response_id <> r.response_id
