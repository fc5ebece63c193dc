-- Forget the contacts of registrants who are not in the home list any more, and the memberships of
-- these contacts; both are made anew. Rows are locked in ref order, as by every writer of registrants.
--
-- %(list)s, %(before)s  as in listing_lost.sql
-- %(refs)s              the registrants
WITH lost AS MATERIALIZED (
    SELECT r.id, r.contact_id
    FROM registrants AS r
    WHERE r.ref = ANY (%(refs)s)
        AND r.home_lookup_id IS NOT NULL
        AND r.contact_at < %(before)s
        AND NOT EXISTS (
            SELECT FROM listed_members AS m
            WHERE m.list_id = %(list)s AND m.contact_id = r.contact_id)
    ORDER BY r.ref
    FOR NO KEY UPDATE OF r
), left_behind AS (
    DELETE FROM memberships AS s
    USING lost AS l
    WHERE s.registrant_id = l.id AND s.contact_id = l.contact_id
)
UPDATE registrants AS r SET
    contact_id = NULL,
    home_lookup_id = NULL,
    contact_at = NULL,
    contact_attempt = r.contact_attempt + 1,
    contact_lease_until = NULL,
    contact_in_doubt = false,
    contact_looks = 0,
    contact_first_look_at = NULL,
    contact_stale = false
FROM lost AS l
WHERE r.id = l.id
