-- Decide the events of a batch whose registrants are locked, and write one row for each.
--
-- %(events)s  JSON array of {link_id, event_id, milestone, ref, occurred_at, data, fingerprint,
--             sample_point, asked_by, brings_details, purpose, may_call, without, token, reference}, no
--             event_id and no registrant twice. Where none `may_call`, `without` says why; if it does
--             not, an event that would need a call is not decided: its asker tries to get one first
-- %(lease)s   seconds for which a claim is its taker's alone
-- %(tries)s   claims that may end with their taker's death before the event is parked
-- %(short)s   what a token is put behind to make a short URL
-- %(kept)s    whether each link keeps one, also beside a personal URL: after a restore nobody knows
--             which of them its caller was given
--
-- The snapshot of this statement is newer than the locks of the one before it, so that it sees all
-- that those who held them have written. One statement for both would not: under READ COMMITTED the
-- snapshot would be older than the locks, and caps would be exceeded.
--
-- A plan is made once for each connection, by what the tables hold then: while the ledger is empty, a
-- join that reads all of it looks best. So each look at a table that grows is a subquery with a LIMIT,
-- which the planner must not turn into a join: it finds its row by an index, always. And what grows
-- with the batch is matched by hashed subplans (IN), or it would be matched by nested loops.
WITH candidate AS MATERIALIZED (
    -- What is known of each event: its milestone, its registrant, and the row that an earlier request
    -- left. Only `course = 'decide'` goes further. Who holds a short URL is told it at once: what is
    -- still to be made for it is a job's work, or a click's.
    SELECT
        e.*,
        seen.id AS seen_id,
        coalesce(seen.created_at, e.at) AS created_at,
        seen.rule AS held_rule,
        seen.due_at AS held_due_at,
        seen.published AS held_published,
        seen.slot_id AS held_slot_id,
        seen.distribution_id AS held_distribution_id,
        seen.survey_id AS held_survey_id,
        seen.contact_key AS held_contact_key,
        seen.waiting_until,
        seen.revoked_at,
        coalesce(seen.lost + (seen.state = 'claimed')::integer, 0) AS lost,
        coalesce(seen.state IN ('claimed', 'unknown'), false) AS in_doubt,
        seen.looks AS held_looks,
        seen.first_look_at AS held_first_look_at,
        coalesce(
            seen.looks >= 3
                AND seen.first_look_at <= e.at - make_interval(secs => milepost_look_seconds()),
            false) AS looked_enough,
        r.id AS registrant_id,
        r.contact_key, r.dedup_key, r.opted_out_at, r.erased_at, r.removed_at,
        m.survey_id, m.lanes,
        -- One in doubt is made, or found, by the route on which its call went out.
        CASE WHEN seen.state IN ('claimed', 'unknown') THEN coalesce(seen.route, m.route)
            ELSE m.route END AS route,
        m.repeat, m.cooldown_days, m.sample_percent, m.when_full,
        m.link_days, m.quiet_links, m.quiet_days,
        m.stopped_at IS NOT NULL AS is_stopped,
        -- Whether a membership that is known beforehand makes a link, and whether also where a call
        -- could be made. What an account has been proved not to accept it is not given.
        m.membership = 'ahead' AND 'ready' = ANY (m.lanes) AND NOT EXISTS (
            SELECT FROM capabilities AS f WHERE f.fact = 'late_link' AND NOT f.holds)
            AS may_be_ready,
        coalesce(array_position(m.lanes, 'ready') < array_position(m.lanes, 'direct'), true)
            AS is_ready_first,
        CASE
            WHEN seen.id IS NOT NULL AND (
                seen.fingerprint <> e.fingerprint
                OR seen.state NOT IN ('claimed', 'waiting', 'unknown')
                OR seen.lease_until > e.at
                OR (seen.published IS NOT NULL AND e.purpose = 'direct')) THEN 'seen'
            WHEN m.key IS NULL THEN 'unknown-milestone'
            WHEN seen.id IS NOT NULL THEN 'decide'
            WHEN m.state = 'paused' THEN 'milestone-paused'
            WHEN r.id IS NULL AND (m.unknown_registrant = 'reject' OR e.brings_details)
                THEN 'unknown-registrant'
            ELSE 'decide'
        END AS course
    FROM (
        SELECT
            e.*,
            (SELECT milepost_now()) AS at,
            e.ref IN (SELECT json_array_elements_text(current_setting('milepost.locked')::json))
                AS is_locked
        FROM jsonb_to_recordset(%(events)s::jsonb) AS e (
            link_id uuid, event_id text, milestone text, ref text, occurred_at timestamptz,
            data jsonb, fingerprint jsonb, sample_point double precision, asked_by text,
            brings_details boolean, purpose text, may_call boolean, without text, token text,
            reference text)
        OFFSET 0) AS e
    LEFT JOIN LATERAL (
        SELECT l.* FROM links AS l WHERE l.event_id = e.event_id LIMIT 1) AS seen ON true
    LEFT JOIN LATERAL (
        SELECT m.* FROM milestones AS m WHERE m.key = e.milestone LIMIT 1) AS m ON true
    -- Who was removed is as if unknown; but what a call in doubt has made for them is asked about.
    LEFT JOIN LATERAL (
        SELECT r.* FROM registrants AS r WHERE e.is_locked AND r.ref = e.ref LIMIT 1
    ) AS r ON r.removed_at IS NULL OR seen.state IN ('claimed', 'unknown')
),

