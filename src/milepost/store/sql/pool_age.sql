-- Move distributions on as time goes by: one that takes no more links drains, and it retires when the
-- last of its links has expired. One that was not ready by then never will be.
UPDATE distributions AS d SET
    state = CASE WHEN d.expires_at <= milepost_now() THEN 'retired' ELSE 'draining' END
FROM slots AS s
WHERE s.id = d.slot_id
    AND s.milestone IS NOT NULL
    AND (
        (d.state IN ('making', 'ready', 'draining') AND d.expires_at <= milepost_now())
        OR (d.state = 'ready' AND d.takes_until <= milepost_now()))
RETURNING d.state
