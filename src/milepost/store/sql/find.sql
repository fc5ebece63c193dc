-- One link, by its id or by its event's id, with the URL of the link that it reuses.
SELECT {record}, original.url AS reused_url
FROM links AS l
LEFT JOIN links AS original ON original.id = l.reuses
WHERE (l.id = %(id)s OR l.event_id = %(event_id)s)
    AND coalesce(l.asked_by = %(asked_by)s, true)
