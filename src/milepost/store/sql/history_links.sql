-- The links of a distribution that a page of its history tells of.
--
-- %(lookups)s       JSON array of lookup ids
-- %(distribution)s  ours, by which the links know it
SELECT e.lookup_id, l.id AS link_id
FROM jsonb_array_elements_text(%(lookups)s::jsonb) AS e (lookup_id)
CROSS JOIN LATERAL (
    SELECT l.id
    FROM links AS l
    WHERE l.lookup_id = e.lookup_id AND l.distribution_id = %(distribution)s
    LIMIT 1) AS l