-- The distributions with links that may be alive, and of these the places that take links: read once
-- for the whole batch.
standing AS MATERIALIZED (
    SELECT
        s.milestone, s.survey_id, s.route, s.number, s.id AS slot_id, s.rests_until,
        d.id AS distribution_id, d.generation, d.template, d.expires_at, d.takes_until, d.state
    FROM (SELECT DISTINCT c.milestone FROM candidate AS c) AS c
    CROSS JOIN LATERAL (
        SELECT s.* FROM slots AS s WHERE s.milestone = c.milestone OFFSET 0) AS s
    CROSS JOIN LATERAL (
        SELECT d.* FROM distributions AS d WHERE d.slot_id = s.id OFFSET 0) AS d
    WHERE d.expires_at > (SELECT milepost_now())
),

open_place AS MATERIALIZED (
    SELECT p.*
    FROM standing AS p
    WHERE coalesce(p.rests_until <= (SELECT milepost_now()), true)
        AND p.state = 'ready'
        AND p.takes_until > (SELECT milepost_now())
),

judged AS (
    SELECT
        c.*,
        CASE WHEN c.in_doubt THEN held.slot_id ELSE free.slot_id END AS slot_id,
        CASE WHEN c.in_doubt THEN held.distribution_id ELSE free.distribution_id END
            AS distribution_id,
        coalesce(
            held.survey_id, free.survey_id, CASE WHEN c.in_doubt THEN c.held_survey_id END
        ) AS place_survey_id,
        ready.lookup_id,
        ready.url,
        CASE c.route WHEN 'anonymous' THEN c.created_at + make_interval(days => c.link_days)
            ELSE free.expires_at END AS expires_at,
        earlier.id AS earlier_id,
        earlier.survey_id AS earlier_survey_id,
        earlier.created_at AS earlier_created_at,
        earlier.expires_at AS earlier_expires_at,
        earlier.published AS earlier_published,
        quiet.until AS quiet_until,
        verdict.text AS verdict
    FROM candidate AS c

    -- The registrant's last link of this milestone, which `once` and `cooldown` look at. Of those
    -- that wait without a place, an event that waited itself counts only the ones before it, or two
    -- of them would wait for each other. By `ref`: what waits for its registrant has no id of them.
    LEFT JOIN LATERAL (
        SELECT l.id, l.survey_id, l.state, l.published, l.created_at, l.expires_at, l.finished_at
        FROM links AS l
        WHERE c.repeat <> 'every_event'
            AND l.ref = c.ref
            AND l.milestone = c.milestone
            AND l.state IN ('claimed', 'waiting', 'unknown', 'issued')
            AND l.reuses IS NULL
            -- A revoked link is nobody's to get again; for a cooldown it was a link all the same.
            AND (l.revoked_at IS NULL OR c.repeat = 'cooldown')
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
            AND c.seen_id IS NULL
            AND l.ref = c.ref
            AND l.created_at > c.created_at - make_interval(days => c.quiet_days)
            AND l.state IN ('claimed', 'waiting', 'unknown', 'issued')
            AND l.reuses IS NULL
        ORDER BY l.created_at DESC
        OFFSET c.quiet_links - 1
        LIMIT 1
    ) AS quiet ON true

    -- Where the registrant, or their contact, has links. To the platform a place is a contact's: a
    -- contact key that passes to another registrant takes the links made under it along. What stands
    -- on a distribution that has expired is not looked at: there will be ever more of it.
    LEFT JOIN LATERAL (
        SELECT
            array_agg(l.slot_id) FILTER (
                WHERE l.state IN ('claimed', 'waiting', 'unknown')
                    OR (l.finished_at IS NULL AND l.expires_at > c.at)
                    -- Its data may be on their way, and would be written over the next link's.
                    OR l.data_due_at IS NOT NULL) AS slots,
            array_agg(l.distribution_id) AS distributions
        FROM (
            SELECT
                l.id, l.slot_id, l.distribution_id, l.state, l.finished_at, l.expires_at,
                l.data_due_at
            FROM links AS l
            WHERE l.registrant_id = c.registrant_id AND l.slot_id IS NOT NULL
                AND l.distribution_id >= (SELECT min(p.distribution_id) FROM standing AS p)
            UNION ALL
            SELECT
                l.id, l.slot_id, l.distribution_id, l.state, l.finished_at, l.expires_at,
                l.data_due_at
            FROM links AS l
            WHERE l.registrant_id = c.registrant_id AND l.slot_id IS NOT NULL
                AND l.distribution_id IS NULL
            UNION ALL
            SELECT
                l.id, l.slot_id, l.distribution_id, l.state, l.finished_at, l.expires_at,
                l.data_due_at
            FROM links AS l
            WHERE l.contact_key = c.contact_key
                AND l.distribution_id >= (SELECT min(p.distribution_id) FROM standing AS p)
            UNION ALL
            SELECT
                l.id, l.slot_id, l.distribution_id, l.state, l.finished_at, l.expires_at,
                l.data_due_at
            FROM links AS l
            WHERE l.contact_key = c.contact_key
                AND l.distribution_id IS NULL) AS l
        WHERE l.id IS DISTINCT FROM c.seen_id
    ) AS taken ON NOT c.in_doubt AND c.route = 'list'

    -- The first slot whose list holds no live link of theirs, with a distribution that never had
    -- one. An event that waited prefers the slot that it had. On the other routes a place is nobody's:
    -- it is in the slot that was made last.
    LEFT JOIN LATERAL (
        SELECT
            p.slot_id, p.distribution_id, p.survey_id, p.rests_until, p.template, p.expires_at
        FROM open_place AS p
        WHERE NOT c.in_doubt
            AND p.milestone = c.milestone
            AND p.survey_id = c.survey_id
            AND p.route = c.route
            AND NOT coalesce(p.slot_id = ANY (taken.slots), false)
            AND NOT coalesce(p.distribution_id = ANY (taken.distributions), false)
        ORDER BY
            p.slot_id IS DISTINCT FROM c.held_slot_id,
            CASE c.route WHEN 'list' THEN p.number ELSE -p.number END,
            p.generation DESC
        LIMIT 1
    ) AS free ON c.registrant_id IS NOT NULL AND NOT c.is_stopped

    -- The link that can be had without a call: their membership in the list of that place is known,
    -- and is good for one. Once it has served, the list holds an event's data, which the next link's
    -- survey would show until its own have followed. Nor is a list relied on that was missed before,
    -- until a call has found it. The link of route `anonymous` carries a reference and nothing else;
    -- at the time of the event it is given out where the lanes name `ready`.
    LEFT JOIN LATERAL (
        SELECT
            c.reference AS lookup_id,
            milepost_plain_link(free.template, free.survey_id, c.reference) AS url
        WHERE c.route = 'anonymous' AND (c.purpose <> 'direct' OR 'ready' = ANY (c.lanes))
        UNION ALL
        SELECT m.lookup_id, milepost_link(free.template, m.lookup_id) AS url
        FROM memberships AS m
        WHERE c.may_be_ready
            AND c.route = 'list'
            AND m.registrant_id = c.registrant_id
            AND m.slot_id = free.slot_id
            AND m.contact_key = c.dedup_key
            AND free.rests_until IS NULL
            AND NOT EXISTS (SELECT FROM links AS l WHERE l.lookup_id = m.lookup_id)
        LIMIT 1
    ) AS ready ON free.slot_id IS NOT NULL AND (c.may_be_ready OR c.route = 'anonymous')

    -- One in doubt keeps its place, for its call may have been accepted there.
    LEFT JOIN LATERAL (
        SELECT s.id AS slot_id, d.id AS distribution_id, s.survey_id
        FROM distributions AS d
        JOIN slots AS s ON s.id = d.slot_id
        WHERE c.in_doubt
            AND d.id = c.held_distribution_id
            AND d.state IN ('ready', 'draining')
        LIMIT 1
    ) AS held ON NOT c.is_stopped

    -- Where the account refuses distributions of batches, the data of a link of route `stepwise` stand
    -- in the home list, which has one set for a person: until that link has ended, or as long as one
    -- that came before is on its way, there is none for another.
    LEFT JOIN LATERAL (
        SELECT l.id
        FROM links AS l
        WHERE c.route = 'stepwise'
            AND NOT c.in_doubt
            AND EXISTS (
                SELECT FROM capabilities AS f WHERE f.fact = 'transaction_batch' AND NOT f.holds)
            AND l.ref = c.ref
            AND l.route = 'stepwise'
            AND l.reuses IS NULL
            AND l.id IS DISTINCT FROM c.seen_id
            AND (l.state IN ('claimed', 'unknown')
                OR (l.state = 'waiting' AND l.steps IS NOT NULL
                    AND (c.seen_id IS NULL OR (l.created_at, l.id) < (c.created_at, c.seen_id)))
                OR (l.state = 'issued' AND l.finished_at IS NULL AND l.expires_at > c.at))
        LIMIT 1
    ) AS other ON true

    -- Otherwise route `stepwise` makes a place for each link. No call makes one of route `anonymous`,
    -- whatever route an event was on that has a place since before, or may call.
    CROSS JOIN LATERAL (
        SELECT
            held.slot_id IS NOT NULL OR (c.route = 'stepwise' AND NOT c.is_stopped) AS is_held,
            free.slot_id IS NOT NULL OR (c.route = 'stepwise' AND other.id IS NULL) AS is_free,
            c.held_slot_id IS NOT NULL AND free.slot_id IS NOT NULL AND c.route <> 'anonymous'
                AS is_kept) AS place

    -- State and rule, the first that holds. `policy.EXPLANATIONS` has a sentence for each. Without a
    -- verdict the row stays as it is: a link in doubt that cannot be looked for now, or an event whose
    -- asker has to get a call first. One in doubt whose distribution or milestone has been stopped
    -- goes on being so, and is looked at ever less often. Sample, cooldown and quiet are decided once,
    -- when the event comes: what waits may have been promised since.
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN c.erased_at IS NOT NULL THEN 'suppressed/erased'
            WHEN c.opted_out_at IS NOT NULL THEN 'suppressed/opted-out'
            WHEN c.lost >= %(tries)s THEN 'failed/parked'
            WHEN c.waiting_until <= c.at THEN 'failed/waited-too-long'
            WHEN c.in_doubt AND place.is_held AND c.may_call THEN 'claimed'
            WHEN c.in_doubt AND (c.purpose = 'direct' OR NOT c.may_call) THEN NULL
            WHEN c.in_doubt THEN 'unknown/outcome-unknown'
            WHEN c.revoked_at IS NOT NULL THEN 'suppressed/revoked'
            WHEN c.seen_id IS NULL AND c.sample_point >= c.sample_percent THEN 'suppressed/sample'
            WHEN c.seen_id IS NULL AND c.repeat = 'cooldown'
                AND earlier.created_at > c.created_at - make_interval(days => c.cooldown_days)
                THEN 'suppressed/cooldown'
            WHEN quiet.until IS NOT NULL THEN 'suppressed/quiet'
            WHEN c.registrant_id IS NULL THEN 'waiting/registrant-unknown'
            WHEN c.contact_key IS NULL AND c.route <> 'anonymous'
                THEN 'suppressed/contact-incomplete'
            WHEN c.dedup_key IS NULL AND c.route <> 'anonymous' THEN 'suppressed/contact-shared'
            WHEN place.is_kept AND c.may_call THEN 'claimed'
            WHEN place.is_kept THEN 'waiting/' || c.without
            WHEN c.repeat = 'once' AND earlier.state IN ('claimed', 'waiting', 'unknown')
                THEN 'waiting/once'
            WHEN c.repeat = 'once' AND earlier.finished_at IS NOT NULL AND c.held_published IS NULL
                THEN 'suppressed/once'
            WHEN c.repeat = 'once' AND earlier.expires_at > c.at THEN 'issued/once'
            WHEN c.is_stopped THEN 'waiting/route-stopped'
            WHEN ready.url IS NOT NULL
                AND (c.route = 'anonymous' OR c.is_ready_first OR NOT c.may_call) THEN 'issued'
            WHEN place.is_free AND (c.route = 'anonymous'
                OR (c.purpose = 'direct' AND 'direct' <> ALL (c.lanes))) THEN 'waiting/no-lane'
            WHEN place.is_free AND c.may_call THEN 'claimed'
            WHEN place.is_free THEN 'waiting/' || c.without
            WHEN c.route <> 'stepwise' AND NOT EXISTS (
                SELECT FROM open_place AS p
                WHERE p.milestone = c.milestone
                    AND p.survey_id = c.survey_id
                    AND p.route = c.route)
                THEN 'waiting/pool-empty'
            WHEN c.when_full = 'suppressed' AND c.held_published IS NULL THEN 'suppressed/no-slot'
            ELSE 'waiting/no-slot'
        END AS text
    ) AS verdict
    WHERE c.course = 'decide' AND verdict.text IS NOT NULL
    OFFSET 0  -- each verdict is worked out once, and kept in no table between
),

