-- What was written down of these is not so any more.
--
-- %(gone)s  JSON array of {kind, subject}
UPDATE drift AS d SET settled_at = milepost_now()
FROM (
    SELECT * FROM jsonb_to_recordset(%(gone)s::jsonb) AS g (kind text, subject text)
    ORDER BY g.kind, g.subject) AS g
WHERE d.kind = g.kind AND d.subject = g.subject AND d.settled_at IS NULL
