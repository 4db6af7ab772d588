-- Scorers by several protocols share the tables of judgements and scores: a row says which protocol made it. The column is
-- not in their keys: a scorer has one protocol.

ALTER TABLE judgements ADD COLUMN protocol VARCHAR;
UPDATE judgements SET protocol = 'detection';
ALTER TABLE judgements ADD COLUMN marked UTINYINT[];
ALTER TABLE judgements ADD COLUMN similarity DOUBLE;
COMMENT ON TABLE judgements IS 'one prediction about one window, given one label, or the train windows of one latent';
COMMENT ON COLUMN judgements.label_feature IS 'latent whose label, or whose train windows, were given; another one in the null baseline';
COMMENT ON COLUMN judgements.explainer IS 'explainer of the label; empty where the protocol needs none';
COMMENT ON COLUMN judgements.protocol IS 'protocol of the scorer';
COMMENT ON COLUMN judgements.active IS 'the right answer: whether the latent fires in the window, above zero and from the threshold on; fuzzing: whether on each marked token';
COMMENT ON COLUMN judgements.marked IS 'fuzzing: places in the window, from 0, of the tokens that were marked';
COMMENT ON COLUMN judgements.predicted IS 'whether the predictor says that it fires; NULL where it gave no answer, or gives a similarity instead';
COMMENT ON COLUMN judgements.similarity IS 'embedding: cosine of label and window; example_embedding: mean cosine with firing train windows less that with others';

ALTER TABLE scores ADD COLUMN protocol VARCHAR;
UPDATE scores SET protocol = 'detection';
ALTER TABLE scores ADD COLUMN accuracy DOUBLE;
ALTER TABLE scores ADD COLUMN accuracy_low DOUBLE;
ALTER TABLE scores ADD COLUMN accuracy_high DOUBLE;
ALTER TABLE scores ADD COLUMN chance DOUBLE;
ALTER TABLE scores ADD COLUMN average_precision DOUBLE;
ALTER TABLE scores ADD COLUMN average_precision_low DOUBLE;
ALTER TABLE scores ADD COLUMN average_precision_high DOUBLE;
ALTER TABLE scores ADD COLUMN auroc_null DOUBLE;
ALTER TABLE scores ADD COLUMN auroc_null_low DOUBLE;
ALTER TABLE scores ADD COLUMN auroc_null_high DOUBLE;
ALTER TABLE scores ADD COLUMN average_precision_null DOUBLE;
COMMENT ON COLUMN scores.explainer IS 'explainer of the label; empty where the protocol needs none, and the score is the feature''s';
COMMENT ON COLUMN scores.protocol IS 'protocol of the scorer';
COMMENT ON COLUMN scores.f1 IS '2 r / (r + f + 1), both classes weighing alike: r the share of firing windows that are said to fire, f of the others; NULL where nothing was judged, or by similarity alone';
COMMENT ON COLUMN scores.auroc IS 'area under ROC of the predictor''s probabilities or similarities, ties counted half; NULL if it gives none';
COMMENT ON COLUMN scores.accuracy IS 'intruder: share of trials in which the intruder was found; n counts trials';
COMMENT ON COLUMN scores.accuracy_low IS 'Wilson interval';
COMMENT ON COLUMN scores.accuracy_high IS 'Wilson interval';
COMMENT ON COLUMN scores.chance IS 'intruder: accuracy of a judge that guesses, 1 / windows of a trial';
COMMENT ON COLUMN scores.average_precision IS 'precision at each probability or similarity from the highest down, weighted by the rise in recall; both classes weigh alike, so that chance is 0.5';
COMMENT ON COLUMN scores.average_precision_low IS 'binomial interval over the firing windows (Boyd, Eng & Page 2013), in Wilson''s form';
COMMENT ON COLUMN scores.average_precision_high IS 'likewise';
COMMENT ON COLUMN scores.n_null IS 'windows judged by other features'' labels, or by their train windows';
COMMENT ON COLUMN scores.auroc_null IS 'mean AUROC of other features'' labels on this feature''s windows: what a label must beat';
COMMENT ON COLUMN scores.auroc_null_low IS 'as auroc_low; of several labels as of one, since they share the windows';
COMMENT ON COLUMN scores.auroc_null_high IS 'likewise';
COMMENT ON COLUMN scores.average_precision_null IS 'mean average precision of other features'' labels on this feature''s windows';

COMMENT ON COLUMN scorers.protocol IS 'detection: does the feature fire in this window, given only the label; embedding: how near is the window to the label; example_embedding: is it nearer to firing train windows than to others; fuzzing: does the feature fire on the marked tokens; intruder: which of some windows does not belong to the others';
COMMENT ON COLUMN scorers.provider IS 'lexical (no language model) or openai';

-- The windows that a scorer may be shown, in the order in which it is.
CREATE VIEW scorer_windows AS
WITH rates AS (
    SELECT sae, feature, name AS scorer, any_value(threshold) AS threshold
    FROM firing_rates
    WHERE role = 'scorer'
    GROUP BY sae, feature, name
    HAVING sum(firing) <= 0.5 * sum(windows)
),
windows AS (
    SELECT
        c.sae, c.feature, s.scorer, s.protocol, s.examples, r.threshold, c.split, c.corpus, c.start, c.length,
        c.activation, c.stratum, c.rank, c.activation > 0 AND c.activation >= r.threshold AS active
    FROM contexts AS c
    JOIN rates AS r ON r.sae = c.sae AND r.feature = c.feature
    JOIN scorers AS s ON s.scorer = r.scorer
    WHERE c.split IN ('train', 'test') AND c.kind IN ('stratum', 'random') AND (c.kind = 'stratum') = active
),
numbered AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY sae, feature, scorer, split, active ORDER BY rank, stratum DESC
        ) AS place
    FROM windows
)
SELECT
    sae, feature, scorer, protocol, split, active, place, corpus, start, length, activation, threshold, stratum
