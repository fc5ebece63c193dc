-- Let nobody else grant calls until this transaction ends. Every call is one of the brand's, so one
-- row is enough; the statements behind it see what the last holder wrote.
SELECT FROM call_classes WHERE call_class = 'brand' FOR NO KEY UPDATE
