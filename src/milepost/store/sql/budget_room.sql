-- What each purpose may be granted now in each of some call classes: the beginning of `budget_grant`
-- and `budget_look`, so that what is told is what is done. The head of `budget.py` says why.
--
-- The clock is the real one, not milepost_now(): a limit is about minutes that pass at the platform,
-- whatever day a deployment is told that it is. A grant is counted for 124 half seconds, the one of
-- its making among them; a portion lives for two, and at least one more is left to the network.
--
-- %(classes)s, %(limits)s   call classes with their limits, in calls a minute
-- %(purposes)s, %(shares)s  every purpose with its share of each limit
-- %(patient)s               the purposes that are paced, and borrow less than all
-- %(minute)s                seconds of the platform's minute: 60
WITH moment AS MATERIALIZED (
    SELECT
        clock.at,
        extract(epoch FROM clock.at)::double precision AS epoch,
        %(minute)s::double precision / 60 AS second,
        floor(extract(epoch FROM clock.at) / (%(minute)s::double precision / 120))::bigint AS number
    FROM (SELECT clock_timestamp() AS at) AS clock
),

class AS MATERIALIZED (
    SELECT
        given.call_class,
        given.per_minute,
        learnt.factor,
        -- A hundredth is left for calls that the network holds up for longer than the rest.
        greatest(1, floor(0.99 * learnt.factor * given.per_minute)) AS most,
        c.cut_at,
        CASE WHEN c.closed_until > m.at THEN c.closed_until END AS closed_until
    FROM unnest(%(classes)s::text[], %(limits)s::integer[]) AS given (call_class, per_minute)
    CROSS JOIN moment AS m
    LEFT JOIN call_classes AS c ON c.call_class = given.call_class
    CROSS JOIN LATERAL (
        -- What was cut grows back by a tenth of the limit in a minute.
        SELECT coalesce(
            least(1, c.factor + 0.1 * extract(epoch FROM m.at - c.cut_at) / (60 * m.second)),
            1)::double precision AS factor
    ) AS learnt
),

used AS (
    SELECT
        k.call_class,
        p.purpose,
        p.share,
        coalesce(sum(g.granted), 0) AS granted,
        coalesce(sum(g.wanted), 0) AS wanted,
        coalesce(sum(g.granted) FILTER (WHERE g.number > m.number - 2), 0) AS in_a_second,
        coalesce(sum(g.granted) FILTER (WHERE g.number > m.number - 20), 0) AS in_ten,
        min(g.number) FILTER (WHERE g.granted > 0) AS oldest
    FROM class AS k
    CROSS JOIN unnest(%(purposes)s::text[], %(shares)s::double precision[]) AS p (purpose, share)
    CROSS JOIN moment AS m
    LEFT JOIN grants AS g ON g.call_class = k.call_class
        AND g.purpose = p.purpose
        -- The clock of a server that takes over may be behind: what is ahead of it counts as well.
        AND abs(g.number - m.number) < 124
    GROUP BY k.call_class, p.purpose, p.share
),

-- kept: what others want of their own shares and do not have yet.
-- free: what nobody has; rest: the part of it that this purpose may take.
rest AS (
    SELECT
        u.*,
        k.per_minute, k.factor, k.most, k.closed_until,
        u.purpose = ANY (%(patient)s::text[]) AS is_patient,
        k.most - sum(u.granted) OVER class AS free,
        CASE WHEN u.purpose = 'click' THEN 0
            ELSE sum(own.missing) OVER class - own.missing END AS kept,
        min(u.oldest) OVER class AS next
    FROM used AS u
    JOIN class AS k ON k.call_class = u.call_class
    CROSS JOIN LATERAL (
        SELECT greatest(0, least(floor(u.share * k.most), u.wanted) - u.granted) AS missing
    ) AS own
    WINDOW class AS (PARTITION BY u.call_class)
),

room AS (
    SELECT
        r.*,
        CASE
            WHEN r.closed_until IS NOT NULL THEN 0
            WHEN r.is_patient THEN greatest(0, least(
                -- Beyond its own share it leaves the last twentieth alone.
                greatest(least(r.free - r.kept, floor(r.share * r.most) - r.granted),
                    r.free - r.kept - floor(0.05 * r.most)),
                -- Evenly; what a second has missed may be caught up within ten.
                ceil(r.most / 48) - r.in_a_second,
                ceil(r.most / 6) - r.in_ten))
            ELSE greatest(0, r.free - r.kept)
        END::integer AS room,
        -- Seconds until asking again may bring more.
        CASE
            WHEN r.closed_until IS NOT NULL THEN extract(epoch FROM r.closed_until - m.at)
            WHEN r.free <= 0 AND r.next IS NOT NULL THEN (r.next + 124) * m.second / 2 - m.epoch
            ELSE (m.number + 1) * m.second / 2 - m.epoch
        END::double precision AS wait
    FROM rest AS r
    CROSS JOIN moment AS m
)
