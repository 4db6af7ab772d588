-- step: shortlist_auroc
-- writes: shortlist_auroc
-- key: sae, concept, feature
-- doc: exact area under ROC of each shortlisted feature as a detector of its concept, zeros as one tied block
WITH fired AS (
    SELECT
        l.sae, l.concept, l.feature, a.activation,
        count(p.position)::DOUBLE AS p,
        (count(*) - count(p.position))::DOUBLE AS q
    FROM shortlist AS l
    JOIN activations AS a ON a.sae = l.sae AND a.feature = l.feature
    JOIN concepts AS c ON c.concept = l.concept AND (c.corpora IS NULL OR list_contains(c.corpora, a.corpus))
    LEFT JOIN concept_positions AS p
        ON p.concept = l.concept AND p.corpus = a.corpus AND p.position = a.position
    GROUP BY l.sae, l.concept, l.feature, a.activation
),
curve AS (
    SELECT
        *,
        sum(q) OVER (PARTITION BY sae, concept, feature ORDER BY activation DESC) AS q_from_here
    FROM fired
),
ranks AS (
    SELECT
        c.sae, c.concept, c.feature,
        any_value(s.positives) AS positives,
        any_value(s.negatives) AS negatives,
        sum(c.p * (s.negatives - c.q_from_here + c.q / 2)) AS wins,
        sum(c.p) AS fired_positive,
        sum(c.q) AS fired_negative
    FROM curve AS c
    JOIN separation AS s ON s.sae = c.sae AND s.concept = c.concept AND s.feature = c.feature
    GROUP BY c.sae, c.concept, c.feature
)
SELECT
    sae, concept, feature,
    (wins + (positives - fired_positive) * (negatives - fired_negative) / 2)
    / (positives::DOUBLE * negatives) AS auroc
FROM ranks
