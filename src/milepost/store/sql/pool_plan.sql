-- Write down what a pool lacks: its slots up to a number, and another distribution on the list of
-- each of some slots. What is there already stays as it is.
--
-- %(milestone)s, %(survey)s, %(route)s
-- %(deployment)s   its id: every name at the platform carries it
-- %(slots)s        the number of the highest slot
-- %(rotated)s      ids of slots
-- %(generations)s  of their next distributions, in the same order
WITH slot AS (
    INSERT INTO slots (milestone, survey_id, route, number, list_name, created_at)
    SELECT
        %(milestone)s, %(survey)s, %(route)s, n,
        concat_ws(' ', 'milepost', %(deployment)s::text, %(milestone)s::text, substr(%(survey)s, 4),
            nullif(%(route)s, 'list'), n),
        milepost_now()
    FROM generate_series(1, %(slots)s) AS n
    ON CONFLICT (milestone, survey_id, route, number) DO NOTHING
    RETURNING id, list_name
)

INSERT INTO distributions (slot_id, generation, description, state, created_at)
SELECT p.id, p.generation, p.list_name || ' g' || p.generation, 'making', milepost_now()
FROM (
    SELECT id, 1 AS generation, list_name FROM slot
    UNION ALL
    SELECT s.id, r.generation, s.list_name
    FROM unnest(%(rotated)s::bigint[], %(generations)s::integer[]) AS r (slot_id, generation)
    JOIN slots AS s ON s.id = r.slot_id) AS p
ON CONFLICT (slot_id, generation) DO NOTHING
