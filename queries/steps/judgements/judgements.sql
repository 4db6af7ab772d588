-- step: judgements
-- writes: judgements
-- key: sae, feature, label_feature, explainer, scorer, corpus, example
-- input: sae, feature, label_feature, explainer, scorer
-- kernel: scoring.kernels.judgements:judgements
-- asks: scoring.kernels.judgements:asks
-- prompts: predictor
-- doc: does the feature fire in this test window, given only a label: its own, or another feature's (the null)
-- A lexical scorer looks for the terms of a lexical label: other labels are no jobs for it, and `problems` says so.
-- The classes are of one size: as many silent windows as firing ones, drawn through the strata in turn.
WITH lists AS (
    SELECT sae, explainer, list(feature ORDER BY md5(feature::VARCHAR), feature) AS features
    FROM labels
    WHERE label IS NOT NULL
    GROUP BY sae, explainer
),
pairs AS (
    SELECT l.sae, l.feature, l.explainer, l.feature AS label_feature
    FROM labels AS l
    WHERE l.label IS NOT NULL
    UNION ALL
    SELECT
        l.sae, l.feature, l.explainer,
        f.features[list_position(f.features, l.feature) % len(f.features) + 1] AS label_feature
    FROM labels AS l
    JOIN lists AS f ON f.sae = l.sae AND f.explainer = l.explainer
    WHERE l.label IS NOT NULL AND len(f.features) > 1
),
sizes AS (
    SELECT
        c.sae, c.feature, s.scorer,
        least(count(*) FILTER (c.kind = 'stratum'), count(*) FILTER (c.kind = 'random'), s.examples) AS n
    FROM contexts AS c
    CROSS JOIN scorers AS s
    WHERE c.split = 'test'
    GROUP BY c.sae, c.feature, s.scorer, s.examples
),
shown AS MATERIALIZED (
    SELECT c.sae, c.feature, z.scorer, c.corpus, c.start, c.length, c.activation
    FROM contexts AS c
    JOIN sizes AS z ON z.sae = c.sae AND z.feature = c.feature
    WHERE c.kind IN ('stratum', 'random') AND c.split = 'test'
    QUALIFY z.n >= row_number() OVER (
        PARTITION BY c.sae, c.feature, z.scorer, c.kind ORDER BY c.rank, c.stratum, c.corpus
    )
),
places AS MATERIALIZED (
    SELECT DISTINCT corpus, start, length FROM shown
),
texts AS (
    SELECT w.corpus, w.start, w.length, list(t.text ORDER BY t.position) AS tokens
    FROM (SELECT *, unnest(range(start, start + length)) AS position FROM places) AS w
    JOIN token_text AS t ON t.corpus = w.corpus AND t.position = w.position
    GROUP BY ALL
),
examples AS (
    SELECT
        x.sae, x.feature, x.scorer,
        list({corpus: x.corpus, start: x.start, tokens: t.tokens, activation: x.activation}
            ORDER BY md5(x.corpus || ':' || x.start), x.corpus, x.start) AS examples
    FROM shown AS x
    JOIN texts AS t ON t.corpus = x.corpus AND t.start = x.start AND t.length = x.length
    GROUP BY x.sae, x.feature, x.scorer
)
SELECT
    p.sae, p.feature, p.label_feature, p.explainer, s.scorer, s.protocol, s.provider, s.model, s.settings,
    l.label, l.details, x.examples
FROM pairs AS p
JOIN labels AS l ON l.sae = p.sae AND l.feature = p.label_feature AND l.explainer = p.explainer
JOIN explainers AS e ON e.explainer = p.explainer
CROSS JOIN scorers AS s
JOIN examples AS x ON x.sae = p.sae AND x.feature = p.feature AND x.scorer = s.scorer
WHERE s.provider <> 'lexical' OR e.provider = 'lexical'
