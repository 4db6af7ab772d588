-- How well each SAE stands in for the activations that it reads, and which SAEs are compared with which.
-- A curve joins the SAEs of one family (one architecture, one way of selecting text) in the order of their L0.

CREATE TABLE evaluations (
    sae VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    documents BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    predictions BIGINT NOT NULL,
    max_tokens BIGINT,
    l0 DOUBLE NOT NULL,
    fve DOUBLE NOT NULL,
    mse DOUBLE NOT NULL,
    cosine DOUBLE NOT NULL,
    dead INTEGER NOT NULL,
    dense INTEGER NOT NULL,
    ce_clean DOUBLE NOT NULL,
    ce_spliced DOUBLE NOT NULL,
    ce_ablated DOUBLE NOT NULL,
    loss_recovered DOUBLE,
    inputs VARCHAR NOT NULL
);
COMMENT ON TABLE evaluations IS 'SAEs measured on text, with the model running on their reconstructions';
COMMENT ON COLUMN evaluations.sae IS 'SAE';
COMMENT ON COLUMN evaluations.corpus IS 'corpus';
COMMENT ON COLUMN evaluations.split IS 'train, val or test: split of the documents that were read';
COMMENT ON COLUMN evaluations.documents IS 'documents read';
COMMENT ON COLUMN evaluations.tokens IS 'tokens read, BOS left out: what l0, fve, mse, cosine, dead and dense are over';
COMMENT ON COLUMN evaluations.predictions IS 'tokens predicted: what the cross-entropies are means over; less than tokens where the model has no BOS';
COMMENT ON COLUMN evaluations.max_tokens IS 'documents were taken by hash until this many tokens were reached; NULL for all';
COMMENT ON COLUMN evaluations.l0 IS 'mean number of active latents per token';
COMMENT ON COLUMN evaluations.fve IS 'fraction of variance explained: 1 - sum |x - x_hat|^2 / sum |x - mean|^2, the mean over these tokens';
COMMENT ON COLUMN evaluations.mse IS 'mean over tokens of |x - x_hat|^2 / d';
COMMENT ON COLUMN evaluations.cosine IS 'mean over tokens of the cosine between x and x_hat';
COMMENT ON COLUMN evaluations.dead IS 'latents that fired on none of these tokens';
COMMENT ON COLUMN evaluations.dense IS 'latents that fired on more than 10% of these tokens';
COMMENT ON COLUMN evaluations.ce_clean IS 'cross-entropy of the model itself, nats per predicted token';
COMMENT ON COLUMN evaluations.ce_spliced IS 'the same with the reconstruction in place of the activation at every token but BOS';
COMMENT ON COLUMN evaluations.ce_ablated IS 'the same with zeros in place of the activation at every token but BOS';
COMMENT ON COLUMN evaluations.loss_recovered IS '(ce_ablated - ce_spliced) / (ce_ablated - ce_clean); NULL where ablation changes nothing';
COMMENT ON COLUMN evaluations.inputs IS 'digest of model, SAE, hookpoint, text and max_tokens';

CREATE TABLE sweeps (
    sweep VARCHAR NOT NULL,
    sae VARCHAR NOT NULL,
    family VARCHAR NOT NULL,
    setting VARCHAR NOT NULL,
    coefficient DOUBLE NOT NULL,
    seed BIGINT NOT NULL,
    baseline VARCHAR,
    l0_low DOUBLE NOT NULL DEFAULT 60,
    l0_high DOUBLE NOT NULL DEFAULT 140
);
COMMENT ON TABLE sweeps IS 'SAEs that are compared with each other: families, each over the values of one setting and several seeds';
COMMENT ON COLUMN sweeps.sweep IS 'name of the sweep';
COMMENT ON COLUMN sweeps.sae IS 'SAE';
COMMENT ON COLUMN sweeps.family IS 'what is compared: a way of selecting text, an architecture, an objective; one curve each';
COMMENT ON COLUMN sweeps.setting IS 'name of what varies along the curve, such as sparsity or k';
COMMENT ON COLUMN sweeps.coefficient IS 'its value';
COMMENT ON COLUMN sweeps.seed IS 'seed of the training run';
COMMENT ON COLUMN sweeps.baseline IS 'SAE whose features firing_differences compares this one''s with; NULL for its parent';
COMMENT ON COLUMN sweeps.l0_low IS 'begin of the L0 range of the area under the curve; one value in a sweep';
COMMENT ON COLUMN sweeps.l0_high IS 'end of that range; 60 to 140 is that of Muhamed et al. 2024, section 3.2';

