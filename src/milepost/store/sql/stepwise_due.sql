-- Links of route `stepwise` whose own distributions are to be looked at, those that never were first.
--
-- %(days)s   behind the end of a link it is looked at for the last time
-- %(limit)s
SELECT
    l.id AS link_id, l.lookup_id, l.survey_id, l.milestone,
    coalesce(l.steps ->> 'distribution', l.steps ->> 'own_distribution') AS distribution_id,
    l.opened_at IS NOT NULL AS is_opened,
    l.started_at IS NOT NULL AS is_started,
    l.finished_at IS NOT NULL AS is_finished,
    extract(epoch FROM milepost_now() - l.issued_at)::double precision AS age,
    l.expires_at + make_interval(days => %(days)s) <= milepost_now() AS is_last
FROM (
    SELECT id FROM (
        SELECT l.id FROM links AS l
        WHERE l.route = 'stepwise' AND l.url IS NOT NULL AND l.look_due_at IS NULL
        LIMIT %(limit)s) AS fresh
    UNION ALL
    SELECT id FROM (
        SELECT l.id FROM links AS l
        WHERE l.route = 'stepwise' AND l.url IS NOT NULL AND l.look_due_at <= milepost_now()
        ORDER BY l.look_due_at
        LIMIT %(limit)s) AS again
    LIMIT %(limit)s) AS due
CROSS JOIN LATERAL (SELECT l.* FROM links AS l WHERE l.id = due.id LIMIT 1) AS l
