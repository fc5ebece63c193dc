-- Lock the registrants of a batch, in ref order: every writer of registrants takes them in this
-- order, so two batches can wait for each other but never in a circle. The decision is told who was
-- there to be locked: whoever is written after this is not known to it.
--
-- %(refs)s  of the batch, a JSON array
WITH locked AS MATERIALIZED (
    SELECT r.ref
    FROM (
        SELECT ref
        FROM json_array_elements_text(%(refs)s::json) AS e (ref)
        ORDER BY ref COLLATE "C"
    ) AS e
    CROSS JOIN LATERAL (
        SELECT r.ref FROM registrants AS r WHERE r.ref = e.ref LIMIT 1 FOR NO KEY UPDATE) AS r
)
SELECT set_config('milepost.locked', coalesce(json_agg(ref), '[]')::text, true) FROM locked
