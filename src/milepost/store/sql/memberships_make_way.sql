-- Forget what stands in the way of memberships: other ones of these registrants in the slot, and the
-- same ones of others.
--
-- %(slot)s
-- %(members)s  JSON array of {registrant_id, contact_key, contact_id, lookup_id}
DELETE FROM memberships AS s
USING jsonb_to_recordset(%(members)s::jsonb) AS m (registrant_id bigint, lookup_id text)
WHERE s.slot_id = %(slot)s
    AND (s.registrant_id = m.registrant_id OR s.lookup_id = m.lookup_id COLLATE "C")