CREATE VIEW sae_quality AS
SELECT
    e.sae,
    s.model,
    s.hookpoint,
    s.architecture,
    s.width,
    s.k,
    s.parent,
    e.corpus,
    e.split,
    e.tokens,
    e.l0,
    e.fve,
    e.mse,
    e.cosine,
    e.dead,
    e.dead / s.width AS dead_share,
    e.dense,
    e.dense / s.width AS dense_share,
    e.ce_clean,
    e.ce_spliced,
    e.ce_ablated,
    e.loss_recovered,
    exp(e.ce_clean) AS perplexity_clean,
    exp(e.ce_spliced) AS perplexity,
    exp(e.ce_ablated) AS perplexity_ablated,
    exp(e.ce_spliced - e.ce_clean) AS relative_to_clean,
    exp(e.ce_spliced - p.ce_spliced) AS relative_to_parent
FROM evaluations AS e
JOIN saes AS s ON s.sae = e.sae
LEFT JOIN evaluations AS p ON (p.sae, p.corpus, p.split) = (s.parent, e.corpus, e.split);

CREATE VIEW pareto AS
WITH points AS (
    SELECT
        w.sweep, e.corpus, e.split, w.family, w.setting, w.coefficient,
        count(*) AS seeds,
        avg(e.l0) AS l0,
        stddev_samp(e.l0) AS l0_std,
        avg(exp(e.ce_spliced)) AS perplexity,
        stddev_samp(exp(e.ce_spliced)) AS perplexity_std,
        min(exp(e.ce_spliced)) AS perplexity_low,
        max(exp(e.ce_spliced)) AS perplexity_high
    FROM sweeps AS w
    JOIN evaluations AS e ON e.sae = w.sae
    GROUP BY w.sweep, e.corpus, e.split, w.family, w.setting, w.coefficient
)
SELECT
    p.*,
    NOT EXISTS (
        SELECT 1
        FROM points AS o
        WHERE
            (o.sweep, o.corpus, o.split) = (p.sweep, p.corpus, p.split)
            AND o.l0 <= p.l0 AND o.perplexity <= p.perplexity
            AND (o.l0 < p.l0 OR o.perplexity < p.perplexity)
    ) AS on_front,
    NOT EXISTS (
        SELECT 1
        FROM points AS o
        WHERE
            (o.sweep, o.corpus, o.split, o.family) = (p.sweep, p.corpus, p.split, p.family)
            AND o.l0 <= p.l0 AND o.perplexity <= p.perplexity
            AND (o.l0 < p.l0 OR o.perplexity < p.perplexity)
    ) AS on_family_front
FROM points AS p;

CREATE VIEW pareto_segments AS
WITH points AS (
    SELECT sweep, corpus, split, family, NULL::BIGINT AS seed, l0, perplexity
    FROM pareto
    UNION ALL
    SELECT w.sweep, e.corpus, e.split, w.family, w.seed, e.l0, exp(e.ce_spliced) AS perplexity
    FROM sweeps AS w
    JOIN evaluations AS e ON e.sae = w.sae
),
distinct_points AS (
    -- A curve has one height at each L0.
    SELECT sweep, corpus, split, family, seed, l0, avg(perplexity) AS perplexity
    FROM points
    GROUP BY sweep, corpus, split, family, seed, l0
)
SELECT
    sweep, corpus, split, family, seed,
    l0 AS l0_from,
    perplexity AS perplexity_from,
    lead(l0) OVER curve AS l0_to,
    lead(perplexity) OVER curve AS perplexity_to
FROM distinct_points
WINDOW curve AS (PARTITION BY sweep, corpus, split, family, seed ORDER BY l0);

CREATE VIEW pareto_curve AS
WITH whole AS (
    -- A segment has its begin but not its end, which is the begin of the next: no L0 stands twice.
    SELECT
        *,
        unnest(range(
            ceil(l0_from)::BIGINT,
            CASE WHEN l0_to IS NULL THEN floor(l0_from)::BIGINT + 1 ELSE ceil(l0_to)::BIGINT END
        )) AS l0
    FROM pareto_segments
    WHERE seed IS NULL
)
SELECT
    sweep, corpus, split, family, l0,
    CASE
        WHEN l0_to IS NULL THEN perplexity_from
        ELSE perplexity_from + (perplexity_to - perplexity_from) * (l0 - l0_from) / (l0_to - l0_from)
    END AS perplexity
FROM whole;

