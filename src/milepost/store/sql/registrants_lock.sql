-- Lock registrants that are to be written, and of each contact key that they hold the next in line,
-- who gets it if its holder leaves it. In ref order, as a claim locks them (claim_lock.sql).
--
-- %(refs)s  the registrants that are to be written
--
-- Whoever is not the holder has no dedup_key. Asked for like that, Postgres would read the entries
-- that an import leaves in the index of these keys, all of them, once for each of the registrants.
SELECT ref, removed_at
FROM registrants
WHERE ref = ANY (%(refs)s)
    OR id = ANY (ARRAY(
        SELECT heir.id
        FROM registrants AS holder
        CROSS JOIN LATERAL (
            SELECT h.id
            FROM registrants AS h
            WHERE h.contact_key = holder.dedup_key
                AND h.dedup_key IS DISTINCT FROM h.contact_key
                AND h.removed_at IS NULL
                AND h.ref <> ALL (%(refs)s)
            ORDER BY h.id
            LIMIT 1
        ) AS heir
        WHERE holder.ref = ANY (%(refs)s)))
ORDER BY ref
FOR NO KEY UPDATE
