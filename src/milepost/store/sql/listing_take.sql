-- Take over, for registrants whose rows are locked, how they stand in the listing. Memberships of a
-- contact that they do not have any more go with it. Whoever has changed since their import began may
-- have been told otherwise, and so may a contact that others have merged.
--
-- %(told_at)s  when the imports began; NULL: nobody knows what the platform was told, and when
, left_behind AS (
    DELETE FROM memberships AS s
    USING changed AS c
    WHERE s.registrant_id = c.id
        AND s.contact_id = c.old_contact_id
        AND c.old_contact_id <> c.contact_id
)
UPDATE registrants AS r SET
    contact_id = c.contact_id,
    home_lookup_id = c.lookup_id,
    contact_at = milepost_now(),
    contact_lease_until = NULL,
    contact_in_doubt = false,
    contact_looks = 0,
    contact_first_look_at = NULL,
    contact_stale = r.contact_stale
        OR c.contact_key IS DISTINCT FROM r.dedup_key
        OR CASE WHEN c.old_lookup_id IS NULL
            THEN coalesce(r.updated_at >= %(told_at)s::timestamptz, true)
            ELSE c.contact_id IS DISTINCT FROM c.old_contact_id END
FROM changed AS c
WHERE r.id = c.id
RETURNING
    c.old_lookup_id IS NULL AS is_made,
    c.old_lookup_id IS NOT NULL AND c.contact_id IS DISTINCT FROM c.old_contact_id AS is_moved
