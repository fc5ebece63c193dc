-- Lock the registrants of a batch, in ref order: every writer of registrants takes them in this
-- order, so two batches can wait for each other but never in a circle. The decision is told who was
-- there to be locked: whoever is written after this is not known to it.
--
-- %(refs)s  of the batch
WITH locked AS MATERIALIZED (
    SELECT ref
    FROM registrants
    WHERE ref = ANY (%(refs)s)
    ORDER BY ref
    FOR NO KEY UPDATE
)
SELECT set_config('milepost.locked', coalesce(json_agg(ref), '[]')::text, true) FROM locked
