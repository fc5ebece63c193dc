-- Write down that an import made nobody's contact: it was refused, so that whoever was marked for it
-- (registrants_to_import.sql) is in no doubt any more, unless they were before. Looks for those are
-- counted anew. Rows are locked in ref order, as by every writer of registrants.
--
-- %(marked)s  JSON array of {ref, attempt, in_doubt}: whom it was to bring in; a mark on which
--             another attempt followed changes nothing
WITH marked AS MATERIALIZED (
    SELECT r.id, g.in_doubt
    FROM jsonb_to_recordset(%(marked)s::jsonb) AS g (ref text, attempt bigint, in_doubt boolean)
    INNER JOIN registrants AS r ON r.ref = g.ref
    WHERE r.contact_attempt = g.attempt AND r.home_lookup_id IS NULL
    ORDER BY r.ref
    FOR NO KEY UPDATE OF r
)
UPDATE registrants AS r SET
    contact_in_doubt = m.in_doubt,
    contact_looks = 0,
    contact_first_look_at = NULL
FROM marked AS m
WHERE r.id = m.id
