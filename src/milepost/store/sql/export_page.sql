-- Links of a milestone in the order of their creation, with what became of them.
--
-- %(milestone)s
-- %(after_at)s, %(after_id)s  from behind this link on, or where one would be
-- %(until)s                   created before
-- %(limit)s                   how many
SELECT
    l.id, l.event_id, l.milestone, l.survey_id, l.ref AS registrant, l.asked_by, l.state, l.lane,
    l.route, l.published, l.reuses, l.rule, l.rule_until, l.rule_detail, l.upstream_calls,
    CASE l.published WHEN 'short' THEN l.short_url
        WHEN 'personal' THEN coalesce(l.url, original.url) END AS url,
    l.occurred_at, l.created_at, l.issued_at, l.data_at, l.expires_at, l.delivered_at, l.clicked_at,
    l.opened_at, l.started_at, l.finished_at, l.revoked_at, r.sent_at AS reminded_at, l.response_id,
    l.data
FROM links AS l
LEFT JOIN links AS original ON original.id = l.reuses
LEFT JOIN reminders AS r ON r.link_id = l.id
WHERE l.milestone || '' = %(milestone)s
    AND l.created_at AT TIME ZONE 'UTC' >= %(after_at)s::timestamptz AT TIME ZONE 'UTC'
    AND l.created_at AT TIME ZONE 'UTC' < %(until)s::timestamptz AT TIME ZONE 'UTC'
    AND (l.created_at, l.id) > (%(after_at)s, %(after_id)s)
ORDER BY l.created_at AT TIME ZONE 'UTC', l.id
LIMIT %(limit)s
