-- Write down that an import made nobody's contact: it was refused, so that whoever was marked for it
-- (registrants_to_import.sql) is in no doubt any more. Rows are locked in ref order, as by every
-- writer of registrants.
--
-- %(refs)s  whom it was to bring in
WITH marked AS MATERIALIZED (
    SELECT id
    FROM registrants
    WHERE ref = ANY (%(refs)s) AND home_lookup_id IS NULL
    ORDER BY ref
    FOR NO KEY UPDATE
)
UPDATE registrants AS r SET
    contact_in_doubt = false,
    contact_looks = 0,
    contact_first_look_at = NULL
FROM marked AS m
WHERE r.id = m.id