-- What follows from the verdict. A link that waits is handed over at once, with a short URL where the
-- milestone's lanes name `deferred`: nothing that its caller could wait for will change it. But for one
-- that waits for the registrant's earlier link, whose call may be out just now.
decided AS (
    SELECT
        j.*,
        split_part(j.verdict, '/', 1) AS state,
        nullif(split_part(j.verdict, '/', 2), '') AS rule,
        (j.verdict LIKE 'waiting/%%' OR j.verdict LIKE 'unknown/%%')
            AND (j.verdict <> 'waiting/once' OR j.earlier_published = 'short')
            AND 'deferred' = ANY (j.lanes) AS is_deferred,
        (j.verdict LIKE 'waiting/%%' OR j.verdict LIKE 'unknown/%%')
            AND j.verdict <> 'waiting/once'
            AND 'deferred' <> ALL (j.lanes) AS is_queued,
        j.verdict IN ('claimed', 'issued')
            OR (j.verdict LIKE 'waiting/%%' AND j.verdict <> 'waiting/once') AS takes_place,
        CASE
            WHEN j.verdict = 'claimed' THEN j.at + make_interval(secs => %(lease)s)
            WHEN j.verdict NOT LIKE 'waiting/%%' AND j.verdict NOT LIKE 'unknown/%%' THEN NULL
            WHEN j.purpose = 'direct' AND j.verdict = 'waiting/' || j.held_rule THEN j.held_due_at
            WHEN j.verdict IN ('waiting/registrant-unknown', 'waiting/route-stopped',
                'waiting/pool-empty', 'waiting/no-slot', 'waiting/once', 'unknown/outcome-unknown')
                -- Only somebody else can end these waits: looked at ever less often.
                THEN j.at + least(
                    greatest((j.at - j.created_at) / 4, interval '2 seconds'), interval '10 minutes')
            ELSE j.at
        END AS due_at
    FROM judged AS j
    OFFSET 0
),

