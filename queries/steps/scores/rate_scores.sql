-- step: rate_scores
-- writes: rate_scores
-- key: sae, feature, explainer, scorer
-- input: sae, feature, explainer, scorer
-- kernel: scoring.kernels.rate_scores:rate_scores
-- doc: each label's figures at the rate at which its feature fires, with intervals by bootstrap over documents
-- A firing window stands for as many as its stratum has of them for each one that was judged: the stratum's share, of
-- that the part from the threshold on, divided by the judged. Other windows were drawn at random over all text.
WITH judged AS MATERIALIZED (
    SELECT *
    FROM judgements
    WHERE
        split = 'test' AND protocol IN ('detection', 'embedding')
        AND (predicted IS NOT NULL OR similarity IS NOT NULL)
),
own AS (
    SELECT * FROM judged WHERE label_feature = feature
),
null_said AS (
    SELECT sae, feature, explainer, scorer, corpus, example, avg(predicted::INTEGER) AS others
    FROM judged
    WHERE label_feature <> feature
    GROUP BY sae, feature, explainer, scorer, corpus, example
),
strata AS (
    SELECT
        j.sae, j.feature, j.scorer, c.stratum, any_value(c.share) AS share,
        count(*) FILTER (c.activation > 0 AND c.activation >= j.threshold) / count(*) AS reaches
    FROM (SELECT DISTINCT sae, feature, scorer, threshold FROM own) AS j
    JOIN contexts AS c ON c.sae = j.sae AND c.feature = j.feature AND c.kind = 'stratum' AND c.split = 'test'
    GROUP BY j.sae, j.feature, j.scorer, c.stratum
),
placed AS (
    SELECT
        o.*, d.document,
        count(*) FILTER (o.active) OVER (
            PARTITION BY o.sae, o.feature, o.explainer, o.scorer, o.stratum
        ) AS of_stratum
    FROM own AS o
    ASOF JOIN documents AS d ON d.corpus = o.corpus AND d.start <= o.example
),
numbered AS (
    SELECT *, dense_rank() OVER (PARTITION BY sae, feature, explainer, scorer ORDER BY corpus, document) AS place
    FROM placed
),
rates AS (
    SELECT sae, feature, name AS scorer, sum(firing) / sum(windows) AS rate
    FROM firing_rates
    WHERE role = 'scorer'
    GROUP BY sae, feature, name
)
SELECT
    n.sae, n.feature, n.explainer, n.scorer, r.rate,
    list({
        active: n.active,
        weight: CASE WHEN n.active THEN s.share * s.reaches / n.of_stratum END,
        predicted: n.predicted,
        score: coalesce(n.probability, n.similarity),
        others: o.others,
        document: n.place
    } ORDER BY n.corpus, n.example) AS windows
FROM numbered AS n
JOIN rates AS r ON r.sae = n.sae AND r.feature = n.feature AND r.scorer = n.scorer
LEFT JOIN strata AS s ON s.sae = n.sae AND s.feature = n.feature AND s.scorer = n.scorer AND s.stratum = n.stratum
LEFT JOIN null_said AS o
    ON o.sae = n.sae AND o.feature = n.feature AND o.explainer = n.explainer AND o.scorer = n.scorer
    AND o.corpus = n.corpus AND o.example = n.example
GROUP BY n.sae, n.feature, n.explainer, n.scorer, r.rate
