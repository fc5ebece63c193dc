-- Write registrants down, a row each; a row that says nothing else is left alone. Who gets another
-- contact key has another contact: the ids of the old one go, and so does the claim to make it. But
-- where the directory does not know people again it may be the old one after all: that is in doubt.
-- Who keeps a contact that is in the home list is stale there, once anything changes that the
-- platform was told. Who was removed comes back, and is their source's no more unless it says so.
-- Who comes for the first time gets a key that is free with the row (registrants_key.sql gives the
-- others), or an import would write each of its rows twice.
--
-- %(given)s   JSON array of {ref, email, first_name, last_name, phone, language, attributes,
--             contact_key}, each ref once
-- %(change)s  whether registrants that are known already may be changed; who was removed is not
-- %(source)s  the source that lists them; NULL: they come in by another way
INSERT INTO registrants AS r (
    ref, email, first_name, last_name, phone, language, attributes, contact_key, dedup_key, source,
    created_at, updated_at)
SELECT
    g.ref, g.email, g.first_name, g.last_name, g.phone, g.language, g.attributes, g.contact_key,
    CASE
        WHEN row_number() OVER (PARTITION BY g.contact_key ORDER BY g.nth) = 1
            AND NOT EXISTS (SELECT FROM registrants AS h WHERE h.dedup_key = g.contact_key)
            AND NOT EXISTS (SELECT FROM registrants AS k WHERE k.ref = g.ref)
            THEN g.contact_key
    END,
    %(source)s, milepost_now(), milepost_now()
FROM ROWS FROM (
    jsonb_to_recordset(%(given)s::jsonb) AS (
        ref text, email text, first_name text, last_name text, phone text, language text,
        attributes jsonb, contact_key text)
) WITH ORDINALITY AS g (
    ref, email, first_name, last_name, phone, language, attributes, contact_key, nth)
ORDER BY g.nth
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
    contact_stale = coalesce(r.contact_key = excluded.contact_key, false)
        AND (
            r.contact_stale
            OR (
                r.home_lookup_id IS NOT NULL
                AND (r.email, r.first_name, r.last_name, r.phone, r.language) IS DISTINCT FROM (
                    excluded.email, excluded.first_name, excluded.last_name, excluded.phone,
                    excluded.language))),
    source = coalesce(excluded.source, CASE WHEN r.removed_at IS NULL THEN r.source END),
    removed_at = NULL,
    updated_at = excluded.updated_at
WHERE (%(change)s OR r.removed_at IS NOT NULL)
    AND (
        r.removed_at IS NOT NULL
        OR r.source IS DISTINCT FROM coalesce(excluded.source, r.source)
        OR (r.email, r.first_name, r.last_name, r.phone, r.language, r.attributes, r.contact_key)
        IS DISTINCT FROM (
            excluded.email, excluded.first_name, excluded.last_name, excluded.phone,
            excluded.language, excluded.attributes, excluded.contact_key))
RETURNING r.ref, r.xmax = 0 AS is_first
