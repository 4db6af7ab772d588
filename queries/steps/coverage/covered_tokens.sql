-- step: covered_tokens
-- writes: covered_tokens
-- key: sae, token
-- param: k = 10
-- param: min_firings = 1
-- doc: the tokens among the k top logits of at least one live feature
-- Live is what fires on any of the text that the SAE was harvested on: the direction of a dead latent was never
-- trained towards a token. k is at most logit_lens.k: a refresh refuses more.
SELECT
    l.sae, l.token,
    count(*) AS features,
    min(l.rank) AS rank
FROM logit_lens AS l
JOIN feature_stats AS f ON (f.sae, f.feature) = (l.sae, l.feature)
WHERE l.side = 'top' AND l.rank <= $k AND f.firings >= $min_firings
GROUP BY l.sae, l.token