-- An event that was decided before is taken up again in place: same row, next attempt. One that goes
-- on waiting for the same reason is written again only to be looked at later. The order keeps two
-- batches that share event_ids from waiting for each other in a circle.
written AS (
    INSERT INTO links AS l (
        id, event_id, milestone, survey_id, ref, registrant_id, occurred_at, data, fingerprint,
        state, rule, rule_until, route, lane, published, token, short_url, attempt, lease_until,
        waiting_until, due_at, lost, slot_id, distribution_id, contact_key, lookup_id, url, reuses,
        expires_at, created_at, issued_at, data_due_at, asked_by, looks, first_look_at)
    SELECT
        d.link_id, d.event_id, d.milestone,
        CASE d.verdict WHEN 'issued/once' THEN d.earlier_survey_id
            ELSE coalesce(d.place_survey_id, d.survey_id) END,
        d.ref, d.registrant_id, d.occurred_at, d.data, d.fingerprint, d.state, d.rule,
        CASE d.verdict
            WHEN 'issued/once' THEN d.earlier_expires_at
            WHEN 'suppressed/cooldown'
                THEN d.earlier_created_at + make_interval(days => d.cooldown_days)
            WHEN 'suppressed/quiet' THEN d.quiet_until
        END,
        CASE WHEN d.is_deferred OR d.is_queued OR d.verdict IN ('claimed', 'issued')
            THEN d.route END,
        CASE WHEN d.is_deferred THEN 'deferred' WHEN d.is_queued THEN 'queued'
            WHEN d.verdict = 'issued' THEN 'ready' END,
        CASE WHEN d.is_deferred THEN 'short' WHEN d.state = 'issued' THEN 'personal' END,
        CASE WHEN d.is_deferred OR %(kept)s THEN d.token END,
        CASE WHEN d.is_deferred OR %(kept)s THEN %(short)s || d.token END,
        (d.state = 'claimed')::integer,
        CASE d.state WHEN 'claimed' THEN d.due_at END,
        CASE WHEN d.state IN ('claimed', 'waiting') THEN d.at + make_interval(days => d.link_days) END,
        d.due_at,
        d.lost,
        -- What ends in doubt keeps its place: its call may have been accepted there.
        CASE WHEN d.takes_place AND d.route = 'list' THEN d.slot_id
            WHEN d.in_doubt THEN d.held_slot_id END,
        CASE WHEN d.verdict IN ('claimed', 'issued') THEN d.distribution_id
            WHEN d.in_doubt THEN d.held_distribution_id END,
        CASE WHEN d.in_doubt THEN d.held_contact_key
            WHEN d.takes_place AND d.route = 'list' AND d.slot_id IS NOT NULL
                THEN d.contact_key END,
        CASE d.verdict WHEN 'issued' THEN d.lookup_id END,
        CASE d.verdict WHEN 'issued' THEN d.url END,
        CASE d.verdict WHEN 'issued/once' THEN d.earlier_id END,
        CASE d.verdict WHEN 'issued/once' THEN d.earlier_expires_at
            WHEN 'issued' THEN d.expires_at END,
        d.at,
        CASE d.verdict WHEN 'issued' THEN d.at END,
        CASE WHEN d.verdict = 'issued' AND d.route = 'list' THEN d.at END,
        d.asked_by,
        -- Looks are good for one claim: what it makes on their strength, the next has to look for.
        CASE WHEN d.state = 'claimed' AND d.looked_enough THEN 0 ELSE coalesce(d.held_looks, 0) END,
        CASE WHEN d.state <> 'claimed' OR NOT d.looked_enough THEN d.held_first_look_at END
    FROM decided AS d
    ORDER BY d.event_id
    ON CONFLICT (event_id) DO UPDATE SET
        survey_id = excluded.survey_id,
        registrant_id = excluded.registrant_id,
        state = excluded.state,
        rule = excluded.rule,
        rule_until = excluded.rule_until,
        rule_detail = NULL,
        route = coalesce(excluded.route, l.route),
        lane = CASE WHEN l.published IS NULL AND excluded.published = 'short' THEN excluded.lane
            ELSE coalesce(l.lane, excluded.lane) END,
        published = coalesce(l.published, excluded.published),
        token = CASE WHEN l.published IS NULL THEN excluded.token ELSE l.token END,
        short_url = CASE WHEN l.published IS NULL THEN excluded.short_url ELSE l.short_url END,
        attempt = l.attempt + excluded.attempt,
        lease_until = excluded.lease_until,
        due_at = excluded.due_at,
        lost = excluded.lost,
        slot_id = excluded.slot_id,
        distribution_id = excluded.distribution_id,
        contact_key = excluded.contact_key,
        -- What ends in doubt says so: something of it may be at the platform.
        steps = CASE WHEN excluded.state IN ('suppressed', 'failed')
            AND l.state IN ('claimed', 'unknown')
            THEN coalesce(l.steps, '{}') || '{"in_doubt": "yes"}' ELSE l.steps END,
        lookup_id = excluded.lookup_id,
        url = excluded.url,
        reuses = excluded.reuses,
        expires_at = excluded.expires_at,
        issued_at = excluded.issued_at,
        data_due_at = excluded.data_due_at,
        looks = excluded.looks,
        first_look_at = excluded.first_look_at
    WHERE l.fingerprint = excluded.fingerprint
        AND l.state IN ('claimed', 'waiting', 'unknown')
        AND coalesce(l.lease_until <= milepost_now(), true)
        AND (excluded.state <> 'waiting'
            OR excluded.rule IS DISTINCT FROM l.rule
            OR excluded.due_at > l.due_at)
    -- Two requests for an event have the same id where they came in the same millisecond. A row that
    -- was there has been locked for its update, one that is inserted has not.
    RETURNING l.*, l.xmax = 0 AS is_first
),

