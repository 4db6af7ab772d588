-- step: firing_windows
-- writes: firing_windows
-- key: sae, feature, split
-- param: window = 32
-- param: shortest = 8
-- doc: in how many windows of each split each shortlisted feature fires, by strength: which share a judge's class is of
-- The windows are those that contexts_random draws from: laid end to end over each sequence, all corpora together,
-- without those of val and test that repeat train text. Bins are those of feature_sums.
-- A series is one feature of one SAE: a number instead of two columns keeps the big joins narrow.
WITH chosen AS MATERIALIZED (
    SELECT *, row_number() OVER (ORDER BY sae, feature) AS series
    FROM (SELECT DISTINCT sae, feature FROM shortlist)
),
laid AS (
    SELECT t.corpus, t.document, t.position AS start, least($window, t.sequence + t.length - t.position) AS length
    FROM tokens AS t
    WHERE (t.position - t.sequence) % $window = 0
),
leaky AS MATERIALIZED (
    SELECT DISTINCT l.corpus, unnest(range(greatest(l.position + 16 - $window, t.sequence), l.position + 1)) AS start
    FROM leaks AS l
    JOIN tokens AS t ON t.corpus = l.corpus AND t.position = l.position
    WHERE l.position + 16 <= t.sequence + t.length
),
eligible AS MATERIALIZED (
    SELECT w.corpus, w.start, d.split
    FROM laid AS w
    JOIN documents AS d ON (d.corpus, d.document) = (w.corpus, w.document)
    ANTI JOIN leaky AS l ON l.corpus = w.corpus AND l.start = w.start
    WHERE w.length >= $shortest
),
counted AS (
    SELECT x.sae, e.split, count(*) AS windows
    FROM (SELECT DISTINCT sae, corpus FROM shards WHERE relation = 'activations') AS x
    JOIN eligible AS e ON e.corpus = x.corpus
    GROUP BY x.sae, e.split
),
fired AS (
    SELECT f.series, f.corpus, t.sequence + (f.position - t.sequence) // $window * $window AS start, max(f.activation) AS activation
    FROM (
        SELECT c.series, a.corpus, a.position, a.activation
        FROM activations AS a
        JOIN chosen AS c ON c.sae = a.sae AND c.feature = a.feature
    ) AS f
    JOIN tokens AS t ON t.corpus = f.corpus AND t.position = f.position
    GROUP BY f.series, f.corpus, t.sequence, (f.position - t.sequence) // $window
),
binned AS (
    SELECT
        f.series, e.split,
        greatest(
            8 * (15 + floor(log2(f.activation))) + floor(8 * (f.activation / pow(2, floor(log2(f.activation))) - 1)), 0
        )::USMALLINT AS bin,
        count(*) AS n
    FROM fired AS f
    JOIN eligible AS e ON e.corpus = f.corpus AND e.start = f.start
    GROUP BY ALL
),
histograms AS (
    SELECT series, split, map_from_entries(list_sort(list({'key': bin, 'value': n}))) AS bins
    FROM binned
    GROUP BY series, split
)
SELECT
    c.sae, c.feature, n.split, n.windows,
    coalesce(h.bins, map([]::USMALLINT[], []::BIGINT[])) AS bins
FROM chosen AS c
JOIN counted AS n ON n.sae = c.sae
LEFT JOIN histograms AS h ON h.series = c.series AND h.split = n.split
