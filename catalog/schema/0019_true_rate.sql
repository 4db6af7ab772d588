-- Figures at the rate at which a feature fires: balanced windows flatter every label of a rare feature.

CREATE TABLE rate_scores (
    sae VARCHAR NOT NULL,
    feature INTEGER NOT NULL,
    explainer VARCHAR NOT NULL,
    scorer VARCHAR NOT NULL,
    rate DOUBLE NOT NULL,
    documents BIGINT NOT NULL,
    recall DOUBLE,
    recall_low DOUBLE,
    recall_high DOUBLE,
    false_positive_rate DOUBLE,
    false_positive_rate_low DOUBLE,
    false_positive_rate_high DOUBLE,
    precision DOUBLE,
    precision_low DOUBLE,
    precision_high DOUBLE,
    f1 DOUBLE,
    f1_low DOUBLE,
    f1_high DOUBLE,
    correlation DOUBLE,
    correlation_low DOUBLE,
    correlation_high DOUBLE,
    average_precision DOUBLE,
    average_precision_low DOUBLE,
    average_precision_high DOUBLE,
    f1_null DOUBLE,
    f1_null_low DOUBLE,
    f1_null_high DOUBLE,
    f1_always DOUBLE NOT NULL
);
COMMENT ON TABLE rate_scores IS 'how well each label predicts its feature where it fires as often as it does in the text; 95% intervals by bootstrap over documents, below 20 of them by Wilson';
COMMENT ON COLUMN rate_scores.sae IS 'SAE';
COMMENT ON COLUMN rate_scores.feature IS 'latent';
COMMENT ON COLUMN rate_scores.explainer IS 'explainer of the label';
COMMENT ON COLUMN rate_scores.scorer IS 'scorer';
COMMENT ON COLUMN rate_scores.rate IS 'share of all windows that fire, of all splits';
COMMENT ON COLUMN rate_scores.documents IS 'test documents with firing windows that were judged';
COMMENT ON COLUMN rate_scores.recall IS 'share of the firing windows that are said to fire, each weighed by its inclusion probability';
COMMENT ON COLUMN rate_scores.recall_low IS 'lower end of its 95% interval';
COMMENT ON COLUMN rate_scores.recall_high IS 'upper end of its 95% interval';
COMMENT ON COLUMN rate_scores.false_positive_rate IS 'share of the other windows that are said to fire';
COMMENT ON COLUMN rate_scores.false_positive_rate_low IS 'lower end of its 95% interval';
COMMENT ON COLUMN rate_scores.false_positive_rate_high IS 'upper end of its 95% interval';
COMMENT ON COLUMN rate_scores.precision IS 'p r / s, p the rate, r the recall, s the share of all windows that are said to fire; NULL where none is';
COMMENT ON COLUMN rate_scores.precision_low IS 'lower end of its 95% interval';
COMMENT ON COLUMN rate_scores.precision_high IS 'upper end of its 95% interval';
COMMENT ON COLUMN rate_scores.f1 IS '2 p r / (p + s)';
COMMENT ON COLUMN rate_scores.f1_low IS 'lower end of its 95% interval';
COMMENT ON COLUMN rate_scores.f1_high IS 'upper end of its 95% interval';
COMMENT ON COLUMN rate_scores.correlation IS 'phi of firing and being said to fire: (p r - p s) / sqrt(p (1 - p) s (1 - s))';
COMMENT ON COLUMN rate_scores.correlation_low IS 'lower end of its 95% interval';
COMMENT ON COLUMN rate_scores.correlation_high IS 'upper end of its 95% interval';
COMMENT ON COLUMN rate_scores.average_precision IS 'area under precision over recall by the scorer''s probabilities; NULL where it gives none; no interval below 20 documents';
COMMENT ON COLUMN rate_scores.average_precision_low IS 'lower end of its 95% interval';
COMMENT ON COLUMN rate_scores.average_precision_high IS 'upper end of its 95% interval';
COMMENT ON COLUMN rate_scores.f1_null IS 'the same F1 of other features'' labels, their mean shares taken as of one label';
COMMENT ON COLUMN rate_scores.f1_null_low IS 'lower end of its 95% interval';
COMMENT ON COLUMN rate_scores.f1_null_high IS 'upper end of its 95% interval';
COMMENT ON COLUMN rate_scores.f1_always IS 'F1 of a judge that always says yes: 2 p / (1 + p)';
