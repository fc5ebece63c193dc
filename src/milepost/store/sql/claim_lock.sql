-- Lock the registrants of a batch, in ref order: every writer of registrants takes them in this
-- order, so two batches can wait for each other but never in a circle.
SELECT id
FROM registrants
WHERE ref = ANY (%(refs)s)
ORDER BY ref
FOR NO KEY UPDATE
