-- What is known of each feature: statistics, contexts, separation, labels, judgements, scores.

CREATE TABLE concepts (
    concept VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    corpora VARCHAR[],
    definition VARCHAR NOT NULL,
    shortlist INTEGER NOT NULL
);
COMMENT ON TABLE concepts IS 'domains: C+ positions, the rest of the same corpora is C-';
COMMENT ON COLUMN concepts.concept IS 'name of the concept';
COMMENT ON COLUMN concepts.kind IS 'words, spans or predicate';
COMMENT ON COLUMN concepts.corpora IS 'corpora that it is defined on; NULL for all';
COMMENT ON COLUMN concepts.definition IS 'words, spans or the SQL predicate, JSON';
COMMENT ON COLUMN concepts.shortlist IS 'how many features by separation are explained';

CREATE TABLE concept_positions (
    concept VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    position BIGINT NOT NULL
);
COMMENT ON TABLE concept_positions IS 'C+: the tokens that belong to each concept';
COMMENT ON COLUMN concept_positions.concept IS 'concept';
COMMENT ON COLUMN concept_positions.corpus IS 'corpus';
COMMENT ON COLUMN concept_positions.position IS 'token';

CREATE TABLE feature_sums (
    sae VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    shard INTEGER NOT NULL,
    feature INTEGER NOT NULL,
    firings BIGINT NOT NULL,
    total DECIMAL(38, 0) NOT NULL,
    squares DECIMAL(38, 0) NOT NULL,
    maximum FLOAT NOT NULL,
    bins MAP(UTINYINT, BIGINT) NOT NULL
);
COMMENT ON TABLE feature_sums IS 'sums over the activations of one shard; integers, so that they add up the same in any order';
COMMENT ON COLUMN feature_sums.sae IS 'SAE';
COMMENT ON COLUMN feature_sums.corpus IS 'corpus';
COMMENT ON COLUMN feature_sums.shard IS 'shard';
COMMENT ON COLUMN feature_sums.feature IS 'latent';
COMMENT ON COLUMN feature_sums.firings IS 'tokens that it fires on';
COMMENT ON COLUMN feature_sums.total IS 'sum of activations, in 2^-24';
COMMENT ON COLUMN feature_sums.squares IS 'sum of squared activations, in 2^-48';
COMMENT ON COLUMN feature_sums.maximum IS 'largest activation';
COMMENT ON COLUMN feature_sums.bins IS '256-bin log histogram: 8 bins an octave, from 2^-15';

CREATE TABLE feature_stats (
    sae VARCHAR NOT NULL,
    feature INTEGER NOT NULL,
    firings BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    density DOUBLE NOT NULL,
    mean DOUBLE,
    std DOUBLE,
    maximum FLOAT,
    histogram BIGINT[] NOT NULL,
    deciles DOUBLE[]
);
COMMENT ON TABLE feature_stats IS 'statistics of every feature over all corpora that its SAE was harvested on';
COMMENT ON COLUMN feature_stats.sae IS 'SAE';
COMMENT ON COLUMN feature_stats.feature IS 'latent';
COMMENT ON COLUMN feature_stats.firings IS 'tokens that it fires on; 0 for a dead feature';
COMMENT ON COLUMN feature_stats.tokens IS 'tokens harvested';
COMMENT ON COLUMN feature_stats.density IS 'firings / tokens';
COMMENT ON COLUMN feature_stats.mean IS 'mean activation where it fires';
COMMENT ON COLUMN feature_stats.std IS 'standard deviation of the activation where it fires';
COMMENT ON COLUMN feature_stats.maximum IS 'largest activation';
COMMENT ON COLUMN feature_stats.histogram IS 'firings in 64 log bins, 2 an octave, from 2^-15';
COMMENT ON COLUMN feature_stats.deciles IS 'activations at 10%..90% of the firings; geometric inside a bin of 1/8 octave, so right to 9%';

CREATE TABLE leaks (
    corpus VARCHAR NOT NULL,
    position BIGINT NOT NULL
);
COMMENT ON TABLE leaks IS 'val and test tokens that start a 16-token shingle which stands in train text too';
COMMENT ON COLUMN leaks.corpus IS 'corpus';
COMMENT ON COLUMN leaks.position IS 'token';

