-- step: concept_positions
-- writes: concept_positions
-- key: concept, corpus, position
-- input: concept, corpus, shard
-- kernel: scoring.kernels.concept_positions:positions
-- plan: runs
-- doc: the tokens that belong to each concept (C+), shard by shard
SELECT c.concept, c.kind, c.corpora, c.definition, s.corpus, s.shard, s.blake2b AS text
FROM concepts AS c
JOIN shards AS s ON s.relation = 'tokens' AND (c.corpora IS NULL OR list_contains(c.corpora, s.corpus))
