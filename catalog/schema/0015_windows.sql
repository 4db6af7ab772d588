-- Windows that represent a feature: strata are deciles of all its windows, every drawn window keeps how likely it was,
-- and a window fires from a threshold on.

ALTER TABLE feature_stats ADD COLUMN percentile_99 DOUBLE;
COMMENT ON COLUMN feature_stats.percentile_99 IS 'lower end of the bin of 1/8 octave that holds the 99th percentile of its activations: that one less at most an eighth; NULL for a dead feature';

-- Ranks ran within a corpus: these rows have no place among those that run over all of them. A refresh makes them anew.
DELETE FROM contexts;
ALTER TABLE contexts ADD COLUMN probability DOUBLE;
ALTER TABLE contexts ADD COLUMN share DOUBLE;
COMMENT ON COLUMN contexts.kind IS 'top (20 strongest), stratum (by hash in each decile of its windows'' peaks), random (by hash, whatever the latent does)';
COMMENT ON COLUMN contexts.stratum IS 'decile of the peak over all windows of the split in which the latent fires, 10 the strongest; 0 for top and random';
COMMENT ON COLUMN contexts.rank IS 'from 1, within sae, feature, kind, split, stratum, over all corpora; top ranks run through the splits';
COMMENT ON COLUMN contexts.peak IS 'position of the strongest token; NULL where the latent does not fire';
COMMENT ON COLUMN contexts.activation IS 'activation at the peak, the largest of the window; 0 where the latent does not fire';
COMMENT ON COLUMN contexts.probability IS 'how likely the window was to be drawn: windows drawn / eligible windows of its stratum, or of its split for random; NULL for top';
COMMENT ON COLUMN contexts.share IS 'share of the stratum in the split''s windows in which the latent fires; NULL for top and random';

CREATE TABLE firing_windows (
    sae VARCHAR NOT NULL,
    feature INTEGER NOT NULL,
    split VARCHAR NOT NULL,
    windows BIGINT NOT NULL,
    bins MAP(USMALLINT, BIGINT) NOT NULL
);
COMMENT ON TABLE firing_windows IS 'in how many windows of each split each shortlisted feature fires; windows laid end to end, those that repeat train text left out';
COMMENT ON COLUMN firing_windows.sae IS 'SAE';
COMMENT ON COLUMN firing_windows.feature IS 'latent';
COMMENT ON COLUMN firing_windows.split IS 'split';
COMMENT ON COLUMN firing_windows.windows IS 'windows of the split, over all corpora that the SAE was harvested on';
COMMENT ON COLUMN firing_windows.bins IS 'windows in which it fires, by the bin of their largest activation: those of feature_sums';

ALTER TABLE explainers ADD COLUMN threshold DOUBLE;
ALTER TABLE scorers ADD COLUMN threshold DOUBLE;
UPDATE explainers SET threshold = 0.3;
ALTER TABLE scorers ADD COLUMN nulls INTEGER;
UPDATE scorers SET threshold = 0.3, nulls = 1;
COMMENT ON COLUMN explainers.provider IS 'lexical (no language model: short rules about words) or openai (any compatible endpoint)';
COMMENT ON COLUMN explainers.threshold IS 'share of a feature''s percentile_99 from which on a token is marked and a window is taken to fire';
COMMENT ON COLUMN scorers.examples IS 'most windows of each class judged per label';
COMMENT ON COLUMN scorers.nulls IS 'how many labels of other features are judged on a feature''s windows';
COMMENT ON COLUMN scorers.threshold IS 'share of a feature''s percentile_99 from which on a window fires; 0: wherever the latent is above zero';

ALTER TABLE judgements ADD COLUMN threshold DOUBLE;
ALTER TABLE judgements ADD COLUMN stratum TINYINT;
COMMENT ON COLUMN judgements.active IS 'whether the latent fires in the window: above zero and from the threshold on';
COMMENT ON COLUMN judgements.threshold IS 'activation from which on the window fires; NULL in a row that is older than this column';
COMMENT ON COLUMN judgements.stratum IS 'stratum of the window, see contexts: 1 to 10, the decile of its peak; 0 for one drawn whatever the latent does';

ALTER TABLE scores ADD COLUMN balanced_accuracy_null DOUBLE;
ALTER TABLE scores ADD COLUMN balanced_accuracy_null_low DOUBLE;
ALTER TABLE scores ADD COLUMN balanced_accuracy_null_high DOUBLE;
ALTER TABLE scores ADD COLUMN threshold DOUBLE;
ALTER TABLE scores ADD COLUMN rate DOUBLE;
COMMENT ON COLUMN scores.f1 IS '2 r / (r + f + 1), both classes weighing alike: r the share of firing windows that are said to fire, f of the others; NULL where nothing was judged';
COMMENT ON COLUMN scores.f1_low IS 'from the Wilson intervals of r and f, joined as by Donner & Zou 2010';
COMMENT ON COLUMN scores.precision IS 'r / (r + f), both classes weighing alike';
COMMENT ON COLUMN scores.precision_low IS 'from the Wilson intervals of r and f, joined as by Donner & Zou 2010';
COMMENT ON COLUMN scores.precision_high IS 'likewise';
COMMENT ON COLUMN scores.balanced_accuracy_low IS 'from the Wilson intervals of sensitivity and specificity, joined as by Newcombe 1998, method 10';
COMMENT ON COLUMN scores.n_null IS 'windows judged by other features'' labels';
COMMENT ON COLUMN scores.f1_null IS 'F1 of other features'' labels on this feature''s windows, their mean shares of hits and alarms: what a label must beat';
COMMENT ON COLUMN scores.balanced_accuracy_null IS 'mean balanced accuracy of other features'' labels on this feature''s windows: what a label must beat';
COMMENT ON COLUMN scores.balanced_accuracy_null_low IS 'as balanced_accuracy_low; of several labels as of one, since they share the windows';
COMMENT ON COLUMN scores.balanced_accuracy_null_high IS 'likewise';
COMMENT ON COLUMN scores.threshold IS 'activation from which on a window fires';
COMMENT ON COLUMN scores.rate IS 'share of all windows, every split and corpus, that fire: the classes judged are of one size, text is not';

