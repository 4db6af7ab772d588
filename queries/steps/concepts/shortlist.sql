-- step: shortlist
-- writes: shortlist
-- key: sae, concept, feature
-- param: min_firings = 32
-- doc: the features that separate each concept best by its score, and fire more on it than elsewhere
-- A quantile is one of all latents, those that never fire among them: 0.95 leaves a twentieth of the width.
WITH scored AS (
    SELECT
        s.sae, s.concept, s.feature, s.separation,
        CASE coalesce(c.rank_by, 'cohens_d')
            WHEN 'separation' THEN s.separation
            WHEN 'fisher' THEN s.fisher
            WHEN 'cohens_d' THEN s.cohens_d
            WHEN 'mean_difference' THEN s.mean_difference
            WHEN 'rate_difference' THEN s.rate_difference
            WHEN 'auroc' THEN s.auroc
            WHEN 'domain' THEN s.domain
        END AS score,
        CASE
            WHEN c.shortlist_quantile IS NULL THEN c.shortlist
            ELSE greatest(round((1 - c.shortlist_quantile) * d.width), 1)
        END AS most
    FROM separation AS s
    JOIN concepts AS c ON c.concept = s.concept
    JOIN saes AS d ON d.sae = s.sae
    JOIN feature_stats AS f ON f.sae = s.sae AND f.feature = s.feature
    WHERE s.mean_positive > s.mean_negative AND f.firings >= $min_firings
)
SELECT
    sae, concept, feature,
    row_number() OVER (PARTITION BY sae, concept ORDER BY score DESC, feature)::INTEGER AS rank,
    separation,
    score
FROM scored
QUALIFY rank <= most
