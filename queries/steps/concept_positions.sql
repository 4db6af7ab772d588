-- step: concept_positions
-- writes: concept_positions
-- key: concept, corpus, position
-- input: concept, corpus
-- kernel: scoring.kernels.concepts:positions
-- doc: the tokens that belong to each concept (C+)
SELECT
    c.concept, c.kind, c.definition, o.corpus,
    (SELECT max(start + tokens) FROM documents AS d WHERE d.corpus = o.corpus) AS positions
FROM concepts AS c
JOIN corpora AS o ON c.corpora IS NULL OR list_contains(c.corpora, o.corpus)
WHERE EXISTS (FROM tokens AS t WHERE t.corpus = o.corpus)
