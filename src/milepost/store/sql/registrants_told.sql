-- The platform was told what is known of registrants, unless they have changed since they were read.
-- Rows are locked in ref order, as by every writer of registrants.
--
-- %(told)s  JSON array of {ref, updated_at}
WITH told AS MATERIALIZED (
    SELECT r.id
    FROM jsonb_to_recordset(%(told)s::jsonb) AS t (ref text, updated_at timestamptz)
    JOIN registrants AS r ON r.ref = t.ref AND r.updated_at = t.updated_at
    ORDER BY r.ref
    FOR NO KEY UPDATE OF r
)
UPDATE registrants AS r SET contact_stale = false
FROM told AS t
WHERE r.id = t.id
