-- Forget the memberships of a slot that are not in a listing of its list: they are made anew.
--
-- %(slot)s, %(list)s
-- %(after)s, %(upto)s  ids of registrants
DELETE FROM memberships AS s
WHERE s.slot_id = %(slot)s
    AND s.registrant_id > %(after)s
    AND s.registrant_id <= %(upto)s
    AND NOT EXISTS (
        SELECT FROM listed_members AS m
        WHERE m.list_id = %(list)s
            AND m.contact_id = s.contact_id
            AND m.lookup_id = s.lookup_id)
