-- Claim the link whose data have been due for the longest: for a while it is its taker's alone, and
-- the next one's if that one dies.
--
-- %(lease)s  seconds for which it is its taker's
-- %(tries)s  takers that may die of it before nobody tries it again
WITH taken AS (
    UPDATE links AS l SET
        attempt = l.attempt + 1,
        lost = l.lost + 1,
        data_due_at = milepost_now() + make_interval(secs => %(lease)s)
    WHERE l.id = (
        SELECT l.id
        FROM links AS l
        WHERE l.data_due_at <= milepost_now()
        ORDER BY l.data_due_at
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING l.*
)
SELECT
    t.id AS link_id, t.event_id, t.attempt, t.route, t.slot_id, t.ref, t.data, m.fields,
    coalesce(s.list_id, '') AS list_id,
    coalesce(member.contact_id, '') AS contact_id,
    t.contact_key = r.dedup_key AS is_theirs,
    r.email, r.first_name, r.last_name, r.phone, r.language, r.attributes,
    extract(epoch FROM milepost_now() - t.issued_at)::double precision AS age,
    t.lost > 2 AS alone,
    -- Why there is nothing to tell any more: a rule that `policy.EXPLANATIONS` has a sentence for.
    CASE
        WHEN t.revoked_at IS NOT NULL THEN 'revoked'
        WHEN r.erased_at IS NOT NULL THEN 'erased'
        WHEN t.finished_at IS NOT NULL OR t.expires_at <= milepost_now() THEN 'data-too-late'
        WHEN t.lost > %(tries)s THEN 'parked'
        WHEN s.list_id IS NULL OR member.contact_id IS NULL THEN 'data-refused'
    END AS ended
FROM taken AS t
CROSS JOIN LATERAL (SELECT s.* FROM slots AS s WHERE s.id = t.slot_id LIMIT 1) AS s
CROSS JOIN LATERAL (SELECT m.* FROM milestones AS m WHERE m.key = t.milestone LIMIT 1) AS m
CROSS JOIN LATERAL (SELECT r.* FROM registrants AS r WHERE r.id = t.registrant_id LIMIT 1) AS r
LEFT JOIN LATERAL (
    SELECT k.contact_id FROM memberships AS k
    WHERE k.slot_id = t.slot_id AND k.lookup_id = t.lookup_id LIMIT 1) AS member ON true
