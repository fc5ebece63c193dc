-- How registrants stand in a listing of the home list, where that is not what is known of them. The
-- beginning of other statements.
--
-- %(list)s
-- %(refs)s    of the registrants
-- %(merges)s  whether the platform knows a contact again by the values of its criteria
--
-- Of several contacts with one ref it is the one that is known, else the first. Where the platform
-- merges, another contact than the known one must have the values that the registrant has now: under
-- others it would not be taken for theirs. Who stands in the list under another ref is as known.
--
-- Like the statements of the path it finds its rows by an index, whatever the planner thinks of how
-- many there are: a listing has come in since it last looked.
WITH changed AS MATERIALIZED (
    SELECT
        r.id, r.ref, r.contact_id AS old_contact_id, r.home_lookup_id AS old_lookup_id,
        m.contact_id, m.lookup_id, m.contact_key
    FROM unnest(%(refs)s::text[]) AS given (ref)
    CROSS JOIN LATERAL (
        SELECT r.* FROM registrants AS r WHERE r.ref = given.ref COLLATE "C" LIMIT 1) AS r
    CROSS JOIN LATERAL (
        SELECT m.*
        FROM listed_members AS m
        WHERE m.list_id = %(list)s
            AND m.ref = r.ref
            AND (m.contact_id = r.contact_id OR NOT %(merges)s OR m.contact_key = r.dedup_key)
        ORDER BY m.contact_id IS DISTINCT FROM r.contact_id, m.number
        LIMIT 1
    ) AS m
    WHERE r.dedup_key IS NOT NULL
        AND r.erased_at IS NULL
        AND (r.contact_id, r.home_lookup_id) IS DISTINCT FROM (m.contact_id, m.lookup_id)
        AND (r.home_lookup_id IS NULL
            OR m.contact_id = r.contact_id
            OR NOT EXISTS (
                SELECT FROM listed_members AS k
                WHERE k.list_id = %(list)s AND k.contact_id = r.contact_id))
)
