-- step: token_frequency
-- writes: token_frequency
-- key: corpus, split, token
-- doc: how often each token id stands in each split of each corpus
SELECT t.corpus, d.split, t.token, count(*) AS occurrences
FROM tokens AS t
JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)
GROUP BY t.corpus, d.split, t.token
