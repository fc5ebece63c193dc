-- How many of those who were put into the home list before a listing began are not in it.
--
-- %(list)s, %(before)s
SELECT count(*) AS known, count(*) FILTER (WHERE m.contact_id IS NULL) AS lost
FROM registrants AS r
LEFT JOIN listed_members AS m ON m.list_id = %(list)s AND m.contact_id = r.contact_id
WHERE r.home_lookup_id IS NOT NULL AND r.contact_at < %(before)s
