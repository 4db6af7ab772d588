-- What people ask: one row per feature, contexts as text, and the documentation of view columns.
-- Documents are joined on a pair, (corpus, document): of two equalities the optimiser would derive a third,
-- window.corpus = document.corpus, and join every window with every document of its corpus.

CREATE TABLE columns_doc (
    relation VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    doc VARCHAR NOT NULL
);
COMMENT ON TABLE columns_doc IS 'documentation of the columns of views, which take no COMMENT';
COMMENT ON COLUMN columns_doc.relation IS 'view';
COMMENT ON COLUMN columns_doc.name IS 'column';
COMMENT ON COLUMN columns_doc.doc IS 'what it holds';

CREATE VIEW features AS
SELECT
    f.sae,
    f.feature,
    l.label,
    p.separation,
    s.f1,
    s.f1_low,
    s.f1_high,
    s.f1_null,
    s.auroc,
    s.balanced_accuracy,
    s.n,
    s.failed,
    p.auroc AS concept_auroc,
    p.rate_positive,
    p.rate_negative,
    f.firings,
    f.density,
    f.mean,
    f.std,
    f.maximum
FROM feature_stats AS f
CROSS JOIN study AS y
LEFT JOIN separation AS p ON p.sae = f.sae AND p.feature = f.feature AND p.concept = y.concept
LEFT JOIN labels AS l ON l.sae = f.sae AND l.feature = f.feature AND l.explainer = y.explainer
LEFT JOIN scores AS s
    ON s.sae = f.sae AND s.feature = f.feature AND s.explainer = y.explainer AND s.scorer = y.scorer;

CREATE VIEW label_scores AS
SELECT
    l.sae, l.feature, l.explainer, s.scorer, l.label, l.problem, l.kept_constraints, l.model, l.cost,
    s.n, s.failed, s.f1, s.f1_low, s.f1_high, s.f1_null, s.precision, s.recall, s.balanced_accuracy, s.auroc
FROM labels AS l
LEFT JOIN scores AS s ON s.sae = l.sae AND s.feature = l.feature AND s.explainer = l.explainer;

CREATE VIEW token_text AS
SELECT
    t.corpus, t.position, t.document, t.sequence, t.token, d.split, d.source,
    d.text[t.char_start + 1 : t.char_end] AS text
FROM tokens AS t
JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document);

CREATE VIEW context_tokens AS
WITH windows AS (
    SELECT c.*, unnest(range(c.start, c.start + c.length)) AS position
    FROM contexts AS c
)
SELECT
    w.sae, w.corpus, w.feature, w.kind, w.split, w.stratum, w.rank, w.start, w.peak,
    w.position, t.token, d.source,
    d.text[t.char_start + 1 : t.char_end] AS text,
    coalesce(a.activation, 0) AS activation
FROM windows AS w
JOIN tokens AS t ON t.corpus = w.corpus AND t.position = w.position
JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)
LEFT JOIN activations AS a
    ON a.sae = w.sae AND a.corpus = w.corpus AND a.feature = w.feature AND a.position = w.position;

CREATE VIEW splits AS
WITH windows AS (
    SELECT
        t.corpus, d.split, d.document, t.position AS start
    FROM tokens AS t
    JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)
    WHERE (t.position - t.sequence) % 32 = 0
),
leaked AS (
    SELECT DISTINCT t.corpus, t.sequence + (t.position - t.sequence) // 32 * 32 AS start
    FROM leaks AS l
    JOIN tokens AS t ON t.corpus = l.corpus AND t.position = l.position
    WHERE (t.position - t.sequence) % 32 <= 16 AND t.position + 16 <= t.sequence + t.length
)
SELECT
    w.corpus, w.split,
    count(DISTINCT w.document) AS documents,
    count(*) AS windows,
    count(l.start) AS leaked_windows
FROM windows AS w
LEFT JOIN leaked AS l ON l.corpus = w.corpus AND l.start = w.start
GROUP BY w.corpus, w.split;

INSERT INTO columns_doc VALUES
    ('splits', 'corpus', 'corpus'),
    ('splits', 'split', 'train, val or test'),
    ('splits', 'documents', 'documents of the split'),
    ('splits', 'windows', 'windows of at most 32 tokens, laid end to end over its sequences'),
    ('splits', 'leaked_windows', 'windows that hold 16 tokens which stand in train text too: never used to score a label'),
    ('features', 'sae', 'SAE'),
    ('features', 'feature', 'latent'),
    ('features', 'label', 'explanation by the primary explainer; NULL if it was not asked or gave none'),
    ('features', 'separation', 'separation from the primary concept, (mu+ - mu-)^2 / (sigma+ + sigma- + 1e-6)'),
    ('features', 'f1', 'F1 of the label by the primary scorer, on test windows'),
    ('features', 'f1_low', 'lower end of the 95% interval of f1'),
    ('features', 'f1_high', 'upper end of the 95% interval of f1'),
    ('features', 'f1_null', 'F1 that another feature''s label reaches on the same windows'),
    ('features', 'auroc', 'area under ROC of the predictor''s probabilities'),
    ('features', 'balanced_accuracy', 'mean of sensitivity and specificity'),
    ('features', 'n', 'windows judged'),
    ('features', 'failed', 'windows without an answer'),
    ('features', 'concept_auroc', 'area under ROC of the activation as a detector of the concept'),
    ('features', 'rate_positive', 'share of the concept''s tokens that it fires on'),
    ('features', 'rate_negative', 'share of the other tokens that it fires on'),
    ('features', 'firings', 'tokens that it fires on'),
    ('features', 'density', 'firings / tokens'),
    ('features', 'mean', 'mean activation where it fires'),
    ('features', 'std', 'standard deviation where it fires'),
    ('features', 'maximum', 'largest activation'),
    ('label_scores', 'label', 'every explainer''s label beside every scorer''s score of it'),
    ('token_text', 'text', 'the token as it stands in its document'),
    ('context_tokens', 'text', 'the token as it stands in its document'),
    ('context_tokens', 'activation', 'activation of the feature on this token, 0 where it does not fire');
