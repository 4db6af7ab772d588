-- step: feature_sums
-- writes: feature_sums
-- key: sae, corpus, shard, feature
-- partition: sae, corpus, shard
-- doc: sums, maximum and log histogram of each feature's activations, per shard
-- Activations have 11 bits and are multiples of 2^-24, their squares of 2^-48: the sums are exact integers.
-- A bin is an octave (floor(log2 a), from 2^-15) and one of its 8 equal parts.
WITH binned AS (
    SELECT
        sae, corpus, shard, feature,
        greatest(
            8 * (15 + floor(log2(activation))) + floor(8 * (activation / pow(2, floor(log2(activation))) - 1)), 0
        )::USMALLINT AS bin,
        count(*) AS firings,
        sum((activation * 16777216)::BIGINT) AS total,
        sum((activation::DOUBLE * activation * 281474976710656)::HUGEINT) AS squares,
        max(activation) AS maximum
    FROM activations
    GROUP BY ALL
)
SELECT
    sae, corpus, shard, feature,
    sum(firings)::BIGINT AS firings,
    sum(total)::DECIMAL(38, 0) AS total,
    sum(squares)::DECIMAL(38, 0) AS squares,
    max(maximum) AS maximum,
    map_from_entries(list_sort(list({'key': bin, 'value': firings}))) AS bins
FROM binned
GROUP BY sae, corpus, shard, feature
