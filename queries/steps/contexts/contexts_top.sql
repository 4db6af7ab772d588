-- step: contexts_top
-- writes: contexts
-- slice: kind = 'top'
-- key: sae, feature, kind, split, stratum, rank
-- partition: sae, corpus, shard
-- whole: documents
-- touches: sae, feature
-- param: k = 20
-- param: window = 32
-- doc: the k strongest contexts of every live feature over all corpora, one per sequence at most
-- Most features are done with the few activations above a threshold read off their histogram. Those whose
-- strongest activations crowd into fewer than k sequences are done again with all of theirs. The strongest token
-- of a sequence, the first of equals, is found by one integer: activation in 2^-24, then nearness to the start.
-- Contexts that were kept from other shards are ranked again where a new one may be among the k strongest.
WITH held AS (
    SELECT sae, feature, CASE WHEN count(*) >= $k THEN min(activation) ELSE 0 END AS least
    FROM kept
    GROUP BY sae, feature
),
entries AS (
    SELECT sae, feature, unnest(map_entries(bins)) AS entry FROM feature_sums
),
bins AS (
    SELECT sae, feature, entry.key::INTEGER AS bin, sum(entry.value) AS n
    FROM entries
    GROUP BY sae, feature, entry.key
),
running AS (
    SELECT
        sae, feature, bin,
        sum(n) OVER (PARTITION BY sae, feature ORDER BY bin DESC) AS above
    FROM bins
),
highest AS (
    SELECT
        r.sae, r.feature,
        coalesce(any_value(h.least), 0) AS least,
        -- The highest bin that leaves 4 k activations above its lower edge; bin 0 holds all that is below 2^-15.
        coalesce(max(bin) FILTER (above >= 4 * $k), 0) AS bin,
        max(above) AS firings
    FROM running AS r
    LEFT JOIN held AS h ON h.sae = r.sae AND h.feature = r.feature
    GROUP BY r.sae, r.feature
),
thresholds AS (
    SELECT *, CASE WHEN bin = 0 THEN 0 ELSE pow(2, bin // 8 - 15) * (1 + (bin % 8) / 8) END AS edge FROM highest
),
likely AS (
    SELECT a.sae, a.corpus, a.feature, a.position, a.activation
    FROM activations AS a
    JOIN thresholds AS t ON t.sae = a.sae AND t.feature = a.feature
    WHERE a.activation >= t.least AND a.activation >= t.edge
),
likely_best AS (
    SELECT
        l.sae, l.corpus, l.feature, t.sequence, any_value(t.length) AS length, any_value(t.document) AS document,
        arg_max(l.position, (l.activation * 16777216)::HUGEINT * 65536 + t.sequence - l.position) AS peak,
        max(l.activation) AS activation,
        count(*) AS used
    FROM likely AS l
    JOIN tokens AS t ON t.corpus = l.corpus AND t.position = l.position
    GROUP BY l.sae, l.corpus, l.feature, t.sequence
),
crowded AS (
    SELECT b.sae, b.feature
    FROM likely_best AS b
    JOIN thresholds AS t ON t.sae = b.sae AND t.feature = b.feature
    GROUP BY b.sae, b.feature
    HAVING count(*) < $k AND sum(b.used) < any_value(t.firings) AND any_value(t.edge) > any_value(t.least)
),
crowded_best AS (
    SELECT
        a.sae, a.corpus, a.feature, t.sequence, any_value(t.length) AS length, any_value(t.document) AS document,
        arg_max(a.position, (a.activation * 16777216)::HUGEINT * 65536 + t.sequence - a.position) AS peak,
        max(a.activation) AS activation
    FROM activations AS a
    SEMI JOIN crowded AS c ON c.sae = a.sae AND c.feature = a.feature
    JOIN tokens AS t ON t.corpus = a.corpus AND t.position = a.position
    GROUP BY a.sae, a.corpus, a.feature, t.sequence
),
best AS (
    SELECT b.* EXCLUDE (used)
    FROM likely_best AS b
    ANTI JOIN crowded AS c ON c.sae = b.sae AND c.feature = b.feature
    UNION ALL
    SELECT * FROM crowded_best
),
touched AS MATERIALIZED (
    SELECT DISTINCT sae, feature FROM best
),
candidates AS (
    SELECT
        sae, corpus, feature, document, peak, activation,
        greatest(sequence, least(peak - $window // 2, sequence + length - $window))::BIGINT AS start,
        least($window, length)::SMALLINT AS length
    FROM best
    UNION ALL
    SELECT k.sae, k.corpus, k.feature, d.document, k.peak, k.activation, k.start, k.length
    FROM (
        SELECT o.*
        FROM kept AS o
        SEMI JOIN touched AS n ON n.sae = o.sae AND n.feature = o.feature
    ) AS k
    ASOF JOIN documents AS d ON d.corpus = k.corpus AND d.start <= k.peak
),
ranked AS (
    SELECT
        b.*, d.split,
        row_number() OVER (
            PARTITION BY b.sae, b.feature
            ORDER BY b.activation DESC, d.hash, b.peak - d.start, b.corpus
        ) AS rank
    FROM candidates AS b
    JOIN documents AS d ON (d.corpus, d.document) = (b.corpus, b.document)
    QUALIFY rank <= $k
)
SELECT
    sae, corpus, feature,
    'top' AS kind,
    split,
    0::TINYINT AS stratum,
    rank::INTEGER AS rank,
    start, length, peak, activation,
    NULL::DOUBLE AS probability,
    NULL::DOUBLE AS share
FROM ranked
