-- Write down what came of attempts, each only while it is still its taker's: what somebody else took
-- over has another attempt number. The line that it was made on is free again.
--
-- %(settlements)s  JSON array of {id, attempt, line, state, pause, seconds, code, error, said, gone}
WITH settlement AS MATERIALIZED (
    SELECT *
    FROM jsonb_to_recordset(%(settlements)s::jsonb) AS s (
        id uuid, attempt integer, line smallint, state text, pause double precision,
        seconds double precision, code integer, error text, said text, gone boolean)
),

settled AS (
    UPDATE messages AS m SET
        state = s.state,
        due_at = CASE WHEN s.state = 'waiting'
            THEN milepost_now() + make_interval(secs => s.pause) END
    FROM settlement AS s
    WHERE m.id = s.id AND m.attempt = s.attempt AND m.state = 'waiting'
    RETURNING
        m.id, m.endpoint_id, m.attempt, m.state, s.line, s.seconds, s.code, s.error, s.said, s.gone
),

noted AS (
    INSERT INTO attempts (message_id, number, at, seconds, code, error, said)
    SELECT
        s.id, s.attempt, milepost_now() - make_interval(secs => s.seconds), s.seconds, s.code,
        s.error, s.said
    FROM settled AS s
),

freed AS (
    UPDATE endpoint_lines AS n SET
        message_id = NULL,
        lease_until = NULL,
        delivered_at = CASE s.state WHEN 'delivered' THEN milepost_now() ELSE n.delivered_at END,
        failed_at = CASE s.state WHEN 'delivered' THEN n.failed_at ELSE milepost_now() END
    FROM settled AS s
    WHERE n.endpoint_id = s.endpoint_id AND n.number = s.line AND n.message_id = s.id
),

disabled AS (
    UPDATE endpoints AS e SET
        state = 'disabled',
        disabled_because = 'It answered 410: it wants no more messages.'
    WHERE e.id IN (SELECT s.endpoint_id FROM settled AS s WHERE s.gone)
)

SELECT s.id FROM settled AS s
