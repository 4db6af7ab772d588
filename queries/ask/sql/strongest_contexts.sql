-- The strongest contexts of a feature over all corpora. Equal activations stand as in contexts_top, by the document's
-- hash and the offset in it; a document that two corpora share by the corpus. Ranks of one corpus cannot be merged
-- with those of another, and the n strongest of all are among the n strongest of each.
WITH ranked AS (
    SELECT
        c.corpus, c.rank, c.split, c.start, c.length, c.activation,
        row_number() OVER (ORDER BY c.activation DESC, d.hash, c.peak - d.start, c.corpus) AS place
    FROM contexts AS c
    ASOF JOIN documents AS d ON d.corpus = c.corpus AND d.start <= c.peak
    WHERE c.sae = $sae AND c.feature = $feature AND c.kind = 'top' AND c.rank <= $n
    QUALIFY place <= $n
)
SELECT
    r.corpus, any_value(r.activation), any_value(r.split), any_value(t.source),
    list(t.text ORDER BY t.position), list(t.activation ORDER BY t.position)
FROM ranked AS r
JOIN context_tokens AS t ON t.corpus = r.corpus AND t.rank = r.rank AND t.split = r.split
WHERE t.sae = $sae AND t.feature = $feature AND t.kind = 'top' AND t.rank <= $n
GROUP BY r.corpus, r.rank
ORDER BY any_value(r.place)
