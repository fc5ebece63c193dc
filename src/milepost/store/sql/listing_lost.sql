-- Who of a stretch of registrants was put into the home list before a listing began, and is not in it;
-- of each the contact.
--
-- %(list)s, %(before)s
-- %(after)s, %(limit)s  the stretch: so many registrants whose ref is behind this one
SELECT
    max(r.ref) AS last,
    coalesce(jsonb_object_agg(r.ref, r.contact_id) FILTER (
        WHERE r.home_lookup_id IS NOT NULL
            AND r.contact_at < %(before)s
            AND NOT EXISTS (
                SELECT FROM listed_members AS m
                WHERE m.list_id = %(list)s AND m.contact_id = r.contact_id)), '{}') AS lost
FROM (
    SELECT * FROM registrants WHERE ref > %(after)s ORDER BY ref LIMIT %(limit)s) AS r