CREATE VIEW pareto_seed_area AS
WITH ranges AS (
    SELECT sweep, min(l0_low) AS l0_low, max(l0_high) AS l0_high FROM sweeps GROUP BY sweep
),
clipped AS (
    SELECT
        s.*, r.l0_low, r.l0_high,
        greatest(s.l0_from, r.l0_low) AS a,
        least(s.l0_to, r.l0_high) AS b,
        (s.perplexity_to - s.perplexity_from) / (s.l0_to - s.l0_from) AS slope
    FROM pareto_segments AS s
    JOIN ranges AS r ON r.sweep = s.sweep
),
curves AS (
    SELECT
        sweep, corpus, split, family, seed, l0_low, l0_high,
        count(*) AS points,
        min(l0_from) AS l0_first,
        max(l0_from) AS l0_last,
        sum(
            (b - a) * (perplexity_from + slope * ((a + b) / 2 - l0_from))
        ) FILTER (WHERE b > a) AS area
    FROM clipped
    GROUP BY sweep, corpus, split, family, seed, l0_low, l0_high
),
judged AS (
    SELECT
        *,
        CASE
            WHEN l0_high <= l0_low THEN 'the range of L0 of the sweep is empty'
            WHEN points < 2 THEN 'one point is no curve'
            WHEN l0_first > l0_low OR l0_last < l0_high THEN concat(
                'the curve runs from L0 ', round(l0_first, 1), ' to ', round(l0_last, 1),
                ', the range from ', round(l0_low, 1), ' to ', round(l0_high, 1)
            )
        END AS reason
    FROM curves
)
SELECT
    sweep, corpus, split, family, seed, l0_low, l0_high, points, l0_first, l0_last,
    CASE WHEN reason IS NULL THEN area END AS area,
    CASE WHEN reason IS NULL THEN area / (l0_high - l0_low) END AS mean_perplexity,
    reason
FROM judged;

CREATE VIEW pareto_area AS
WITH by_seed AS (
    SELECT
        sweep, corpus, split, family,
        count(*) AS seeds,
        count(area) AS seeds_spanning,
        avg(area) AS seed_area,
        stddev_samp(area) AS seed_area_std,
        avg(mean_perplexity) AS seed_mean_perplexity,
        stddev_samp(mean_perplexity) AS seed_mean_perplexity_std
    FROM pareto_seed_area
    WHERE seed IS NOT NULL
    GROUP BY sweep, corpus, split, family
)
SELECT
    a.sweep, a.corpus, a.split, a.family, a.l0_low, a.l0_high, a.points, a.l0_first, a.l0_last,
    a.area, a.mean_perplexity, a.reason,
    s.seeds, s.seeds_spanning, s.seed_area, s.seed_area_std, s.seed_mean_perplexity, s.seed_mean_perplexity_std
FROM pareto_seed_area AS a
JOIN by_seed AS s ON (s.sweep, s.corpus, s.split, s.family) = (a.sweep, a.corpus, a.split, a.family)
WHERE a.seed IS NULL;

