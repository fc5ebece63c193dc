-- Somebody has opened a short URL: note when first, and let an unsettled link be made before others.
--
-- %(token)s
WITH clicked AS (
    UPDATE links SET
        clicked_at = coalesce(clicked_at, milepost_now()),
        due_at = CASE WHEN due_at IS NOT NULL
            THEN greatest(milepost_now(), coalesce(lease_until, milepost_now())) END
    WHERE token = %(token)s
        AND (clicked_at IS NULL OR due_at > greatest(milepost_now(), lease_until))
    RETURNING milestone, created_at
)

INSERT INTO funnel_changes (milestone, hour)
SELECT c.milestone, date_trunc('hour', c.created_at, 'UTC')
FROM clicked AS c
WHERE c.created_at <= (SELECT milepost_counted_since())