FROM numbered
WHERE place <= CASE split WHEN 'train' THEN least(examples, 20) ELSE examples END;

-- The labels that a scorer is given for a feature: its own, and the null, those that follow in an order by hash, as many
-- as the scorer asks for and others are.
CREATE VIEW label_pairs AS
WITH lists AS (
    SELECT sae, explainer, list(feature ORDER BY md5(feature::VARCHAR), feature) AS features
    FROM labels
    WHERE label IS NOT NULL
    GROUP BY sae, explainer
),
steps AS (
    SELECT l.sae, l.feature, l.explainer, s.scorer, s.protocol, f.features, unnest(range(0, coalesce(s.nulls, 0) + 1)) AS step
    FROM labels AS l
    JOIN lists AS f ON f.sae = l.sae AND f.explainer = l.explainer
    CROSS JOIN scorers AS s
    WHERE l.label IS NOT NULL
)
SELECT
    sae, feature, explainer, scorer, protocol,
    features[(list_position(features, feature) - 1 + step) % len(features) + 1] AS label_feature
FROM steps
WHERE step < len(features);

DROP VIEW label_scores;
CREATE VIEW label_scores AS
SELECT
    l.sae, l.feature, l.explainer, s.scorer, s.protocol, l.label, l.problem, l.kept_constraints, l.model, l.cost,
    s.n, s.failed, s.f1, s.f1_low, s.f1_high, s.f1_null, s.precision, s.recall,
    s.balanced_accuracy, s.balanced_accuracy_low, s.balanced_accuracy_high,
    s.balanced_accuracy_null, s.balanced_accuracy_null_low, s.balanced_accuracy_null_high,
    s.auroc, s.auroc_low, s.auroc_high, s.auroc_null, s.auroc_null_low, s.auroc_null_high,
    s.average_precision, s.average_precision_low, s.average_precision_high, s.average_precision_null,
    s.threshold, s.rate
FROM labels AS l
LEFT JOIN scores AS s ON s.sae = l.sae AND s.feature = l.feature AND s.explainer = l.explainer;

UPDATE columns_doc SET doc = 'area under ROC of the scorer''s probabilities or similarities, ties counted half'
WHERE relation = 'label_scores' AND name = 'auroc';
INSERT INTO columns_doc VALUES
    ('label_scores', 'protocol', 'protocol of the scorer'),
    ('label_scores', 'auroc_low', 'lower end of the 95% interval of auroc'),
    ('label_scores', 'auroc_high', 'upper end of the 95% interval of auroc'),
    ('label_scores', 'auroc_null', 'AUROC of other features'' labels on the same windows: what a label must beat'),
    ('label_scores', 'auroc_null_low', 'lower end of its 95% interval'),
    ('label_scores', 'auroc_null_high', 'upper end of its 95% interval'),
    ('label_scores', 'average_precision', 'average precision of the scorer''s probabilities or similarities, both classes weighing alike'),
    ('label_scores', 'average_precision_low', 'lower end of the 95% interval of average_precision'),
    ('label_scores', 'average_precision_high', 'upper end of the 95% interval of average_precision'),
    ('label_scores', 'average_precision_null', 'average precision of other features'' labels on the same windows'),
    ('label_pairs', '*', 'a label that a scorer is given for a feature: its own, or that of another feature (the null)'),
    ('label_pairs', 'sae', 'SAE'),
    ('label_pairs', 'feature', 'latent that is judged'),
    ('label_pairs', 'explainer', 'explainer of the label'),
    ('label_pairs', 'scorer', 'scorer'),
    ('label_pairs', 'protocol', 'protocol of the scorer'),
    ('label_pairs', 'label_feature', 'latent whose label is given'),
    ('scorer_windows', '*', 'a window that a scorer may be shown: of split test to judge, of split train to compare with'),
    ('scorer_windows', 'sae', 'SAE'),
    ('scorer_windows', 'feature', 'latent; those that fire in more than half of all windows are left out'),
    ('scorer_windows', 'scorer', 'scorer'),
    ('scorer_windows', 'protocol', 'protocol of the scorer'),
    ('scorer_windows', 'split', 'test or train'),
    ('scorer_windows', 'active', 'whether the feature fires in it: above zero and from the threshold on'),
    ('scorer_windows', 'place', 'from 1, within sae, feature, scorer, split, active: the strata in turn, up to the scorer''s examples, of train windows 20 at most'),
    ('scorer_windows', 'corpus', 'corpus'),
    ('scorer_windows', 'start', 'position of the first token'),
    ('scorer_windows', 'length', 'number of tokens'),
    ('scorer_windows', 'activation', 'largest activation in the window'),
    ('scorer_windows', 'threshold', 'activation from which on a window fires'),
    ('scorer_windows', 'stratum', 'see contexts');