CREATE TABLE contexts (
    sae VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    feature INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    stratum TINYINT NOT NULL,
    rank INTEGER NOT NULL,
    start BIGINT NOT NULL,
    length SMALLINT NOT NULL,
    peak BIGINT,
    activation FLOAT NOT NULL
);
COMMENT ON TABLE contexts IS 'windows of at most 32 tokens inside one sequence, by reference; context_tokens renders them';
COMMENT ON COLUMN contexts.sae IS 'SAE';
COMMENT ON COLUMN contexts.corpus IS 'corpus';
COMMENT ON COLUMN contexts.feature IS 'latent';
COMMENT ON COLUMN contexts.kind IS 'top (20 strongest), stratum (by hash in each octave of activation), random (it does not fire)';
COMMENT ON COLUMN contexts.split IS 'split of the document';
COMMENT ON COLUMN contexts.stratum IS 'octave of the activation, floor(log2 a); 0 for top and random';
COMMENT ON COLUMN contexts.rank IS 'from 1, within sae, corpus, feature, kind, split, stratum; top ranks run through the splits';
COMMENT ON COLUMN contexts.start IS 'position of the first token';
COMMENT ON COLUMN contexts.length IS 'number of tokens';
COMMENT ON COLUMN contexts.peak IS 'position of the strongest token; NULL for random';
COMMENT ON COLUMN contexts.activation IS 'activation at the peak, the largest of the window; 0 for random';

CREATE TABLE logit_lens (
    sae VARCHAR NOT NULL,
    feature INTEGER NOT NULL,
    side VARCHAR NOT NULL,
    rank INTEGER NOT NULL,
    token INTEGER NOT NULL,
    logit FLOAT NOT NULL
);
COMMENT ON TABLE logit_lens IS 'tokens that each decoder direction writes for and against, through the final norm and the unembedding';
COMMENT ON COLUMN logit_lens.sae IS 'SAE';
COMMENT ON COLUMN logit_lens.feature IS 'latent';
COMMENT ON COLUMN logit_lens.side IS 'top or bottom';
COMMENT ON COLUMN logit_lens.rank IS 'from 1';
COMMENT ON COLUMN logit_lens.token IS 'token id';
COMMENT ON COLUMN logit_lens.logit IS 'decoder direction, scaled by the final norm''s weight, times the token''s unembedding';

CREATE TABLE concept_sums (
    sae VARCHAR NOT NULL,
    concept VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    shard INTEGER NOT NULL,
    feature INTEGER NOT NULL,
    firings BIGINT NOT NULL,
    total DECIMAL(38, 0) NOT NULL,
    squares DECIMAL(38, 0) NOT NULL,
    bins MAP(UTINYINT, BIGINT) NOT NULL
);
COMMENT ON TABLE concept_sums IS 'sums over the activations on C+ of one shard; C- is feature_sums less these';
COMMENT ON COLUMN concept_sums.sae IS 'SAE';
COMMENT ON COLUMN concept_sums.concept IS 'concept';
COMMENT ON COLUMN concept_sums.corpus IS 'corpus';
COMMENT ON COLUMN concept_sums.shard IS 'shard';
COMMENT ON COLUMN concept_sums.feature IS 'latent';
COMMENT ON COLUMN concept_sums.firings IS 'tokens of C+ that it fires on';
COMMENT ON COLUMN concept_sums.total IS 'sum of activations on C+, in 2^-24';
COMMENT ON COLUMN concept_sums.squares IS 'sum of squared activations on C+, in 2^-48';
COMMENT ON COLUMN concept_sums.bins IS '256-bin log histogram on C+';

CREATE TABLE separation (
    sae VARCHAR NOT NULL,
    concept VARCHAR NOT NULL,
    feature INTEGER NOT NULL,
    positives BIGINT NOT NULL,
    negatives BIGINT NOT NULL,
    mean_positive DOUBLE NOT NULL,
    mean_negative DOUBLE NOT NULL,
    rate_positive DOUBLE NOT NULL,
    rate_negative DOUBLE NOT NULL,
    separation DOUBLE NOT NULL,
    fisher DOUBLE NOT NULL,
    cohens_d DOUBLE NOT NULL,
    rate_difference DOUBLE NOT NULL,
    auroc DOUBLE NOT NULL,
    auroc_bound DOUBLE NOT NULL
);
COMMENT ON TABLE separation IS 'how far each feature''s activations on C+ lie from those on C-, zeros counted';
COMMENT ON COLUMN separation.sae IS 'SAE';
COMMENT ON COLUMN separation.concept IS 'concept';
COMMENT ON COLUMN separation.feature IS 'latent';
COMMENT ON COLUMN separation.positives IS 'tokens of C+';
COMMENT ON COLUMN separation.negatives IS 'tokens of C-';
COMMENT ON COLUMN separation.mean_positive IS 'mean activation on C+, zeros counted';
COMMENT ON COLUMN separation.mean_negative IS 'mean activation on C-, zeros counted';
COMMENT ON COLUMN separation.rate_positive IS 'share of C+ that it fires on';
COMMENT ON COLUMN separation.rate_negative IS 'share of C- that it fires on';
COMMENT ON COLUMN separation.separation IS '(mu+ - mu-)^2 / (sigma+ + sigma- + 1e-6), sigma the standard deviation';
COMMENT ON COLUMN separation.fisher IS '(mu+ - mu-)^2 / (variance+ + variance- + 1e-6)';
COMMENT ON COLUMN separation.cohens_d IS '(mu+ - mu-) / pooled standard deviation';
COMMENT ON COLUMN separation.rate_difference IS 'rate_positive - rate_negative';
COMMENT ON COLUMN separation.auroc IS 'area under ROC from the histograms, ties inside a bin counted half';
COMMENT ON COLUMN separation.auroc_bound IS 'largest possible distance of auroc from the exact one';

