-- Grant calls out of what `budget_room` has found, as many as there are, in the call class and in
-- the brand; under the lock of `budget_lock`. Written down is also what was wanted, for that is what
-- brings a share back that is lent.
--
-- %(call_class)s, %(purpose)s
-- %(n)s       calls at the most
-- %(wanted)s  calls that were asked for since the last statement, by whoever could not be told so
, granted AS (
    SELECT
        least(%(n)s::integer, min(room)) AS n,
        max(wait) FILTER (WHERE room < %(n)s::integer) AS wait
    FROM room
    WHERE purpose = %(purpose)s
),

written AS (
    INSERT INTO grants AS g (call_class, purpose, slot, number, granted, wanted)
    SELECT
        r.call_class, r.purpose, m.number %% 128, m.number, granted.n,
        -- Of the brand nobody wants more than the call class itself allows.
        least(%(wanted)s::integer, greatest(0, own.most - own.wanted))
    FROM room AS r
    CROSS JOIN room AS own
    CROSS JOIN granted
    CROSS JOIN moment AS m
    WHERE r.purpose = %(purpose)s AND own.purpose = r.purpose AND own.call_class = %(call_class)s
        AND (granted.n > 0 OR %(wanted)s::integer > 0)
    ON CONFLICT (call_class, purpose, slot) DO UPDATE SET
        number = excluded.number,
        granted = excluded.granted + CASE WHEN g.number = excluded.number THEN g.granted ELSE 0 END,
        wanted = excluded.wanted + CASE WHEN g.number = excluded.number THEN g.wanted ELSE 0 END
)

SELECT granted.n, m.number, granted.wait FROM granted CROSS JOIN moment AS m
