-- Settle a batch of claims, each only while it is still its taker's: a claim that somebody else
-- took over has another attempt number, and a late writer changes nothing.
--
-- %(settlements)s  JSON array of {id, attempt, state, rule, detail, route, lane, lookup_id, url,
--                  expires_at, calls, looked, leaves, pause}
UPDATE links AS l SET
    state = s.state,
    rule = s.rule,
    rule_until = NULL,
    rule_detail = s.detail,
    route = s.route,
    lane = s.lane,
    published = CASE WHEN s.url IS NULL THEN l.published ELSE coalesce(l.published, 'personal') END,
    lease_until = CASE WHEN s.pause > 0 THEN milepost_now() + make_interval(secs => s.pause) END,
    -- Looks in a row: a call that went out since then is to be looked for anew.
    looks = CASE WHEN s.looked THEN l.looks + 1 ELSE 0 END,
    first_look_at = CASE WHEN s.looked THEN coalesce(l.first_look_at, milepost_now()) END,
    slot_id = CASE WHEN NOT s.leaves THEN l.slot_id END,
    distribution_id = CASE WHEN NOT s.leaves THEN l.distribution_id END,
    contact_key = CASE WHEN NOT s.leaves THEN l.contact_key END,
    lookup_id = s.lookup_id,
    url = s.url,
    expires_at = s.expires_at,
    upstream_calls = l.upstream_calls + s.calls,
    issued_at = CASE WHEN s.url IS NOT NULL THEN milepost_now() END,
    data_at = CASE WHEN s.url IS NOT NULL THEN milepost_now() END
FROM jsonb_to_recordset(%(settlements)s::jsonb) AS s (
    id uuid, attempt integer, state text, rule text, detail text, route text, lane text,
    lookup_id text, url text, expires_at timestamptz, calls double precision, looked boolean,
    leaves boolean, pause double precision)
WHERE l.id = s.id AND l.attempt = s.attempt AND l.state = 'claimed'
RETURNING l.*, NULL::text AS reused_url, milepost_now() AS at
