-- What comes next of each of these jobs: asked once a second by every process that has a worker.
--
-- %(jobs)s  their names
--
-- is_held    a run is under way, or pauses; none begins before it has ended
-- is_wanted  a run waits to be begun or to be gone on with, or has lost its worker
-- failed_at  when the last run failed or stopped, if it did
SELECT
    job.name AS job,
    job.accounted_until,
    milepost_now() AS now,
    coalesce(begun.until > milepost_now(), false) AS is_held,
    coalesce(
        begun.until <= milepost_now(),
        EXISTS (SELECT FROM runs WHERE runs.job = job.name AND started_at IS NULL)
    ) AS is_wanted,
    CASE WHEN latest.state IN ('failed', 'stopped') THEN latest.ended_at END AS failed_at
FROM jobs AS job
LEFT JOIN LATERAL (
    SELECT coalesce(lease_until, paused_until) AS until
    FROM runs
    WHERE runs.job = job.name AND started_at IS NOT NULL AND ended_at IS NULL
) AS begun ON true
LEFT JOIN LATERAL (
    SELECT state, ended_at
    FROM runs
    WHERE runs.job = job.name
    ORDER BY id DESC
    LIMIT 1
) AS latest ON true
WHERE job.name = ANY(%(jobs)s)
