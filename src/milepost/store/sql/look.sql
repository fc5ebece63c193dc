-- The link behind a token, with its event, the registrant's language, and what ended it.
--
-- %(token)s
SELECT
    l.event_id, l.milestone, l.ref, l.data, l.occurred_at, l.asked_by, l.state,
    (SELECT m.route FROM milestones AS m WHERE m.key = l.milestone) AS route,
    coalesce(l.revoked_at, original.revoked_at) AS revoked_at,
    l.clicked_at,
    coalesce(l.url, original.url) AS url,
    coalesce(l.expires_at <= milepost_now(), false) AS is_expired,
    r.language,
    r.erased_at
FROM links AS l
LEFT JOIN links AS original ON original.id = l.reuses
LEFT JOIN registrants AS r ON r.id = l.registrant_id
WHERE l.token = %(token)s
