-- Write down what became of a link's data, while they are still their taker's to tell. A membership
-- under which the platform refused them is not one.
--
-- %(id)s, %(attempt)s
-- %(is_told)s  the platform has taken them
-- %(pause)s    seconds after which they are to be tried again; 0: never
-- %(rule)s, %(detail)s  why they were not taken, where that is for good
-- %(leaves)s   the platform knows of no such member
-- %(calls)s    requests sent for them
WITH told AS (
    UPDATE links AS l SET
        data_at = CASE WHEN %(is_told)s THEN milepost_now() END,
        data_due_at = CASE WHEN %(pause)s > 0
            THEN milepost_now() + make_interval(secs => %(pause)s) END,
        lost = 0,
        rule = %(rule)s,
        rule_detail = %(detail)s,
        upstream_calls = l.upstream_calls + %(calls)s
    WHERE l.id = %(id)s
        AND l.attempt = %(attempt)s
        AND l.data_due_at IS NOT NULL
    RETURNING l.slot_id, l.lookup_id
)
DELETE FROM memberships AS m
USING told AS t
WHERE %(leaves)s
    AND m.slot_id = t.slot_id
    AND m.lookup_id = t.lookup_id
