-- What a refresh knows of its own work: the parts of each step, what they were made from, and why it ran.

CREATE TABLE partitions (
    step VARCHAR NOT NULL,
    part VARCHAR NOT NULL,
    digest VARCHAR NOT NULL,
    rows BIGINT,
    content VARCHAR
);
COMMENT ON TABLE partitions IS 'the parts that a step was made in: a part whose inputs did not change is not read again';
COMMENT ON COLUMN partitions.step IS 'step';
COMMENT ON COLUMN partitions.part IS 'value of each column that the step is parted by, JSON object';
COMMENT ON COLUMN partitions.digest IS 'BLAKE2b-128 of the step and of what the part was made from';
COMMENT ON COLUMN partitions.rows IS 'rows of the part; NULL where the step keeps no part apart';
COMMENT ON COLUMN partitions.content IS 'sum of the MD5 of these rows, so that a lost or altered row is noticed';

ALTER TABLE runs ADD COLUMN made VARCHAR;
ALTER TABLE runs ADD COLUMN tokens BIGINT;
COMMENT ON COLUMN runs.made IS 'digests of query, kernel and prompts, and the parameters, JSON: what `plan` names when one is edited';
COMMENT ON COLUMN runs.tokens IS 'tokens of the prompts and answers that were paid for';

-- A concept's tokens are found shard by shard; those found before have no shard, and are found again.
ALTER TABLE concept_positions ADD COLUMN shard INTEGER;
COMMENT ON COLUMN concept_positions.shard IS 'shard of the token';
DELETE FROM concept_positions;
DELETE FROM runs;

CREATE TABLE firing_counts (
    sae VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    feature INTEGER NOT NULL,
    firings BIGINT NOT NULL
);
COMMENT ON TABLE firing_counts IS 'how many tokens of a split each feature fires on; features that fire on none are left out';
COMMENT ON COLUMN firing_counts.sae IS 'SAE';
COMMENT ON COLUMN firing_counts.corpus IS 'corpus';
COMMENT ON COLUMN firing_counts.split IS 'split';
COMMENT ON COLUMN firing_counts.feature IS 'latent';
COMMENT ON COLUMN firing_counts.firings IS 'tokens that it fires on';
