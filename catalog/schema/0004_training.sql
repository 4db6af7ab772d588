-- How SAEs were trained: transcoders, penalties, and the course of each run.

ALTER TABLE saes ADD COLUMN target VARCHAR;
ALTER TABLE saes ADD COLUMN selection VARCHAR;
ALTER TABLE saes ADD COLUMN sparsity DOUBLE;
ALTER TABLE saes ADD COLUMN tilt DOUBLE;
ALTER TABLE saes ADD COLUMN seed BIGINT;
COMMENT ON COLUMN saes.architecture IS 'relu, topk, batchtopk, jumprelu, gated or matryoshka';
COMMENT ON COLUMN saes.k IS 'latents that may fire on a token (topk) or do on average (batchtopk, matryoshka); NULL for the others';
COMMENT ON COLUMN saes.parent IS 'SAE or checkpoint folder that it was fine-tuned from';
COMMENT ON COLUMN saes.target IS 'transcoder: module whose output it reconstructs; NULL for an SAE';
COMMENT ON COLUMN saes.selection IS 'selection of documents that it was trained on; NULL for all of its corpora';
COMMENT ON COLUMN saes.sparsity IS 'coefficient of the sparsity penalty at the end of training; NULL where there is none';
COMMENT ON COLUMN saes.tilt IS 't of the tilted loss (TERM); 0 for the mean';
COMMENT ON COLUMN saes.seed IS 'seed of the initial weights and the order of tokens';

CREATE TABLE training (
    sae VARCHAR NOT NULL,
    step INTEGER NOT NULL,
    loss DOUBLE NOT NULL,
    fve DOUBLE NOT NULL,
    l0 DOUBLE NOT NULL,
    dead INTEGER NOT NULL,
    learning_rate DOUBLE NOT NULL,
    sparsity DOUBLE NOT NULL,
    tokens_per_s DOUBLE NOT NULL
);
COMMENT ON TABLE training IS 'the course of each training run';
COMMENT ON COLUMN training.sae IS 'SAE';
COMMENT ON COLUMN training.step IS 'optimiser steps done';
COMMENT ON COLUMN training.loss IS 'loss of that step''s batch, all terms, on rows scaled to a mean norm of sqrt(d)';
COMMENT ON COLUMN training.fve IS 'fraction of variance explained, of that batch';
COMMENT ON COLUMN training.l0 IS 'mean number of active latents, of that batch';
COMMENT ON COLUMN training.dead IS 'latents that had not fired for dead_after tokens';
COMMENT ON COLUMN training.learning_rate IS 'learning rate of that step';
COMMENT ON COLUMN training.sparsity IS 'coefficient of the sparsity penalty in that step';
COMMENT ON COLUMN training.tokens_per_s IS 'speed since the row before; several SAEs trained on one pass share it';