CREATE TABLE shortlist (
    sae VARCHAR NOT NULL,
    concept VARCHAR NOT NULL,
    feature INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    separation DOUBLE NOT NULL
);
COMMENT ON TABLE shortlist IS 'the features of each concept that are explained';
COMMENT ON COLUMN shortlist.sae IS 'SAE';
COMMENT ON COLUMN shortlist.concept IS 'concept';
COMMENT ON COLUMN shortlist.feature IS 'latent';
COMMENT ON COLUMN shortlist.rank IS 'by separation, from 1';
COMMENT ON COLUMN shortlist.separation IS 'separation score';

CREATE TABLE shortlist_auroc (
    sae VARCHAR NOT NULL,
    concept VARCHAR NOT NULL,
    feature INTEGER NOT NULL,
    auroc DOUBLE NOT NULL
);
COMMENT ON TABLE shortlist_auroc IS 'exact area under ROC of the shortlist, zeros as one tied block';
COMMENT ON COLUMN shortlist_auroc.sae IS 'SAE';
COMMENT ON COLUMN shortlist_auroc.concept IS 'concept';
COMMENT ON COLUMN shortlist_auroc.feature IS 'latent';
COMMENT ON COLUMN shortlist_auroc.auroc IS 'exact area under ROC';

CREATE TABLE explainers (
    explainer VARCHAR NOT NULL,
    provider VARCHAR NOT NULL,
    model VARCHAR,
    settings VARCHAR NOT NULL
);
COMMENT ON TABLE explainers IS 'named configurations that write labels';
COMMENT ON COLUMN explainers.explainer IS 'name';
COMMENT ON COLUMN explainers.provider IS 'lexical (no language model: log-odds of tokens) or openai (any compatible endpoint)';
COMMENT ON COLUMN explainers.model IS 'model of the endpoint';
COMMENT ON COLUMN explainers.settings IS 'examples, constraints and sampler, JSON';

CREATE TABLE scorers (
    scorer VARCHAR NOT NULL,
    protocol VARCHAR NOT NULL,
    provider VARCHAR NOT NULL,
    model VARCHAR,
    examples INTEGER NOT NULL,
    settings VARCHAR NOT NULL
);
COMMENT ON TABLE scorers IS 'named configurations that judge labels';
COMMENT ON COLUMN scorers.scorer IS 'name';
COMMENT ON COLUMN scorers.protocol IS 'detection: does the feature fire in this window, given only the label';
COMMENT ON COLUMN scorers.provider IS 'lexical or openai';
COMMENT ON COLUMN scorers.model IS 'model of the endpoint';
COMMENT ON COLUMN scorers.examples IS 'examples of each class shown per label';
COMMENT ON COLUMN scorers.settings IS 'settings, JSON';

CREATE TABLE labels (
    sae VARCHAR NOT NULL,
    feature INTEGER NOT NULL,
    explainer VARCHAR NOT NULL,
    label VARCHAR,
    problem VARCHAR,
    kept_constraints BOOLEAN NOT NULL,
    details VARCHAR,
    model VARCHAR NOT NULL,
    prompt_hash VARCHAR,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    cost DOUBLE NOT NULL,
    input VARCHAR NOT NULL
);
COMMENT ON TABLE labels IS 'explanations: claims, to be measured';
COMMENT ON COLUMN labels.sae IS 'SAE';
COMMENT ON COLUMN labels.feature IS 'latent';
COMMENT ON COLUMN labels.explainer IS 'explainer';
COMMENT ON COLUMN labels.label IS 'the explanation; NULL where none was given';
COMMENT ON COLUMN labels.problem IS 'why there is none';
COMMENT ON COLUMN labels.kept_constraints IS 'whether it kept the explainer''s constraints';
COMMENT ON COLUMN labels.details IS 'what it rests on, JSON';
COMMENT ON COLUMN labels.model IS 'model that wrote it';
COMMENT ON COLUMN labels.prompt_hash IS 'BLAKE2b-128 of the rendered prompt';
COMMENT ON COLUMN labels.prompt_tokens IS 'tokens of the prompt';
COMMENT ON COLUMN labels.completion_tokens IS 'tokens of the answer';
COMMENT ON COLUMN labels.cost IS 'money, in the unit of the study''s prices';
COMMENT ON COLUMN labels.input IS 'digest of the examples and settings that it was made from';

