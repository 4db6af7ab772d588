-- step: leaks
-- writes: leaks
-- key: corpus, position
-- doc: val and test tokens that start 16 tokens which stand in train text too
WITH seen AS (
    SELECT DISTINCT t.shingle
    FROM tokens AS t
    JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)
    WHERE d.split = 'train' AND t.shingle IS NOT NULL
)
SELECT t.corpus, t.position
FROM tokens AS t
JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)
SEMI JOIN seen ON seen.shingle = t.shingle
WHERE d.split <> 'train'
