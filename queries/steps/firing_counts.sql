-- step: firing_counts
-- writes: firing_counts
-- key: sae, corpus, split, feature
-- partition: sae, corpus, shard
-- doc: how many tokens of each split every feature fires on
WITH fired AS (
    SELECT a.sae, a.corpus, d.split, a.feature, count(*) AS firings
    FROM activations AS a
    JOIN tokens AS t ON (t.corpus, t.shard, t.position) = (a.corpus, a.shard, a.position)
    JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)
    GROUP BY a.sae, a.corpus, d.split, a.feature
    UNION ALL
    SELECT sae, corpus, split, feature, firings FROM kept
)
SELECT sae, corpus, split, feature, sum(firings)::BIGINT AS firings
FROM fired
GROUP BY sae, corpus, split, feature
