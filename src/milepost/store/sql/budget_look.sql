-- Look at what `budget_room` has found.
SELECT
    call_class, purpose, per_minute, factor, most::integer, closed_until, share,
    granted::integer, wanted::integer, room
FROM room
ORDER BY call_class, share
