-- Note what was made on the way to links of several calls, each only while its claim is still its
-- taker's. Looks were for what is made now: for the next step they are counted anew.
--
-- %(steps)s  JSON array of {id, attempt, name, value, contact}; what was made for another contact, or
--            is made anew, is no step to the link any more: it is at the platform, and is kept to be told
--
-- How rows are found: as in settle.sql.
WITH step AS MATERIALIZED (
    SELECT s.id, s.name, s.value, s.contact, l.steps
    FROM (
        SELECT *
        FROM jsonb_to_recordset(%(steps)s::jsonb) AS s (
            id uuid, attempt integer, name text, value text, contact text)
        ORDER BY s.id  -- in one order, or two batches would wait for each other in a circle
    ) AS s
    CROSS JOIN LATERAL (
        SELECT l.attempt, l.state, l.steps
        FROM links AS l
        WHERE l.id = s.id
        LIMIT 1
        FOR NO KEY UPDATE
    ) AS l
    WHERE l.attempt = s.attempt AND l.state = 'claimed'
)
UPDATE links AS l SET
    steps = CASE WHEN s.steps ->> 'contact' = s.contact THEN s.steps ELSE '{}' END
        || jsonb_strip_nulls(jsonb_build_object(
            s.name, s.value, 'contact', s.contact, 'given_up', former.steps)),
    looks = 0,
    first_look_at = NULL
FROM step AS s
LEFT JOIN LATERAL (
    SELECT string_agg(
        CASE f.name WHEN 'given_up' THEN f.value ELSE f.name || ' ' || f.value END, ', '
        ORDER BY f.name) AS steps
    FROM jsonb_each_text(s.steps) AS f (name, value)
    WHERE f.name = 'given_up'
        OR (f.name IN ('transaction', 'batch', 'distribution', 'own_distribution')
            AND (s.steps ->> 'contact' <> s.contact OR (f.name = s.name AND f.value <> s.value)))
) AS former ON s.steps IS NOT NULL
WHERE l.id = s.id
RETURNING l.id
