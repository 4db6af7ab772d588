-- step: judgements_intruder
-- writes: judgements
-- slice: protocol = 'intruder'
-- key: sae, feature, label_feature, explainer, scorer, protocol, corpus, example
-- input: sae, feature, label_feature, explainer, scorer
-- kernel: scoring.kernels.judgements:judgements
-- code: scoring.scorers.intruder, scoring.scorers.marks, scoring.windows, scoring.prompts.parse
-- code: scoring.prompts.template, scoring.prompts.numbered, scoring.client.request, scoring.client.thoughts
-- asks: scoring.kernels.judgements:asks
-- prompts: intruder
-- doc: which of some marked test windows does not belong to the others: the silent one, if the feature means something
-- No label is needed, and the explainer is empty: the score is the feature's. A trial has `batch` windows: all but one
-- are firing windows next to each other in strength, one is a window in which the feature is silent.
WITH mine AS (
    -- Settings that are none are refused by the kernel, with the scorer's name.
    SELECT
        *,
        coalesce(
            TRY_CAST(CASE WHEN json_valid(settings) THEN json_extract_string(settings, '$.batch') END AS INTEGER), 5
        ) - 1 AS others
    FROM scorers
    WHERE protocol = 'intruder'
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
        c.sae, c.feature, s.scorer, s.others, s.examples, r.threshold, c.corpus, c.start, c.length, c.activation,
        c.stratum, c.rank, c.kind = 'stratum' AS fires
    FROM contexts AS c
    JOIN rates AS r ON r.sae = c.sae AND r.feature = c.feature
    JOIN mine AS s ON s.scorer = r.scorer
    WHERE
        c.split = 'test'
        AND CASE c.kind
            WHEN 'stratum' THEN c.activation > 0 AND c.activation >= r.threshold
            WHEN 'random' THEN c.activation = 0
            ELSE false
        END
),
taken AS (
    SELECT *
    FROM windows
    QUALIFY examples >= row_number() OVER (
        PARTITION BY sae, feature, scorer, fires ORDER BY rank, stratum DESC
    )
),
tried AS (
    SELECT
        *,
        CASE WHEN fires THEN (number - 1) // greatest(others, 1) ELSE number - 1 END AS trial,
        CASE WHEN fires THEN n // greatest(others, 1) ELSE n END AS trials
    FROM (
        SELECT
            *,
            row_number() OVER (
                PARTITION BY sae, feature, scorer, fires
                ORDER BY CASE WHEN fires THEN activation END DESC, rank, stratum, corpus, start
            ) AS number,
            count(*) OVER (PARTITION BY sae, feature, scorer, fires) AS n
        FROM taken
    )
),
shown AS MATERIALIZED (
    SELECT *
    FROM tried
    -- Trials that are whole on both sides.
    QUALIFY
        trial < min(trials) OVER (PARTITION BY sae, feature, scorer)
        AND bool_or(fires) OVER (PARTITION BY sae, feature, scorer)
        AND NOT bool_and(fires) OVER (PARTITION BY sae, feature, scorer)
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
    SEMI JOIN shown AS z ON z.sae = a.sae AND z.feature = a.feature
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
)
SELECT
    x.sae, x.feature, x.feature AS label_feature, '' AS explainer, s.scorer, s.protocol, s.provider, s.model,
    s.settings, any_value(x.threshold) AS threshold,
    list({
        corpus: x.corpus, start: x.start, tokens: t.tokens, activations: f.activations, activation: x.activation,
        active: x.fires, stratum: x.stratum, trial: x.trial, marks: CASE WHEN x.fires THEN 'right' ELSE 'random' END
    } ORDER BY x.trial, x.corpus, x.start) AS examples
FROM shown AS x
JOIN mine AS s ON s.scorer = x.scorer
JOIN texts AS t ON t.corpus = x.corpus AND t.start = x.start AND t.length = x.length
JOIN fired AS f
    ON f.sae = x.sae AND f.feature = x.feature AND f.corpus = x.corpus AND f.start = x.start AND f.length = x.length
GROUP BY x.sae, x.feature, s.scorer, s.protocol, s.provider, s.model, s.settings
