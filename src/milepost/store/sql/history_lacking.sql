-- A page of a distribution's links that are old enough for the platform to have them in its history.
--
-- %(distribution)s  ours
-- %(after)s         the page begins behind this link; NULL: with the first
-- %(hours)s         so old
-- %(limit)s         so many
SELECT l.id AS link_id, l.lookup_id, l.issued_at < milepost_now() - make_interval(hours => %(hours)s) AS is_old
FROM links AS l
WHERE l.distribution_id = %(distribution)s
    AND l.url IS NOT NULL
    AND l.id > coalesce(%(after)s, '00000000-0000-0000-0000-000000000000'::uuid)
ORDER BY l.id
LIMIT %(limit)s
