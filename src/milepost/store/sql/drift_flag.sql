-- Write down in what ledger and platform differ. What is known already is seen once more; what a person
-- has settled stays so, and what had gone by itself is there again.
--
-- %(flags)s  JSON array of {kind, subject, milestone, link_id, survey_id, response_id, distribution_id,
--            lookup_id, rule}
INSERT INTO drift AS d (
    kind, subject, milestone, link_id, survey_id, response_id, distribution_id, lookup_id, rule,
    first_seen_at, last_seen_at)
SELECT
    f.kind, f.subject,
    coalesce(
        f.milestone,
        (SELECT s.milestone FROM distributions AS d JOIN slots AS s ON s.id = d.slot_id
            WHERE d.distribution_id = f.distribution_id),
        -- Of a survey that several milestones have it is not known which one it is.
        (SELECT CASE WHEN count(*) = 1 THEN min(m.key) END
            FROM milestones AS m WHERE m.survey_id = f.survey_id)),
    f.link_id, f.survey_id, f.response_id, f.distribution_id, f.lookup_id, f.rule,
    milepost_now(), milepost_now()
FROM jsonb_to_recordset(%(flags)s::jsonb) AS f (
    kind text, subject text, milestone text, link_id uuid, survey_id text, response_id text,
    distribution_id text, lookup_id text, rule text)
ORDER BY f.kind, f.subject
ON CONFLICT ON CONSTRAINT drift_once DO UPDATE SET
    milestone = excluded.milestone,
    link_id = excluded.link_id,
    distribution_id = excluded.distribution_id,
    lookup_id = excluded.lookup_id,
    rule = excluded.rule,
    last_seen_at = excluded.last_seen_at,
    settled_at = CASE WHEN d.settled_by IS NOT NULL THEN d.settled_at END
RETURNING xmax = 0 AS is_first
