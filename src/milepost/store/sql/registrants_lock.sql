-- Lock registrants that are to be written, and of each contact key that they hold the next in line,
-- who gets it if its holder leaves it. In ref order, as a claim locks them (claim_lock.sql).
--
-- %(refs)s  the registrants that are to be written
SELECT ref
FROM registrants
WHERE ref = ANY (%(refs)s)
    OR id = ANY (ARRAY(
        SELECT heir.id
        FROM registrants AS holder
        CROSS JOIN LATERAL (
            SELECT h.id
            FROM registrants AS h
            WHERE h.contact_key = holder.dedup_key
                AND h.dedup_key IS NULL
                AND h.ref <> ALL (%(refs)s)
            ORDER BY h.id
            LIMIT 1
        ) AS heir
        WHERE holder.ref = ANY (%(refs)s)))
ORDER BY ref
FOR NO KEY UPDATE
