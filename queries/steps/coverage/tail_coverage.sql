-- step: tail_coverage
-- writes: tail_coverage
-- key: sae, corpus, split, bucket
-- param: split = "test"
-- doc: share of the tokens of each octave of frequency that have a feature
-- An SAE that has no logit lens, or was never harvested, has no rows: of its tokens nothing is known.
WITH known AS (
    SELECT s.sae, s.model
    FROM saes AS s
    SEMI JOIN logit_lens AS l ON l.sae = s.sae
    SEMI JOIN feature_stats AS f ON f.sae = s.sae
)
SELECT
    s.sae, q.corpus, q.split,
    floor(log2(q.occurrences))::INTEGER AS bucket,
    count(*) AS tokens,
    count(v.token) AS covered,
    sum(q.occurrences)::BIGINT AS occurrences,
    coalesce(sum(q.occurrences) FILTER (WHERE v.token IS NOT NULL), 0)::BIGINT AS covered_occurrences,
    count(v.token) / count(*) AS share
FROM known AS s
JOIN corpora AS c ON c.model = s.model
JOIN token_frequency AS q ON q.corpus = c.corpus
LEFT JOIN covered_tokens AS v ON (v.sae, v.token) = (s.sae, q.token)
WHERE q.split = $split
GROUP BY s.sae, q.corpus, q.split, bucket
