-- step: firing_differences
-- writes: firing_differences
-- key: sae, baseline, corpus, split, bin
-- doc: histogram of how much more often each feature fires than the same one of the parent or baseline
-- Fine-tuning keeps a feature's number. Octaves of both signs, since counts differ by one or by half of the text.
WITH pairs AS (
    SELECT sae, parent AS baseline FROM saes WHERE parent IS NOT NULL
    UNION
    SELECT sae, baseline FROM sweeps WHERE baseline IS NOT NULL
),
differences AS (
    SELECT p.sae, p.baseline, a.corpus, a.split, a.firings - b.firings AS difference
    FROM pairs AS p
    JOIN saes AS s ON s.sae = p.sae
    JOIN saes AS o ON (o.sae, o.width) = (p.baseline, s.width)
    JOIN firing_ranks AS a ON a.sae = p.sae
    JOIN firing_ranks AS b
        ON (b.sae, b.corpus, b.split, b.feature) = (p.baseline, a.corpus, a.split, a.feature)
),
binned AS (
    SELECT
        sae, baseline, corpus, split,
        CASE WHEN difference = 0 THEN 0 ELSE sign(difference) * (1 + floor(log2(abs(difference)))) END::INTEGER AS bin,
        count(*) AS features
    FROM differences
    GROUP BY ALL
)
SELECT
    sae, baseline, corpus, split, bin,
    CASE
        WHEN bin > 0 THEN 1::BIGINT << (bin - 1)
        WHEN bin < 0 THEN 1 - (1::BIGINT << -bin)
        ELSE 0
    END AS low,
    CASE
        WHEN bin > 0 THEN (1::BIGINT << bin) - 1
        WHEN bin < 0 THEN -(1::BIGINT << (-bin - 1))
        ELSE 0
    END AS high,
    features
FROM binned
