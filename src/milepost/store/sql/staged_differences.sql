-- A page of an intake's good rows held against the registrants: those that say something new, and
-- what. The page's last row is always among them, so that it is known where the next page begins.
--
-- %(intake)s
-- %(after)s, %(number)s  the ref and number behind which the page begins; rows come in this order
-- %(limit)s
-- %(source)s             the source whose rows they are; NULL: they come in by another way
--
-- Of the rows of one ref all but the last are superseded. `change` is NULL for these, and for a row
-- that changes nothing which anybody sees, also if it is to be written since it is the source's now.
WITH page AS MATERIALIZED (
    SELECT
        s.*,
        EXISTS (
            SELECT FROM staged AS later
            WHERE later.intake_id = s.intake_id
                AND later.ref = s.ref
                AND later.number > s.number
                AND later.reason IS NULL) AS is_superseded
    FROM staged AS s
    WHERE s.intake_id = %(intake)s
        AND s.ref IS NOT NULL
        AND s.reason IS NULL
        AND (s.intake_id, s.ref, s.number) > (%(intake)s, %(after)s, %(number)s)
    ORDER BY s.intake_id, s.ref, s.number
    LIMIT %(limit)s
)

SELECT
    p.ref, p.number, p.email, p.first_name, p.last_name, p.phone, p.language, p.attributes,
    held.change,
    held.change IS NOT NULL OR held.is_gained AS is_to_write,
    CASE WHEN held.change = 'changed' THEN ARRAY(
        SELECT coalesce(told.name, was.name)
        FROM (
            SELECT key AS name, value FROM jsonb_each(jsonb_build_object(
                'email', p.email, 'first_name', p.first_name, 'last_name', p.last_name,
                'phone', p.phone, 'language', p.language))
            UNION ALL
            SELECT 'attributes.' || key, value FROM jsonb_each(p.attributes)
        ) AS told
        FULL JOIN (
            SELECT key AS name, value FROM jsonb_each(jsonb_build_object(
                'email', r.email, 'first_name', r.first_name, 'last_name', r.last_name,
                'phone', r.phone, 'language', r.language))
            UNION ALL
            SELECT 'attributes.' || key, value FROM jsonb_each(r.attributes)
        ) AS was ON was.name = told.name
        WHERE was.value IS DISTINCT FROM told.value) END AS fields,
    (SELECT count(*) FROM page) AS rows,
    (SELECT count(*) FROM page WHERE page.is_superseded) AS superseded
FROM page AS p
LEFT JOIN registrants AS r ON r.ref = p.ref AND NOT p.is_superseded
CROSS JOIN LATERAL (
    SELECT
        CASE
            WHEN p.is_superseded THEN NULL
            WHEN r.id IS NULL THEN 'created'
            WHEN r.removed_at IS NOT NULL THEN 'returned'
            WHEN (r.email, r.first_name, r.last_name, r.phone, r.language, r.attributes)
                IS DISTINCT FROM
                (p.email, p.first_name, p.last_name, p.phone, p.language, p.attributes)
                THEN 'changed'
        END AS change,
        r.id IS NOT NULL AND r.source IS DISTINCT FROM coalesce(%(source)s, r.source) AS is_gained
) AS held
WHERE held.change IS NOT NULL
    OR held.is_gained
    OR p.number = (SELECT page.number FROM page ORDER BY page.ref DESC, page.number DESC LIMIT 1)
ORDER BY p.ref, p.number
