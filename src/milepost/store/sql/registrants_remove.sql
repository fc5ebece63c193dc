-- Remove registrants whom their source does not list any more; of each the contact's key is free for
-- the next who has the values. The rest stays, for the day on which they come back.
--
-- %(refs)s    registrants, whose rows are locked
-- %(source)s  the source; who is another's, or nobody's, stays
UPDATE registrants SET
    removed_at = milepost_now(),
    dedup_key = NULL,
    updated_at = milepost_now()
WHERE ref = ANY (%(refs)s)
    AND source = %(source)s
    AND removed_at IS NULL
