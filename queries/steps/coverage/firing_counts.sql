-- step: firing_counts
-- writes: firing_counts
-- key: sae, corpus, split, feature
-- partition: sae, corpus, shard
-- touches: sae, corpus, split, feature
-- doc: how many tokens of each split every feature fires on
WITH places AS (
    SELECT t.corpus, t.position, d.split
    FROM tokens AS t
    JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)
),
fired AS (
    SELECT a.sae, a.corpus, p.split, a.feature, count(*) AS firings
    FROM activations AS a
    JOIN places AS p ON p.corpus = a.corpus AND p.position = a.position
    GROUP BY a.sae, a.corpus, p.split, a.feature
)
SELECT f.sae, f.corpus, f.split, f.feature, f.firings + coalesce(k.firings, 0) AS firings
FROM fired AS f
LEFT JOIN kept AS k ON (k.sae, k.corpus, k.split, k.feature) = (f.sae, f.corpus, f.split, f.feature)
