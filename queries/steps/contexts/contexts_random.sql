-- step: contexts_random
-- writes: contexts
-- slice: kind = 'random'
-- key: sae, corpus, feature, kind, split, stratum, rank
-- param: per_split = 100
-- param: pool = 1000
-- param: window = 32
-- param: shortest = 8
-- doc: of each shortlisted feature, windows of every split in which it does not fire at all
-- Windows are laid end to end over each sequence; a pool of them is drawn by hash, and each feature takes
-- those in which it is silent, in an order of its own.
-- A series is one feature of one SAE on one corpus: a number instead of two names keeps the big joins narrow.
WITH chosen AS MATERIALIZED (
    SELECT *, row_number() OVER (ORDER BY sae, feature, corpus) AS series
    FROM (
        SELECT DISTINCT s.sae, s.feature, x.corpus
        FROM shortlist AS s
        JOIN shards AS x ON x.relation = 'activations' AND x.sae = s.sae
    )
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
pool AS MATERIALIZED (
    SELECT
        w.corpus, w.start, w.length, d.split,
        md5(d.hash || ':' || (w.start - d.start)) AS draw
    FROM laid AS w
    JOIN documents AS d ON (d.corpus, d.document) = (w.corpus, w.document)
    ANTI JOIN leaky AS l ON l.corpus = w.corpus AND l.start = w.start
    WHERE w.length >= $shortest
    QUALIFY row_number() OVER (PARTITION BY w.corpus, d.split ORDER BY draw, w.start) <= $pool
),
places AS (
    SELECT corpus, start, unnest(range(start, start + length)) AS position FROM pool
),
firing AS (
    SELECT DISTINCT f.series, p.start
    FROM (
        SELECT c.series, c.corpus, a.position
        FROM activations AS a
        JOIN chosen AS c ON c.sae = a.sae AND c.corpus = a.corpus AND c.feature = a.feature
    ) AS f
    JOIN places AS p ON p.corpus = f.corpus AND p.position = f.position
),
drawn AS (
    SELECT
        c.series, p.split,
        min_by({start: p.start, length: p.length}, md5(p.draw || ':' || c.feature), $per_split) AS windows
    FROM chosen AS c
    JOIN pool AS p ON p.corpus = c.corpus
    ANTI JOIN firing AS f ON f.series = c.series AND f.start = p.start
    GROUP BY c.series, p.split
),
ranked AS (
    SELECT * EXCLUDE (windows), unnest(windows) AS w, generate_subscripts(windows, 1) AS rank FROM drawn
)
SELECT
    c.sae, c.corpus, c.feature,
    'random' AS kind,
    r.split,
    0::TINYINT AS stratum,
    r.rank::INTEGER AS rank,
    r.w.start::BIGINT AS start,
    r.w.length::SMALLINT AS length,
    NULL::BIGINT AS peak,
    0::FLOAT AS activation
FROM ranked AS r
JOIN chosen AS c ON c.series = r.series
