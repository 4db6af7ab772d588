-- Each family at each target of the L0: the run whose perplexity on val is lowest, as it does on test.
-- Chosen on the domain alone: nobody may choose on the text of another form, and that text needs no val.
WITH chosen AS (
    SELECT DISTINCT ON (w.family, w.coefficient)
        w.family, w.coefficient AS target, w.seed, w.sae
    FROM sweeps AS w
    JOIN sae_quality AS v ON v.sae = w.sae
    WHERE w.sweep = 'ssae' AND v.corpus = 'domain' AND v.split = 'val'
    ORDER BY w.family, w.coefficient, v.perplexity, w.seed
)
SELECT
    t.corpus, c.family, c.target, c.seed,
    round(t.l0, 1) AS l0, round(t.perplexity, 3) AS perplexity, round(t.fve, 4) AS fve
FROM chosen AS c
JOIN sae_quality AS t ON t.sae = c.sae
WHERE t.split = 'test'
ORDER BY t.corpus, c.family, c.target
