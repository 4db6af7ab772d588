-- Mean perplexity over the L0 range by way of selecting text, less is better, beside the spread over seeds.
-- A family ties with another, here `full` and the best, where their difference is less than twice the spread of a
-- difference of two runs. What is said beside `full` is NULL where that has no runs.
WITH spread AS (
    SELECT corpus, family, max(perplexity_std) AS spread
    FROM pareto
    WHERE sweep = 'ssae' AND split = 'test'
    GROUP BY corpus, family
),
areas AS (
    SELECT a.corpus, a.family, a.area, a.mean_perplexity, a.reason, s.spread
    FROM pareto_area AS a
    JOIN spread AS s ON (s.corpus, s.family) = (a.corpus, a.family)
    WHERE a.sweep = 'ssae' AND a.split = 'test'
),
best AS (
    SELECT DISTINCT ON (corpus) corpus, mean_perplexity, spread
    FROM areas
    WHERE mean_perplexity IS NOT NULL
    ORDER BY corpus, mean_perplexity, family
)
SELECT
    a.corpus, a.family,
    round(a.area, 2) AS area,
    round(a.mean_perplexity, 4) AS perplexity,
    round(a.mean_perplexity - f.mean_perplexity, 4) AS less_full,
    round(a.spread, 4) AS spread,
    abs(a.mean_perplexity - f.mean_perplexity) < 2 * sqrt(a.spread * a.spread + f.spread * f.spread) AS ties_with_full,
    abs(a.mean_perplexity - b.mean_perplexity) < 2 * sqrt(a.spread * a.spread + b.spread * b.spread) AS ties_with_best,
    a.reason
FROM areas AS a
LEFT JOIN areas AS f ON f.corpus = a.corpus AND f.family = 'full'
LEFT JOIN best AS b ON b.corpus = a.corpus
ORDER BY a.corpus, a.mean_perplexity, a.family
