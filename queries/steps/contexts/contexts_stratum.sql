-- step: contexts_stratum
-- writes: contexts
-- slice: kind = 'stratum'
-- key: sae, feature, kind, split, stratum, rank
-- param: strata = 10
-- param: per_stratum = 20
-- param: window = 32
-- param: shortest = 8
-- doc: of each shortlisted feature, windows by hash in every decile of its windows' peaks, all corpora together, and every split
-- A candidate is the strongest token of its own window (the first of equals), so that a window's activation is
-- that of its peak. Half a window, a cell, lies inside the window of each of its tokens: only the strongest token
-- of a cell can be one, and only cells next to it can hold a stronger one. Val and test windows that repeat train
-- text are not eligible.
-- Strata are quantiles of the peaks over all eligible windows of the split. Their edges lie between bins of 1/32 octave:
-- a bin belongs to the quantile in which its middle lies, so that new text moves few windows to another stratum.
-- Activations are half precision: 32 steps of an octave are exact.
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
eligible AS MATERIALIZED (
    SELECT
        c.sae, c.feature, c.corpus, d.split, d.hash, p.start, p.start - d.start AS place, p.length, p.peak, p.activation,
        32 * floor(log2(p.activation)) + floor(32 * (p.activation / pow(2, floor(log2(p.activation))) - 1)) AS bin
    FROM candidates AS p
    JOIN chosen AS c ON c.series = p.series
    JOIN documents AS d ON (d.corpus, d.document) = (c.corpus, p.document)
    ANTI JOIN beaten AS b ON b.series = p.series AND b.peak = p.peak
    ANTI JOIN leaky AS l ON l.corpus = c.corpus AND l.start = p.start
),
bins AS (
    SELECT sae, feature, split, bin, count(*) AS n FROM eligible GROUP BY sae, feature, split, bin
),
running AS (
    SELECT
        *,
        sum(n) OVER (PARTITION BY sae, feature, split ORDER BY bin) AS upto,
        sum(n) OVER (PARTITION BY sae, feature, split) AS total
    FROM bins
),
strata AS (
    SELECT
        sae, feature, split, bin, total,
        -- In whole numbers: twice the windows up to the bin's middle.
        ($strata * (2 * upto - n) // (2 * total) + 1)::TINYINT AS stratum
    FROM running
),
ranked AS (
    SELECT
        e.*, s.stratum, s.total,
        count(*) OVER (PARTITION BY e.sae, e.feature, e.split, s.stratum) AS windows,
        row_number() OVER (
            PARTITION BY e.sae, e.feature, e.split, s.stratum
            ORDER BY md5(e.hash || ':' || e.place), e.corpus, e.start
        ) AS rank
    FROM eligible AS e
    JOIN strata AS s ON s.sae = e.sae AND s.feature = e.feature AND s.split = e.split AND s.bin = e.bin
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
    activation,
    least($per_stratum / windows, 1) AS probability,
    (windows / total)::DOUBLE AS share
FROM ranked
