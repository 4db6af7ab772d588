-- step: contexts_stratum
-- writes: contexts
-- slice: kind = 'stratum'
-- key: sae, corpus, feature, kind, split, stratum, rank
-- param: per_stratum = 10
-- param: window = 32
-- param: shortest = 8
-- doc: of each shortlisted feature, contexts by hash in every octave of activation and every split
-- A candidate is the strongest token of its own window, so that a window's activation is that of its peak.
-- Val and test windows that repeat train text are not eligible.
WITH chosen AS (
    SELECT DISTINCT sae, feature FROM shortlist
),
firing AS (
    SELECT
        a.sae, a.corpus, a.feature, a.position, a.activation, t.document, t.sequence,
        greatest(t.sequence, least(a.position - $window // 2, t.sequence + t.length - $window)) AS start,
        least($window, t.length) AS length
    FROM activations AS a
    SEMI JOIN chosen AS c ON c.sae = a.sae AND c.feature = a.feature
    JOIN tokens AS t ON t.corpus = a.corpus AND t.position = a.position
    WHERE t.length >= $shortest
),
peaks AS (
    SELECT *, max(activation) OVER around AS strongest
    FROM firing
    WINDOW around AS (
        PARTITION BY sae, corpus, feature, sequence ORDER BY position
        RANGE BETWEEN position - start PRECEDING AND start + length - 1 - position FOLLOWING
    )
    QUALIFY activation = strongest
),
distinct_peaks AS (
    SELECT sae, corpus, feature, document, start, length, activation, min(position) AS peak
    FROM peaks
    GROUP BY ALL
),
leaky AS (
    SELECT corpus, position, unnest(range(position - $window + 16, position + 1)) AS start FROM leaks
),
ranked AS (
    SELECT
        p.*, d.split,
        floor(log2(p.activation))::TINYINT AS stratum,
        row_number() OVER (
            PARTITION BY p.sae, p.corpus, p.feature, d.split, floor(log2(p.activation))
            ORDER BY md5(d.hash || ':' || (p.start - d.start)), p.start
        ) AS rank
    FROM distinct_peaks AS p
    JOIN documents AS d ON (d.corpus, d.document) = (p.corpus, p.document)
    ANTI JOIN leaky AS l
        ON d.split <> 'train' AND l.corpus = p.corpus AND l.start = p.start
        AND l.position + 16 <= p.start + p.length
    QUALIFY rank <= $per_stratum
)
SELECT
    sae, corpus, feature,
    'stratum' AS kind,
    split,
    stratum,
    rank::INTEGER AS rank,
    start::BIGINT AS start,
    length::SMALLINT AS length,
    peak,
    activation
FROM ranked
