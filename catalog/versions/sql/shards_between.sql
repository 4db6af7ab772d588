-- Shard files of $relation that snapshot $b has and $a has not ('added'), or the reverse ('removed').
-- {a} and {b} are snapshot numbers: AT takes no expression over columns.
WITH before AS (FROM lake.shards AT (VERSION => {a}) WHERE relation = $relation),
after AS (FROM lake.shards AT (VERSION => {b}) WHERE relation = $relation)
SELECT 'added' AS change, corpus, sae, shard, path, rows
FROM after ANTI JOIN before USING (path)
UNION ALL
SELECT 'removed', corpus, sae, shard, path, rows
FROM before ANTI JOIN after USING (path)
ORDER BY ALL
