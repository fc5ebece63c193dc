-- Write down that an attempt to make a contact did not end well. Empty looks are counted since the
-- last call whose outcome is unknown: what it may have made, a look before it could not find.
--
-- %(ref)s, %(attempt)s  the claim; one that was taken over changes nothing
-- %(in_doubt)s          whether this or an earlier attempt may have made the contact
-- %(unknown)s           whether this one may have
-- %(looked)s            whether it looked and found nothing
-- %(rests)s             whether the lease stays, as a pause
UPDATE registrants SET
    contact_lease_until = CASE WHEN %(rests)s THEN contact_lease_until END,
    contact_in_doubt = %(in_doubt)s,
    contact_looks = CASE WHEN %(unknown)s THEN 0 ELSE contact_looks + %(looked)s::boolean::integer END,
    contact_first_look_at = CASE
        WHEN %(unknown)s THEN NULL
        WHEN %(looked)s THEN coalesce(contact_first_look_at, milepost_now())
        ELSE contact_first_look_at
    END
WHERE ref = %(ref)s AND contact_attempt = %(attempt)s
