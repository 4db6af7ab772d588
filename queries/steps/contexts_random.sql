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
WITH chosen AS (
    SELECT DISTINCT s.sae, s.feature, x.corpus
    FROM shortlist AS s
    JOIN shards AS x ON x.relation = 'activations' AND x.sae = s.sae
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
pool AS (
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
fired AS MATERIALIZED (
    SELECT a.* FROM activations AS a SEMI JOIN chosen AS c ON c.sae = a.sae AND c.feature = a.feature
),
firing AS (
    SELECT DISTINCT a.sae, a.corpus, a.feature, p.start
    FROM fired AS a
    JOIN places AS p ON p.corpus = a.corpus AND p.position = a.position
),
ranked AS (
    SELECT
        c.sae, c.corpus, c.feature, p.split, p.start, p.length,
        row_number() OVER (
            PARTITION BY c.sae, c.corpus, c.feature, p.split
            ORDER BY md5(p.draw || ':' || c.feature), p.start
        ) AS rank
    FROM chosen AS c
    JOIN pool AS p ON p.corpus = c.corpus
    ANTI JOIN firing AS f
        ON f.sae = c.sae AND f.corpus = c.corpus AND f.feature = c.feature AND f.start = p.start
    QUALIFY rank <= $per_split
)
SELECT
    sae, corpus, feature,
    'random' AS kind,
    split,
    0::TINYINT AS stratum,
    rank::INTEGER AS rank,
    start::BIGINT AS start,
    length::SMALLINT AS length,
    NULL::BIGINT AS peak,
    0::FLOAT AS activation
FROM ranked
