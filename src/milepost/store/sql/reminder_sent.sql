-- Note that a reminder was sent: when first.
--
-- %(link_id)s
-- %(asked_by)s  only of a link that the key of this name asked for; NULL: of any
UPDATE reminders AS r SET sent_at = coalesce(r.sent_at, milepost_now()), due_at = NULL
WHERE r.link_id = %(link_id)s
    AND r.handed_at IS NOT NULL
    AND (%(asked_by)s::text IS NULL OR EXISTS (
        SELECT FROM links AS l WHERE l.id = r.link_id AND l.asked_by = %(asked_by)s::text))
RETURNING r.link_id, r.sent_at
