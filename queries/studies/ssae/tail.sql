-- Share of the domain's token ids that are among the top 10 logits of a live feature, by how often they stand in test.
WITH shares AS (
    SELECT
        t.sae,
        sum(t.covered) FILTER (t.bucket <= 1) / sum(t.tokens) FILTER (t.bucket <= 1) AS rare,
        sum(t.covered) FILTER (t.bucket BETWEEN 2 AND 4) / sum(t.tokens) FILTER (t.bucket BETWEEN 2 AND 4) AS middle,
        sum(t.covered) FILTER (t.bucket >= 5) / sum(t.tokens) FILTER (t.bucket >= 5) AS frequent,
        sum(t.covered) / sum(t.tokens) AS all_tokens
    FROM tail_coverage AS t
    WHERE t.corpus = 'domain' AND t.split = 'test'
    GROUP BY t.sae
),
live AS (
    SELECT sae, count(*) FILTER (firings > 0) AS live, median(firings) AS median_firings
    FROM firing_ranks
    WHERE corpus = 'domain' AND split = 'test'
    GROUP BY sae
)
SELECT
    s.sae,
    round(s.rare, 4) AS "1 to 3 times",
    round(s.middle, 4) AS "4 to 31 times",
    round(s.frequent, 4) AS "32 times or more",
    round(s.all_tokens, 4) AS "all tokens",
    l.live AS live_features, l.median_firings
FROM shares AS s
JOIN live AS l ON l.sae = s.sae
ORDER BY s.rare DESC, s.sae
