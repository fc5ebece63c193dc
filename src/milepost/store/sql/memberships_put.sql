-- Write memberships of a slot down. Another one that has come in between is as true.
--
-- %(slot)s
-- %(members)s  JSON array of {registrant_id, contact_key, contact_id, lookup_id}
INSERT INTO memberships (registrant_id, slot_id, contact_key, contact_id, lookup_id)
SELECT m.registrant_id, %(slot)s, m.contact_key, m.contact_id, m.lookup_id
FROM jsonb_to_recordset(%(members)s::jsonb) AS m (
    registrant_id bigint, contact_key text, contact_id text, lookup_id text)
ON CONFLICT DO NOTHING
RETURNING registrant_id
