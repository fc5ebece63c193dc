-- Forget the memberships of a slot under contacts that their registrants do not have any more.
--
-- %(slot)s
-- %(after)s, %(upto)s  ids of registrants
DELETE FROM memberships AS s
USING registrants AS r
WHERE s.slot_id = %(slot)s
    AND s.registrant_id > %(after)s
    AND s.registrant_id <= %(upto)s
    AND r.id = s.registrant_id
    AND r.dedup_key IS DISTINCT FROM s.contact_key
