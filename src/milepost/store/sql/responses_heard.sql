-- Write down the responses that a history tells of, with the links that they came by. One that was
-- found to be of that very link is confirmed; any other that was read is to be judged anew.
--
-- %(heard)s         JSON array of {response_id, lookup_id, link_id}
-- %(survey)s
-- %(distribution)s  the platform's id, EMD_…
INSERT INTO responses AS r (
    survey_id, response_id, heard_by, noted_at, due_at, distribution_id, lookup_id, link_id)
SELECT
    %(survey)s, h.response_id, 'history', milepost_now(), milepost_now(), %(distribution)s,
    h.lookup_id, h.link_id
FROM jsonb_to_recordset(%(heard)s::jsonb) AS h (response_id text, lookup_id text, link_id uuid)
-- What is known as it is told needs no lock.
WHERE NOT EXISTS (
    SELECT FROM responses AS r
    WHERE r.survey_id = %(survey)s
        AND r.response_id = h.response_id
        AND r.distribution_id = %(distribution)s
        AND r.lookup_id = h.lookup_id)
ORDER BY h.response_id
ON CONFLICT (survey_id, response_id) DO UPDATE SET
    distribution_id = excluded.distribution_id,
    lookup_id = excluded.lookup_id,
    rule = CASE WHEN r.verdict = 'true' AND r.link_id = excluded.link_id
        THEN nullif(r.rule, 'unconfirmed') ELSE r.rule END,
    due_at = CASE WHEN r.verdict = 'true' AND r.link_id = excluded.link_id
        THEN r.due_at ELSE milepost_now() END,
    tries = 0
WHERE (r.distribution_id, r.lookup_id)
    IS DISTINCT FROM (excluded.distribution_id, excluded.lookup_id)
RETURNING due_at IS NOT NULL AS is_unread
