-- step: text_vectors
-- writes: lance
-- slice: collection = 'texts'
-- key: collection
-- input: hash
-- kernel: scoring.kernels.lance_vectors:text_vectors
-- code: ingest.model.embed, ingest.model.text_encoder, catalog.vectors
-- doc: the embeddings of the windows and labels that scorers compare, in the Lance collection texts, each text once
-- Without a scorer that compares embeddings there is nothing to embed.
WITH windows AS (
    SELECT DISTINCT corpus, start, length
    FROM scorer_windows
    WHERE protocol = 'example_embedding' OR (protocol = 'embedding' AND split = 'test')
),
texts AS (
    SELECT string_agg(t.text, '' ORDER BY t.position) AS text
    FROM (SELECT *, unnest(range(start, start + length)) AS position FROM windows) AS w
    JOIN token_text AS t ON t.corpus = w.corpus AND t.position = w.position
    GROUP BY w.corpus, w.start, w.length
    UNION ALL
    SELECT l.label
    FROM labels AS l
    WHERE l.label IS NOT NULL AND 'embedding' IN (SELECT protocol FROM scorers)
)
SELECT DISTINCT md5(text) AS hash, text FROM texts