CREATE TABLE judgements (
    sae VARCHAR NOT NULL,
    feature INTEGER NOT NULL,
    label_feature INTEGER NOT NULL,
    explainer VARCHAR NOT NULL,
    scorer VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    example BIGINT NOT NULL,
    split VARCHAR NOT NULL,
    active BOOLEAN NOT NULL,
    activation FLOAT NOT NULL,
    predicted BOOLEAN,
    probability DOUBLE,
    problem VARCHAR,
    input VARCHAR NOT NULL
);
COMMENT ON TABLE judgements IS 'one prediction about one window, given one label';
COMMENT ON COLUMN judgements.sae IS 'SAE';
COMMENT ON COLUMN judgements.feature IS 'latent whose window it is';
COMMENT ON COLUMN judgements.label_feature IS 'latent whose label was given; another one in the null baseline';
COMMENT ON COLUMN judgements.explainer IS 'explainer of the label';
COMMENT ON COLUMN judgements.scorer IS 'scorer';
COMMENT ON COLUMN judgements.corpus IS 'corpus of the window';
COMMENT ON COLUMN judgements.example IS 'position of the window''s first token';
COMMENT ON COLUMN judgements.split IS 'split of the window';
COMMENT ON COLUMN judgements.active IS 'whether the latent fires in the window';
COMMENT ON COLUMN judgements.activation IS 'largest activation in the window';
COMMENT ON COLUMN judgements.predicted IS 'whether the predictor says that it fires; NULL where it gave no answer';
COMMENT ON COLUMN judgements.probability IS 'the predictor''s probability, where it gives one';
COMMENT ON COLUMN judgements.problem IS 'why there is no answer';
COMMENT ON COLUMN judgements.input IS 'digest of the label, the examples and the settings';

CREATE TABLE scores (
    sae VARCHAR NOT NULL,
    feature INTEGER NOT NULL,
    explainer VARCHAR NOT NULL,
    scorer VARCHAR NOT NULL,
    n BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    f1 DOUBLE,
    f1_low DOUBLE,
    f1_high DOUBLE,
    precision DOUBLE,
    precision_low DOUBLE,
    precision_high DOUBLE,
    recall DOUBLE,
    recall_low DOUBLE,
    recall_high DOUBLE,
    balanced_accuracy DOUBLE,
    balanced_accuracy_low DOUBLE,
    balanced_accuracy_high DOUBLE,
    auroc DOUBLE,
    auroc_low DOUBLE,
    auroc_high DOUBLE,
    n_null BIGINT NOT NULL,
    f1_null DOUBLE
);
COMMENT ON TABLE scores IS 'how well each label predicts its feature on test windows, with 95% intervals';
COMMENT ON COLUMN scores.sae IS 'SAE';
COMMENT ON COLUMN scores.feature IS 'latent';
COMMENT ON COLUMN scores.explainer IS 'explainer of the label';
COMMENT ON COLUMN scores.scorer IS 'scorer';
COMMENT ON COLUMN scores.n IS 'windows judged';
COMMENT ON COLUMN scores.failed IS 'windows that the predictor gave no answer for; in no other column';
COMMENT ON COLUMN scores.f1 IS '2 TP / (2 TP + FP + FN); NULL where nothing was judged';
COMMENT ON COLUMN scores.f1_low IS 'from the Wilson interval of TP / (TP + FP + FN), of which F1 is a monotone function';
COMMENT ON COLUMN scores.f1_high IS 'likewise';
COMMENT ON COLUMN scores.precision IS 'TP / (TP + FP)';
COMMENT ON COLUMN scores.precision_low IS 'Wilson interval';
COMMENT ON COLUMN scores.precision_high IS 'Wilson interval';
COMMENT ON COLUMN scores.recall IS 'TP / (TP + FN)';
COMMENT ON COLUMN scores.recall_low IS 'Wilson interval';
COMMENT ON COLUMN scores.recall_high IS 'Wilson interval';
COMMENT ON COLUMN scores.balanced_accuracy IS '(sensitivity + specificity) / 2';
COMMENT ON COLUMN scores.balanced_accuracy_low IS 'normal interval of the two proportions';
COMMENT ON COLUMN scores.balanced_accuracy_high IS 'likewise';
COMMENT ON COLUMN scores.auroc IS 'area under ROC of the probabilities, ties counted half';
COMMENT ON COLUMN scores.auroc_low IS 'Hanley & McNeil 1982';
COMMENT ON COLUMN scores.auroc_high IS 'Hanley & McNeil 1982';
COMMENT ON COLUMN scores.n_null IS 'windows judged by another feature''s label';
COMMENT ON COLUMN scores.f1_null IS 'F1 of another feature''s label on this feature''s windows: what a label must beat';
