-- Rows that are all equal have no variance to explain; all else of an SAE can be measured on them. And what an SAE may
-- have seen in training is not held out, when it enters the catalog either.

ALTER TABLE evaluations ALTER COLUMN fve DROP NOT NULL;
COMMENT ON COLUMN evaluations.fve IS 'fraction of variance explained: 1 - sum |x - x_hat|^2 / sum |x - mean|^2, the mean over these tokens; NULL where their rows are all equal';
COMMENT ON COLUMN saes.fve IS 'fraction of variance explained on held-out tokens: 1 - residual / variance about the mean; NULL where their rows are all equal';
COMMENT ON COLUMN saes.held_out IS 'number of held-out tokens (split val, those left out that lie in 16 that stand in train text) that l0, fve and dead were measured on';

-- A selection outlives the folder of its parent.
ALTER TABLE selections ADD COLUMN parent_digest VARCHAR;
COMMENT ON COLUMN selections.parent_digest IS 'digest of the parent''s weights; NULL without a parent';

-- Weights alone do not make a model.
ALTER TABLE models ADD COLUMN config VARCHAR;
COMMENT ON COLUMN models.config IS 'what its configuration says of the forward pass, and the version of transformers, JSON; NULL in a catalog that is older than this column';
ALTER TABLE saes ADD COLUMN code VARCHAR;
COMMENT ON COLUMN saes.code IS 'digest of what decides its activations besides the weights: architecture, k, centring, groups; NULL in an SAE that is older than this column';
