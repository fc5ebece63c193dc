-- The next refs of a listing, and of each whether two contacts of the same values have it.
--
-- %(list)s
-- %(after)s  only refs behind this one
-- %(limit)s
SELECT ref, count(*) > count(DISTINCT coalesce(contact_key, '')) AS is_double
FROM listed_members
WHERE list_id = %(list)s AND ref > %(after)s
GROUP BY ref
ORDER BY ref
LIMIT %(limit)s
