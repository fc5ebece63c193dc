-- Decide the events of a batch whose registrants are locked, and write one row for each.
--
-- %(events)s  JSON array of {link_id, event_id, milestone, ref, occurred_at, data, fingerprint,
--             sample_point, asked_by}, no event_id and no registrant twice
-- %(lease)s   seconds for which a claim is its taker's alone
--
-- The snapshot of this statement is newer than the locks of the one before it, so that it sees all
-- that those who held them have written. One statement for both would not: under READ COMMITTED the
-- snapshot would be older than the locks, and caps would be exceeded.
WITH event AS MATERIALIZED (
    SELECT e.*, milepost_now() AS at
    FROM jsonb_to_recordset(%(events)s::jsonb) AS e (
        link_id uuid, event_id text, milestone text, ref text, occurred_at timestamptz,
        data jsonb, fingerprint jsonb, sample_point double precision, asked_by text)
),

-- What is known of each event: its milestone, its registrant, and the row that an earlier request
-- left. Only `course = 'decide'` goes further.
candidate AS MATERIALIZED (
    SELECT
        e.*,
        seen.id AS seen_id,
        coalesce(seen.created_at, e.at) AS created_at,
        seen.slot_id AS held_slot_id,
        seen.distribution_id AS held_distribution_id,
        seen.contact_key AS held_contact_key,
        coalesce(seen.state IN ('claimed', 'unknown'), false) AS in_doubt,
        coalesce(seen.looks >= 3 AND seen.first_look_at <= e.at - interval '60 seconds', false)
            AS looked_enough,
        r.id AS registrant_id,
        r.email, r.first_name, r.last_name, r.phone, r.language, r.attributes, r.contact_id,
        r.contact_key, r.dedup_key, r.opted_out_at, r.erased_at,
        m.survey_id, m.route, m.lanes, m.repeat, m.cooldown_days, m.sample_percent, m.when_full,
        m.link_days, m.fields, m.quiet_links, m.quiet_days,
        CASE
            WHEN seen.id IS NOT NULL AND (
                seen.fingerprint <> e.fingerprint
                OR seen.state NOT IN ('claimed', 'waiting', 'unknown')
                OR seen.lease_until > e.at) THEN 'seen'
            WHEN m.key IS NULL THEN 'unknown-milestone'
            WHEN seen.id IS NOT NULL THEN 'decide'
            WHEN m.state = 'paused' THEN 'milestone-paused'
            WHEN r.id IS NULL AND m.unknown_registrant = 'reject' THEN 'unknown-registrant'
            ELSE 'decide'
        END AS course
    FROM event AS e
    LEFT JOIN LATERAL (SELECT l.* FROM links AS l WHERE l.event_id = e.event_id) AS seen ON true
    LEFT JOIN milestones AS m ON m.key = e.milestone
    LEFT JOIN LATERAL (SELECT r.* FROM registrants AS r WHERE r.ref = e.ref) AS r ON true
),

