-- Registrants of a stretch who are in the home list and not in a slot's. Somebody with a link there
-- that is not made yet is about to be put into it, with data that an import must not touch. The end of
-- other statements' FROM.
--
-- %(slot)s
-- %(after)s, %(upto)s  ids of registrants
registrants AS r
WHERE r.id > %(after)s
    AND r.id <= %(upto)s
    AND r.home_lookup_id IS NOT NULL
    AND r.dedup_key IS NOT NULL
    AND r.opted_out_at IS NULL
    AND r.erased_at IS NULL
    AND r.removed_at IS NULL
    AND NOT EXISTS (
        SELECT FROM memberships AS s WHERE s.registrant_id = r.id AND s.slot_id = %(slot)s)
    AND NOT EXISTS (
        SELECT FROM links AS l
        WHERE l.registrant_id = r.id
            AND l.slot_id = %(slot)s
            AND l.contact_key = r.dedup_key
            AND l.state IN ('claimed', 'waiting', 'unknown', 'issued'))
