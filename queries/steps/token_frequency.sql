-- step: token_frequency
-- writes: token_frequency
-- key: corpus, split, token
-- partition: corpus, shard
-- doc: how often each token id stands in each split of each corpus
WITH found AS (
    SELECT t.corpus, d.split, t.token, count(*) AS occurrences
    FROM tokens AS t
    JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)
    GROUP BY t.corpus, d.split, t.token
    UNION ALL
    SELECT corpus, split, token, occurrences FROM kept
)
SELECT corpus, split, token, sum(occurrences)::BIGINT AS occurrences
FROM found
GROUP BY corpus, split, token
