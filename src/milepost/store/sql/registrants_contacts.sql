-- Remember the contacts that the first links of registrants made. They are locked in ref order, as
-- by every writer of registrants. Under another key a registrant has another contact by now.
--
-- %(contacts)s  JSON array of {ref, contact_id, contact_key}, no registrant twice
WITH made AS MATERIALIZED (
    SELECT r.id, c.contact_id, c.contact_key
    FROM jsonb_to_recordset(%(contacts)s::jsonb) AS c (
        ref text, contact_id text, contact_key text)
    JOIN registrants AS r ON r.ref = c.ref
    ORDER BY r.ref
    FOR NO KEY UPDATE OF r
)
UPDATE registrants AS r SET contact_id = m.contact_id
FROM made AS m
WHERE r.id = m.id
    AND r.contact_id IS NULL
    AND r.contact_key IS NOT DISTINCT FROM m.contact_key
