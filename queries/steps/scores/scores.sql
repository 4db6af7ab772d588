-- step: scores
-- writes: scores
-- key: sae, feature, explainer, scorer
-- param: z = 1.959964
-- doc: F1, precision, recall, balanced accuracy and AUROC of each label on test windows, with 95% intervals
-- Intervals: Wilson (1927) for proportions; F1 = 2 J / (1 + J) with J = TP / (TP + FP + FN), so the ends of
-- J's Wilson interval give those of F1; AUROC after Hanley & McNeil (1982). What is undefined (0 / 0, one class
-- alone) is NULL, its interval too; greatest and least would pass over a NULL.
WITH counts AS (
    SELECT
        sae, feature, explainer, scorer, label_feature <> feature AS is_null,
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
        sae, feature, explainer, scorer, part.name AS name, part.hits AS hits, part.trials AS m
    FROM (
        SELECT *, unnest([
            {name: 'f1', hits: tp, trials: tp + fp + fn},
            {name: 'precision', hits: tp, trials: tp + fp},
            {name: 'recall', hits: tp, trials: tp + fn}
        ]) AS part
        FROM counts
        WHERE NOT is_null
    )
    WHERE m > 0
),
wilson AS (
    SELECT
        sae, feature, explainer, scorer, name, hits / m AS share,
        (hits + $z * $z / 2) / (m + $z * $z) AS middle,
        $z * sqrt(hits * (m - hits) / m + $z * $z / 4) / (m + $z * $z) AS half
    FROM proportions
),
intervals AS (
    SELECT
        sae, feature, explainer, scorer,
        map(list(name), list({
            share: share, low: greatest(middle - half, 0), high: least(middle + half, 1)
        })) AS parts
    FROM wilson
    GROUP BY sae, feature, explainer, scorer
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
balanced AS (
    SELECT
        sae, feature, explainer, scorer,
        (tp / (tp + fn) + tn / (tn + fp)) / 2 AS accuracy,
        $z / 2 * sqrt(tp * fn / pow(tp + fn, 3) + tn * fp / pow(tn + fp, 3)) AS half
    FROM counts
    WHERE NOT is_null AND tp + fn > 0 AND tn + fp > 0
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
    CASE WHEN b.half IS NOT NULL THEN greatest(b.accuracy - b.half, 0) END AS balanced_accuracy_low,
    CASE WHEN b.half IS NOT NULL THEN least(b.accuracy + b.half, 1) END AS balanced_accuracy_high,
    a.auroc,
    CASE WHEN a.half IS NOT NULL THEN greatest(a.auroc - a.half, 0) END AS auroc_low,
    CASE WHEN a.half IS NOT NULL THEN least(a.auroc + a.half, 1) END AS auroc_high,
    coalesce(o.n, 0) AS n_null,
    2 * o.tp / nullif(2 * o.tp + o.fp + o.fn, 0) AS f1_null
FROM counts AS c
LEFT JOIN intervals AS i
    ON i.sae = c.sae AND i.feature = c.feature AND i.explainer = c.explainer AND i.scorer = c.scorer
LEFT JOIN balanced AS b
    ON b.sae = c.sae AND b.feature = c.feature AND b.explainer = c.explainer AND b.scorer = c.scorer
LEFT JOIN area_errors AS a
    ON a.sae = c.sae AND a.feature = c.feature AND a.explainer = c.explainer AND a.scorer = c.scorer
LEFT JOIN counts AS o
    ON o.is_null AND o.sae = c.sae AND o.feature = c.feature AND o.explainer = c.explainer AND o.scorer = c.scorer
WHERE NOT c.is_null
