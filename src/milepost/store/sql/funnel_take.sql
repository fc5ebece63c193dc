-- Take the next hour that is to be counted, with every row that names it.
--
-- %(milestone)s, %(hour)s  the one before it
WITH next AS MATERIALIZED (
    SELECT c.milestone, c.hour
    FROM funnel_changes AS c
    WHERE (c.milestone, c.hour) > (%(milestone)s, %(hour)s)
    ORDER BY c.milestone, c.hour
    LIMIT 1
)

DELETE FROM funnel_changes AS c
USING next AS n
WHERE c.milestone = n.milestone AND c.hour = n.hour
RETURNING c.milestone, c.hour
