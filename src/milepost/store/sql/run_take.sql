-- Take a run of a job: one whose worker is gone, else one that somebody asked for, else the one that
-- is due by now. Nothing while another one runs.
--
-- %(job)s
-- %(due_at)s     the latest due time of the job that has come; NULL: none
-- %(since)s      the due time up to which the caller knows that all is accounted for; if it is not
--                the last one any more, another worker was faster
-- %(coalesced)s  due times between the two, which this run stands for
-- %(run)s        only this run; NULL: any
-- %(lease)s      in seconds
--
-- The statement before it holds the job's advisory lock, so that two workers decide one after the
-- other.
WITH running AS (
    SELECT id, lease_until <= milepost_now() AS is_left
    FROM runs
    WHERE job = %(job)s AND state = 'running'
),

asked AS (
    SELECT id
    FROM runs
    WHERE job = %(job)s AND state = 'waiting' AND coalesce(id = %(run)s, true)
    ORDER BY due_at
    LIMIT 1
),

taken AS (
    UPDATE runs AS r SET
        state = 'running',
        attempt = r.attempt + 1,
        started_at = coalesce(r.started_at, milepost_now()),
        lease_until = milepost_now() + make_interval(secs => %(lease)s)
    WHERE (r.id IN (SELECT id FROM running WHERE is_left) AND coalesce(r.id = %(run)s, true))
        OR (NOT EXISTS (SELECT FROM running) AND r.id IN (SELECT id FROM asked))
    RETURNING r.*
),

due AS (
    INSERT INTO runs (
        job, due_at, coalesced, state, attempt, lease_until, created_at, started_at)
    SELECT
        %(job)s, %(due_at)s::timestamptz, %(coalesced)s, 'running', 1,
        milepost_now() + make_interval(secs => %(lease)s), milepost_now(), milepost_now()
    WHERE %(due_at)s::timestamptz IS NOT NULL
        AND NOT EXISTS (SELECT FROM running)
        AND NOT EXISTS (SELECT FROM asked)
        AND NOT EXISTS (
            SELECT FROM runs
            WHERE job = %(job)s AND asked_by IS NULL AND due_at > %(since)s::timestamptz)
    ON CONFLICT (job, due_at) DO NOTHING
    RETURNING *
)
SELECT * FROM taken
UNION ALL
SELECT * FROM due