-- The threshold is the lower end of the bin that holds the share of the 99th percentile: whole bins lie above it, and
-- new text moves it seldom.
CREATE VIEW firing_rates AS
WITH named AS (
    SELECT 'explainer' AS role, explainer AS name, threshold AS fraction FROM explainers
    UNION ALL
    SELECT 'scorer', scorer, threshold FROM scorers
),
levels AS (
    SELECT f.sae, f.feature, n.role, n.name, f.percentile_99 * n.fraction AS level
    FROM feature_stats AS f
    CROSS JOIN named AS n
),
thresholds AS (
    SELECT
        *,
        CASE
            WHEN level >= pow(2, -15)
            THEN (8 * (15 + floor(log2(level))) + floor(8 * (level / pow(2, floor(log2(level))) - 1)))::INTEGER
            ELSE 0
        END AS bin
    FROM levels
),
entries AS (
    SELECT sae, feature, split, unnest(map_entries(bins)) AS entry FROM firing_windows
),
counted AS (
    SELECT e.sae, e.feature, e.split, t.role, t.name, sum(e.entry.value) AS firing
    FROM entries AS e
    JOIN thresholds AS t ON t.sae = e.sae AND t.feature = e.feature
    WHERE e.entry.key >= t.bin
    GROUP BY e.sae, e.feature, e.split, t.role, t.name
)
SELECT
    w.sae, w.feature, w.split, t.role, t.name,
    CASE WHEN t.bin = 0 THEN 0 ELSE pow(2, t.bin // 8 - 15) * (1 + (t.bin % 8) / 8) END AS threshold,
    w.windows,
    coalesce(c.firing, 0)::BIGINT AS firing
FROM firing_windows AS w
JOIN thresholds AS t ON t.sae = w.sae AND t.feature = w.feature
LEFT JOIN counted AS c
    ON c.sae = w.sae AND c.feature = w.feature AND c.split = w.split AND c.role = t.role AND c.name = t.name;

DROP VIEW label_scores;
CREATE VIEW label_scores AS
SELECT
    l.sae, l.feature, l.explainer, s.scorer, l.label, l.problem, l.kept_constraints, l.model, l.cost,
    s.n, s.failed, s.f1, s.f1_low, s.f1_high, s.f1_null, s.precision, s.recall,
    s.balanced_accuracy, s.balanced_accuracy_low, s.balanced_accuracy_high,
    s.balanced_accuracy_null, s.balanced_accuracy_null_low, s.balanced_accuracy_null_high,
    s.auroc, s.threshold, s.rate
FROM labels AS l
LEFT JOIN scores AS s ON s.sae = l.sae AND s.feature = l.feature AND s.explainer = l.explainer;

DELETE FROM columns_doc WHERE relation = 'context_tokens' AND name IN ('kind', 'stratum', 'rank', 'peak');
UPDATE columns_doc
SET doc = '2 r / (r + f + 1) on test windows: r the share of firing windows that are said to fire, f of the others; NULL where nothing was judged'
WHERE relation = 'label_scores' AND name = 'f1';
UPDATE columns_doc SET doc = 'r / (r + f), see f1' WHERE relation = 'label_scores' AND name = 'precision';
UPDATE columns_doc SET doc = 'r: share of firing windows that are said to fire' WHERE relation = 'label_scores' AND name = 'recall';
INSERT INTO columns_doc VALUES
    ('context_tokens', 'kind', 'top (strongest), stratum (by hash in each decile of its windows'' peaks), random (by hash, whatever it does)'),
    ('context_tokens', 'stratum', 'decile of the window''s peak, 10 the strongest; 0 for top and random'),
    ('context_tokens', 'rank', 'of the window, from 1, within sae, feature, kind, split, stratum'),
    ('context_tokens', 'peak', 'position of the window''s strongest token; NULL where the feature does not fire'),
    ('firing_rates', '*', 'how many windows of a split a shortlisted feature fires in, by the threshold of each explainer and scorer'),
    ('firing_rates', 'sae', 'SAE'),
    ('firing_rates', 'feature', 'latent'),
    ('firing_rates', 'split', 'split'),
    ('firing_rates', 'role', 'whose threshold: explainer or scorer'),
    ('firing_rates', 'name', 'name of the explainer or scorer'),
    ('firing_rates', 'threshold', 'activation from which on a window fires; 0: any above zero'),
    ('firing_rates', 'windows', 'windows of the split, laid end to end over all corpora'),
    ('firing_rates', 'firing', 'those that fire'),
    ('label_scores', 'balanced_accuracy_low', 'lower end of the 95% interval of balanced_accuracy'),
    ('label_scores', 'balanced_accuracy_high', 'upper end of the 95% interval of balanced_accuracy'),
    ('label_scores', 'balanced_accuracy_null', 'balanced accuracy of another feature''s label on the same windows: what a label must beat'),
    ('label_scores', 'balanced_accuracy_null_low', 'lower end of its 95% interval'),
    ('label_scores', 'balanced_accuracy_null_high', 'upper end of its 95% interval'),
    ('label_scores', 'threshold', 'activation from which on a window fires'),
    ('label_scores', 'rate', 'share of all windows that fire');
