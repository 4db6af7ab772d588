-- step: concept_sums
-- writes: concept_sums
-- key: sae, concept, corpus, shard, feature
-- partition: sae, concept, corpus, shard
-- doc: sums and histogram of each feature's activations on the concept's tokens, and sums by word, per shard
WITH binned AS (
    SELECT
        a.sae, c.concept, a.corpus, a.shard, a.feature, c.words,
        greatest(
            8 * (15 + floor(log2(a.activation))) + floor(8 * (a.activation / pow(2, floor(log2(a.activation))) - 1)), 0
        )::USMALLINT AS bin,
        count(*) AS firings,
        sum((a.activation * 16777216)::BIGINT) AS total,
        sum((a.activation::DOUBLE * a.activation * 281474976710656)::HUGEINT) AS squares
    FROM activations AS a
    JOIN concept_positions AS c ON c.corpus = a.corpus AND c.shard = a.shard AND c.position = a.position
    GROUP BY ALL
),
-- A token may be in the windows of several words.
worded AS (
    SELECT sae, concept, corpus, shard, feature, word, sum(total)::DECIMAL(38, 0) AS total
    FROM (SELECT sae, concept, corpus, shard, feature, total, unnest(words) AS word FROM binned)
    GROUP BY sae, concept, corpus, shard, feature, word
),
by_word AS (
    SELECT
        sae, concept, corpus, shard, feature,
        map_from_entries(list_sort(list({'key': word, 'value': total}))) AS words
    FROM worded
    GROUP BY sae, concept, corpus, shard, feature
),
by_bin AS (
    SELECT
        sae, concept, corpus, shard, feature, bin,
        sum(firings)::BIGINT AS firings, sum(total) AS total, sum(squares) AS squares
    FROM binned
    GROUP BY sae, concept, corpus, shard, feature, bin
),
sums AS (
    SELECT
        sae, concept, corpus, shard, feature,
        sum(firings)::BIGINT AS firings,
        sum(total)::DECIMAL(38, 0) AS total,
        sum(squares)::DECIMAL(38, 0) AS squares,
        map_from_entries(list_sort(list({'key': bin, 'value': firings}))) AS bins
    FROM by_bin
    GROUP BY sae, concept, corpus, shard, feature
)
SELECT
    s.sae, s.concept, s.corpus, s.shard, s.feature, s.firings, s.total, s.squares, s.bins,
    coalesce(w.words, MAP {}) AS words
FROM sums AS s
LEFT JOIN by_word AS w
    ON w.sae = s.sae AND w.concept = s.concept AND w.corpus = s.corpus AND w.shard = s.shard AND w.feature = s.feature
