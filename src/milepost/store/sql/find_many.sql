-- Links by their ids, each with the URL of the link that it reuses.
SELECT {members}, original.url AS reused_url
FROM links AS l
LEFT JOIN links AS original ON original.id = l.reuses
WHERE l.id = ANY (%(ids)s)
