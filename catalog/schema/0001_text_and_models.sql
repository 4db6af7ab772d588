-- What the catalog was built from: study, models, text, tokens, SAEs, and the files that hold the bulk of it.

COMMENT ON TABLE migrations IS 'the schema files that made this catalog';
COMMENT ON COLUMN migrations.number IS 'number of the migration';
COMMENT ON COLUMN migrations.name IS 'file name';

CREATE TABLE study (
    name VARCHAR NOT NULL,
    explainer VARCHAR,
    scorer VARCHAR,
    concept VARCHAR,
    source VARCHAR
);
COMMENT ON TABLE study IS 'one row: the study that built this catalog, and what the view features shows';
COMMENT ON COLUMN study.name IS 'name of the study';
COMMENT ON COLUMN study.explainer IS 'primary explainer: whose labels the view features shows';
COMMENT ON COLUMN study.scorer IS 'primary scorer: whose scores the view features shows';
COMMENT ON COLUMN study.concept IS 'primary concept: whose separation the view features shows';
COMMENT ON COLUMN study.source IS 'the study file, TOML';

CREATE TABLE models (
    model VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    revision VARCHAR,
    architecture VARCHAR NOT NULL,
    dtype VARCHAR NOT NULL,
    d_model INTEGER NOT NULL,
    layers INTEGER NOT NULL,
    vocabulary INTEGER NOT NULL,
    bos INTEGER,
    digest VARCHAR NOT NULL
);
COMMENT ON TABLE models IS 'causal language models';
COMMENT ON COLUMN models.model IS 'name of the model in this catalog';
COMMENT ON COLUMN models.source IS 'directory or hub id that it was loaded from; "embedded" for the shipped one';
COMMENT ON COLUMN models.revision IS 'hub revision, if one was asked for';
COMMENT ON COLUMN models.architecture IS 'transformers class';
COMMENT ON COLUMN models.dtype IS 'dtype of the forward pass';
COMMENT ON COLUMN models.d_model IS 'width of the residual stream';
COMMENT ON COLUMN models.layers IS 'number of transformer blocks';
COMMENT ON COLUMN models.vocabulary IS 'number of token ids';
COMMENT ON COLUMN models.bos IS 'token id put before each sequence, NULL for none; it is no position and no feature fires on it';
COMMENT ON COLUMN models.digest IS 'BLAKE2b-128 of the weight files and the tokenizer';

CREATE TABLE vocabulary (
    model VARCHAR NOT NULL,
    token INTEGER NOT NULL,
    text VARCHAR NOT NULL
);
COMMENT ON TABLE vocabulary IS 'the text of every token id';
COMMENT ON COLUMN vocabulary.model IS 'model';
COMMENT ON COLUMN vocabulary.token IS 'token id';
COMMENT ON COLUMN vocabulary.text IS 'the token as text inside a text, its blank included; a byte that is no character alone stands as <0xE2>';

CREATE TABLE corpora (
    corpus VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    ctx_len INTEGER NOT NULL,
    documents BIGINT NOT NULL,
    duplicates BIGINT NOT NULL,
    empty BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    source VARCHAR NOT NULL
);
COMMENT ON TABLE corpora IS 'texts, tokenised for one model';
COMMENT ON COLUMN corpora.corpus IS 'name of the corpus';
COMMENT ON COLUMN corpora.model IS 'model whose tokenizer cut it';
COMMENT ON COLUMN corpora.ctx_len IS 'longest sequence in tokens, BOS included';
COMMENT ON COLUMN corpora.documents IS 'distinct documents kept';
COMMENT ON COLUMN corpora.duplicates IS 'documents dropped because the same text was there';
COMMENT ON COLUMN corpora.empty IS 'documents dropped because they hold no token';
COMMENT ON COLUMN corpora.tokens IS 'number of positions, BOS not counted';
COMMENT ON COLUMN corpora.source IS 'where it came from, JSON';

