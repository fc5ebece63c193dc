-- Slow a call class down for everybody: the platform has refused a call of it as one too many. The
-- rate falls to 0.7 of what was used or allowed, whichever is less; by no more than to a quarter at
-- once, since a refusal in a quiet minute may be the doing of others in the brand. Refusals that
-- come together are one piece of news, so only the first of them cuts. After `budget_room`, under the lock of `budget_lock`.
--
-- %(news)s         seconds in which refusals are one piece of news
-- %(retry_after)s  seconds for which the class is closed; NULL: it is not
INSERT INTO call_classes AS c (call_class, factor, cut_at, closed_until)
SELECT
    k.call_class,
    greatest(0.02, 0.25 * k.factor, 0.7 * least(k.factor, sum(u.granted) / k.per_minute)),
    m.at,
    m.at + make_interval(secs => %(retry_after)s::double precision)
FROM class AS k
JOIN used AS u ON u.call_class = k.call_class
CROSS JOIN moment AS m
GROUP BY k.call_class, k.factor, k.per_minute, m.at
ON CONFLICT (call_class) DO UPDATE SET
    factor = CASE WHEN c.cut_at > excluded.cut_at - make_interval(secs => %(news)s)
        THEN c.factor ELSE excluded.factor END,
    cut_at = CASE WHEN c.cut_at > excluded.cut_at - make_interval(secs => %(news)s)
        THEN c.cut_at ELSE excluded.cut_at END,
    closed_until = greatest(c.closed_until, excluded.closed_until)
