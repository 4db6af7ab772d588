-- Features that a scorer cannot judge because a class of its windows is missing, a row for each SAE and scorer: else they
-- would be left out without a word. Of scorers that need a label, features without one are not counted: `labels` says why.
WITH mine AS (
    SELECT
        scorer, protocol,
        CASE
            WHEN protocol = 'intruder' THEN coalesce(TRY_CAST(json_extract_string(said, '$.batch') AS INTEGER), 5) - 1
            WHEN json_extract_string(said, '$.negatives') = 'firing' THEN 2
            ELSE 1
        END AS least,
        coalesce(json_extract_string(said, '$.negatives'), 'silent') = 'firing' AS firing_alone
    FROM (SELECT scorer, protocol, CASE WHEN json_valid(settings) THEN settings ELSE '{}' END AS said FROM scorers)
    WHERE protocol <> 'detection'
),
rates AS (
    SELECT r.sae, r.feature, m.scorer, m.protocol, m.least, m.firing_alone, any_value(r.threshold) AS threshold
    FROM firing_rates AS r
    JOIN mine AS m ON m.scorer = r.name
    WHERE r.role = 'scorer'
    GROUP BY ALL
    HAVING sum(r.firing) <= 0.5 * sum(r.windows)
),
counts AS (
    SELECT
        r.sae, r.feature, r.scorer, r.protocol, r.least, r.firing_alone,
        count(*) FILTER (c.split = 'test' AND c.kind = 'stratum' AND c.activation >= r.threshold) AS firing,
        count(*) FILTER (c.split = 'test' AND c.kind = 'random' AND c.activation = 0) AS silent,
        count(*) FILTER (c.split = 'test' AND c.kind = 'random' AND c.activation < r.threshold) AS below,
        count(*) FILTER (c.split = 'train' AND c.kind = 'stratum' AND c.activation >= r.threshold) AS train
    FROM rates AS r
    LEFT JOIN contexts AS c ON c.sae = r.sae AND c.feature = r.feature
    GROUP BY ALL
)
SELECT
    'judgements' AS stage,
    concat('SAE ', sae, ', scorer ', scorer) AS subject,
    'features with too few windows, of split test or train, in which they fire or are silent: not judged; add text' AS reason,
    count(*)::INTEGER AS count
FROM counts AS n
WHERE
    (protocol IN ('intruder', 'example_embedding') OR (sae, feature) IN (
        SELECT (sae, feature) FROM labels WHERE label IS NOT NULL
    ))
    AND (
        firing < least
        OR (NOT firing_alone AND CASE WHEN protocol IN ('fuzzing', 'intruder') THEN silent ELSE below END = 0)
        OR (protocol = 'example_embedding' AND train = 0)
    )
GROUP BY sae, scorer
ORDER BY ALL
