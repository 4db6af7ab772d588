-- step: labels
-- writes: labels
-- key: sae, feature, explainer
-- input: sae, feature, explainer
-- param: top = 20
-- kernel: scoring.kernels.labels:labels
-- asks: scoring.kernels.labels:asks
-- prompts: interpreter
-- doc: what each shortlisted feature fires on, said by each explainer from train windows; val windows choose among claims
-- The examples are rendered here and not through context_tokens: materialised parts keep the optimiser from
-- joining all windows with all activations of a large catalog.
WITH chosen AS (
    SELECT DISTINCT sae, feature FROM shortlist
),
wanted AS MATERIALIZED (
    -- Windows within 512 tokens of one document are of one passage: they are left out together where a claim is tried.
    SELECT x.*, md5(d.hash || ':' || (x.start - d.start) // 512) AS passage
    FROM (
        SELECT c.*
        FROM contexts AS c
        SEMI JOIN chosen AS l ON l.sae = c.sae AND l.feature = c.feature
        WHERE c.split IN ('train', 'val') AND (c.kind <> 'top' OR c.split = 'train' AND c.rank <= $top)
    ) AS x
    ASOF JOIN documents AS d ON d.corpus = x.corpus AND d.start <= x.start
),
-- Features share windows: each one's text is put together once.
texts AS MATERIALIZED (
    SELECT w.corpus, w.start, w.length, list(t.text ORDER BY t.position) AS tokens
    FROM (
        SELECT *, unnest(range(start, start + length)) AS position
        FROM (SELECT DISTINCT corpus, start, length FROM wanted)
    ) AS w
    JOIN token_text AS t ON t.corpus = w.corpus AND t.position = w.position
    GROUP BY w.corpus, w.start, w.length
),
firing AS MATERIALIZED (
    SELECT a.sae, a.corpus, a.feature, a.position, a.activation
    FROM activations AS a
    SEMI JOIN chosen AS c ON c.sae = a.sae AND c.feature = a.feature
),
fired AS MATERIALIZED (
    SELECT p.sae, p.feature, p.corpus, p.start, p.length, list(coalesce(f.activation, 0) ORDER BY p.position) AS activations
    FROM (
        SELECT *, unnest(range(start, start + length)) AS position
        FROM (SELECT DISTINCT sae, feature, corpus, start, length FROM wanted)
    ) AS p
    LEFT JOIN firing AS f
        ON f.sae = p.sae AND f.corpus = p.corpus AND f.feature = p.feature AND f.position = p.position
    GROUP BY p.sae, p.feature, p.corpus, p.start, p.length
),
shown AS (
    SELECT w.*, t.tokens, f.activations
    FROM wanted AS w
    JOIN texts AS t ON t.corpus = w.corpus AND t.start = w.start AND t.length = w.length
    JOIN fired AS f
        ON f.sae = w.sae AND f.feature = w.feature AND f.corpus = w.corpus AND f.start = w.start AND f.length = w.length
),
examples AS (
    SELECT
        sae, feature,
        list({
            corpus: corpus, start: start, tokens: tokens, activations: activations, kind: kind, split: split,
            stratum: stratum, passage: passage
        } ORDER BY kind, split, stratum, rank, corpus, start) AS examples
    FROM shown
    GROUP BY sae, feature
)
SELECT
    c.sae, c.feature, e.explainer, e.provider, e.model, e.settings, r.threshold, f.percentile_99,
    r.firing / r.windows AS rate, x.examples
FROM chosen AS c
CROSS JOIN explainers AS e
LEFT JOIN feature_stats AS f ON f.sae = c.sae AND f.feature = c.feature
LEFT JOIN firing_rates AS r
    ON r.sae = c.sae AND r.feature = c.feature AND r.split = 'train' AND r.role = 'explainer' AND r.name = e.explainer
LEFT JOIN examples AS x ON x.sae = c.sae AND x.feature = c.feature