INSERT INTO columns_doc VALUES
    ('sae_quality', 'sae', 'SAE; one row per SAE, corpus and split that it was measured on'),
    ('sae_quality', 'model', 'model'),
    ('sae_quality', 'hookpoint', 'module whose output it reads; with .input after it, what goes into the module'),
    ('sae_quality', 'architecture', 'architecture'),
    ('sae_quality', 'width', 'number of latents'),
    ('sae_quality', 'k', 'latents that may fire on a token'),
    ('sae_quality', 'parent', 'SAE that it was fine-tuned from'),
    ('sae_quality', 'corpus', 'corpus'),
    ('sae_quality', 'split', 'train, val or test'),
    ('sae_quality', 'tokens', 'tokens read'),
    ('sae_quality', 'l0', 'mean number of active latents per token'),
    ('sae_quality', 'fve', 'fraction of variance explained'),
    ('sae_quality', 'mse', 'mean over tokens of |x - x_hat|^2 / d'),
    ('sae_quality', 'cosine', 'mean over tokens of the cosine between x and x_hat'),
    ('sae_quality', 'dead', 'latents that fired on none of the tokens'),
    ('sae_quality', 'dead_share', 'dead / width'),
    ('sae_quality', 'dense', 'latents that fired on more than 10% of the tokens'),
    ('sae_quality', 'dense_share', 'dense / width'),
    ('sae_quality', 'ce_clean', 'cross-entropy of the model itself, nats per predicted token'),
    ('sae_quality', 'ce_spliced', 'cross-entropy with the reconstruction spliced in'),
    ('sae_quality', 'ce_ablated', 'cross-entropy with the activation set to zero'),
    ('sae_quality', 'loss_recovered', '(ce_ablated - ce_spliced) / (ce_ablated - ce_clean)'),
    ('sae_quality', 'perplexity_clean', 'exp(ce_clean)'),
    ('sae_quality', 'perplexity', 'exp(ce_spliced): perplexity with the SAE'),
    ('sae_quality', 'perplexity_ablated', 'exp(ce_ablated)'),
    ('sae_quality', 'relative_to_clean', 'perplexity / perplexity_clean; 1 for a perfect SAE'),
    ('sae_quality', 'relative_to_parent', 'perplexity / perplexity of the parent on the same text; NULL without one'),
    ('pareto', 'sweep', 'sweep; one row per value of the setting in each family, corpus and split'),
    ('pareto', 'corpus', 'corpus'),
    ('pareto', 'split', 'train, val or test'),
    ('pareto', 'family', 'what is compared'),
    ('pareto', 'setting', 'name of what varies along the curve'),
    ('pareto', 'coefficient', 'its value'),
    ('pareto', 'seeds', 'SAEs of this family and value, one a seed'),
    ('pareto', 'l0', 'mean over the seeds of the active latents per token'),
    ('pareto', 'l0_std', 'standard deviation over the seeds (n - 1); NULL for one seed'),
    ('pareto', 'perplexity', 'mean over the seeds of the perplexity with the SAE spliced in'),
    ('pareto', 'perplexity_std', 'standard deviation over the seeds (n - 1); NULL for one seed'),
    ('pareto', 'perplexity_low', 'smallest of the seeds'),
    ('pareto', 'perplexity_high', 'largest of the seeds'),
    ('pareto', 'on_front', 'no point of the sweep is as good in L0 and perplexity, and better in one'),
    ('pareto', 'on_family_front', 'no point of its own family is'),
    ('pareto_segments', 'sweep', 'sweep; one row per point of a curve, with the next point'),
    ('pareto_segments', 'corpus', 'corpus'),
    ('pareto_segments', 'split', 'train, val or test'),
    ('pareto_segments', 'family', 'what is compared'),
    ('pareto_segments', 'seed', 'seed of the curve; NULL for the curve through the means over seeds'),
    ('pareto_segments', 'l0_from', 'active latents per token; points of one L0 count as one, at their mean perplexity'),
    ('pareto_segments', 'perplexity_from', 'perplexity there'),
    ('pareto_segments', 'l0_to', 'L0 of the next point of the curve; NULL for the last'),
    ('pareto_segments', 'perplexity_to', 'perplexity there'),
    ('pareto_curve', 'sweep', 'sweep; one row per whole L0 between the smallest and the largest of a family'),
    ('pareto_curve', 'corpus', 'corpus'),
    ('pareto_curve', 'split', 'train, val or test'),
    ('pareto_curve', 'family', 'what is compared'),
    ('pareto_curve', 'l0', 'active latents per token'),
    ('pareto_curve', 'perplexity', 'linear in L0 between the means over seeds; nothing is extrapolated'),
    ('pareto_seed_area', 'sweep', 'sweep; one row per curve'),
    ('pareto_seed_area', 'corpus', 'corpus'),
    ('pareto_seed_area', 'split', 'train, val or test'),
    ('pareto_seed_area', 'family', 'what is compared'),
    ('pareto_seed_area', 'seed', 'seed of the curve; NULL for the curve through the means over seeds'),
    ('pareto_seed_area', 'l0_low', 'begin of the sweep''s L0 range'),
    ('pareto_seed_area', 'l0_high', 'end of that range'),
    ('pareto_seed_area', 'points', 'points of the curve'),
    ('pareto_seed_area', 'l0_first', 'L0 of its first point'),
    ('pareto_seed_area', 'l0_last', 'L0 of its last point'),
    ('pareto_seed_area', 'area', 'area under perplexity over the range, trapezoids between the points; NULL where the curve does not span it'),
    ('pareto_seed_area', 'mean_perplexity', 'area / (l0_high - l0_low)'),
    ('pareto_seed_area', 'reason', 'why there is no area'),
    ('pareto_area', 'sweep', 'sweep; one row per family, corpus and split: less is better'),
    ('pareto_area', 'corpus', 'corpus'),
    ('pareto_area', 'split', 'train, val or test'),
    ('pareto_area', 'family', 'what is compared'),
    ('pareto_area', 'l0_low', 'begin of the sweep''s L0 range'),
    ('pareto_area', 'l0_high', 'end of that range'),
    ('pareto_area', 'points', 'points of the curve through the means over seeds'),
    ('pareto_area', 'l0_first', 'L0 of its first point'),
    ('pareto_area', 'l0_last', 'L0 of its last point'),
    ('pareto_area', 'area', 'area under that curve over the range, trapezoids between the points; NULL where it does not span it'),
    ('pareto_area', 'mean_perplexity', 'area / (l0_high - l0_low)'),
    ('pareto_area', 'reason', 'why there is no area'),
    ('pareto_area', 'seeds', 'seeds'),
    ('pareto_area', 'seeds_spanning', 'seeds whose own curve spans the range: what the next columns are over'),
    ('pareto_area', 'seed_area', 'mean over seeds of the area under each seed''s own curve'),
    ('pareto_area', 'seed_area_std', 'standard deviation over seeds (n - 1); NULL for one seed'),
    ('pareto_area', 'seed_mean_perplexity', 'mean over seeds of area / (l0_high - l0_low)'),
    ('pareto_area', 'seed_mean_perplexity_std', 'standard deviation over seeds (n - 1); NULL for one seed');
