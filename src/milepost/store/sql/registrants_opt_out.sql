-- Note that registrants opted out, as the platform tells it of their contacts. It is never taken
-- back. Rows are locked in ref order, as by every writer of registrants.
--
-- %(contacts)s  ids of contacts
-- %(refs)s      and refs
WITH gone AS MATERIALIZED (
    SELECT id
    FROM registrants
    WHERE opted_out_at IS NULL
        AND (contact_id = ANY (%(contacts)s) OR ref = ANY (%(refs)s))
    ORDER BY ref
    FOR NO KEY UPDATE
)
UPDATE registrants AS r SET opted_out_at = milepost_now()
FROM gone AS g
WHERE r.id = g.id
