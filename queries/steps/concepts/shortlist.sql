-- step: shortlist
-- writes: shortlist
-- key: sae, concept, feature
-- param: min_firings = 32
-- doc: the features that separate each concept best, and fire more on it than elsewhere
SELECT
    s.sae,
    s.concept,
    s.feature,
    row_number() OVER (PARTITION BY s.sae, s.concept ORDER BY s.separation DESC, s.feature)::INTEGER AS rank,
    s.separation
FROM separation AS s
JOIN concepts AS c ON c.concept = s.concept
JOIN feature_stats AS f ON f.sae = s.sae AND f.feature = s.feature
WHERE s.mean_positive > s.mean_negative AND f.firings >= $min_firings
QUALIFY rank <= any_value(c.shortlist) OVER (PARTITION BY s.concept)
