-- step: concept_sums
-- writes: concept_sums
-- key: sae, concept, corpus, shard, feature
-- partition: sae, concept, corpus, shard
-- doc: sums and histogram of each feature's activations on the concept's tokens, per shard
WITH binned AS (
    SELECT
        a.sae, c.concept, a.corpus, a.shard, a.feature,
        greatest(
            8 * (15 + floor(log2(a.activation))) + floor(8 * (a.activation / pow(2, floor(log2(a.activation))) - 1)), 0
        )::USMALLINT AS bin,
        count(*) AS firings,
        sum((a.activation * 16777216)::BIGINT) AS total,
        sum((a.activation::DOUBLE * a.activation * 281474976710656)::HUGEINT) AS squares
    FROM activations AS a
    JOIN concept_positions AS c ON c.corpus = a.corpus AND c.shard = a.shard AND c.position = a.position
    GROUP BY ALL
)
SELECT
    sae, concept, corpus, shard, feature,
    sum(firings)::BIGINT AS firings,
    sum(total)::DECIMAL(38, 0) AS total,
    sum(squares)::DECIMAL(38, 0) AS squares,
    map_from_entries(list_sort(list({'key': bin, 'value': firings}))) AS bins
FROM binned
GROUP BY sae, concept, corpus, shard, feature
