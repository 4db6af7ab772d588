-- step: leaks
-- writes: leaks
-- key: corpus, position
-- doc: val and test tokens that start 16 tokens which stand in train text too
-- Most tokens are train tokens: they are looked up among the few held out, so that no table of all their shingles is
-- made, and known by what they are not.
WITH held AS MATERIALIZED (
    SELECT corpus, document FROM documents WHERE split <> 'train'
),
held_out AS MATERIALIZED (
    SELECT t.corpus, t.position, t.shingle
    FROM tokens AS t
    JOIN held AS d ON d.corpus = t.corpus AND d.document = t.document
    WHERE t.shingle IS NOT NULL
),
seen AS (
    SELECT DISTINCT t.shingle
    FROM tokens AS t
    SEMI JOIN held_out AS h ON h.shingle = t.shingle
    ANTI JOIN held AS d ON d.corpus = t.corpus AND d.document = t.document
)
SELECT h.corpus, h.position
FROM held_out AS h
SEMI JOIN seen ON seen.shingle = h.shingle
