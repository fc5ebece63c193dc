-- Mark registrants that have no contact in the home list as in doubt, and read them: an import is to
-- make their contacts. Rows that others hold are passed over, so this never waits and needs no order.
-- There is no lease: an import is its run's, which one process has at a time.
--
-- %(limit)s
-- %(after)s   only registrants with a greater id
-- %(merges)s  whether a second add meets the contact of the first; otherwise who is in doubt is left
--             out until they were looked for
-- %(looks)s   how many empty looks are enough, over `milepost_look_seconds()`
-- %(late)s    for so many seconds an import may begin: only behind them looks are enough
UPDATE registrants AS r SET
    contact_attempt = r.contact_attempt + 1,
    contact_in_doubt = true,
    contact_looks = 0,
    contact_first_look_at = milepost_now() + make_interval(secs => %(late)s)
FROM (
    SELECT
        id,
        contact_in_doubt
            AND NOT coalesce(
                contact_looks >= %(looks)s
                    AND contact_first_look_at
                        <= milepost_now() - make_interval(secs => milepost_look_seconds()),
                false) AS in_doubt
    FROM registrants
    WHERE id > %(after)s
        AND home_lookup_id IS NULL
        AND dedup_key IS NOT NULL
        AND opted_out_at IS NULL
        AND erased_at IS NULL
        AND removed_at IS NULL
        AND (%(merges)s
            OR NOT contact_in_doubt
            OR (contact_looks >= %(looks)s
                AND contact_first_look_at
                    <= milepost_now() - make_interval(secs => milepost_look_seconds())))
    ORDER BY id
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
) AS free
WHERE r.id = free.id
RETURNING {owner}, r.contact_attempt, free.in_doubt
