-- Links by their ids, each with the URL of the link that it reuses.
SELECT l.*, original.url AS reused_url, milepost_now() AS at
FROM links AS l
LEFT JOIN links AS original ON original.id = l.reuses
WHERE l.id = ANY (%(ids)s)
