-- step: contexts_stratum
-- writes: contexts
-- slice: kind = 'stratum'
-- key: sae, corpus, feature, kind, split, stratum, rank
-- param: per_stratum = 10
-- param: window = 32
-- param: shortest = 8
-- doc: of each shortlisted feature, contexts by hash in every octave of activation and every split
-- A candidate is the strongest token of its own window (the first of equals), so that a window's activation is
-- that of its peak. Half a window, a cell, lies inside the window of each of its tokens: only the strongest token
-- of a cell can be one, and only cells next to it can hold a stronger one. Val and test windows that repeat train
-- text are not eligible.
WITH chosen AS (
    SELECT DISTINCT sae, feature FROM shortlist
),
fired AS MATERIALIZED (
    SELECT a.* FROM activations AS a SEMI JOIN chosen AS c ON c.sae = a.sae AND c.feature = a.feature
),
firing AS MATERIALIZED (
    SELECT
        a.sae, a.corpus, a.feature, a.position, a.activation, t.document, t.sequence, t.length AS tokens,
        t.sequence + (a.position - t.sequence) // ($window // 2) * ($window // 2) AS cell
    FROM fired AS a
    JOIN tokens AS t ON t.corpus = a.corpus AND t.position = a.position
    WHERE t.length >= $shortest
),
strongest AS (
    SELECT
        sae, corpus, feature, cell,
        any_value(document) AS document, any_value(sequence) AS sequence, any_value(tokens) AS tokens,
        arg_max(position, (activation * 16777216)::BIGINT * 65536 + cell - position) AS peak,
        max(activation) AS activation
    FROM firing
    GROUP BY sae, corpus, feature, cell, sequence
),
candidates AS MATERIALIZED (
    SELECT
        *,
        greatest(sequence, least(peak - $window // 2, sequence + tokens - $window)) AS start,
        least($window, tokens) AS length
    FROM strongest
),
near AS (
    SELECT *, unnest([-2, -1, 1, 2]) * ($window // 2) + cell AS other FROM candidates
),
beaten AS MATERIALIZED (
    SELECT DISTINCT n.sae, n.corpus, n.feature, n.peak
    FROM near AS n
    JOIN firing AS f ON f.sae = n.sae AND f.corpus = n.corpus AND f.feature = n.feature AND f.cell = n.other
    WHERE
        f.position >= n.start AND f.position < n.start + n.length
        AND (f.activation > n.activation OR (f.activation = n.activation AND f.position < n.peak))
),
-- Starts of windows that hold a leaked shingle whole. Only equalities below: with an inequality in its condition
-- an anti-join compares all pairs.
leaky AS MATERIALIZED (
    SELECT DISTINCT l.corpus, unnest(range(greatest(l.position + 16 - $window, t.sequence), l.position + 1)) AS start
    FROM leaks AS l
    JOIN tokens AS t ON t.corpus = l.corpus AND t.position = l.position
    WHERE l.position + 16 <= t.sequence + t.length
),
ranked AS (
    SELECT
        p.*, d.split,
        floor(log2(p.activation))::TINYINT AS stratum,
        row_number() OVER (
            PARTITION BY p.sae, p.corpus, p.feature, d.split, floor(log2(p.activation))
            ORDER BY md5(d.hash || ':' || (p.start - d.start)), p.start
        ) AS rank
    FROM candidates AS p
    JOIN documents AS d ON (d.corpus, d.document) = (p.corpus, p.document)
    ANTI JOIN beaten AS b ON b.sae = p.sae AND b.corpus = p.corpus AND b.feature = p.feature AND b.peak = p.peak
    ANTI JOIN leaky AS l ON l.corpus = p.corpus AND l.start = p.start
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
