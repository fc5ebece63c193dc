-- Write down a link that was found at the platform and is not in the ledger, under the hash that its
-- event's name has; or settle one that is there, and was on its way when the backup was taken.
--
-- %(id)s, %(event_id)s, %(milliseconds)s  of the link; when its event came
-- %(milestone)s, %(survey)s, %(route)s    what it is of
-- %(slot)s, %(distribution)s              what it stands on, as far as that is the pool's
-- %(ref)s, %(contact)s                    whose it is; to the list, under which contact key
-- %(lookup)s, %(url)s, %(expires_at)s, %(steps)s
-- %(token)s, %(short)s, %(is_short)s      its short URL; whether its caller was given that one
WITH held AS (
    INSERT INTO links AS l (
        id, event_id, milestone, survey_id, ref, registrant_id, data, fingerprint, asked_by, state, route,
        lane, published, token, short_url, attempt, slot_id, distribution_id, contact_key, lookup_id, url,
        expires_at, created_at, issued_at, data_at, steps)
    SELECT
        %(id)s, %(event_id)s, %(milestone)s, %(survey)s, %(ref)s,
        (SELECT r.id FROM registrants AS r WHERE r.ref = %(ref)s), '{}', '{}', 'recover', 'issued',
        %(route)s,
        CASE WHEN %(is_short)s THEN 'deferred' ELSE 'direct' END,
        CASE WHEN %(is_short)s THEN 'short' ELSE 'personal' END,
        %(token)s, %(short)s || %(token)s, 1, %(slot)s, %(distribution)s, %(contact)s, %(lookup)s, %(url)s,
        %(expires_at)s, came.at, came.at, came.at, %(steps)s::jsonb
    FROM (
        SELECT least(to_timestamp(%(milliseconds)s / 1000.0), milepost_now()) AS at) AS came
    ON CONFLICT (id) DO UPDATE SET
        state = excluded.state,
        rule = NULL,
        rule_until = NULL,
        rule_detail = NULL,
        route = excluded.route,
        lane = coalesce(l.lane, excluded.lane),
        published = coalesce(l.published, excluded.published),
        token = coalesce(l.token, excluded.token),
        short_url = coalesce(l.short_url, excluded.short_url),
        attempt = l.attempt + 1,
        lease_until = NULL,
        due_at = NULL,
        lost = 0,
        slot_id = excluded.slot_id,
        distribution_id = excluded.distribution_id,
        contact_key = excluded.contact_key,
        lookup_id = excluded.lookup_id,
        url = excluded.url,
        expires_at = excluded.expires_at,
        issued_at = milepost_now(),
        data_at = milepost_now(),
        steps = coalesce(excluded.steps, l.steps)
    WHERE l.state IN ('claimed', 'waiting', 'unknown')
        -- A lease is that of a process from before the restore. Where the call went to another
        -- distribution, its outcome is asked as ever.
        AND coalesce(l.distribution_id = excluded.distribution_id, true)
    RETURNING l.id, l.milestone, l.created_at, l.xmax = 0 AS is_new
),

-- Of whatever hour it is, its milestone's count may be done.
recounted AS (
    INSERT INTO funnel_changes (milestone, hour)
    SELECT h.milestone, date_trunc('hour', h.created_at, 'UTC') FROM held AS h
),

-- Of one that is new nobody is told before its event comes; its app is answered then.
told AS (
    INSERT INTO messages (endpoint_id, type, link_id, due_at, created_at)
    SELECT e.id, 'link.issued', h.id, (SELECT milepost_now()), (SELECT milepost_now())
    FROM held AS h
    JOIN endpoints AS e ON e.state = 'active' AND (e.types = '{}' OR 'link.issued' = ANY (e.types))
    WHERE NOT h.is_new
)

SELECT is_new FROM held
