-- Write registrants down, a row each; a row that says nothing else is left alone. Who gets another
-- contact key has another contact: the ids of the old one go, and so does the claim to make it. But
-- where the directory does not know people again it may be the old one after all: that is in doubt.
--
-- %(given)s   JSON array of {ref, email, first_name, last_name, phone, language, attributes,
--             contact_key}, each ref once
-- %(change)s  whether registrants that are known already may be changed
INSERT INTO registrants AS r (
    ref, email, first_name, last_name, phone, language, attributes, contact_key,
    created_at, updated_at)
SELECT
    g.ref, g.email, g.first_name, g.last_name, g.phone, g.language, g.attributes, g.contact_key,
    milepost_now(), milepost_now()
FROM jsonb_to_recordset(%(given)s::jsonb) AS g (
    ref text, email text, first_name text, last_name text, phone text, language text,
    attributes jsonb, contact_key text)
ON CONFLICT (ref) DO UPDATE SET
    email = excluded.email,
    first_name = excluded.first_name,
    last_name = excluded.last_name,
    phone = excluded.phone,
    language = excluded.language,
    attributes = excluded.attributes,
    contact_key = excluded.contact_key,
    dedup_key = CASE WHEN r.dedup_key = excluded.contact_key THEN r.dedup_key END,
    contact_id = CASE WHEN r.contact_key = excluded.contact_key THEN r.contact_id END,
    home_lookup_id = CASE WHEN r.contact_key = excluded.contact_key THEN r.home_lookup_id END,
    contact_at = CASE WHEN r.contact_key = excluded.contact_key THEN r.contact_at END,
    contact_attempt = r.contact_attempt
        + (r.contact_key IS DISTINCT FROM excluded.contact_key)::integer,
    contact_in_doubt = r.contact_in_doubt
        OR (r.contact_key IS DISTINCT FROM excluded.contact_key AND r.home_lookup_id IS NOT NULL),
    contact_lease_until = CASE WHEN r.contact_key = excluded.contact_key
        THEN r.contact_lease_until END,
    updated_at = excluded.updated_at
WHERE %(change)s
    AND (r.email, r.first_name, r.last_name, r.phone, r.language, r.attributes, r.contact_key)
    IS DISTINCT FROM (
        excluded.email, excluded.first_name, excluded.last_name, excluded.phone,
        excluded.language, excluded.attributes, excluded.contact_key)
RETURNING r.ref, r.xmax = 0 AS is_first
