-- Write down what responses were found to be. One of which history has told more since it was taken is
-- left as it is: it is read once more.
--
-- %(judged)s  JSON array of {survey_id, response_id, lookup_id, started_at, completed_at, verdict, rule,
--             link_id, is_unexplained}; lookup_id: what history had told when it was taken
UPDATE responses AS r SET
    due_at = NULL,
    read_at = milepost_now(),
    started_at = j.started_at,
    completed_at = j.completed_at,
    verdict = j.verdict,
    rule = j.rule,
    link_id = j.link_id,
    is_unexplained = j.is_unexplained
FROM (
    SELECT *
    FROM jsonb_to_recordset(%(judged)s::jsonb) AS j (
        survey_id text, response_id text, lookup_id text, started_at timestamptz,
        completed_at timestamptz, verdict text, rule text, link_id uuid, is_unexplained boolean)
    ORDER BY j.survey_id, j.response_id) AS j
WHERE r.survey_id = j.survey_id
    AND r.response_id = j.response_id
    AND r.lookup_id IS NOT DISTINCT FROM j.lookup_id
RETURNING r.survey_id, r.response_id
