-- What an SAE may have seen in training says little about new text: it is read for its context, and not measured.

ALTER TABLE evaluations ADD COLUMN repeated BIGINT;
COMMENT ON COLUMN evaluations.tokens IS 'tokens measured, BOS left out: what l0, fve, mse, cosine, dead and dense are over';
COMMENT ON COLUMN evaluations.repeated IS 'further tokens of these documents, not measured: they lie in 16 that stand in train text of some corpus; 0 for split train';
COMMENT ON COLUMN evaluations.predictions IS 'measured tokens that are predicted: what the cross-entropies are means over; less than tokens where the model has no BOS';
COMMENT ON COLUMN evaluations.inputs IS 'digest of model, SAE, hookpoint, text, its repeated tokens and max_tokens';
