-- columns_doc documents every table and view, so that a query can ask for what DESCRIBE cannot print: the columns of
-- views here, tables and their columns from their COMMENTs (store/sql/documentation.sql, after this and each later
-- migration). The name * is the table or view itself.

COMMENT ON TABLE columns_doc IS 'what each table, view and column holds: of tables by their comments, of views as migrations say';
COMMENT ON COLUMN columns_doc.relation IS 'table or view';
COMMENT ON COLUMN columns_doc.name IS 'column; * for the table or view itself';
COMMENT ON COLUMN sweeps.l0_low IS 'start of the L0 range of the area under the curve; one value in a sweep';

UPDATE columns_doc SET doc = replace(doc, 'begin of', 'start of') WHERE starts_with(doc, 'begin of');
DELETE FROM columns_doc WHERE relation = 'label_scores' OR relation IN ('token_text', 'context_tokens');

INSERT INTO columns_doc VALUES
    ('features', '*', 'a feature: the label of the primary explainer with its scores by the primary scorer, separation, how it fires'),
    ('label_scores', '*', 'a label with the scores that a scorer gave it, for every explainer and scorer'),
    ('label_scores', 'sae', 'SAE'),
    ('label_scores', 'feature', 'latent'),
    ('label_scores', 'explainer', 'explainer of the label'),
    ('label_scores', 'scorer', 'scorer; NULL for a label that none judged'),
    ('label_scores', 'label', 'the explanation; NULL where none was given'),
    ('label_scores', 'problem', 'why there is no label'),
    ('label_scores', 'kept_constraints', 'whether the label kept the explainer''s constraints'),
    ('label_scores', 'model', 'model that wrote the label'),
    ('label_scores', 'cost', 'money for the label, in the unit of the study''s prices'),
    ('label_scores', 'n', 'windows judged'),
    ('label_scores', 'failed', 'windows that the scorer gave no answer for; in no other column'),
    ('label_scores', 'f1', '2 TP / (2 TP + FP + FN), on test windows; NULL where nothing was judged'),
    ('label_scores', 'f1_low', 'lower end of the 95% interval of f1'),
    ('label_scores', 'f1_high', 'upper end of the 95% interval of f1'),
    ('label_scores', 'f1_null', 'F1 of another feature''s label on the same windows: what a label must beat'),
    ('label_scores', 'precision', 'TP / (TP + FP)'),
    ('label_scores', 'recall', 'TP / (TP + FN)'),
    ('label_scores', 'balanced_accuracy', 'mean of sensitivity and specificity'),
    ('label_scores', 'auroc', 'area under ROC of the scorer''s probabilities, ties counted half'),
    ('token_text', '*', 'a token with its text'),
    ('token_text', 'corpus', 'corpus'),
    ('token_text', 'position', 'number of the token in its corpus'),
    ('token_text', 'document', 'document'),
    ('token_text', 'sequence', 'position of the first token of the sequence that the model read it in'),
    ('token_text', 'token', 'token id'),
    ('token_text', 'split', 'split of the document: train, val or test'),
    ('token_text', 'source', 'package, file or data set, and the place in it'),
    ('token_text', 'text', 'the token as it stands in its document'),
    ('context_tokens', '*', 'a token of a window of `contexts`, with its text and what the feature does on it'),
    ('context_tokens', 'sae', 'SAE'),
    ('context_tokens', 'corpus', 'corpus'),
    ('context_tokens', 'feature', 'latent'),
    ('context_tokens', 'kind', 'top (strongest), stratum (by hash in each octave of activation), random (it does not fire)'),
    ('context_tokens', 'split', 'split of the document: train, val or test'),
    ('context_tokens', 'stratum', 'octave of the window''s activation, floor(log2 a); 0 for top and random'),
    ('context_tokens', 'rank', 'of the window, from 1, within sae, corpus, feature, kind, split, stratum'),
    ('context_tokens', 'start', 'position of the window''s first token'),
    ('context_tokens', 'peak', 'position of the window''s strongest token; NULL for random'),
    ('context_tokens', 'position', 'number of the token in its corpus'),
    ('context_tokens', 'token', 'token id'),
    ('context_tokens', 'source', 'package, file or data set, and the place in it'),
    ('context_tokens', 'text', 'the token as it stands in its document'),
    ('context_tokens', 'activation', 'activation of the feature on this token, 0 where it does not fire'),
    ('splits', '*', 'a split of a corpus: how much text, and how much of it repeats train text'),
    ('sae_quality', '*', 'an SAE on one corpus and split: L0, FVE, dead and dense latents, perplexity with it'),
    ('pareto', '*', 'a value of a sweep''s setting in one family, corpus and split: means over its seeds'),
    ('pareto_segments', '*', 'a point of a curve of perplexity over L0, with the next point'),
    ('pareto_curve', '*', 'a whole L0 between the smallest and the largest of a family, and the perplexity there'),
    ('pareto_seed_area', '*', 'a curve: the area under its perplexity over the sweep''s range of L0'),
    ('pareto_area', '*', 'a family on one corpus and split: the area under its perplexity over the sweep''s range of L0');
