-- More scores of separation, the word that each token of C+ belongs to, and how a concept's shortlist is chosen.

ALTER TABLE concepts ADD COLUMN rank_by VARCHAR;
COMMENT ON COLUMN concepts.rank_by IS 'column of `separation` by which the shortlist is ranked; NULL for the default';
ALTER TABLE concepts ADD COLUMN shortlist_quantile DOUBLE;
COMMENT ON COLUMN concepts.shortlist_quantile IS 'the shortlist is the share of latents above this quantile of the score; NULL: `shortlist` features';
COMMENT ON COLUMN concepts.shortlist IS 'how many features are explained, the best by rank_by';

ALTER TABLE concept_positions ADD COLUMN words USMALLINT[];
COMMENT ON COLUMN concept_positions.words IS 'numbers of the concept''s words in whose window the token is, from 0, forms that differ in case alone together; empty for spans and predicates';

ALTER TABLE concept_sums ADD COLUMN words MAP(USMALLINT, DECIMAL(38, 0));
COMMENT ON COLUMN concept_sums.words IS 'word -> sum of activations on its tokens, in 2^-24';

ALTER TABLE separation ADD COLUMN mean_difference DOUBLE;
COMMENT ON COLUMN separation.mean_difference IS '|mu+ - mu-|';
ALTER TABLE separation ADD COLUMN entropy DOUBLE;
COMMENT ON COLUMN separation.entropy IS 'evenness of its mean activation over the concept''s words that occur: entropy over its largest value; 1 for a concept of one word or none';
ALTER TABLE separation ADD COLUMN domain DOUBLE;
COMMENT ON COLUMN separation.domain IS 'ReasonScore: mu+ / sum of all mu+ x entropy^0.7 - mu- / sum of all mu-, sums over the SAE''s latents';

ALTER TABLE shortlist ADD COLUMN score DOUBLE;
COMMENT ON COLUMN shortlist.score IS 'value of the column of `separation` that rank_by names';
COMMENT ON COLUMN shortlist.rank IS 'by score, from 1';
COMMENT ON COLUMN shortlist.separation IS 'separation.separation';

DROP VIEW features;
CREATE VIEW features AS
SELECT
    f.sae,
    f.feature,
    l.label,
    p.separation,
    p.cohens_d,
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

INSERT INTO columns_doc VALUES
    ('features', 'cohens_d', 'separation from the primary concept, (mu+ - mu-) / pooled standard deviation: shortlists are ranked by it unless a study says otherwise');
