-- Each family at each target of the L0: the run whose perplexity on val is lowest, as it does on test.
WITH runs AS (
    SELECT w.family, w.coefficient AS target, w.seed, v.corpus, v.perplexity AS val, t.l0, t.perplexity, t.fve
    FROM sweeps AS w
    JOIN sae_quality AS v ON v.sae = w.sae AND v.split = 'val'
    JOIN sae_quality AS t ON t.sae = w.sae AND t.split = 'test' AND t.corpus = v.corpus
    WHERE w.sweep = 'ssae'
),
-- Chosen on the domain alone: nobody may choose on the text of another form.
chosen AS (
    SELECT family, target, arg_min(seed, val) AS seed
    FROM runs
    WHERE corpus = 'domain'
    GROUP BY family, target
)
SELECT
    r.corpus, r.family, r.target, r.seed,
    round(r.l0, 1) AS l0, round(r.perplexity, 3) AS perplexity, round(r.fve, 4) AS fve
FROM runs AS r
SEMI JOIN chosen AS c ON (c.family, c.target, c.seed) = (r.family, r.target, r.seed)
ORDER BY r.corpus, r.family, r.target
