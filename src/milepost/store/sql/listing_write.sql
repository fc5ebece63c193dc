-- Write down a page of a listing; a contact who stands in it twice is kept as they came first.
--
-- %(list)s
-- %(members)s  JSON array of {contact_id, lookup_id, number, ref, contact_key}
INSERT INTO listed_members (list_id, contact_id, lookup_id, number, ref, contact_key)
SELECT %(list)s, m.contact_id, m.lookup_id, m.number, m.ref, m.contact_key
FROM jsonb_to_recordset(%(members)s::jsonb) AS m (
    contact_id text, lookup_id text, number bigint, ref text, contact_key text)
ON CONFLICT (list_id, contact_id) DO NOTHING
