-- step: labels
-- writes: labels
-- key: sae, feature, explainer
-- input: sae, feature, explainer
-- param: top = 20
-- kernel: scoring.kernels.labels:labels
-- prompts: interpreter
-- doc: what each shortlisted feature fires on, said by each explainer from train contexts alone
WITH chosen AS (
    SELECT DISTINCT sae, feature FROM shortlist
),
shown AS (
    SELECT x.sae, x.feature, x.kind, x.stratum, x.rank, x.start, x.corpus, list(x.text ORDER BY x.position) AS tokens,
        list(x.activation ORDER BY x.position) AS activations
    FROM context_tokens AS x
    SEMI JOIN chosen AS c ON c.sae = x.sae AND c.feature = x.feature
    WHERE x.split = 'train' AND (x.kind <> 'top' OR x.rank <= $top)
    GROUP BY ALL
),
examples AS (
    SELECT
        sae, feature,
        list({corpus: corpus, start: start, tokens: tokens, activations: activations, kind: kind, stratum: stratum}
            ORDER BY kind, stratum, rank, corpus, start) AS examples
    FROM shown
    GROUP BY sae, feature
)
SELECT c.sae, c.feature, e.explainer, e.provider, e.model, e.settings, x.examples
FROM chosen AS c
CROSS JOIN explainers AS e
LEFT JOIN examples AS x ON x.sae = c.sae AND x.feature = c.feature
