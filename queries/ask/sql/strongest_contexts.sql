-- The strongest contexts of a feature, in the order of contexts_top.
SELECT
    corpus, max(activation), any_value(split), any_value(source),
    list(text ORDER BY position), list(activation ORDER BY position)
FROM context_tokens
WHERE sae = $sae AND feature = $feature AND kind = 'top' AND rank <= $n
GROUP BY corpus, rank
ORDER BY rank