CREATE TABLE documents (
    corpus VARCHAR NOT NULL,
    document INTEGER NOT NULL,
    hash VARCHAR NOT NULL,
    shard INTEGER NOT NULL,
    split VARCHAR NOT NULL,
    start BIGINT NOT NULL,
    tokens INTEGER NOT NULL,
    source VARCHAR NOT NULL,
    text VARCHAR NOT NULL
);
COMMENT ON TABLE documents IS 'documents of each corpus';
COMMENT ON COLUMN documents.corpus IS 'corpus';
COMMENT ON COLUMN documents.document IS 'number of the document in its corpus, in the order of arrival';
COMMENT ON COLUMN documents.hash IS 'BLAKE2b-128 of the text: the identity that does not depend on the order of arrival';
COMMENT ON COLUMN documents.shard IS 'shard that it arrived in';
COMMENT ON COLUMN documents.split IS 'train (seen by the explainer), val (selection), test (seen by the scorer); by the hash alone';
COMMENT ON COLUMN documents.start IS 'position of its first token in the corpus';
COMMENT ON COLUMN documents.tokens IS 'number of its tokens';
COMMENT ON COLUMN documents.source IS 'package, file or data set, and the place in it';
COMMENT ON COLUMN documents.text IS 'the text, unchanged';

CREATE TABLE tokens (
    corpus VARCHAR NOT NULL,
    shard INTEGER NOT NULL,
    position BIGINT NOT NULL,
    document INTEGER NOT NULL,
    sequence BIGINT NOT NULL,
    length SMALLINT NOT NULL,
    token INTEGER NOT NULL,
    char_start INTEGER NOT NULL,
    char_end INTEGER NOT NULL,
    shingle BIGINT
);
COMMENT ON TABLE tokens IS 'every token of every corpus, BOS left out';
COMMENT ON COLUMN tokens.corpus IS 'corpus';
COMMENT ON COLUMN tokens.shard IS 'shard';
COMMENT ON COLUMN tokens.position IS 'number of the token in its corpus';
COMMENT ON COLUMN tokens.document IS 'document';
COMMENT ON COLUMN tokens.sequence IS 'position of the first token of the sequence that the model read it in';
COMMENT ON COLUMN tokens.length IS 'number of tokens of that sequence, BOS left out';
COMMENT ON COLUMN tokens.token IS 'token id';
COMMENT ON COLUMN tokens.char_start IS 'offset of its first character in the text of the document';
COMMENT ON COLUMN tokens.char_end IS 'offset after its last character';
COMMENT ON COLUMN tokens.shingle IS 'hash of the 16 tokens that start here; NULL where fewer are left in the document';

CREATE TABLE saes (
    sae VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    hookpoint VARCHAR NOT NULL,
    architecture VARCHAR NOT NULL,
    width INTEGER NOT NULL,
    d INTEGER NOT NULL,
    k INTEGER,
    parent VARCHAR,
    weights VARCHAR NOT NULL,
    digest VARCHAR NOT NULL,
    l0 DOUBLE,
    fve DOUBLE,
    dead INTEGER,
    held_out BIGINT,
    steps INTEGER,
    config VARCHAR NOT NULL
);
COMMENT ON TABLE saes IS 'sparse autoencoders, each on one hookpoint of one model';
COMMENT ON COLUMN saes.sae IS 'name of the SAE';
COMMENT ON COLUMN saes.model IS 'model';
COMMENT ON COLUMN saes.hookpoint IS 'module whose output it reads; with .input after it, what goes into the module';
COMMENT ON COLUMN saes.architecture IS 'topk';
COMMENT ON COLUMN saes.width IS 'number of latents';
COMMENT ON COLUMN saes.d IS 'width of the hookpoint';
COMMENT ON COLUMN saes.k IS 'latents that may fire on a token';
COMMENT ON COLUMN saes.parent IS 'SAE that it was fine-tuned from';
COMMENT ON COLUMN saes.weights IS 'folder under weights/';
COMMENT ON COLUMN saes.digest IS 'BLAKE2b-128 of the weights file';
COMMENT ON COLUMN saes.l0 IS 'mean number of active latents per held-out token';
COMMENT ON COLUMN saes.fve IS 'fraction of variance explained on held-out tokens: 1 - residual / variance about the mean';
COMMENT ON COLUMN saes.dead IS 'latents that fired on no held-out token';
COMMENT ON COLUMN saes.held_out IS 'number of held-out tokens (split val) that l0, fve and dead were measured on';
COMMENT ON COLUMN saes.steps IS 'optimiser steps';
COMMENT ON COLUMN saes.config IS 'training configuration, JSON';

