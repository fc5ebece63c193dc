-- Members of a distribution's list or batch that no link explains: none of any generation has their
-- lookup id, they are not known ahead of events, and no call is out that may have put them there.
--
-- %(members)s       JSON array of {lookup_id, contact_id}, none of whom has a link of this distribution
-- %(distribution)s  ours
-- %(slot)s          that it stands on
WITH out_now AS MATERIALIZED (
    -- Those whose short URL was opened stand in an index of their own.
    SELECT l.slot_id, l.distribution_id, l.steps ->> 'transaction' AS transaction_id, l.registrant_id
    FROM links AS l
    WHERE l.state IN ('claimed', 'unknown') AND l.due_at IS NOT NULL AND l.clicked_at IS NULL
    UNION ALL
    SELECT l.slot_id, l.distribution_id, l.steps ->> 'transaction', l.registrant_id
    FROM links AS l
    WHERE l.state IN ('claimed', 'unknown') AND l.due_at IS NOT NULL AND l.clicked_at IS NOT NULL
)
SELECT e.lookup_id
FROM jsonb_to_recordset(%(members)s::jsonb) AS e (lookup_id text, contact_id text)
WHERE NOT EXISTS (SELECT FROM links AS l WHERE l.lookup_id = e.lookup_id)
    AND NOT EXISTS (
        SELECT FROM memberships AS m WHERE m.slot_id = %(slot)s AND m.lookup_id = e.lookup_id)
    AND NOT EXISTS (
        SELECT FROM out_now AS o
        LEFT JOIN registrants AS r ON r.id = o.registrant_id
        WHERE (o.slot_id = %(slot)s AND coalesce(r.contact_id = e.contact_id, true))
            OR (o.distribution_id = %(distribution)s AND o.transaction_id = e.lookup_id))
ORDER BY e.lookup_id
