-- step: separation
-- writes: separation
-- key: sae, concept, feature
-- param: epsilon = 1e-6
-- param: alpha = 0.7
-- doc: how far each feature's activations on the concept's tokens lie from those elsewhere, zeros counted
-- C- is everything harvested on the concept's corpora that is not C+. Standard deviations are those of the
-- whole population. AUROC counts ties half; activations of one histogram bin count as tied, which can be
-- wrong by at most half of the pairs inside the bins; the zeros are tied in truth.
-- The score `domain` is ReasonScore (Galichin et al. 2025, "I Have Covered All the Bases Here", equations 3 to 5), for
-- a vocabulary of the concept's words: its entropy is over mean activations on each word's tokens.
WITH files AS MATERIALIZED (
    SELECT relation, sae, corpus, shard, rows FROM shards
),
harvested AS (
    SELECT DISTINCT a.sae, a.corpus, a.shard, t.rows AS tokens
    FROM files AS a
    JOIN files AS t ON t.relation = 'tokens' AND t.corpus = a.corpus AND t.shard = a.shard
    WHERE a.relation = 'activations'
),
places AS (
    SELECT concept, corpus, shard, count(*) AS n FROM concept_positions GROUP BY concept, corpus, shard
),
word_places AS (
    SELECT concept, corpus, shard, word, count(*) AS n
    FROM (SELECT concept, corpus, shard, unnest(words) AS word FROM concept_positions)
    GROUP BY concept, corpus, shard, word
),
scope AS (
    SELECT DISTINCT c.concept, o.corpus
    FROM concepts AS c
    JOIN corpora AS o ON c.corpora IS NULL OR list_contains(c.corpora, o.corpus)
),
sizes AS (
    SELECT
        h.sae, s.concept,
        sum(coalesce(p.n, 0))::BIGINT AS positives,
        sum(h.tokens - coalesce(p.n, 0))::BIGINT AS negatives
    FROM harvested AS h
    JOIN scope AS s ON s.corpus = h.corpus
    LEFT JOIN places AS p ON p.concept = s.concept AND p.corpus = h.corpus AND p.shard = h.shard
    GROUP BY h.sae, s.concept
    HAVING positives > 0 AND negatives > 0
),
-- Words that occur in what was harvested: of the others no mean is known.
word_sizes AS (
    SELECT
        h.sae, w.concept, w.word, sum(w.n)::DOUBLE AS n, count(*) OVER (PARTITION BY h.sae, w.concept) AS distinct_words
    FROM harvested AS h
    JOIN word_places AS w ON w.corpus = h.corpus AND w.shard = h.shard
    GROUP BY h.sae, w.concept, w.word
),
word_totals AS (
    SELECT sae, concept, feature, entry.key AS word, sum(entry.value)::DOUBLE AS total
    FROM (SELECT sae, concept, feature, unnest(map_entries(words)) AS entry FROM concept_sums)
    GROUP BY sae, concept, feature, entry.key
),
-- Sums in the order of the words: the same to the last bit each time.
word_means AS (
    SELECT
        t.sae, t.concept, t.feature,
        any_value(z.distinct_words) AS distinct_words,
        list_sum(list(t.total / z.n ORDER BY t.word)) AS mean,
        list_sum(list(t.total / z.n * ln(t.total / z.n) ORDER BY t.word)) AS mean_log
    FROM word_totals AS t
    JOIN word_sizes AS z ON z.sae = t.sae AND z.concept = t.concept AND z.word = t.word
    GROUP BY t.sae, t.concept, t.feature
),
-- Of shares p = m / M of the means m in their sum M, -sum(p ln p) = ln M - sum(m ln m) / M.
entropies AS (
    SELECT
        sae, concept, feature,
        greatest(ln(mean) - mean_log / mean, 0) / ln(distinct_words) AS entropy
    FROM word_means
    WHERE distinct_words > 1
),
worded AS (
    SELECT sae, concept, count(*) AS words FROM word_sizes GROUP BY sae, concept
),
everything AS (
    SELECT
        f.sae, s.concept, f.feature,
        sum(f.firings) AS firings, sum(f.total) AS total, sum(f.squares) AS squares
    FROM feature_sums AS f
    JOIN scope AS s ON s.corpus = f.corpus
    GROUP BY f.sae, s.concept, f.feature
),
inside AS (
    SELECT
        sae, concept, feature,
        sum(firings) AS firings, sum(total) AS total, sum(squares) AS squares
    FROM concept_sums
    GROUP BY sae, concept, feature
),
moments AS (
    SELECT
        e.sae, e.concept, e.feature, z.positives, z.negatives,
        coalesce(i.firings, 0) / z.positives AS rate_positive,
        (e.firings - coalesce(i.firings, 0)) / z.negatives AS rate_negative,
        coalesce(i.total, 0)::DOUBLE / 16777216 / z.positives AS mean_positive,
        (e.total - coalesce(i.total, 0))::DOUBLE / 16777216 / z.negatives AS mean_negative,
        coalesce(i.squares, 0)::DOUBLE / 281474976710656 / z.positives AS square_positive,
        (e.squares - coalesce(i.squares, 0))::DOUBLE / 281474976710656 / z.negatives AS square_negative
    FROM everything AS e
    JOIN sizes AS z ON z.sae = e.sae AND z.concept = e.concept
    LEFT JOIN inside AS i ON i.sae = e.sae AND i.concept = e.concept AND i.feature = e.feature
),
spread AS (
    SELECT
        *,
        greatest(square_positive - mean_positive * mean_positive, 0) AS variance_positive,
        greatest(square_negative - mean_negative * mean_negative, 0) AS variance_negative
    FROM moments
),
sums AS (
    SELECT
        e.sae, e.concept,
        sum(coalesce(i.total, 0)) AS total_positive,
        sum(e.total - coalesce(i.total, 0)) AS total_negative
    FROM everything AS e
    LEFT JOIN inside AS i ON i.sae = e.sae AND i.concept = e.concept AND i.feature = e.feature
    GROUP BY e.sae, e.concept
),
all_bins AS (
    SELECT sae, concept, feature, entry.key::INTEGER AS bin, sum(entry.value)::BIGINT AS n
    FROM (
        SELECT f.sae, s.concept, f.feature, unnest(map_entries(f.bins)) AS entry
        FROM feature_sums AS f
        JOIN scope AS s ON s.corpus = f.corpus
    )
    GROUP BY sae, concept, feature, entry.key
),
inside_bins AS (
    SELECT sae, concept, feature, entry.key::INTEGER AS bin, sum(entry.value)::BIGINT AS n
    FROM (SELECT sae, concept, feature, unnest(map_entries(bins)) AS entry FROM concept_sums)
    GROUP BY sae, concept, feature, entry.key
),
curve AS (
    SELECT
        a.sae, a.concept, a.feature,
        coalesce(i.n, 0)::DOUBLE AS p,
        (a.n - coalesce(i.n, 0))::DOUBLE AS q,
        -- Negatives that fire in a higher bin.
        (sum(a.n - coalesce(i.n, 0)) OVER higher)::DOUBLE AS q_from_here
    FROM all_bins AS a
    LEFT JOIN inside_bins AS i
        ON i.sae = a.sae AND i.concept = a.concept AND i.feature = a.feature AND i.bin = a.bin
    WINDOW higher AS (PARTITION BY a.sae, a.concept, a.feature ORDER BY a.bin DESC)
),
ranks AS (
    SELECT
        c.sae, c.concept, c.feature,
        sum(c.p * (z.negatives - c.q_from_here + c.q / 2)) AS wins,
        sum(c.p) AS fired_positive,
        sum(c.q) AS fired_negative,
        sum(c.p * c.q / 2) AS slack
    FROM curve AS c
    JOIN sizes AS z ON z.sae = c.sae AND z.concept = c.concept
    GROUP BY c.sae, c.concept, c.feature
)
SELECT
    s.sae,
    s.concept,
    s.feature,
    s.positives,
    s.negatives,
    s.mean_positive,
    s.mean_negative,
    s.rate_positive,
    s.rate_negative,
    pow(s.mean_positive - s.mean_negative, 2)
    / (sqrt(s.variance_positive) + sqrt(s.variance_negative) + $epsilon) AS separation,
    pow(s.mean_positive - s.mean_negative, 2)
    / (s.variance_positive + s.variance_negative + $epsilon) AS fisher,
    (s.mean_positive - s.mean_negative) / sqrt(greatest(
        (s.positives * s.variance_positive + s.negatives * s.variance_negative) / (s.positives + s.negatives),
        $epsilon * $epsilon
    )) AS cohens_d,
    s.rate_positive - s.rate_negative AS rate_difference,
    (r.wins + (s.positives - r.fired_positive) * (s.negatives - r.fired_negative) / 2)
    / (s.positives::DOUBLE * s.negatives) AS auroc,
    r.slack / (s.positives::DOUBLE * s.negatives) AS auroc_bound,
    abs(s.mean_positive - s.mean_negative) AS mean_difference,
    -- Over one word or none everything is even; a feature that fires on no word is not even at all.
    CASE WHEN coalesce(w.words, 1) = 1 THEN 1.0 ELSE coalesce(h.entropy, 0) END AS entropy,
    coalesce(s.mean_positive / nullif(t.total_positive::DOUBLE / 16777216 / s.positives, 0), 0)
    * pow(CASE WHEN coalesce(w.words, 1) = 1 THEN 1.0 ELSE coalesce(h.entropy, 0) END, $alpha)
    - coalesce(s.mean_negative / nullif(t.total_negative::DOUBLE / 16777216 / s.negatives, 0), 0) AS domain
FROM spread AS s
JOIN ranks AS r ON r.sae = s.sae AND r.concept = s.concept AND r.feature = s.feature
JOIN sums AS t ON t.sae = s.sae AND t.concept = s.concept
LEFT JOIN worded AS w ON w.sae = s.sae AND w.concept = s.concept
LEFT JOIN entropies AS h ON h.sae = s.sae AND h.concept = s.concept AND h.feature = s.feature
