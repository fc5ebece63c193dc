-- Remember the memberships that links have made: who was put into the slot's list by an event is in it.
--
-- %(slot)s
-- %(after)s, %(upto)s  ids of registrants
INSERT INTO memberships (registrant_id, slot_id, contact_key, contact_id, lookup_id)
SELECT r.id, %(slot)s, r.dedup_key, r.contact_id, l.lookup_id
FROM registrants AS r
CROSS JOIN LATERAL (
    SELECT l.lookup_id
    FROM links AS l
    WHERE l.registrant_id = r.id
        AND l.slot_id = %(slot)s
        AND l.contact_key = r.dedup_key
        AND l.lookup_id IS NOT NULL
    ORDER BY l.id DESC
    LIMIT 1
) AS l
WHERE r.id > %(after)s
    AND r.id <= %(upto)s
    AND r.contact_id IS NOT NULL
    AND NOT EXISTS (
        SELECT FROM memberships AS s WHERE s.registrant_id = r.id AND s.slot_id = %(slot)s)
ON CONFLICT DO NOTHING
