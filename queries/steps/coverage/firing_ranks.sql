-- step: firing_ranks
-- writes: firing_ranks
-- key: sae, corpus, split, rank
-- param: split = "test"
-- doc: the features of each SAE by the number of tokens of a split that they fire on
-- Counts over a part of the text would compare with nothing: an SAE counts where it was harvested on every shard.
WITH files AS MATERIALIZED (
    SELECT relation, sae, corpus FROM shards
),
text AS (
    SELECT corpus, count(*) AS shards FROM files WHERE relation = 'tokens' GROUP BY corpus
),
harvested AS (
    SELECT a.sae, a.corpus
    FROM files AS a
    JOIN text AS t ON t.corpus = a.corpus
    SEMI JOIN (SELECT corpus FROM documents WHERE split = $split) AS d ON d.corpus = a.corpus
    WHERE a.relation = 'activations'
    GROUP BY a.sae, a.corpus
    HAVING count(*) = any_value(t.shards)
),
every AS (
    SELECT s.sae, h.corpus, unnest(range(s.width))::INTEGER AS feature
    FROM saes AS s
    JOIN harvested AS h ON h.sae = s.sae
),
fired AS (
    SELECT sae, corpus, feature, firings FROM firing_counts WHERE split = $split
)
SELECT
    e.sae, e.corpus,
    $split AS split,
    row_number() OVER (
        PARTITION BY e.sae, e.corpus ORDER BY coalesce(f.firings, 0) DESC, e.feature
    )::INTEGER AS rank,
    e.feature,
    coalesce(f.firings, 0) AS firings
FROM every AS e
LEFT JOIN fired AS f ON (f.sae, f.corpus, f.feature) = (e.sae, e.corpus, e.feature)
