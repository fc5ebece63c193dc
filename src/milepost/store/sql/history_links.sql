-- The links of a distribution that a page of its history tells of, and what is known of them.
--
-- %(lookups)s       JSON array of lookup ids
-- %(distribution)s  ours, by which the links know it
SELECT
    e.lookup_id, l.id AS link_id,
    l.opened_at IS NOT NULL AS is_opened,
    l.started_at IS NOT NULL AS is_started,
    l.finished_at IS NOT NULL AS is_finished,
    l.response_id IS NOT NULL AS has_response
FROM jsonb_array_elements_text(%(lookups)s::jsonb) AS e (lookup_id)
CROSS JOIN LATERAL (
    SELECT l.id, l.opened_at, l.started_at, l.finished_at, l.response_id
    FROM links AS l
    WHERE l.lookup_id = e.lookup_id AND l.distribution_id = %(distribution)s
    LIMIT 1) AS l