-- Who wants to hear of links that this has issued, or of which there will be none although a caller
-- waits for it. Where there is no endpoint the rows are not looked at.
told AS (
    INSERT INTO messages (endpoint_id, type, link_id, due_at, created_at)
    SELECT e.id, w.type, w.id, w.at, w.at
    FROM (
        SELECT
            w.id,
            CASE WHEN w.state = 'issued' THEN 'link.issued' ELSE 'link.failed' END AS type,
            (SELECT milepost_now()) AS at
        FROM written AS w
        WHERE EXISTS (SELECT FROM endpoints)
            AND (w.state IN ('issued', 'failed')
                OR (w.state = 'suppressed'
                    AND w.id NOT IN (SELECT c.link_id FROM candidate AS c)))
    ) AS w
    JOIN endpoints AS e ON e.state = 'active' AND (e.types = '{}' OR w.type = ANY (e.types))
),

-- What waited for long and waits no more changes a count that is done (settle.sql).
recounted AS (
    INSERT INTO funnel_changes (milestone, hour)
    SELECT w.milestone, date_trunc('hour', w.created_at, 'UTC')
    FROM written AS w
    WHERE w.created_at <= (SELECT milepost_counted_since())
        AND w.state IN ('issued', 'suppressed', 'failed')
),

-- Every event's row as it is now, if there is one that can be seen.
outcome AS (
    SELECT w.event_id AS asked, 'decide' AS course, true AS is_written, w.*
    FROM written AS w
    UNION ALL
    SELECT c.event_id, c.course, false, l.*, false
    FROM candidate AS c
    LEFT JOIN LATERAL (SELECT l.* FROM links AS l WHERE l.event_id = c.event_id LIMIT 1) AS l ON true
    WHERE c.event_id NOT IN (SELECT w.event_id FROM written AS w)
)

