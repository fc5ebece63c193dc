-- The link that a platform's history names: by the distribution on which it stands, or, under route
-- `stepwise`, by the one that was made for it alone.
--
-- %(distribution)s  the platform's id of it, EMD_…
-- %(lookup)s        CGC_… or CTR_…
SELECT {record}, l.survey_id, NULL::text AS reused_url
FROM links AS l
WHERE l.lookup_id = %(lookup)s
    AND l.url IS NOT NULL
    AND (l.distribution_id = (
            SELECT d.id FROM distributions AS d WHERE d.distribution_id = %(distribution)s)
        OR %(distribution)s IN (l.steps ->> 'distribution', l.steps ->> 'own_distribution'))
LIMIT 1
