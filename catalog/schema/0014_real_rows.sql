-- Rows of a real model: in which precision an SAE reads them, how large they are, and how exactly its cost is known.

ALTER TABLE saes ADD COLUMN rows VARCHAR;
COMMENT ON COLUMN saes.rows IS 'float16: activations are those of rows rounded to half precision, as the SAE was trained on them; NULL: of rows as the model gives them';
ALTER TABLE saes ADD COLUMN rounding DOUBLE;
COMMENT ON COLUMN saes.rounding IS 'share of the activations of a sample of held-out tokens that stand on one side alone, where rows are rounded or where they are not; NULL where rows is';
ALTER TABLE saes ADD COLUMN median_norm DOUBLE;
COMMENT ON COLUMN saes.median_norm IS 'median Euclidean norm of the rows that it was trained on, of a loaded SAE of held-out rows; NULL in an SAE that is older than this column';
ALTER TABLE saes ADD COLUMN outliers BIGINT;
COMMENT ON COLUMN saes.outliers IS 'rows of train text whose norm is above 10 times the median, on which it was not trained; NULL if it was not trained from a cache';
ALTER TABLE saes ADD COLUMN held_out_outliers BIGINT;
COMMENT ON COLUMN saes.held_out_outliers IS 'rows of held-out tokens whose norm is above 10 times the median, left out of l0, fve and dead';

ALTER TABLE evaluations ADD COLUMN outliers BIGINT;
COMMENT ON COLUMN evaluations.outliers IS 'tokens read whose row has a norm above 10 times the median of the SAE: left out of l0, fve, mse, cosine, dead and dense, and not of the losses';
ALTER TABLE evaluations ADD COLUMN ce_increase_low DOUBLE;
COMMENT ON COLUMN evaluations.ce_increase_low IS 'start of the 95% interval of ce_spliced - ce_clean over documents; NULL with fewer than two of them';
ALTER TABLE evaluations ADD COLUMN ce_increase_high DOUBLE;
COMMENT ON COLUMN evaluations.ce_increase_high IS 'end of that interval';
COMMENT ON COLUMN evaluations.max_tokens IS 'documents were taken by hash until this many tokens were reached, or the interval of ce_spliced - ce_clean was narrow enough; NULL for all';
COMMENT ON COLUMN evaluations.inputs IS 'digest of model, SAE, hookpoint, text, its repeated tokens, max_tokens and the precision asked for';

-- Activations of models with large rows lie beyond the 256 bins that a byte counts. A refresh makes both tables anew.
DROP TABLE feature_sums;
CREATE TABLE feature_sums (
    sae VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    shard INTEGER NOT NULL,
    feature INTEGER NOT NULL,
    firings BIGINT NOT NULL,
    total DECIMAL(38, 0) NOT NULL,
    squares DECIMAL(38, 0) NOT NULL,
    maximum FLOAT NOT NULL,
    bins MAP(USMALLINT, BIGINT) NOT NULL
);
COMMENT ON TABLE feature_sums IS 'sums over the activations of one shard; integers, so that they add up the same in any order';
COMMENT ON COLUMN feature_sums.sae IS 'SAE';
COMMENT ON COLUMN feature_sums.corpus IS 'corpus';
COMMENT ON COLUMN feature_sums.shard IS 'shard';
COMMENT ON COLUMN feature_sums.feature IS 'latent';
COMMENT ON COLUMN feature_sums.firings IS 'tokens that it fires on';
COMMENT ON COLUMN feature_sums.total IS 'sum of activations, in 2^-24';
COMMENT ON COLUMN feature_sums.squares IS 'sum of squared activations, in 2^-48';
COMMENT ON COLUMN feature_sums.maximum IS 'largest activation';
COMMENT ON COLUMN feature_sums.bins IS 'log histogram: 8 bins an octave, from 2^-15 up; bin 0 holds all that is below';

DROP TABLE concept_sums;
CREATE TABLE concept_sums (
    sae VARCHAR NOT NULL,
    concept VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    shard INTEGER NOT NULL,
    feature INTEGER NOT NULL,
    firings BIGINT NOT NULL,
    total DECIMAL(38, 0) NOT NULL,
    squares DECIMAL(38, 0) NOT NULL,
    bins MAP(USMALLINT, BIGINT) NOT NULL
);
COMMENT ON TABLE concept_sums IS 'sums over the activations on C+ of one shard; C- is feature_sums less these';
COMMENT ON COLUMN concept_sums.sae IS 'SAE';
COMMENT ON COLUMN concept_sums.concept IS 'concept';
COMMENT ON COLUMN concept_sums.corpus IS 'corpus';
COMMENT ON COLUMN concept_sums.shard IS 'shard';
COMMENT ON COLUMN concept_sums.feature IS 'latent';
COMMENT ON COLUMN concept_sums.firings IS 'tokens of C+ that it fires on';
COMMENT ON COLUMN concept_sums.total IS 'sum of activations on C+, in 2^-24';
COMMENT ON COLUMN concept_sums.squares IS 'sum of squared activations on C+, in 2^-48';
COMMENT ON COLUMN concept_sums.bins IS 'log histogram on C+: 8 bins an octave, from 2^-15 up; bin 0 holds all that is below';

COMMENT ON COLUMN feature_stats.histogram IS 'firings in 64 log bins, 2 an octave, from 2^-15; the last holds all above 2^16.5';

-- Two SAEs may have been measured on samples of different size: each is held against the model on its own sample.
DROP VIEW sae_quality;
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
    e.ce_increase_low,
    e.ce_increase_high,
    e.loss_recovered,
    exp(e.ce_clean) AS perplexity_clean,
    exp(e.ce_spliced) AS perplexity,
    exp(e.ce_ablated) AS perplexity_ablated,
    exp(e.ce_spliced - e.ce_clean) AS relative_to_clean,
    exp(e.ce_spliced - e.ce_clean - (p.ce_spliced - p.ce_clean)) AS relative_to_parent
FROM evaluations AS e
JOIN saes AS s ON s.sae = e.sae
LEFT JOIN evaluations AS p ON (p.sae, p.corpus, p.split) = (s.parent, e.corpus, e.split);
DELETE FROM columns_doc WHERE (relation, name) = ('sae_quality', 'relative_to_parent');
INSERT INTO columns_doc VALUES
    ('sae_quality', 'ce_increase_low', 'start of the 95% interval of ce_spliced - ce_clean over documents'),
    ('sae_quality', 'ce_increase_high', 'end of that interval'),
    ('sae_quality', 'relative_to_parent', 'relative_to_clean / that of the parent; on the same tokens the ratio of their perplexities; NULL without a parent');
