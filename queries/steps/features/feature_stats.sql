-- step: feature_stats
-- writes: feature_stats
-- key: sae, feature
-- doc: density, mean, maximum, histogram, deciles and 99th percentile of every feature, dead ones too
WITH files AS MATERIALIZED (
    SELECT relation, sae, corpus, shard, rows FROM shards
),
harvested AS (
    SELECT a.sae, sum(t.rows)::BIGINT AS tokens
    FROM files AS a
    JOIN files AS t ON t.relation = 'tokens' AND t.corpus = a.corpus AND t.shard = a.shard
    WHERE a.relation = 'activations'
    GROUP BY a.sae
),
every AS (
    SELECT s.sae, h.tokens, unnest(range(s.width))::INTEGER AS feature
    FROM saes AS s
    JOIN harvested AS h ON h.sae = s.sae
),
sums AS (
    SELECT
        sae, feature,
        sum(firings)::BIGINT AS firings,
        sum(total)::DOUBLE / 16777216 AS total,
        sum(squares)::DOUBLE / 281474976710656 AS squares,
        max(maximum) AS maximum
    FROM feature_sums
    GROUP BY sae, feature
),
entries AS (
    SELECT sae, feature, unnest(map_entries(bins)) AS entry FROM feature_sums
),
bins AS (
    SELECT sae, feature, entry.key::INTEGER AS bin, sum(entry.value)::BIGINT AS n
    FROM entries
    GROUP BY sae, feature, entry.key
),
coarse AS (
    SELECT sae, feature, map(list(bin), list(n)) AS counts
    FROM (SELECT sae, feature, least(bin // 4, 63) AS bin, sum(n)::BIGINT AS n FROM bins GROUP BY ALL)
    GROUP BY sae, feature
),
running AS (
    SELECT
        sae, feature, bin, n,
        (sum(n) OVER (PARTITION BY sae, feature ORDER BY bin))::BIGINT AS upto,
        pow(2, bin // 8 - 15) * (1 + (bin % 8) / 8) AS lower,
        pow(2, (bin + 1) // 8 - 15) * (1 + ((bin + 1) % 8) / 8) AS upper
    FROM bins
),
tenths AS (
    -- The deciles up to the one before a bin, and up to the last one inside it.
    SELECT
        r.*, s.firings,
        10 * (r.upto - r.n) // s.firings AS before,
        least(10 * r.upto // s.firings, 9) AS last
    FROM running AS r
    JOIN sums AS s ON s.sae = r.sae AND s.feature = r.feature
),
deciles AS (
    SELECT
        sae, feature,
        list_sort(flatten(list([
            lower * pow(upper / lower, (tenth / 10 * firings - (upto - n)) / n) FOR tenth IN range(before + 1, last + 1)
        ]))) AS deciles
    FROM tenths
    WHERE before < last
    GROUP BY sae, feature
),
highest AS (
    -- The first bin with 99% of the firings up to its upper end.
    SELECT r.sae, r.feature, min(CASE WHEN r.bin = 0 THEN 0 ELSE r.lower END) AS percentile_99
    FROM running AS r
    JOIN sums AS s ON s.sae = r.sae AND s.feature = r.feature
    WHERE 100 * r.upto >= 99 * s.firings
    GROUP BY r.sae, r.feature
)
SELECT
    e.sae,
    e.feature,
    coalesce(s.firings, 0) AS firings,
    e.tokens,
    coalesce(s.firings, 0) / e.tokens AS density,
    s.total / s.firings AS mean,
    CASE WHEN s.firings > 0 THEN sqrt(greatest(s.squares / s.firings - pow(s.total / s.firings, 2), 0)) END AS std,
    s.maximum,
    [coalesce(c.counts[b], 0) FOR b IN range(64)]::BIGINT[] AS histogram,
    [least(d, s.maximum) FOR d IN q.deciles] AS deciles,
    h.percentile_99
FROM every AS e
LEFT JOIN sums AS s ON s.sae = e.sae AND s.feature = e.feature
LEFT JOIN coarse AS c ON c.sae = e.sae AND c.feature = e.feature
LEFT JOIN deciles AS q ON q.sae = e.sae AND q.feature = e.feature
LEFT JOIN highest AS h ON h.sae = e.sae AND h.feature = e.feature