decided AS MATERIALIZED (
    SELECT
        c.*,
        place.slot_id,
        place.distribution_id,
        CASE verdict.text WHEN 'issued/once' THEN earlier.survey_id
            ELSE coalesce(place.survey_id, c.survey_id) END AS link_survey_id,
        split_part(verdict.text, '/', 1) AS state,
        nullif(split_part(verdict.text, '/', 2), '') AS rule,
        CASE verdict.text
            WHEN 'issued/once' THEN earlier.expires_at
            WHEN 'suppressed/cooldown' THEN earlier.created_at + make_interval(days => c.cooldown_days)
            WHEN 'suppressed/quiet' THEN quiet.until
        END AS rule_until,
        CASE verdict.text WHEN 'issued/once' THEN earlier.id END AS reuses,
        CASE verdict.text WHEN 'issued/once' THEN earlier.expires_at END AS expires_at
    FROM candidate AS c

    -- The registrant's last link of this milestone, which `once` and `cooldown` look at. Of those
    -- that wait without a place, an event that waited itself counts only the ones before it, or two
    -- of them would wait for each other. By `ref`: what waits for its registrant has no id of them.
    LEFT JOIN LATERAL (
        SELECT l.id, l.survey_id, l.state, l.created_at, l.expires_at, l.finished_at
        FROM links AS l
        WHERE c.repeat <> 'every_event'
            AND l.ref = c.ref
            AND l.milestone = c.milestone
            AND l.state IN ('claimed', 'waiting', 'unknown', 'issued')
            AND l.reuses IS NULL
            AND l.id IS DISTINCT FROM c.seen_id
            AND (c.seen_id IS NULL OR l.state <> 'waiting' OR l.slot_id IS NOT NULL
                OR (l.created_at, l.id) < (c.created_at, c.seen_id))
        ORDER BY l.created_at DESC, l.id DESC
        LIMIT 1
    ) AS earlier ON true

    -- The registrant's n-th last link of any milestone, when it is still inside the quiet days.
    LEFT JOIN LATERAL (
        SELECT l.created_at + make_interval(days => c.quiet_days) AS until
        FROM links AS l
        WHERE c.quiet_links IS NOT NULL
            AND l.ref = c.ref
            AND l.created_at > c.created_at - make_interval(days => c.quiet_days)
            AND l.state IN ('claimed', 'waiting', 'unknown', 'issued')
            AND l.reuses IS NULL
            AND l.id IS DISTINCT FROM c.seen_id
            AND (c.seen_id IS NULL OR l.state <> 'waiting' OR l.slot_id IS NOT NULL
                OR (l.created_at, l.id) < (c.created_at, c.seen_id))
        ORDER BY l.created_at DESC, l.id DESC
        OFFSET c.quiet_links - 1
        LIMIT 1
    ) AS quiet ON true

    -- The first slot whose list holds no live link of the registrant or of their contact, with a
    -- distribution that neither has a link of. To the platform a place is a contact's: a contact key
    -- that passes to another registrant takes the links made under it along. An event that waited
    -- prefers the place that it had; one in doubt keeps it, for its call may have been accepted there.
    LEFT JOIN LATERAL (
        SELECT s.id AS slot_id, s.survey_id, d.id AS distribution_id
        FROM slots AS s
        JOIN distributions AS d ON d.slot_id = s.id
        WHERE s.milestone = c.milestone
            AND CASE
                WHEN c.in_doubt THEN
                    d.id = c.held_distribution_id AND d.state IN ('ready', 'draining')
                ELSE
                    s.survey_id = c.survey_id
                    AND coalesce(s.rests_until <= c.at, true)
                    AND d.state = 'ready'
                    AND d.takes_until > c.at
                    AND NOT EXISTS (
                        SELECT FROM (
                            SELECT * FROM links AS l
                            WHERE l.registrant_id = c.registrant_id AND l.slot_id = s.id
                            UNION ALL
                            SELECT * FROM links AS l
                            WHERE l.contact_key = c.contact_key AND l.slot_id = s.id) AS l
                        WHERE l.id IS DISTINCT FROM c.seen_id
                            AND (
                                l.distribution_id = d.id
                                OR l.state IN ('claimed', 'waiting', 'unknown')
                                OR (l.finished_at IS NULL AND l.expires_at > c.at)))
            END
        ORDER BY s.id IS DISTINCT FROM c.held_slot_id, s.number, d.generation DESC
        LIMIT 1
    ) AS place ON c.registrant_id IS NOT NULL

    -- State and rule, the first that holds. `policy.EXPLANATIONS` has a sentence for each. Without a
    -- verdict the row stays as it is: a link in doubt whose distribution must not be touched now.
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN c.erased_at IS NOT NULL THEN 'suppressed/erased'
            WHEN c.opted_out_at IS NOT NULL THEN 'suppressed/opted-out'
            WHEN c.in_doubt AND place.slot_id IS NULL THEN NULL
            WHEN c.in_doubt THEN 'claimed'
            WHEN c.registrant_id IS NULL THEN 'waiting/registrant-unknown'
            WHEN c.held_slot_id IS NULL AND c.sample_point >= c.sample_percent
                THEN 'suppressed/sample'
            WHEN c.contact_key IS NULL THEN 'suppressed/contact-incomplete'
            WHEN c.dedup_key IS NULL THEN 'suppressed/contact-shared'
            WHEN c.held_slot_id IS NOT NULL AND place.slot_id IS NOT NULL THEN 'claimed'
            WHEN c.repeat = 'once' AND earlier.state IN ('claimed', 'waiting', 'unknown')
                THEN 'waiting/once'
            WHEN c.repeat = 'once' AND earlier.finished_at IS NOT NULL THEN 'suppressed/once'
            WHEN c.repeat = 'once' AND earlier.expires_at > c.at THEN 'issued/once'
            WHEN c.repeat = 'cooldown'
                AND earlier.created_at > c.created_at - make_interval(days => c.cooldown_days)
                THEN 'suppressed/cooldown'
            WHEN quiet.until IS NOT NULL THEN 'suppressed/quiet'
            WHEN place.slot_id IS NOT NULL AND 'direct' = ANY (c.lanes) THEN 'claimed'
            WHEN place.slot_id IS NOT NULL THEN 'waiting/no-lane'
            WHEN NOT EXISTS (
                SELECT FROM slots AS s
                JOIN distributions AS d ON d.slot_id = s.id
                WHERE s.milestone = c.milestone
                    AND s.survey_id = c.survey_id
                    AND coalesce(s.rests_until <= c.at, true)
                    AND d.state = 'ready'
                    AND d.takes_until > c.at) THEN 'waiting/pool-empty'
            WHEN c.when_full = 'suppressed' THEN 'suppressed/no-slot'
            ELSE 'waiting/no-slot'
        END AS text
    ) AS verdict
    WHERE c.course = 'decide' AND verdict.text IS NOT NULL
),

