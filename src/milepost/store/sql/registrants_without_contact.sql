-- Claim registrants that have no contact in the home list. Rows that others hold are passed over,
-- so this never waits and needs no order.
--
-- %(limit)s, %(lease)s in seconds
UPDATE registrants AS r SET
    contact_attempt = r.contact_attempt + 1,
    contact_lease_until = milepost_now() + make_interval(secs => %(lease)s)
FROM (
    SELECT id
    FROM registrants
    WHERE home_lookup_id IS NULL
        AND dedup_key IS NOT NULL
        AND opted_out_at IS NULL
        AND erased_at IS NULL
        AND coalesce(contact_lease_until <= milepost_now(), true)
    ORDER BY id
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
) AS free
WHERE r.id = free.id
RETURNING r.*
