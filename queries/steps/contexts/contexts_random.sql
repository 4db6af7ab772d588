-- step: contexts_random
-- writes: contexts
-- slice: kind = 'random'
-- key: sae, feature, kind, split, stratum, rank
-- param: per_split = 200
-- param: pool = 2000
-- param: window = 32
-- param: shortest = 8
-- doc: of each shortlisted feature, windows of every split drawn by hash over all corpora, whatever it does in them
-- Windows are laid end to end over each sequence. A pool of them is drawn by hash, and each feature takes some of it by
-- a hash of its own: each eligible window is as likely as any other. Those in which the feature does not fire, or
-- stays below a threshold, are what a judge has to tell from those in which it fires.
-- A series is one feature of one SAE: a number instead of two columns keeps the big joins narrow.
WITH chosen AS MATERIALIZED (
    SELECT *, row_number() OVER (ORDER BY sae, feature) AS series
    FROM (SELECT DISTINCT sae, feature FROM shortlist)
),
harvested AS (
    SELECT DISTINCT c.series, x.corpus
    FROM chosen AS c
    JOIN shards AS x ON x.relation = 'activations' AND x.sae = c.sae
),
laid AS (
    SELECT t.corpus, t.document, t.position AS start, least($window, t.sequence + t.length - t.position) AS length
    FROM tokens AS t
    WHERE (t.position - t.sequence) % $window = 0
),
-- Starts of windows that hold a leaked shingle whole. Only equalities below: with an inequality in its condition
-- an anti-join compares all pairs.
leaky AS MATERIALIZED (
    SELECT DISTINCT l.corpus, unnest(range(greatest(l.position + 16 - $window, t.sequence), l.position + 1)) AS start
    FROM leaks AS l
    JOIN tokens AS t ON t.corpus = l.corpus AND t.position = l.position
    WHERE l.position + 16 <= t.sequence + t.length
),
eligible AS MATERIALIZED (
    SELECT w.corpus, w.start, w.length, d.split, md5(d.hash || ':' || (w.start - d.start)) AS draw
    FROM laid AS w
    JOIN documents AS d ON (d.corpus, d.document) = (w.corpus, w.document)
    ANTI JOIN leaky AS l ON l.corpus = w.corpus AND l.start = w.start
    WHERE w.length >= $shortest
),
-- SAEs may be harvested on some of the corpora alone: the pool of each set of corpora is its own.
sets AS MATERIALIZED (
    SELECT series, list(corpus ORDER BY corpus) AS corpora FROM harvested GROUP BY series
),
pools AS (
    SELECT s.corpora, e.*
    FROM (SELECT DISTINCT corpora, unnest(corpora) AS corpus FROM sets) AS s
    JOIN eligible AS e ON e.corpus = s.corpus
),
pool AS MATERIALIZED (
    SELECT *, count(*) OVER (PARTITION BY corpora, split) AS windows
    FROM pools
    QUALIFY row_number() OVER (PARTITION BY corpora, split ORDER BY draw, corpus, start) <= $pool
),
drawn AS MATERIALIZED (
    SELECT
        s.series, p.corpus, p.split, p.start, p.length,
        count(*) OVER (PARTITION BY s.series, p.split) AS pooled, p.windows,
        row_number() OVER (
            PARTITION BY s.series, p.split ORDER BY md5(p.draw || ':' || c.feature), p.draw, p.corpus, p.start
        ) AS rank
    FROM sets AS s
    JOIN chosen AS c ON c.series = s.series
    JOIN pool AS p ON p.corpora = s.corpora
    QUALIFY rank <= $per_split
),
places AS (
    SELECT series, corpus, start, unnest(range(start, start + length)) AS position FROM drawn
),
strongest AS (
    SELECT
        p.series, p.corpus, p.start,
        arg_max(p.position, (f.activation * 16777216)::HUGEINT * 65536 + p.start - p.position) AS peak,
        max(f.activation) AS activation
    FROM (
        SELECT c.series, a.corpus, a.position, a.activation
        FROM activations AS a
        JOIN chosen AS c ON c.sae = a.sae AND c.feature = a.feature
    ) AS f
    JOIN places AS p ON p.series = f.series AND p.corpus = f.corpus AND p.position = f.position
    GROUP BY p.series, p.corpus, p.start
)
SELECT
    c.sae, r.corpus, c.feature,
    'random' AS kind,
    r.split,
    0::TINYINT AS stratum,
    r.rank::INTEGER AS rank,
    r.start::BIGINT AS start,
    r.length::SMALLINT AS length,
    f.peak AS peak,
    coalesce(f.activation, 0)::FLOAT AS activation,
    least($per_split, r.pooled) / r.windows AS probability,
    NULL::DOUBLE AS share
FROM drawn AS r
JOIN chosen AS c ON c.series = r.series
LEFT JOIN strongest AS f ON f.series = r.series AND f.corpus = r.corpus AND f.start = r.start
