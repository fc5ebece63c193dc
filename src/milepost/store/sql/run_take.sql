-- Take a run of a job: the one that was begun, if nobody is at it; else the first that somebody
-- asked for; else that of the due time that has come. Nothing while one is under way, or pauses.
--
-- %(job)s
-- %(due_at)s     the latest due time that has come; NULL: none
-- %(since)s      up to where all due times were accounted for when that was found out; if it is
--                somewhere else by now, another worker was faster
-- %(coalesced)s  due times between the two, for which this run stands as well
-- %(run)s        only up to this run of those that were asked for; NULL: any
-- %(lease)s      in seconds
-- %(death)s      what the loss of a worker adds to a run's failures
--
-- The statement before it (run_turn.sql) holds the job's row, and what is seen here is newer: two
-- workers decide one after the other. The run is locked after it, as everywhere.
WITH begun AS (
    SELECT id, coalesce(lease_until, paused_until) <= milepost_now() AS is_free
    FROM runs
    WHERE job = %(job)s AND started_at IS NOT NULL AND ended_at IS NULL
),

asked AS (
    SELECT id
    FROM runs
    WHERE job = %(job)s
        AND started_at IS NULL
        AND id <= coalesce(%(run)s, id)
        AND NOT EXISTS (SELECT FROM begun)
    ORDER BY id
    LIMIT 1
),

taken AS (
    UPDATE runs AS r SET
        state = 'running',
        attempt = r.attempt + 1,
        failures = r.failures + CASE r.state WHEN 'running' THEN %(death)s ELSE 0 END,
        started_at = coalesce(r.started_at, milepost_now()),
        lease_until = milepost_now() + make_interval(secs => %(lease)s),
        paused_until = NULL
    WHERE r.id IN (SELECT id FROM begun WHERE is_free UNION ALL SELECT id FROM asked)
    RETURNING {run}
),

accounted AS (
    UPDATE jobs SET accounted_until = %(due_at)s::timestamptz
    WHERE name = %(job)s
        AND accounted_until = %(since)s::timestamptz
        AND accounted_until < %(due_at)s::timestamptz
        AND NOT EXISTS (SELECT FROM begun)
        AND NOT EXISTS (SELECT FROM asked)
    RETURNING name
),

due AS (
    INSERT INTO runs AS r (
        job, due_at, coalesced, state, attempt, counts, lease_until, created_at, started_at)
    SELECT
        name, %(due_at)s::timestamptz, %(coalesced)s, 'running', 1, '{}',
        milepost_now() + make_interval(secs => %(lease)s), milepost_now(), milepost_now()
    FROM accounted
    RETURNING {run}
)

SELECT * FROM taken
UNION ALL
SELECT * FROM due
