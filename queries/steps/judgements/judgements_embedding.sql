-- step: judgements_embedding
-- writes: judgements
-- slice: protocol = 'embedding'
-- after: text_vectors
-- key: sae, feature, label_feature, explainer, scorer, protocol, corpus, example
-- input: sae, feature, label_feature, explainer, scorer
-- kernel: scoring.kernels.judgements:judgements
-- code: scoring.scorers.embedding, scoring.scorers.text_vectors, ingest.model.embed, ingest.model.text_encoder
-- asks: scoring.kernels.judgements:asks
-- doc: how near is the label to each test window, its own or one of other features (the null), by their embeddings
-- Whose label it is does not matter: the words of any can be embedded. Labels and windows of the null are drawn as in
-- the step `judgements`.
WITH mine AS (
    SELECT * FROM scorers WHERE protocol = 'embedding'
),
pairs AS (
    SELECT * FROM label_pairs WHERE protocol = 'embedding'
),
shown AS MATERIALIZED (
    SELECT * FROM scorer_windows WHERE protocol = 'embedding' AND split = 'test'
),
asked AS (
    SELECT sae, feature, scorer
    FROM shown
    GROUP BY sae, feature, scorer
    HAVING bool_or(active) AND NOT bool_and(active)
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
        x.sae, x.feature, x.scorer, any_value(x.threshold) AS threshold,
        list({
            corpus: x.corpus, start: x.start, text: t.text, activation: x.activation, active: x.active,
            stratum: x.stratum
        } ORDER BY x.corpus, x.start) AS examples
    FROM shown AS x
    SEMI JOIN asked AS z ON z.sae = x.sae AND z.feature = x.feature AND z.scorer = x.scorer
    JOIN texts AS t ON t.corpus = x.corpus AND t.start = x.start AND t.length = x.length
    GROUP BY x.sae, x.feature, x.scorer
)
SELECT
    p.sae, p.feature, p.label_feature, p.explainer, s.scorer, s.protocol, s.provider, s.model, s.settings,
    l.label, x.threshold, x.examples
FROM pairs AS p
JOIN labels AS l ON l.sae = p.sae AND l.feature = p.label_feature AND l.explainer = p.explainer
JOIN mine AS s ON s.scorer = p.scorer
JOIN examples AS x ON x.sae = p.sae AND x.feature = p.feature AND x.scorer = s.scorer
