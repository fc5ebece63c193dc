-- Take calls back that were granted and not made, out of the half second in which they were granted.
-- What has left the window by now is not counted any more, and its row may be another's.
--
-- %(call_class)s, %(purpose)s, %(number)s, %(n)s
UPDATE grants SET granted = granted - %(n)s::integer
WHERE call_class IN (%(call_class)s, 'brand')
    AND purpose = %(purpose)s
    AND slot = %(number)s::bigint %% 128
    AND number = %(number)s::bigint
