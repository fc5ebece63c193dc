-- The app has shown a customer their link: note when first.
--
-- %(id)s        the link's id
-- %(asked_by)s  only if the key of this name asked for it; NULL: whoever did
WITH delivered AS (
    UPDATE links AS l SET delivered_at = milepost_now()
    WHERE l.id = %(id)s
        AND coalesce(l.asked_by = %(asked_by)s, true)
        AND l.delivered_at IS NULL
        AND l.published IS NOT NULL
    RETURNING l.milestone, l.created_at
)

INSERT INTO funnel_changes (milestone, hour)
SELECT d.milestone, date_trunc('hour', d.created_at, 'UTC')
FROM delivered AS d
WHERE d.created_at <= (SELECT milepost_counted_since())
