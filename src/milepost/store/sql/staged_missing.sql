-- Of a page of registrants, how many a source has listed, and those that an intake does not name; a
-- bad row names its registrant, too.
--
-- %(intake)s
-- %(source)s
-- %(after)s  the ref behind which the page begins
-- %(limit)s
WITH page AS MATERIALIZED (
    SELECT ref, source, removed_at FROM registrants
    WHERE ref > %(after)s
    ORDER BY ref
    LIMIT %(limit)s
)

SELECT
    (SELECT max(ref) FROM page) AS last,
    (SELECT count(*) FROM page WHERE source = %(source)s AND removed_at IS NULL) AS known,
    ARRAY(
        SELECT p.ref FROM page AS p
        WHERE p.source = %(source)s
            AND p.removed_at IS NULL
            AND NOT EXISTS (
                SELECT FROM staged AS s WHERE s.intake_id = %(intake)s AND s.ref = p.ref)
        ORDER BY p.ref
    ) AS missing
