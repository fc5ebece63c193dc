-- Write down that a whole listing was looked through for registrants who are in doubt, in vain. It
-- counts as a look, and nobody else looks for them for a while; where an import has said that it did
-- not take them, there is no doubt any more.
--
-- %(after)s    only registrants with a greater id
-- %(limit)s
-- %(refused)s  whether they were not taken
-- %(lease)s    seconds of that while
UPDATE registrants AS r SET
    contact_in_doubt = NOT %(refused)s,
    contact_looks = r.contact_looks + 1,
    contact_first_look_at = coalesce(r.contact_first_look_at, milepost_now()),
    contact_lease_until = CASE WHEN NOT %(refused)s
        THEN milepost_now() + make_interval(secs => %(lease)s) END
FROM (
    SELECT id
    FROM registrants
    WHERE id > %(after)s
        AND home_lookup_id IS NULL
        AND dedup_key IS NOT NULL
        AND contact_in_doubt
    ORDER BY id
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
) AS doubtful
WHERE r.id = doubtful.id
RETURNING r.id
