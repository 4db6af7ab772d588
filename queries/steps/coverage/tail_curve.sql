-- step: tail_curve
-- writes: tail_curve
-- key: sae, corpus, split, point
-- param: split = "test"
-- param: points = 100
-- doc: cumulative proportion of the tokens that have a feature, over the tokens from the rarest to the most frequent
-- The figure (Muhamed et al. 2024, 2b) says neither where it begins nor what it counts. Here a token id counts once,
-- as in figure 2a, and the rarest come first, so that a curve further up is one with more of its tokens in the tail.
-- Tokens of equal frequency have no order: the curve runs straight through each class of them. All sums are integers.
WITH known AS (
    SELECT s.sae, s.model
    FROM saes AS s
    SEMI JOIN logit_lens AS l ON l.sae = s.sae
    SEMI JOIN feature_stats AS f ON f.sae = s.sae
),
classes AS (
    SELECT
        s.sae, q.corpus, q.split, q.occurrences AS frequency,
        count(*) AS tokens,
        count(v.token) AS covered,
        sum(q.occurrences)::BIGINT AS occurrences
    FROM known AS s
    JOIN corpora AS c ON c.model = s.model
    JOIN token_frequency AS q ON q.corpus = c.corpus
    LEFT JOIN covered_tokens AS v ON (v.sae, v.token) = (s.sae, q.token)
    WHERE q.split = $split
    GROUP BY s.sae, q.corpus, q.split, q.occurrences
),
running AS (
    SELECT
        *,
        (sum(tokens) OVER rarer)::BIGINT - tokens AS tokens_before,
        (sum(covered) OVER rarer)::BIGINT - covered AS covered_before,
        (sum(occurrences) OVER rarer)::BIGINT - occurrences AS occurrences_before,
        (sum(tokens) OVER whole)::BIGINT AS all_tokens,
        (sum(covered) OVER whole)::BIGINT AS all_covered,
        (sum(occurrences) OVER whole)::BIGINT AS all_occurrences
    FROM classes
    WINDOW
        rarer AS (PARTITION BY sae, corpus, split ORDER BY frequency),
        whole AS (PARTITION BY sae, corpus, split)
),
placed AS (
    -- The points that lie in the class, and how far into it, in 1 / (points * tokens) of the class.
    SELECT
        *,
        unnest(range(
            tokens_before * $points // all_tokens + 1, (tokens_before + tokens) * $points // all_tokens + 1
        )) AS point,
        point * all_tokens - tokens_before * $points AS inside
    FROM running
)
SELECT
    sae, corpus, split,
    point::INTEGER AS point,
    point / $points AS token_share,
    (occurrences_before * tokens * $points + occurrences * inside)
    / (all_occurrences * tokens * $points) AS occurrence_share,
    (covered_before * tokens * $points + covered * inside) / (tokens * $points) AS covered,
    (covered_before * tokens * $points + covered * inside)
    / nullif(all_covered * tokens * $points, 0) AS proportion
FROM placed
