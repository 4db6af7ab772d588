-- step: scores
-- writes: scores
-- key: sae, feature, explainer, scorer
-- param: z = 1.959964
-- doc: F1, precision, recall, balanced accuracy and AUROC of each label on test windows, with 95% intervals and its null
-- Intervals: Wilson (1927) for proportions; F1 = 2 J / (1 + J) with J = TP / (TP + FP + FN), so the ends of
-- J's Wilson interval give those of F1; balanced accuracy by the Wilson intervals of its two proportions, their
-- distances from the estimates squared and added (Newcombe 1998, method 10), so that a label that is right on each of
-- ten windows is not certain; AUROC after Hanley & McNeil (1982). What is undefined (0 / 0, one class alone) is NULL,
-- its interval too; greatest and least would pass over a NULL.
WITH counts AS (
    SELECT
        sae, feature, explainer, scorer, label_feature <> feature AS is_null, max(threshold) AS threshold,
        count(*) FILTER (predicted IS NOT NULL) AS n,
        count(*) FILTER (predicted IS NULL) AS failed,
        count(*) FILTER (active AND predicted)::DOUBLE AS tp,
        count(*) FILTER (NOT active AND predicted)::DOUBLE AS fp,
        count(*) FILTER (active AND NOT predicted)::DOUBLE AS fn,
        count(*) FILTER (NOT active AND NOT predicted)::DOUBLE AS tn
    FROM judgements
    WHERE split = 'test'
    GROUP BY ALL
),
proportions AS (
    SELECT
        sae, feature, explainer, scorer, is_null, part.name AS name, part.hits AS hits, part.trials AS m
    FROM (
        SELECT *, unnest([
            {name: 'f1', hits: tp, trials: tp + fp + fn},
            {name: 'precision', hits: tp, trials: tp + fp},
            {name: 'recall', hits: tp, trials: tp + fn},
            {name: 'specificity', hits: tn, trials: tn + fp}
        ]) AS part
        FROM counts
    )
    WHERE m > 0
),
wilson AS (
    SELECT
        sae, feature, explainer, scorer, is_null, name, hits / m AS share,
        (hits + $z * $z / 2) / (m + $z * $z) AS middle,
        $z * sqrt(hits * (m - hits) / m + $z * $z / 4) / (m + $z * $z) AS half
    FROM proportions
),
intervals AS (
    SELECT
        sae, feature, explainer, scorer, is_null,
        map(list(name), list({
            share: share, low: greatest(middle - half, 0), high: least(middle + half, 1)
        })) AS parts
    FROM wilson
    GROUP BY sae, feature, explainer, scorer, is_null
),
ranked AS (
    SELECT
        sae, feature, explainer, scorer, probability,
        count(*) FILTER (active)::DOUBLE AS p,
        count(*) FILTER (NOT active)::DOUBLE AS q
    FROM judgements
    WHERE split = 'test' AND label_feature = feature AND probability IS NOT NULL
    GROUP BY sae, feature, explainer, scorer, probability
),
curve AS (
    SELECT
        *,
        sum(q) OVER (PARTITION BY sae, feature, explainer, scorer ORDER BY probability) - q AS q_below
    FROM ranked
),
areas AS (
    SELECT
        sae, feature, explainer, scorer, sum(p) AS p, sum(q) AS q,
        sum(p * (q_below + q / 2)) / (sum(p) * sum(q)) AS auroc
    FROM curve
    GROUP BY sae, feature, explainer, scorer
    HAVING sum(p) > 0 AND sum(q) > 0
),
area_errors AS (
    SELECT
        *,
        $z * sqrt((
            auroc * (1 - auroc)
            + (p - 1) * (auroc / (2 - auroc) - auroc * auroc)
            + (q - 1) * (2 * auroc * auroc / (1 + auroc) - auroc * auroc)
        ) / (p * q)) AS half
    FROM areas
),
defined AS (
    SELECT *, parts['recall'] AS recall, parts['specificity'] AS specificity
    FROM intervals
    WHERE parts['recall'] IS NOT NULL AND parts['specificity'] IS NOT NULL
),
balanced AS (
    SELECT
        sae, feature, explainer, scorer, is_null,
        (recall.share + specificity.share) / 2 AS accuracy,
        sqrt(pow(recall.share - recall.low, 2) + pow(specificity.share - specificity.low, 2)) / 2 AS below,
        sqrt(pow(recall.high - recall.share, 2) + pow(specificity.high - specificity.share, 2)) / 2 AS above
    FROM defined
),
rates AS (
    SELECT sae, feature, name AS scorer, sum(firing) / sum(windows) AS rate
    FROM firing_rates
    WHERE role = 'scorer'
    GROUP BY sae, feature, name
)
SELECT
    c.sae,
    c.feature,
    c.explainer,
    c.scorer,
    c.n,
    c.failed,
    2 * i.parts['f1'].share / (1 + i.parts['f1'].share) AS f1,
    2 * i.parts['f1'].low / (1 + i.parts['f1'].low) AS f1_low,
    2 * i.parts['f1'].high / (1 + i.parts['f1'].high) AS f1_high,
    i.parts['precision'].share AS precision,
    i.parts['precision'].low AS precision_low,
    i.parts['precision'].high AS precision_high,
    i.parts['recall'].share AS recall,
    i.parts['recall'].low AS recall_low,
    i.parts['recall'].high AS recall_high,
    b.accuracy AS balanced_accuracy,
    b.accuracy - b.below AS balanced_accuracy_low,
    b.accuracy + b.above AS balanced_accuracy_high,
    a.auroc,
    CASE WHEN a.half IS NOT NULL THEN greatest(a.auroc - a.half, 0) END AS auroc_low,
    CASE WHEN a.half IS NOT NULL THEN least(a.auroc + a.half, 1) END AS auroc_high,
    coalesce(o.n, 0) AS n_null,
    2 * o.tp / nullif(2 * o.tp + o.fp + o.fn, 0) AS f1_null,
    d.accuracy AS balanced_accuracy_null,
    d.accuracy - d.below AS balanced_accuracy_null_low,
    d.accuracy + d.above AS balanced_accuracy_null_high,
    c.threshold,
    r.rate
FROM counts AS c
LEFT JOIN intervals AS i
    ON NOT i.is_null AND i.sae = c.sae AND i.feature = c.feature AND i.explainer = c.explainer AND i.scorer = c.scorer
LEFT JOIN balanced AS b
    ON NOT b.is_null AND b.sae = c.sae AND b.feature = c.feature AND b.explainer = c.explainer AND b.scorer = c.scorer
LEFT JOIN area_errors AS a
    ON a.sae = c.sae AND a.feature = c.feature AND a.explainer = c.explainer AND a.scorer = c.scorer
LEFT JOIN counts AS o
    ON o.is_null AND o.sae = c.sae AND o.feature = c.feature AND o.explainer = c.explainer AND o.scorer = c.scorer
LEFT JOIN balanced AS d
    ON d.is_null AND d.sae = c.sae AND d.feature = c.feature AND d.explainer = c.explainer AND d.scorer = c.scorer
LEFT JOIN rates AS r ON r.sae = c.sae AND r.feature = c.feature AND r.scorer = c.scorer
WHERE NOT c.is_null
