-- step: scores
-- writes: scores
-- slice: protocol IN ('detection', 'embedding', 'example_embedding', 'fuzzing')
-- key: sae, feature, explainer, scorer, protocol
-- param: z = 1.959964
-- doc: F1, balanced accuracy, AUROC, average precision of each label on test windows, with 95% intervals and its null
-- Both classes weigh alike, however many windows of each were judged: with r the share of firing windows that are said
-- to fire and f that of the others, precision is r / (r + f), F1 is 2 r / (r + f + 1), balanced accuracy (r + 1 - f) / 2.
-- Intervals: Wilson (1927) for r and f; of what follows from both, the changes that the near end of each interval makes
-- are squared and added (Newcombe 1998, method 10; Donner & Zou 2010), so that a label that is right on each of ten
-- windows is not certain; AUROC after Hanley & McNeil (1982); of average precision, the binomial interval over the
-- firing windows (Boyd, Eng & Page 2013), as Wilson forms it. A judge that answers by similarity alone has AUROC and
-- average precision, and no F1. What is undefined (0 / 0, one class alone) is NULL, its interval too; greatest and least
-- would pass over a NULL.
-- Of the null, the labels of several other features, the mean shares count. Labels share the windows, and windows the
-- labels: the variance of a mean share is at most that between windows / windows + that between labels / labels, and
-- Wilson's interval is that of as many windows as one label would need for it (the effective sample size, Kish 1965).
WITH by_label AS (
    SELECT
        sae, feature, explainer, scorer, protocol, label_feature, label_feature <> feature AS is_null,
        max(threshold) AS threshold,
        count(*) FILTER (predicted IS NOT NULL OR similarity IS NOT NULL) AS n,
        count(*) FILTER (predicted IS NULL AND similarity IS NULL) AS failed,
        count(*) FILTER (active AND predicted)::DOUBLE AS tp,
        count(*) FILTER (NOT active AND predicted)::DOUBLE AS fp,
        count(*) FILTER (active AND NOT predicted)::DOUBLE AS fn,
        count(*) FILTER (NOT active AND NOT predicted)::DOUBLE AS tn
    FROM judgements
    WHERE split = 'test' AND protocol IN ('detection', 'embedding', 'example_embedding', 'fuzzing')
    GROUP BY sae, feature, explainer, scorer, protocol, label_feature
),
counts AS (
    SELECT
        sae, feature, explainer, scorer, protocol, is_null, max(threshold) AS threshold, count(*) AS labels,
        max(n) AS n, max(failed) AS failed, avg(tp) AS tp, avg(fp) AS fp, avg(fn) AS fn, avg(tn) AS tn,
        coalesce(var_samp(tp / nullif(tp + fn, 0)), 0) AS r_of_labels,
        coalesce(var_samp(fp / nullif(tn + fp, 0)), 0) AS f_of_labels
    FROM by_label
    GROUP BY sae, feature, explainer, scorer, protocol, is_null
),
by_window AS (
    SELECT
        sae, feature, explainer, scorer, protocol, label_feature <> feature AS is_null, active,
        avg(predicted::INTEGER) AS said
    FROM judgements
    WHERE
        split = 'test' AND predicted IS NOT NULL
        AND protocol IN ('detection', 'embedding', 'example_embedding', 'fuzzing')
    GROUP BY sae, feature, explainer, scorer, protocol, label_feature <> feature, active, corpus, example
),
of_windows AS (
    SELECT
        sae, feature, explainer, scorer, protocol, is_null,
        coalesce(var_samp(said) FILTER (active), 0) AS r_of_windows,
        coalesce(var_samp(said) FILTER (NOT active), 0) AS f_of_windows
    FROM by_window
    GROUP BY sae, feature, explainer, scorer, protocol, is_null
),
variances AS (
    SELECT
        c.*,
        tp + fn AS windows, tn + fp AS others,
        tp / nullif(tp + fn, 0) AS r, fp / nullif(tn + fp, 0) AS f,
        w.r_of_windows / nullif(tp + fn, 0) + c.r_of_labels / labels AS r_variance,
        w.f_of_windows / nullif(tn + fp, 0) + c.f_of_labels / labels AS f_variance
    FROM counts AS c
    LEFT JOIN of_windows AS w
        ON w.is_null = c.is_null AND w.sae = c.sae AND w.feature = c.feature
        AND w.explainer = c.explainer AND w.scorer = c.scorer AND w.protocol = c.protocol
),
sizes AS (
    SELECT
        *,
        CASE WHEN is_null AND r_variance > 0
            THEN greatest(least(r * (1 - r) / r_variance, windows * labels), windows) ELSE windows END AS r_n,
        CASE WHEN is_null AND f_variance > 0
            THEN greatest(least(f * (1 - f) / f_variance, others * labels), others) ELSE others END AS f_n
    FROM variances
),
wilson AS (
    SELECT
        sae, feature, explainer, scorer, protocol, is_null, r, f,
        (r * r_n + $z * $z / 2) / (r_n + $z * $z) AS r_middle,
        $z * sqrt(r_n * r * (1 - r) + $z * $z / 4) / (r_n + $z * $z) AS r_half,
        (f * f_n + $z * $z / 2) / (f_n + $z * $z) AS f_middle,
        $z * sqrt(f_n * f * (1 - f) + $z * $z / 4) / (f_n + $z * $z) AS f_half
    FROM sizes
),
shares AS (
    SELECT
        sae, feature, explainer, scorer, protocol, is_null, r, f,
        CASE WHEN r IS NOT NULL THEN greatest(r_middle - r_half, 0) END AS r_low,
        CASE WHEN r IS NOT NULL THEN least(r_middle + r_half, 1) END AS r_high,
        CASE WHEN f IS NOT NULL THEN greatest(f_middle - f_half, 0) END AS f_low,
        CASE WHEN f IS NOT NULL THEN least(f_middle + f_half, 1) END AS f_high
    FROM wilson
),
-- Each figure at the estimates, and with one of them at the end of its interval that makes the figure smaller or larger.
figures AS (
    SELECT
        *,
        r / nullif(r + f, 0) AS p,
        r_low / nullif(r_low + f, 0) AS p_r_low,
        r_high / nullif(r_high + f, 0) AS p_r_high,
        r / nullif(r + f_high, 0) AS p_f_high,
        r / nullif(r + f_low, 0) AS p_f_low,
        2 * r / (r + f + 1) AS f1,
        2 * r_low / (r_low + f + 1) AS f1_r_low,
        2 * r_high / (r_high + f + 1) AS f1_r_high,
        2 * r / (r + f_high + 1) AS f1_f_high,
        2 * r / (r + f_low + 1) AS f1_f_low
    FROM shares
),
intervals AS (
    SELECT
        *,
        -- With f = 0 and r at its low end 0 the precision is 1, as at any r: it does not depend on r.
        p - sqrt(pow(p - coalesce(p_r_low, p), 2) + pow(p - p_f_high, 2)) AS p_low,
        p + sqrt(pow(p_r_high - p, 2) + pow(coalesce(p_f_low, p) - p, 2)) AS p_high,
        f1 - sqrt(pow(f1 - f1_r_low, 2) + pow(f1 - f1_f_high, 2)) AS f1_low,
        f1 + sqrt(pow(f1_r_high - f1, 2) + pow(f1_f_low - f1, 2)) AS f1_high,
        (r + 1 - f) / 2 AS accuracy,
        sqrt(pow(r - r_low, 2) + pow(f_high - f, 2)) / 2 AS below,
        sqrt(pow(r_high - r, 2) + pow(f - f_low, 2)) / 2 AS above
    FROM figures
),
ranked AS (
    SELECT
        sae, feature, explainer, scorer, label_feature, coalesce(probability, similarity) AS value,
        count(*) FILTER (active)::DOUBLE AS p,
        count(*) FILTER (NOT active)::DOUBLE AS q
    FROM judgements
    WHERE
        split = 'test' AND protocol IN ('detection', 'embedding', 'example_embedding', 'fuzzing')
        AND (probability IS NOT NULL OR similarity IS NOT NULL)
    GROUP BY sae, feature, explainer, scorer, label_feature, coalesce(probability, similarity)
),
curve AS (
    SELECT
        *,
        sum(q) OVER (PARTITION BY sae, feature, explainer, scorer, label_feature ORDER BY value) - q AS q_below,
        sum(p) OVER (PARTITION BY sae, feature, explainer, scorer, label_feature ORDER BY value DESC) AS p_from,
        sum(q) OVER (PARTITION BY sae, feature, explainer, scorer, label_feature ORDER BY value DESC) AS q_from,
        sum(p) OVER (PARTITION BY sae, feature, explainer, scorer, label_feature) AS p_all,
        sum(q) OVER (PARTITION BY sae, feature, explainer, scorer, label_feature) AS q_all
    FROM ranked
),
by_curve AS (
    SELECT
        sae, feature, explainer, scorer, label_feature, sum(p) AS p, sum(q) AS q,
        sum(p * (q_below + q / 2)) / (sum(p) * sum(q)) AS auroc,
        -- Sums of fractions differ with their order.
        list_sum(
            list(p / p_all * (p_from / p_all) / (p_from / p_all + q_from / q_all) ORDER BY value) FILTER (p > 0)
        ) AS average_precision
    FROM curve
    WHERE p_all > 0 AND q_all > 0
    GROUP BY sae, feature, explainer, scorer, label_feature
),
areas AS (
    SELECT
        sae, feature, explainer, scorer, label_feature <> feature AS is_null, max(p) AS p, max(q) AS q,
        list_avg(list(auroc ORDER BY label_feature)) AS auroc,
        list_avg(list(average_precision ORDER BY label_feature)) AS average_precision
    FROM by_curve
    GROUP BY sae, feature, explainer, scorer, label_feature <> feature
),
area_intervals AS (
    SELECT
        *,
        $z * sqrt((
            auroc * (1 - auroc)
            + (p - 1) * (auroc / (2 - auroc) - auroc * auroc)
            + (q - 1) * (2 * auroc * auroc / (1 + auroc) - auroc * auroc)
        ) / (p * q)) AS half,
        (average_precision * p + $z * $z / 2) / (p + $z * $z) AS ap_middle,
        $z * sqrt(p * average_precision * (1 - average_precision) + $z * $z / 4) / (p + $z * $z) AS ap_half
    FROM areas
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
    c.protocol,
    c.n,
    c.failed,
    i.f1,
    CASE WHEN i.f1 IS NOT NULL THEN greatest(i.f1_low, 0) END AS f1_low,
    CASE WHEN i.f1 IS NOT NULL THEN least(i.f1_high, 1) END AS f1_high,
    i.p AS precision,
    CASE WHEN i.p IS NOT NULL THEN greatest(i.p_low, 0) END AS precision_low,
    CASE WHEN i.p IS NOT NULL THEN least(i.p_high, 1) END AS precision_high,
    i.r AS recall,
    i.r_low AS recall_low,
    i.r_high AS recall_high,
    i.accuracy AS balanced_accuracy,
    i.accuracy - i.below AS balanced_accuracy_low,
    i.accuracy + i.above AS balanced_accuracy_high,
    a.auroc,
    CASE WHEN a.half IS NOT NULL THEN greatest(a.auroc - a.half, 0) END AS auroc_low,
    CASE WHEN a.half IS NOT NULL THEN least(a.auroc + a.half, 1) END AS auroc_high,
    a.average_precision,
    a.ap_middle - a.ap_half AS average_precision_low,
    a.ap_middle + a.ap_half AS average_precision_high,
    coalesce(o.n, 0) AS n_null,
    d.f1 AS f1_null,
    d.accuracy AS balanced_accuracy_null,
    d.accuracy - d.below AS balanced_accuracy_null_low,
    d.accuracy + d.above AS balanced_accuracy_null_high,
    b.auroc AS auroc_null,
    CASE WHEN b.half IS NOT NULL THEN greatest(b.auroc - b.half, 0) END AS auroc_null_low,
    CASE WHEN b.half IS NOT NULL THEN least(b.auroc + b.half, 1) END AS auroc_null_high,
    b.average_precision AS average_precision_null,
    NULL::DOUBLE AS accuracy,
    NULL::DOUBLE AS accuracy_low,
    NULL::DOUBLE AS accuracy_high,
    NULL::DOUBLE AS chance,
    c.threshold,
    r.rate
FROM counts AS c
LEFT JOIN intervals AS i
    ON NOT i.is_null AND i.sae = c.sae AND i.feature = c.feature AND i.explainer = c.explainer AND i.scorer = c.scorer
LEFT JOIN area_intervals AS a
    ON NOT a.is_null AND a.sae = c.sae AND a.feature = c.feature AND a.explainer = c.explainer AND a.scorer = c.scorer
LEFT JOIN area_intervals AS b
    ON b.is_null AND b.sae = c.sae AND b.feature = c.feature AND b.explainer = c.explainer AND b.scorer = c.scorer
LEFT JOIN counts AS o
    ON o.is_null AND o.sae = c.sae AND o.feature = c.feature AND o.explainer = c.explainer AND o.scorer = c.scorer
LEFT JOIN intervals AS d
    ON d.is_null AND d.sae = c.sae AND d.feature = c.feature AND d.explainer = c.explainer AND d.scorer = c.scorer
LEFT JOIN rates AS r ON r.sae = c.sae AND r.feature = c.feature AND r.scorer = c.scorer
WHERE NOT c.is_null
