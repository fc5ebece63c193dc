-- Count the unsettled links by milestone and state, with the route by which they are to be made. Their
-- two indexes are partial, and each serves only whoever asks by its own predicate: asked by `due_at`
-- alone, the whole ledger would be read.
SELECT counted.milestone, m.route, counted.state, sum(counted.links)::bigint AS links
FROM (
    SELECT milestone, state, count(*) AS links
    FROM links
    WHERE due_at IS NOT NULL AND clicked_at IS NULL
    GROUP BY milestone, state
    UNION ALL
    SELECT milestone, state, count(*)
    FROM links
    WHERE due_at IS NOT NULL AND clicked_at IS NOT NULL
    GROUP BY milestone, state
) AS counted
JOIN milestones AS m ON m.key = counted.milestone
GROUP BY counted.milestone, m.route, counted.state
ORDER BY counted.milestone, counted.state
