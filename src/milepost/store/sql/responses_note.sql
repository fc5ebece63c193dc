-- Write down that there is a response, as an event call says; one that is known changes nothing, nor
-- does one of a survey that no milestone has or had a pool for.
--
-- %(survey)s, %(response)s
INSERT INTO responses (survey_id, response_id, heard_by, noted_at, due_at)
SELECT %(survey)s, %(response)s, 'event', milepost_now(), milepost_now()
WHERE EXISTS (SELECT FROM milestones AS m WHERE m.survey_id = %(survey)s)
    OR EXISTS (SELECT FROM slots AS s WHERE s.survey_id = %(survey)s AND s.milestone IS NOT NULL)
ON CONFLICT (survey_id, response_id) DO NOTHING
