-- Give each free contact key to the first of the named registrants that has those values. Key
-- givers come one after another (an advisory lock), so no two of them give the same key.
--
-- %(refs)s  registrants, whose rows are locked
--
-- Who has a contact in the home list from an earlier time is stale there: it may have been another's
-- meanwhile, of whom the platform was told.
--
-- Whoever has no dedup_key is asked for as in registrants_lock.sql.
UPDATE registrants AS r SET
    dedup_key = r.contact_key,
    contact_stale = r.home_lookup_id IS NOT NULL
FROM (
    SELECT DISTINCT ON (c.contact_key) c.id
    FROM registrants AS c
    WHERE c.ref = ANY (%(refs)s)
        AND c.dedup_key IS DISTINCT FROM c.contact_key
        AND c.removed_at IS NULL
        AND c.contact_key IS NOT NULL
        AND NOT EXISTS (SELECT FROM registrants AS h WHERE h.dedup_key = c.contact_key)
    ORDER BY c.contact_key, c.id
) AS first
WHERE r.id = first.id