-- An event that was decided before is taken up again in place: same row, next attempt. One that goes
-- on waiting for the same reason is not written again. The order keeps two batches that share
-- event_ids from waiting for each other in a circle.
written AS (
    INSERT INTO links AS l (
        id, event_id, milestone, survey_id, ref, registrant_id, occurred_at, data, fingerprint,
        state, rule, rule_until, published, attempt, lease_until, waiting_until,
        slot_id, distribution_id, contact_key, reuses, expires_at, created_at, asked_by)
    SELECT
        d.link_id, d.event_id, d.milestone, d.link_survey_id, d.ref, d.registrant_id, d.occurred_at,
        d.data, d.fingerprint, d.state, d.rule, d.rule_until,
        CASE d.state WHEN 'issued' THEN 'personal' END,
        (d.state = 'claimed')::integer,
        CASE d.state WHEN 'claimed' THEN d.at + make_interval(secs => %(lease)s) END,
        CASE WHEN d.state IN ('claimed', 'waiting') THEN d.at + make_interval(days => d.link_days) END,
        CASE d.state WHEN 'claimed' THEN d.slot_id END,
        CASE d.state WHEN 'claimed' THEN d.distribution_id END,
        CASE d.state WHEN 'claimed' THEN CASE WHEN d.in_doubt THEN d.held_contact_key
            ELSE d.contact_key END END,
        d.reuses, d.expires_at, d.at, d.asked_by
    FROM decided AS d
    ORDER BY d.event_id
    ON CONFLICT (event_id) DO UPDATE SET
        survey_id = excluded.survey_id,
        registrant_id = excluded.registrant_id,
        state = excluded.state,
        rule = excluded.rule,
        rule_until = excluded.rule_until,
        rule_detail = NULL,
        published = coalesce(l.published, excluded.published),
        attempt = l.attempt + excluded.attempt,
        lease_until = excluded.lease_until,
        slot_id = excluded.slot_id,
        distribution_id = excluded.distribution_id,
        contact_key = excluded.contact_key,
        reuses = excluded.reuses,
        expires_at = excluded.expires_at
    WHERE l.fingerprint = excluded.fingerprint
        AND l.state IN ('claimed', 'waiting', 'unknown')
        AND coalesce(l.lease_until <= milepost_now(), true)
        AND (excluded.state <> 'waiting' OR excluded.rule IS DISTINCT FROM l.rule)
    RETURNING l.*
),

outcome AS (
    SELECT w.*, true AS is_written FROM written AS w
    UNION ALL
    SELECT l.*, false
    FROM candidate AS c
    JOIN links AS l ON l.id = c.seen_id
    WHERE NOT EXISTS (SELECT FROM written AS w WHERE w.event_id = c.event_id)
)

SELECT
    c.event_id AS asked,
    c.course,
    o.*,
    o.id = c.link_id AS is_first,
    original.url AS reused_url,
    c.at,
    c.in_doubt,
    c.dedup_key IS NOT NULL AND c.dedup_key = o.contact_key AS may_add,
    c.looked_enough,
    c.route AS claim_route,
    c.email, c.first_name, c.last_name, c.phone, c.language, c.attributes, c.contact_id, c.fields,
    s.list_id,
    d.template,
    d.expires_at AS place_expires_at,
    CASE WHEN c.in_doubt THEN ARRAY(
        SELECT l.lookup_id
        FROM links AS l
        WHERE l.registrant_id = o.registrant_id
            AND l.slot_id = o.slot_id
            AND l.id <> o.id
            AND l.lookup_id IS NOT NULL) ELSE '{}' END AS lookups_before
FROM candidate AS c
LEFT JOIN outcome AS o ON o.event_id = c.event_id
LEFT JOIN links AS original ON original.id = o.reuses
LEFT JOIN slots AS s ON s.id = o.slot_id
LEFT JOIN distributions AS d ON d.id = o.distribution_id
