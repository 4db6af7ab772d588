-- step: judgements_fuzzing
-- writes: judgements
-- slice: protocol = 'fuzzing'
-- key: sae, feature, label_feature, explainer, scorer, protocol, corpus, example
-- input: sae, feature, label_feature, explainer, scorer
-- kernel: scoring.kernels.judgements:judgements
-- code: scoring.scorers.fuzzing, scoring.scorers.marks, scoring.scorers.detection, scoring.scorers.lexical_detection
-- code: scoring.label_rules, scoring.window_terms, scoring.word_classes, ingest.model.word_vectors
-- code: scoring.windows, scoring.prompts.parse, scoring.prompts.template, scoring.prompts.numbered
-- code: scoring.client.request, scoring.client.thoughts
-- asks: scoring.kernels.judgements:asks
-- prompts: fuzzer
-- doc: do the marked tokens of a test window fit the label, its own or one of other features (the null)
-- Right marks stand in firing windows on the tokens that reach the threshold. By the scorer's setting `negatives`, the
-- other class are random marks in windows in which the feature is silent, or wrong marks in firing windows: then half of
-- twice as many firing windows, by hash, are marked wrongly. Labels of the null are drawn as in the step `judgements`.
WITH mine AS (
    -- Settings that are none are refused by the kernel, with the scorer's name.
    SELECT
        *,
        CASE
            WHEN json_valid(settings) AND json_extract_string(settings, '$.negatives') = 'firing' THEN 'firing'
            ELSE 'silent'
        END AS negatives
    FROM scorers
    WHERE protocol = 'fuzzing'
),
pairs AS (
    SELECT * FROM label_pairs WHERE protocol = 'fuzzing'
),
rates AS MATERIALIZED (
    SELECT sae, feature, name AS scorer, any_value(threshold) AS threshold
    FROM firing_rates
    SEMI JOIN mine AS m ON m.scorer = name
    WHERE role = 'scorer'
    GROUP BY sae, feature, name
    HAVING sum(firing) <= 0.5 * sum(windows)
),
windows AS (
    SELECT
        c.sae, c.feature, s.scorer, s.negatives, s.examples, r.threshold, c.corpus, c.start, c.length, c.activation,
        c.stratum, c.rank, c.kind = 'stratum' AS fires
    FROM contexts AS c
    JOIN rates AS r ON r.sae = c.sae AND r.feature = c.feature
    JOIN mine AS s ON s.scorer = r.scorer
    WHERE
        c.split = 'test'
        AND CASE c.kind
            WHEN 'stratum' THEN c.activation > 0 AND c.activation >= r.threshold
            WHEN 'random' THEN c.activation = 0 AND s.negatives = 'silent'
            ELSE false
        END
),
taken AS (
    SELECT *
    FROM windows
    QUALIFY CASE negatives WHEN 'firing' THEN 2 * examples ELSE examples END >= row_number() OVER (
        PARTITION BY sae, feature, scorer, fires ORDER BY rank, stratum DESC
    )
),
shown AS MATERIALIZED (
    SELECT
        *,
        CASE
            WHEN NOT fires THEN 'random'
            WHEN negatives = 'firing' AND row_number() OVER (
                PARTITION BY sae, feature, scorer, fires ORDER BY md5(corpus || ':' || start), corpus, start
            ) % 2 = 0 THEN 'wrong'
            ELSE 'right'
        END AS marks
    FROM taken
),
asked AS (
    SELECT sae, feature, scorer
    FROM shown
    GROUP BY sae, feature, scorer
    HAVING bool_or(marks = 'right') AND bool_or(marks <> 'right')
),
texts AS MATERIALIZED (
    SELECT w.corpus, w.start, w.length, list(t.text ORDER BY t.position) AS tokens
    FROM (
        SELECT *, unnest(range(start, start + length)) AS position
        FROM (SELECT DISTINCT corpus, start, length FROM shown)
    ) AS w
    JOIN token_text AS t ON t.corpus = w.corpus AND t.position = w.position
    GROUP BY ALL
),
firing AS MATERIALIZED (
    SELECT a.sae, a.corpus, a.feature, a.position, a.activation
    FROM activations AS a
    SEMI JOIN asked AS z ON z.sae = a.sae AND z.feature = a.feature
),
fired AS MATERIALIZED (
    SELECT p.sae, p.feature, p.corpus, p.start, p.length, list(coalesce(f.activation, 0) ORDER BY p.position) AS activations
    FROM (
        SELECT *, unnest(range(start, start + length)) AS position
        FROM (SELECT DISTINCT sae, feature, corpus, start, length FROM shown)
    ) AS p
    LEFT JOIN firing AS f
        ON f.sae = p.sae AND f.corpus = p.corpus AND f.feature = p.feature AND f.position = p.position
    GROUP BY p.sae, p.feature, p.corpus, p.start, p.length
),
examples AS (
    SELECT
        x.sae, x.feature, x.scorer, any_value(x.threshold) AS threshold,
        list({
            corpus: x.corpus, start: x.start, tokens: t.tokens, activations: f.activations, activation: x.activation,
            active: x.marks = 'right', stratum: x.stratum, marks: x.marks
        } ORDER BY md5(x.corpus || ':' || x.start), x.corpus, x.start) AS examples
    FROM shown AS x
    SEMI JOIN asked AS z ON z.sae = x.sae AND z.feature = x.feature AND z.scorer = x.scorer
    JOIN texts AS t ON t.corpus = x.corpus AND t.start = x.start AND t.length = x.length
    JOIN fired AS f
        ON f.sae = x.sae AND f.feature = x.feature AND f.corpus = x.corpus AND f.start = x.start AND f.length = x.length
    GROUP BY x.sae, x.feature, x.scorer
)
SELECT
    p.sae, p.feature, p.label_feature, p.explainer, s.scorer, s.protocol, s.provider, s.model, s.settings,
    l.label, l.details, x.threshold, x.examples
FROM pairs AS p
JOIN labels AS l ON l.sae = p.sae AND l.feature = p.label_feature AND l.explainer = p.explainer
JOIN explainers AS e ON e.explainer = p.explainer
JOIN mine AS s ON s.scorer = p.scorer
JOIN examples AS x ON x.sae = p.sae AND x.feature = p.feature AND x.scorer = s.scorer
WHERE s.provider <> 'lexical' OR e.provider = 'lexical'