CREATE TABLE activations (
    sae VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    shard INTEGER NOT NULL,
    feature INTEGER NOT NULL,
    position BIGINT NOT NULL,
    activation FLOAT NOT NULL
);
COMMENT ON TABLE activations IS 'every activation above zero, exact to half precision; files sorted by feature, position';
COMMENT ON COLUMN activations.sae IS 'SAE';
COMMENT ON COLUMN activations.corpus IS 'corpus';
COMMENT ON COLUMN activations.shard IS 'shard';
COMMENT ON COLUMN activations.feature IS 'latent';
COMMENT ON COLUMN activations.position IS 'token';
COMMENT ON COLUMN activations.activation IS 'activation, rounded to half precision, above zero';

CREATE TABLE shards (
    path VARCHAR NOT NULL,
    relation VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    sae VARCHAR,
    shard INTEGER NOT NULL,
    rows BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    blake2b VARCHAR NOT NULL,
    inputs VARCHAR NOT NULL
);
COMMENT ON TABLE shards IS 'the Parquet files written by ingest, so that a lost or altered file is noticed';
COMMENT ON COLUMN shards.path IS 'path under data/';
COMMENT ON COLUMN shards.relation IS 'table that it belongs to';
COMMENT ON COLUMN shards.corpus IS 'corpus';
COMMENT ON COLUMN shards.sae IS 'SAE, for activations';
COMMENT ON COLUMN shards.shard IS 'shard';
COMMENT ON COLUMN shards.rows IS 'rows in the file';
COMMENT ON COLUMN shards.bytes IS 'size of the file';
COMMENT ON COLUMN shards.blake2b IS 'BLAKE2b-128 of the file';
COMMENT ON COLUMN shards.inputs IS 'digest of what it was made from: the text, or the text, model and SAE';

CREATE TABLE problems (
    stage VARCHAR NOT NULL,
    subject VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    count BIGINT NOT NULL
);
COMMENT ON TABLE problems IS 'what ingest left out, and why';
COMMENT ON COLUMN problems.stage IS 'text, harvest, ...';
COMMENT ON COLUMN problems.subject IS 'corpus and file, or whatever was left out';
COMMENT ON COLUMN problems.reason IS 'why';
COMMENT ON COLUMN problems.count IS 'how many';

CREATE TABLE lance (
    collection VARCHAR NOT NULL,
    version BIGINT NOT NULL,
    rows BIGINT NOT NULL
);
COMMENT ON TABLE lance IS 'the version of each Lance collection that belongs to this snapshot';
COMMENT ON COLUMN lance.collection IS 'collection under vectors/: decoder, labels';
COMMENT ON COLUMN lance.version IS 'Lance version; it carries a tag, so that no clean-up drops it';
COMMENT ON COLUMN lance.rows IS 'vectors in it';

CREATE TABLE runs (
    step VARCHAR NOT NULL,
    fingerprint VARCHAR NOT NULL,
    inputs VARCHAR NOT NULL,
    added BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    removed BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    calls BIGINT NOT NULL,
    cost DOUBLE NOT NULL,
    seconds DOUBLE NOT NULL
);
COMMENT ON TABLE runs IS 'the last run of each step';
COMMENT ON COLUMN runs.step IS 'step';
COMMENT ON COLUMN runs.fingerprint IS 'BLAKE2b-128 of query, parameters, kernel and prompts';
COMMENT ON COLUMN runs.inputs IS 'last change of each table that the step reads, JSON';
COMMENT ON COLUMN runs.added IS 'rows with a new key';
COMMENT ON COLUMN runs.changed IS 'rows whose content changed';
COMMENT ON COLUMN runs.removed IS 'rows whose key is gone';
COMMENT ON COLUMN runs.failed IS 'rows that carry a problem';
COMMENT ON COLUMN runs.calls IS 'calls of a paid endpoint';
COMMENT ON COLUMN runs.cost IS 'money, in the unit of the study''s prices';
COMMENT ON COLUMN runs.seconds IS 'wall-clock time';
