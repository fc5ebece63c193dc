-- Claim registrants that have no contact in the home list. Rows that others hold are passed over,
-- so this never waits and needs no order. A claim is in doubt from the moment it is made: who dies
-- amid the call cannot say so any more. Empty looks are good for one claim: what it adds on their
-- strength, the next has to look for.
--
-- %(limit)s
-- %(after)s    only registrants with a greater id
-- %(upto)s     and no greater one than this
-- %(anybody)s  also those on whom somebody has a lease
-- %(lease)s    in seconds
-- %(looks)s    how many empty looks are enough, over `milepost_look_seconds()`
UPDATE registrants AS r SET
    contact_attempt = r.contact_attempt + 1,
    contact_in_doubt = true,
    contact_lease_until = milepost_now() + make_interval(secs => %(lease)s),
    contact_looks = CASE WHEN free.looked_enough THEN 0 ELSE r.contact_looks END,
    contact_first_look_at = CASE WHEN NOT free.looked_enough THEN r.contact_first_look_at END
FROM (
    SELECT
        id,
        contact_in_doubt AS in_doubt,
        coalesce(
            contact_looks >= %(looks)s
                AND contact_first_look_at
                    <= milepost_now() - make_interval(secs => milepost_look_seconds()),
            false) AS looked_enough
    FROM registrants
    WHERE id > %(after)s
        AND id <= %(upto)s
        AND home_lookup_id IS NULL
        AND dedup_key IS NOT NULL
        AND opted_out_at IS NULL
        AND erased_at IS NULL
        AND removed_at IS NULL
        AND (%(anybody)s OR coalesce(contact_lease_until <= milepost_now(), true))
    ORDER BY id
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
) AS free
WHERE r.id = free.id
RETURNING {owner}, r.contact_attempt, free.in_doubt, free.looked_enough
