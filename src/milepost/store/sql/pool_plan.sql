-- Make sure that a milestone has its slots, each with a distribution at least in the making.
--
-- %(milestone)s, %(deployment)s  the deployment's id: every name at the platform carries it
WITH slot AS (
    INSERT INTO slots (milestone, survey_id, number, list_name, created_at)
    SELECT
        m.key, m.survey_id, n,
        format('milepost %%s %%s %%s %%s', %(deployment)s::text, m.key, substr(m.survey_id, 4), n),
        milepost_now()
    FROM milestones AS m, generate_series(1, m.slots) AS n
    WHERE m.key = %(milestone)s
    ON CONFLICT (milestone, survey_id, number) DO NOTHING
    RETURNING id, list_name
)
INSERT INTO distributions (slot_id, generation, description, state, created_at)
SELECT id, 1, list_name || ' g1', 'making', milepost_now() FROM slot
