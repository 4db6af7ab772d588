-- step: contexts_top
-- writes: contexts
-- slice: kind = 'top'
-- key: sae, corpus, feature, kind, split, stratum, rank
-- param: k = 20
-- param: window = 32
-- doc: the k strongest contexts of every live feature, one per sequence at most
-- Most features are done with the few activations above a threshold read off their histogram. Those whose
-- strongest activations crowd into fewer than k sequences are done again with all of theirs. The strongest token
-- of a sequence, the first of equals, is found by one integer: activation in 2^-24, then nearness to the start.
WITH entries AS (
    SELECT sae, corpus, feature, unnest(map_entries(bins)) AS entry FROM feature_sums
),
bins AS (
    SELECT sae, corpus, feature, entry.key::INTEGER AS bin, sum(entry.value) AS n
    FROM entries
    GROUP BY sae, corpus, feature, entry.key
),
running AS (
    SELECT
        sae, corpus, feature, bin,
        sum(n) OVER (PARTITION BY sae, corpus, feature ORDER BY bin DESC) AS above
    FROM bins
),
thresholds AS (
    SELECT
        sae, corpus, feature,
        -- The highest bin that leaves 4 k activations above its lower edge; bin 0 holds all that is below 2^-15.
        coalesce(max(bin) FILTER (above >= 4 * $k), 0) AS bin,
        max(above) AS firings
    FROM running
    GROUP BY sae, corpus, feature
),
likely AS (
    SELECT a.sae, a.corpus, a.feature, a.position, a.activation
    FROM activations AS a
    JOIN thresholds AS t ON t.sae = a.sae AND t.corpus = a.corpus AND t.feature = a.feature
    WHERE t.bin = 0 OR a.activation >= pow(2, t.bin // 8 - 15) * (1 + (t.bin % 8) / 8)
),
likely_best AS (
    SELECT
        l.sae, l.corpus, l.feature, t.sequence, any_value(t.length) AS length, any_value(t.document) AS document,
        arg_max(l.position, (l.activation * 16777216)::BIGINT * 65536 + t.sequence - l.position) AS peak,
        max(l.activation) AS activation,
        count(*) AS used
    FROM likely AS l
    JOIN tokens AS t ON t.corpus = l.corpus AND t.position = l.position
    GROUP BY l.sae, l.corpus, l.feature, t.sequence
),
crowded AS (
    SELECT b.sae, b.corpus, b.feature
    FROM likely_best AS b
    JOIN thresholds AS t ON t.sae = b.sae AND t.corpus = b.corpus AND t.feature = b.feature
    GROUP BY b.sae, b.corpus, b.feature
    HAVING count(*) < $k AND sum(b.used) < any_value(t.firings)
),
crowded_best AS (
    SELECT
        a.sae, a.corpus, a.feature, t.sequence, any_value(t.length) AS length, any_value(t.document) AS document,
        arg_max(a.position, (a.activation * 16777216)::BIGINT * 65536 + t.sequence - a.position) AS peak,
        max(a.activation) AS activation
    FROM activations AS a
    SEMI JOIN crowded AS c ON c.sae = a.sae AND c.corpus = a.corpus AND c.feature = a.feature
    JOIN tokens AS t ON t.corpus = a.corpus AND t.position = a.position
    GROUP BY a.sae, a.corpus, a.feature, t.sequence
),
best AS (
    SELECT b.* EXCLUDE (used)
    FROM likely_best AS b
    ANTI JOIN crowded AS c ON c.sae = b.sae AND c.corpus = b.corpus AND c.feature = b.feature
    UNION ALL
    SELECT * FROM crowded_best
),
ranked AS (
    SELECT
        b.*, d.split,
        row_number() OVER (
            PARTITION BY b.sae, b.corpus, b.feature
            ORDER BY b.activation DESC, d.hash, b.peak - d.start
        ) AS rank
    FROM best AS b
    JOIN documents AS d ON (d.corpus, d.document) = (b.corpus, b.document)
    QUALIFY rank <= $k
)
SELECT
    sae, corpus, feature,
    'top' AS kind,
    split,
    0::TINYINT AS stratum,
    rank::INTEGER AS rank,
    greatest(sequence, least(peak - $window // 2, sequence + length - $window))::BIGINT AS start,
    least($window, length)::SMALLINT AS length,
    peak,
    activation
FROM ranked
