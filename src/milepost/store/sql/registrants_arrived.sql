-- Let the links that waited for these registrants be looked at now.
--
-- %(refs)s  those who were not known before
UPDATE links SET due_at = milepost_now()
WHERE ref = ANY (%(refs)s)
    AND state = 'waiting'
    AND rule = 'registrant-unknown'
