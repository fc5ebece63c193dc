-- The link that a reference names: by its id, or, under route `anonymous`, whose references hold fresh
-- ids, by the reference itself, which stands in its URL.
--
-- %(id)s         what was sealed in the reference
-- %(reference)s  the reference
(
    SELECT {record}, l.survey_id, NULL::text AS reused_url
    FROM links AS l
    WHERE l.lookup_id = %(reference)s AND l.route = 'anonymous'
    LIMIT 1)
UNION ALL
(
    SELECT {record}, l.survey_id, NULL::text AS reused_url
    FROM links AS l
    WHERE l.id = %(id)s AND l.route IS DISTINCT FROM 'anonymous'
    LIMIT 1)
LIMIT 1
