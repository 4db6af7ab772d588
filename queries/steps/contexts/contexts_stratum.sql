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
-- A series is one feature of one SAE on one corpus: a number instead of two names keeps the big joins narrow.
WITH chosen AS MATERIALIZED (
    SELECT s.sae, s.feature, c.corpus, row_number() OVER (ORDER BY s.sae, s.feature, c.corpus) AS series
    FROM (SELECT DISTINCT sae, feature FROM shortlist) AS s
    CROSS JOIN corpora AS c
),
firing AS MATERIALIZED (
    SELECT
        f.series, f.corpus, f.position, f.activation, t.document, t.sequence, t.length AS tokens,
        t.sequence + (f.position - t.sequence) // ($window // 2) * ($window // 2) AS cell
    FROM (
        SELECT c.series, c.corpus, a.position, a.activation
        FROM activations AS a
        JOIN chosen AS c ON c.sae = a.sae AND c.corpus = a.corpus AND c.feature = a.feature
    ) AS f
    JOIN tokens AS t ON t.corpus = f.corpus AND t.position = f.position
    WHERE t.length >= $shortest
),
strongest AS (
    SELECT
        series, cell, sequence,
        any_value(document) AS document, any_value(tokens) AS tokens,
        arg_max(position, (activation * 16777216)::HUGEINT * 65536 + cell - position) AS peak,
        max(activation) AS activation
    FROM firing
    GROUP BY series, cell, sequence
),
candidates AS MATERIALIZED (
    SELECT
        *,
        greatest(sequence, least(peak - $window // 2, sequence + tokens - $window)) AS start,
        least($window, tokens) AS length
    FROM strongest
),
near AS (
    -- A window that the end of its sequence pushed back can reach one cell further.
    SELECT
        series, peak, activation, start, length,
        unnest(CASE WHEN start = peak - $window // 2 THEN [-1, 1] ELSE [-2, -1, 1, 2] END) * ($window // 2) + cell AS other
    FROM candidates
),
beaten AS MATERIALIZED (
    SELECT DISTINCT n.series, n.peak
    FROM near AS n
    JOIN firing AS f ON f.series = n.series AND f.cell = n.other
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
drawn AS (
    SELECT
        p.series, d.split,
        floor(log2(p.activation))::TINYINT AS stratum,
        min_by(
            {start: p.start, length: p.length, peak: p.peak, activation: p.activation},
            md5(d.hash || ':' || (p.start - d.start)),
            $per_stratum
        ) AS windows
    FROM candidates AS p
    JOIN chosen AS c ON c.series = p.series
    JOIN documents AS d ON (d.corpus, d.document) = (c.corpus, p.document)
    ANTI JOIN beaten AS b ON b.series = p.series AND b.peak = p.peak
    ANTI JOIN leaky AS l ON l.corpus = c.corpus AND l.start = p.start
    GROUP BY ALL
),
ranked AS (
    SELECT * EXCLUDE (windows), unnest(windows) AS w, generate_subscripts(windows, 1) AS rank FROM drawn
)
SELECT
    c.sae, c.corpus, c.feature,
    'stratum' AS kind,
    r.split,
    r.stratum,
    r.rank::INTEGER AS rank,
    r.w.start::BIGINT AS start,
    r.w.length::SMALLINT AS length,
    r.w.peak AS peak,
    r.w.activation AS activation
FROM ranked AS r
JOIN chosen AS c ON c.series = r.series
