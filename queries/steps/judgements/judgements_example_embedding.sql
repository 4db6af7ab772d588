-- step: judgements_example_embedding
-- writes: judgements
-- slice: protocol = 'example_embedding'
-- after: text_vectors
-- key: sae, feature, label_feature, explainer, scorer, protocol, corpus, example
-- input: sae, feature, label_feature, explainer, scorer
-- kernel: scoring.kernels.judgements:judgements
-- code: scoring.scorers.example_embedding, scoring.scorers.text_vectors
-- code: ingest.model.embed, ingest.model.text_encoder
-- asks: scoring.kernels.judgements:asks
-- doc: is each test window nearer to firing train windows than to others, the feature's own or another's (the null)
-- No label is needed, and the explainer is empty: the score is the feature's.
WITH mine AS (
    SELECT * FROM scorers WHERE protocol = 'example_embedding'
),
shown AS MATERIALIZED (
    SELECT * FROM scorer_windows WHERE protocol = 'example_embedding'
),
texts AS MATERIALIZED (
    SELECT w.corpus, w.start, w.length, md5(string_agg(t.text, '' ORDER BY t.position)) AS text
    FROM (
        SELECT *, unnest(range(start, start + length)) AS position
        FROM (SELECT DISTINCT corpus, start, length FROM shown)
    ) AS w
    JOIN token_text AS t ON t.corpus = w.corpus AND t.position = w.position
    GROUP BY ALL
),
examples AS (
    SELECT
        x.sae, x.feature, x.scorer, x.split, any_value(x.threshold) AS threshold,
        list({
            corpus: x.corpus, start: x.start, text: t.text, activation: x.activation, active: x.active,
            stratum: x.stratum
        } ORDER BY x.corpus, x.start) AS examples
    FROM shown AS x
    JOIN texts AS t ON t.corpus = x.corpus AND t.start = x.start AND t.length = x.length
    GROUP BY x.sae, x.feature, x.scorer, x.split
    HAVING bool_or(x.active) AND NOT bool_and(x.active)
),
lists AS (
    SELECT sae, scorer, list(feature ORDER BY md5(feature::VARCHAR), feature) AS features
    FROM examples
    WHERE split = 'train'
    GROUP BY sae, scorer
),
pairs AS (
    SELECT
        sae, feature, scorer,
        features[(list_position(features, feature) - 1 + step) % len(features) + 1] AS label_feature
    FROM (
        SELECT x.sae, x.feature, x.scorer, f.features, unnest(range(0, s.nulls + 1)) AS step
        FROM examples AS x
        JOIN lists AS f ON f.sae = x.sae AND f.scorer = x.scorer
        JOIN mine AS s ON s.scorer = x.scorer
        WHERE x.split = 'train'
    )
    WHERE step < len(features)
)
SELECT
    p.sae, p.feature, p.label_feature, '' AS explainer, s.scorer, s.protocol, s.provider, s.model, s.settings,
    x.threshold, x.examples, n.examples AS train
FROM pairs AS p
JOIN mine AS s ON s.scorer = p.scorer
JOIN examples AS x ON x.sae = p.sae AND x.feature = p.feature AND x.scorer = p.scorer AND x.split = 'test'
JOIN examples AS n
    ON n.sae = p.sae AND n.feature = p.label_feature AND n.scorer = p.scorer AND n.split = 'train'
