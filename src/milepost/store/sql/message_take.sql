-- Take a message for each line that is free and has one due, for an attempt: what has been due the
-- longest. Who takes both lines of an endpoint gets two messages.
--
-- %(lease)s  seconds for which line and message are their taker's; should it die, both are free then
WITH free AS MATERIALIZED (
    SELECT n.endpoint_id, n.number
    FROM endpoint_lines AS n
    JOIN endpoints AS e ON e.id = n.endpoint_id AND e.state = 'active'
    WHERE coalesce(n.lease_until <= milepost_now(), true)
        AND EXISTS (
            SELECT FROM messages AS m
            WHERE m.endpoint_id = n.endpoint_id
                AND m.state = 'waiting'
                AND m.due_at <= milepost_now())
    ORDER BY n.endpoint_id, n.number
    FOR NO KEY UPDATE OF n SKIP LOCKED
),

-- What this statement has locked itself it does not skip: hence the second line looks past one. All
-- are found before the first is written (`ARRAY` below), since what it has written itself it skips.
found AS MATERIALIZED (
    SELECT f.endpoint_id, f.number, m.id
    FROM (
        SELECT
            f.*,
            row_number() OVER (PARTITION BY f.endpoint_id ORDER BY f.number) - 1 AS ahead
        FROM free AS f
    ) AS f
    CROSS JOIN LATERAL (
        SELECT m.id
        FROM messages AS m
        WHERE m.endpoint_id = f.endpoint_id
            AND m.state = 'waiting'
            AND m.due_at <= milepost_now()
        ORDER BY m.due_at
        OFFSET f.ahead
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS m
),

held AS (
    UPDATE endpoint_lines AS n SET
        message_id = f.id,
        lease_until = milepost_now() + make_interval(secs => %(lease)s)
    FROM found AS f
    WHERE n.endpoint_id = f.endpoint_id AND n.number = f.number
),

taken AS (
    UPDATE messages AS m SET
        attempt = m.attempt + 1,
        due_at = milepost_now() + make_interval(secs => %(lease)s)
    WHERE m.id = ANY (ARRAY(SELECT f.id FROM found AS f))
    RETURNING
        m.id, m.endpoint_id, m.type, m.link_id, m.data, m.created_at, m.attempt,
        m.attempt - m.attempts_before AS tries
)

SELECT
    t.id, t.type, t.link_id, t.data, t.created_at, t.attempt, t.tries, f.number AS line, e.url,
    array_remove(
        ARRAY[
            e.secret,
            CASE WHEN e.secret_before_until > milepost_now() THEN e.secret_before END],
        NULL) AS secrets
FROM taken AS t
JOIN found AS f ON f.id = t.id
JOIN endpoints AS e ON e.id = t.endpoint_id