SELECT
    o.asked,
    o.course,
    (SELECT milepost_now()) AS at,
    CASE o.course WHEN 'seen' THEN o.fingerprint END AS fingerprint,
    {members},
    o.lease_until,
    o.is_first,
    o.is_written,
    original.url AS reused_url,
    claim.making
FROM outcome AS o
-- Both conditions, although one would do: whichever index is taken serves it.
LEFT JOIN LATERAL (
    SELECT l.url FROM links AS l
    WHERE l.id = o.reuses AND l.milestone = o.milestone LIMIT 1) AS original ON true
LEFT JOIN LATERAL (
    SELECT json_build_object(
        'attempt', o.attempt,
        'route', c.route,
        'in_doubt', c.in_doubt,
        'may_add', c.dedup_key IS NOT NULL AND c.dedup_key = coalesce(o.contact_key, c.dedup_key)
            AND c.revoked_at IS NULL AND c.removed_at IS NULL,
        'looked_enough', c.looked_enough,
        'place', CASE WHEN d.id IS NOT NULL THEN json_build_object(
            'slot_id', s.id, 'list_id', s.list_id, 'batch_id', s.batch_id, 'distribution_id', d.id,
            'template', d.template, 'expires_at', d.expires_at,
            'has_rested', s.rests_until IS NOT NULL) END,
        'steps', coalesce(o.steps, '{}'),
        'survey_id', o.survey_id,
        'link_days', m.link_days,
        'details', json_build_object(
            'email', r.email, 'first_name', r.first_name, 'last_name', r.last_name,
            'phone', r.phone, 'language', r.language, 'attributes', r.attributes),
        'contact_key', coalesce(o.contact_key, c.dedup_key),
        'contact_id', r.contact_id,
        'home_lookup_id', r.home_lookup_id,
        'lookups_before', CASE WHEN c.in_doubt THEN ARRAY(
            SELECT l.lookup_id
            FROM links AS l
            WHERE l.registrant_id = o.registrant_id
                AND l.slot_id = o.slot_id
                AND l.id <> o.id
                AND l.lookup_id IS NOT NULL
            UNION ALL
            SELECT m.lookup_id
            FROM memberships AS m
            WHERE m.registrant_id = o.registrant_id AND m.slot_id = o.slot_id) ELSE '{}' END,
        'data', o.data,
        'fields', m.fields)::text AS making
    FROM candidate AS c
    LEFT JOIN LATERAL (
        SELECT r.* FROM registrants AS r WHERE r.id = c.registrant_id LIMIT 1) AS r ON true
    LEFT JOIN milestones AS m ON m.key = c.milestone
    LEFT JOIN distributions AS d ON d.id = o.distribution_id
    LEFT JOIN slots AS s ON s.id = d.slot_id
    WHERE o.is_written AND o.state = 'claimed' AND c.event_id = o.asked
    LIMIT 1
) AS claim ON true
