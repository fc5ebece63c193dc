-- How the home list stands: how many registrants lack a contact in it, how many of these may be added
-- without a look, how many are in it, and since when nobody has compared the two.
--
-- %(merges)s, %(looks)s  as in registrants_to_import.sql
SELECT
    m.missing,
    m.addable,
    (SELECT count(*) FROM registrants WHERE home_lookup_id IS NOT NULL) AS listed,
    (SELECT milepost_now() - home_listed_at FROM deployment) AS since_listed,
    milepost_now() AS now
FROM (
    SELECT
        count(*) AS missing,
        count(*) FILTER (
            WHERE %(merges)s
                OR NOT contact_in_doubt
                OR (contact_looks >= %(looks)s
                    AND contact_first_look_at
                        <= milepost_now() - make_interval(secs => milepost_look_seconds())))
            AS addable
    FROM registrants
    WHERE home_lookup_id IS NULL
        AND dedup_key IS NOT NULL
        AND opted_out_at IS NULL
        AND erased_at IS NULL
        AND removed_at IS NULL
) AS m
