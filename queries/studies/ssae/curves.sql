-- Perplexity of each family on test by L0, beside that of the baseline at exactly that L0: linear between the
-- baseline's points, NULL beyond them, where nothing is extrapolated.
WITH segments AS MATERIALIZED (
    -- Read once: means over seeds that are taken twice may differ in the last bit, and miss the end of a segment.
    SELECT family, l0_from, perplexity_from, l0_to, perplexity_to
    FROM pareto_segments
    WHERE sweep = $sweep AND corpus = $corpus AND split = 'test' AND seed IS NULL
)
SELECT
    p.family,
    p.l0_from AS l0,
    p.perplexity_from AS perplexity,
    CASE
        WHEN p.l0_from = b.l0_from THEN b.perplexity_from
        ELSE b.perplexity_from + (b.perplexity_to - b.perplexity_from) * (p.l0_from - b.l0_from) / (b.l0_to - b.l0_from)
    END AS baseline
FROM segments AS p
LEFT JOIN segments AS b
    -- A segment has its begin but not its end, which is the begin of the next.
    ON b.family = $baseline AND b.l0_from <= p.l0_from AND (p.l0_from < b.l0_to OR p.l0_from = b.l0_from)
ORDER BY p.family, p.l0_from
