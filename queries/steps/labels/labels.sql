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
    SELECT x.*
    FROM contexts AS x
    SEMI JOIN chosen AS c ON c.sae = x.sae AND c.feature = x.feature
    WHERE x.split IN ('train', 'val') AND (x.kind <> 'top' OR x.split = 'train' AND x.rank <= $top)
),
places AS MATERIALIZED (
    SELECT *, unnest(range(start, start + length)) AS position FROM wanted
),
texts AS MATERIALIZED (
    SELECT p.corpus, p.position, t.text
    FROM (SELECT DISTINCT corpus, position FROM places) AS p
    JOIN token_text AS t ON t.corpus = p.corpus AND t.position = p.position
),
firing AS MATERIALIZED (
    SELECT a.sae, a.corpus, a.feature, a.position, a.activation
    FROM activations AS a
    SEMI JOIN chosen AS c ON c.sae = a.sae AND c.feature = a.feature
),
shown AS (
    SELECT
        p.sae, p.feature, p.kind, p.split, p.stratum, p.rank, p.start, p.corpus,
        list(t.text ORDER BY p.position) AS tokens,
        list(coalesce(f.activation, 0) ORDER BY p.position) AS activations
    FROM places AS p
    JOIN texts AS t ON t.corpus = p.corpus AND t.position = p.position
    LEFT JOIN firing AS f
        ON f.sae = p.sae AND f.corpus = p.corpus AND f.feature = p.feature AND f.position = p.position
    GROUP BY p.sae, p.feature, p.kind, p.split, p.stratum, p.rank, p.start, p.corpus
),
examples AS (
    SELECT
        sae, feature,
        list({
            corpus: corpus, start: start, tokens: tokens, activations: activations, kind: kind, split: split,
            stratum: stratum
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
