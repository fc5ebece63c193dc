-- Links of route `stepwise` whose own distributions are to be looked at, those that are due for the
-- longest first. The first look is due a quarter of an hour behind the link's issue.
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
FROM links AS l
WHERE l.route = 'stepwise'
    AND l.url IS NOT NULL
    AND coalesce(
        l.look_due_at AT TIME ZONE 'UTC',
        (l.issued_at AT TIME ZONE 'UTC') + interval '15 minutes') <= milepost_now() AT TIME ZONE 'UTC'
ORDER BY coalesce(
    l.look_due_at AT TIME ZONE 'UTC', (l.issued_at AT TIME ZONE 'UTC') + interval '15 minutes')
LIMIT %(limit)s
