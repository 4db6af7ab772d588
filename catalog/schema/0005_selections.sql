-- Which documents of a pool a specialized SAE is trained on, and how they were chosen.

CREATE TABLE selections (
    selection VARCHAR NOT NULL,
    method VARCHAR NOT NULL,
    pool VARCHAR NOT NULL,
    seed VARCHAR,
    parent VARCHAR,
    tokens BIGINT,
    settings VARCHAR NOT NULL,
    inputs VARCHAR NOT NULL
);
COMMENT ON TABLE selections IS 'sets of documents to train on, each chosen from a pool up to a budget of tokens';
COMMENT ON COLUMN selections.selection IS 'name of the selection';
COMMENT ON COLUMN selections.method IS 'full, random, seed, bm25, dense, bm25+tracin or dense+tracin';
COMMENT ON COLUMN selections.pool IS 'corpus whose documents of split train were chosen from';
COMMENT ON COLUMN selections.seed IS 'seed documents, JSON: corpus, splits, number of documents and tokens; NULL for full and random';
COMMENT ON COLUMN selections.parent IS 'SAE whose gradients reranked the candidates; NULL without TracIn';
COMMENT ON COLUMN selections.tokens IS 'budget; the document that crosses it is in; NULL for full';
COMMENT ON COLUMN selections.settings IS 'the section of the study, JSON';
COMMENT ON COLUMN selections.inputs IS 'BLAKE2b-128 of settings, text, encoder, model and parent: equal means nothing to do';

CREATE TABLE selected (
    selection VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    document INTEGER NOT NULL,
    hash VARCHAR NOT NULL,
    rank INTEGER NOT NULL,
    score DOUBLE,
    tokens INTEGER NOT NULL,
    passes INTEGER NOT NULL
);
COMMENT ON TABLE selected IS 'the documents of each selection';
COMMENT ON COLUMN selected.selection IS 'selection';
COMMENT ON COLUMN selected.corpus IS 'corpus: the pool, or for method seed the corpus of the seed documents';
COMMENT ON COLUMN selected.document IS 'document';
COMMENT ON COLUMN selected.hash IS 'BLAKE2b-128 of its text';
COMMENT ON COLUMN selected.rank IS 'from 1, the best first; equal scores in order of hash';
COMMENT ON COLUMN selected.score IS 'bm25: score of the seed as query; dense: cosine; tracin: mean gradient product; NULL without a score';
COMMENT ON COLUMN selected.tokens IS 'number of its tokens';
COMMENT ON COLUMN selected.passes IS 'how often its tokens count towards the budget: 1, more for method seed; how often training reads it follows from steps and batch';
