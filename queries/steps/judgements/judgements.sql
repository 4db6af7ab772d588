-- step: judgements
-- writes: judgements
-- slice: protocol = 'detection'
-- key: sae, feature, label_feature, explainer, scorer, protocol, corpus, example
-- input: sae, feature, label_feature, explainer, scorer
-- kernel: scoring.kernels.judgements:judgements
-- code: scoring.scorers.detection_rows, scoring.scorers.detection, scoring.scorers.lexical_detection
-- code: scoring.label_rules, scoring.window_terms, scoring.word_classes, ingest.model.word_vectors
-- code: scoring.windows, scoring.prompts.parse, scoring.prompts.template, scoring.prompts.numbered
-- code: scoring.client.request, scoring.client.thoughts
-- asks: scoring.kernels.judgements:asks
-- prompts: predictor
-- doc: does the feature fire in this test window, given only a label: its own, or one of other features (the null)
-- A lexical scorer looks for the terms of a lexical label: other labels are no jobs for it, and `problems` says so.
-- A window fires if the feature is above zero in it and reaches the scorer's threshold. All other windows are of the
-- other class, those in which it stays below the threshold too, in the proportion in which text has them: only so do
-- the two classes make up all windows. Of each class up to `examples` windows are shown, drawn through the strata in
-- turn; a feature that fires seldom has fewer firing ones, and as many others as any. `scores` weighs classes alike.
-- A feature that fires in more than half of all windows is not asked about: any text would do for it.
WITH mine AS (
    SELECT * FROM scorers WHERE protocol = 'detection'
),
pairs AS (
    SELECT * FROM label_pairs WHERE protocol = 'detection'
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
        c.sae, c.feature, r.scorer, r.threshold, c.stratum, c.rank, c.corpus, c.start, c.length, c.activation,
        c.activation > 0 AND c.activation >= r.threshold AS active
    FROM contexts AS c
    JOIN rates AS r ON r.sae = c.sae AND r.feature = c.feature
    WHERE c.split = 'test' AND c.kind IN ('stratum', 'random') AND (c.kind = 'stratum') = active
),
asked AS (
    SELECT sae, feature, scorer
    FROM windows
    GROUP BY sae, feature, scorer
    HAVING bool_or(active) AND NOT bool_and(active)
),
shown AS MATERIALIZED (
    SELECT w.*
    FROM windows AS w
    JOIN mine AS s ON s.scorer = w.scorer
    SEMI JOIN asked AS z ON z.sae = w.sae AND z.feature = w.feature AND z.scorer = w.scorer
    QUALIFY s.examples >= row_number() OVER (
        PARTITION BY w.sae, w.feature, w.scorer, w.active ORDER BY w.rank, w.stratum DESC
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
        x.sae, x.feature, x.scorer, x.threshold,
        list({
            corpus: x.corpus, start: x.start, tokens: t.tokens, activation: x.activation, active: x.active,
            stratum: x.stratum
        } ORDER BY md5(x.corpus || ':' || x.start), x.corpus, x.start) AS examples
    FROM shown AS x
    JOIN texts AS t ON t.corpus = x.corpus AND t.start = x.start AND t.length = x.length
    GROUP BY x.sae, x.feature, x.scorer, x.threshold
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
