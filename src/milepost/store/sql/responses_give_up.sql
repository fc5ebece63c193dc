-- Read a response no more, if it is still its taker's.
--
-- %(survey)s, %(response)s
-- %(tries)s  of reading it, the last one included
UPDATE responses AS r SET due_at = NULL
WHERE r.survey_id = %(survey)s AND r.response_id = %(response)s AND r.tries = %(tries)s
    AND r.due_at IS NOT NULL
