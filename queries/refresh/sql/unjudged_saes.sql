-- What of an SAE goes without labels or scores as a whole, a row each for `problems`: steps that find nothing to do there
-- would say nothing, or the same of each feature.
WITH windows AS (
    SELECT c.sae, c.split, count(*) FILTER (c.kind <> 'random') AS firing, count(*) FILTER (c.kind = 'stratum') AS drawn,
        count(*) FILTER (c.kind = 'random' AND c.activation = 0) AS silent
    FROM contexts AS c
    SEMI JOIN shortlist AS l ON l.sae = c.sae AND l.feature = c.feature
    GROUP BY c.sae, c.split
),
labelled AS (
    SELECT l.sae, count(l.label) AS labels
    FROM labels AS l
    SEMI JOIN shortlist AS s ON s.sae = l.sae AND s.feature = l.feature
    GROUP BY l.sae
)
SELECT
    'shortlist' AS stage,
    concat('SAE ', s.sae, ', concept ', s.concept) AS subject,
    'no feature that fires often enough (shortlist.min_firings) fires more on the concept than elsewhere: none is '
    || 'labelled' AS reason,
    1 AS count
FROM (SELECT DISTINCT sae, concept FROM separation) AS s
SEMI JOIN concepts AS c ON c.concept = s.concept
ANTI JOIN shortlist AS l ON l.sae = s.sae AND l.concept = s.concept
UNION ALL
SELECT
    'labels', concat('SAE ', l.sae),
    'no window of the split train in which a shortlisted feature fires: explainers have no evidence; add text',
    1
FROM labelled AS l
LEFT JOIN windows AS w ON w.sae = l.sae AND w.split = 'train'
WHERE coalesce(w.firing, 0) = 0
UNION ALL
SELECT
    'judgements', concat('SAE ', l.sae),
    'no windows of the split test in which a feature '
    || CASE WHEN coalesce(w.drawn, 0) = 0 THEN 'fires' ELSE 'is silent' END
    || ': no label is judged; add text',
    1
FROM labelled AS l
LEFT JOIN windows AS w ON w.sae = l.sae AND w.split = 'test'
WHERE l.labels > 0 AND (coalesce(w.drawn, 0) = 0 OR coalesce(w.silent, 0) = 0)
UNION ALL
SELECT
    'judgements', concat('SAE ', sae, ', scorer ', name),
    'features that fire in more than half of all windows: any text would do for them, and their labels are not judged',
    count(*)
FROM (
    SELECT sae, name, feature
    FROM firing_rates
    WHERE role = 'scorer'
    GROUP BY sae, name, feature
    HAVING sum(firing) > 0.5 * sum(windows)
)
GROUP BY sae, name
ORDER BY ALL
