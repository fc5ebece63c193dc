-- Where registrants stand in a listing of a slot's list, if that is not what is known of them. The
-- beginning of other statements; see listing_home.sql for whom it takes.
--
-- %(slot)s, %(list)s
-- %(refs)s  of the registrants
WITH listed AS MATERIALIZED (
    SELECT r.id, r.dedup_key, m.contact_id, m.lookup_id
    FROM unnest(%(refs)s::text[]) AS given (ref)
    CROSS JOIN LATERAL (
        SELECT r.* FROM registrants AS r WHERE r.ref = given.ref COLLATE "C" LIMIT 1) AS r
    CROSS JOIN LATERAL (
        SELECT m.*
        FROM listed_members AS m
        WHERE m.list_id = %(list)s
            AND m.ref = r.ref
            AND (m.contact_id = r.contact_id OR m.contact_key = r.dedup_key)
        ORDER BY
            NOT EXISTS (
                SELECT FROM memberships AS s
                WHERE s.registrant_id = r.id
                    AND s.slot_id = %(slot)s
                    AND s.contact_id = m.contact_id),
            m.contact_id IS DISTINCT FROM r.contact_id,
            m.number
        LIMIT 1
    ) AS m
    WHERE r.dedup_key IS NOT NULL
        AND r.erased_at IS NULL
        AND NOT EXISTS (
            SELECT FROM memberships AS s
            WHERE s.registrant_id = r.id
                AND s.slot_id = %(slot)s
                AND s.contact_key = r.dedup_key
                AND s.contact_id = m.contact_id
                AND s.lookup_id = m.lookup_id COLLATE "C")
)
