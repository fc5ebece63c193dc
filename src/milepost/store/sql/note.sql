-- Note what was made on the way to links of several calls, each only while its claim is still its
-- taker's. Looks were for what is made now: for the next step they are counted anew.
--
-- %(steps)s  JSON array of {id, attempt, name, value, contact}; what was made for another contact is
--            no step to the link of this one
--
-- How rows are found: as in settle.sql.
WITH step AS MATERIALIZED (
    SELECT s.id, s.name, s.value, s.contact
    FROM (
        SELECT *
        FROM jsonb_to_recordset(%(steps)s::jsonb) AS s (
            id uuid, attempt integer, name text, value text, contact text)
        ORDER BY s.id  -- in one order, or two batches would wait for each other in a circle
    ) AS s
    CROSS JOIN LATERAL (
        SELECT l.attempt, l.state
        FROM links AS l
        WHERE l.id = s.id
        LIMIT 1
        FOR NO KEY UPDATE
    ) AS l
    WHERE l.attempt = s.attempt AND l.state = 'claimed'
)
UPDATE links AS l SET
    steps = CASE WHEN l.steps ->> 'contact' = s.contact THEN l.steps ELSE '{}' END
        || jsonb_build_object(s.name, s.value, 'contact', s.contact),
    looks = 0,
    first_look_at = NULL
FROM step AS s
WHERE l.id = s.id
RETURNING l.id
