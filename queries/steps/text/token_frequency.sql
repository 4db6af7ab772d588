-- step: token_frequency
-- writes: token_frequency
-- key: corpus, split, token
-- partition: corpus, shard
-- touches: corpus, split, token
-- doc: how often each token id stands in each split of each corpus
WITH found AS (
    SELECT t.corpus, d.split, t.token, count(*) AS occurrences
    FROM tokens AS t
    JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)
    GROUP BY t.corpus, d.split, t.token
)
SELECT f.corpus, f.split, f.token, f.occurrences + coalesce(k.occurrences, 0) AS occurrences
FROM found AS f
LEFT JOIN kept AS k ON (k.corpus, k.split, k.token) = (f.corpus, f.split, f.token)
