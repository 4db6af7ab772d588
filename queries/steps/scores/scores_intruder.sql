-- step: scores_intruder
-- writes: scores
-- slice: protocol = 'intruder'
-- key: sae, feature, explainer, scorer, protocol
-- param: z = 1.959964
-- doc: in which share of trials the intruder was found, with its 95% interval and what guessing finds
-- A trial has one silent window, which is found if all of its windows but that one are said to belong. The interval is
-- Wilson's (1927). There is no null of other labels: a guess finds one of as many as a trial has windows.
WITH counts AS (
    SELECT
        sae, feature, explainer, scorer, max(threshold) AS threshold,
        count(*) FILTER (NOT active AND predicted IS NOT NULL)::DOUBLE AS n,
        count(*) FILTER (NOT active AND predicted IS NULL) AS failed,
        count(*) FILTER (NOT active AND NOT predicted)::DOUBLE AS found,
        count(*) FILTER (NOT active) / count(*) AS chance
    FROM judgements
    WHERE split = 'test' AND protocol = 'intruder'
    GROUP BY sae, feature, explainer, scorer
),
rates AS (
    SELECT sae, feature, name AS scorer, sum(firing) / sum(windows) AS rate
    FROM firing_rates
    WHERE role = 'scorer'
    GROUP BY sae, feature, name
),
wilson AS (
    SELECT
        *,
        (found + $z * $z / 2) / (n + $z * $z) AS middle,
        $z * sqrt(found * (n - found) / nullif(n, 0) + $z * $z / 4) / (n + $z * $z) AS half
    FROM counts
)
SELECT
    w.sae,
    w.feature,
    w.explainer,
    w.scorer,
    'intruder' AS protocol,
    w.n::BIGINT AS n,
    w.failed,
    w.found / nullif(w.n, 0) AS accuracy,
    w.middle - w.half AS accuracy_low,
    w.middle + w.half AS accuracy_high,
    w.chance,
    0 AS n_null,
    NULL::DOUBLE AS f1,
    NULL::DOUBLE AS f1_low,
    NULL::DOUBLE AS f1_high,
    NULL::DOUBLE AS precision,
    NULL::DOUBLE AS precision_low,
    NULL::DOUBLE AS precision_high,
    NULL::DOUBLE AS recall,
    NULL::DOUBLE AS recall_low,
    NULL::DOUBLE AS recall_high,
    NULL::DOUBLE AS balanced_accuracy,
    NULL::DOUBLE AS balanced_accuracy_low,
    NULL::DOUBLE AS balanced_accuracy_high,
    NULL::DOUBLE AS auroc,
    NULL::DOUBLE AS auroc_low,
    NULL::DOUBLE AS auroc_high,
    NULL::DOUBLE AS average_precision,
    NULL::DOUBLE AS average_precision_low,
    NULL::DOUBLE AS average_precision_high,
    NULL::DOUBLE AS f1_null,
    NULL::DOUBLE AS balanced_accuracy_null,
    NULL::DOUBLE AS balanced_accuracy_null_low,
    NULL::DOUBLE AS balanced_accuracy_null_high,
    NULL::DOUBLE AS auroc_null,
    NULL::DOUBLE AS auroc_null_low,
    NULL::DOUBLE AS auroc_null_high,
    NULL::DOUBLE AS average_precision_null,
    w.threshold,
    r.rate
FROM wilson AS w
LEFT JOIN rates AS r ON r.sae = w.sae AND r.feature = w.feature AND r.scorer = w.scorer
