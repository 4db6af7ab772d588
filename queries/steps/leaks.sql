-- step: leaks
-- writes: leaks
-- key: corpus, position
-- doc: val and test tokens that start 16 tokens which stand in train text too
-- Most tokens are train tokens: they are looked up among the few held out, so that no table of all their shingles is
-- made.
WITH held_out AS (
    SELECT t.corpus, t.position, t.shingle
    FROM tokens AS t
    JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)
    WHERE d.split <> 'train' AND t.shingle IS NOT NULL
),
seen AS (
    SELECT DISTINCT t.shingle
    FROM tokens AS t
    JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)
    SEMI JOIN held_out AS h ON h.shingle = t.shingle
    WHERE d.split = 'train'
)
SELECT h.corpus, h.position
FROM held_out AS h
SEMI JOIN seen ON seen.shingle = h.shingle
