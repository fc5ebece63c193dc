-- Become the one who decides which run of a job comes next; no row: somebody else does just now.
--
-- %(job)s
SELECT FROM jobs WHERE name = %(job)s FOR NO KEY UPDATE SKIP LOCKED
