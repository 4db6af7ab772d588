-- Who answers may be a model of saeql's own process, and says how sure it is.

COMMENT ON COLUMN explainers.provider IS 'lexical (no language model: short rules about words), openai (any compatible endpoint) or transformers (a model of saeql''s own process)';
COMMENT ON COLUMN explainers.model IS 'model of the endpoint, or the source of the model that saeql loads; NULL for lexical';
COMMENT ON COLUMN scorers.provider IS 'lexical (no language model: short rules about words), openai (any compatible endpoint) or transformers (a model of saeql''s own process)';
COMMENT ON COLUMN scorers.model IS 'model of the endpoint, or the source of the model that saeql loads; NULL for lexical';
COMMENT ON COLUMN judgements.probability IS 'the predictor''s probability that the window fires: that of its answer 1 among 0 and 1, by log-probabilities, or that of a lexical rule; NULL where it gives none';
