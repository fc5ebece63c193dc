-- Let a link that was found at the platform be its event's again: of the event only the name was left,
-- as a hash. What else is known of it must agree.
--
-- %(recovered)s  the event's name as such a link has it, under each secret
-- %(event_id)s, %(milestone)s, %(ref)s, %(occurred_at)s, %(data)s, %(fingerprint)s, %(asked_by)s
--                of the event, as it has come again
WITH found AS MATERIALIZED (
    SELECT
        l.id, l.milestone, l.created_at,
        -- A link of route `stepwise` stands on nothing that names its milestone, but for the survey.
        array_remove(ARRAY[
            CASE WHEN l.milestone <> %(milestone)s AND NOT (l.route = 'stepwise' AND EXISTS (
                SELECT FROM milestones AS m
                WHERE m.key = %(milestone)s AND m.survey_id = l.survey_id)) THEN 'milestone' END,
            CASE WHEN l.ref <> %(ref)s THEN 'registrant' END], NULL) AS differing
    FROM links AS l
    WHERE l.event_id = ANY (%(recovered)s)
        AND NOT EXISTS (SELECT FROM links AS o WHERE o.event_id = %(event_id)s)
    LIMIT 1
    FOR NO KEY UPDATE
),

given AS (
    UPDATE links AS l SET
        event_id = %(event_id)s,
        milestone = %(milestone)s,
        registrant_id = coalesce(
            l.registrant_id, (SELECT r.id FROM registrants AS r WHERE r.ref = %(ref)s)),
        occurred_at = %(occurred_at)s::timestamptz,
        data = %(data)s::jsonb,
        fingerprint = %(fingerprint)s::jsonb,
        asked_by = %(asked_by)s
    FROM found AS f
    WHERE l.id = f.id AND cardinality(f.differing) = 0
    RETURNING l.id, l.created_at, ARRAY[f.milestone, l.milestone] AS milestones
),

-- What was noted of it meanwhile was noted for nobody, and where it was found.
reminded AS (
    UPDATE reminders AS r SET asked_by = %(asked_by)s, milestone = %(milestone)s
    FROM given AS g
    WHERE r.link_id = g.id
),

flagged AS (
    UPDATE drift AS d SET milestone = %(milestone)s
    FROM given AS g
    WHERE d.link_id = g.id AND g.milestones[1] <> g.milestones[2]
),

-- It may have been counted where it was found, and is counted where it belongs.
recounted AS (
    INSERT INTO funnel_changes (milestone, hour)
    SELECT DISTINCT m.milestone, date_trunc('hour', g.created_at, 'UTC')
    FROM given AS g
    CROSS JOIN LATERAL unnest(g.milestones) AS m (milestone)
    WHERE g.milestones[1] <> g.milestones[2]
)

SELECT id, differing FROM found
