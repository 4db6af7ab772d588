-- Whether rare tokens have features, and how often features fire: figures 2, 3a and 7 of Muhamed et al. 2024,
-- "Decoding Dark Matter: Specialized Sparse Autoencoders".

CREATE TABLE token_frequency (
    corpus VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    token INTEGER NOT NULL,
    occurrences BIGINT NOT NULL
);
COMMENT ON TABLE token_frequency IS 'how often each token id stands in the documents of a split';
COMMENT ON COLUMN token_frequency.corpus IS 'corpus';
COMMENT ON COLUMN token_frequency.split IS 'train, val or test';
COMMENT ON COLUMN token_frequency.token IS 'token id';
COMMENT ON COLUMN token_frequency.occurrences IS 'how often it stands there; token ids that do not have no row';

CREATE TABLE covered_tokens (
    sae VARCHAR NOT NULL,
    token INTEGER NOT NULL,
    features BIGINT NOT NULL,
    rank INTEGER NOT NULL
);
COMMENT ON TABLE covered_tokens IS 'tokens that have a feature: among the top logits, by the logit lens, of a live latent';
COMMENT ON COLUMN covered_tokens.sae IS 'SAE';
COMMENT ON COLUMN covered_tokens.token IS 'token id';
COMMENT ON COLUMN covered_tokens.features IS 'live latents that have it among their top logits';
COMMENT ON COLUMN covered_tokens.rank IS 'best rank that it has there';

CREATE TABLE tail_coverage (
    sae VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    bucket INTEGER NOT NULL,
    tokens BIGINT NOT NULL,
    covered BIGINT NOT NULL,
    occurrences BIGINT NOT NULL,
    covered_occurrences BIGINT NOT NULL,
    share DOUBLE NOT NULL
);
COMMENT ON TABLE tail_coverage IS 'share of tokens that have a feature, by how often they stand in the text (figure 2a)';
COMMENT ON COLUMN tail_coverage.sae IS 'SAE';
COMMENT ON COLUMN tail_coverage.corpus IS 'corpus';
COMMENT ON COLUMN tail_coverage.split IS 'split whose documents are counted';
COMMENT ON COLUMN tail_coverage.bucket IS 'octave of the frequency: tokens that stand 2^bucket to 2^(bucket + 1) - 1 times';
COMMENT ON COLUMN tail_coverage.tokens IS 'token ids of the bucket, each counted once';
COMMENT ON COLUMN tail_coverage.covered IS 'those in covered_tokens';
COMMENT ON COLUMN tail_coverage.occurrences IS 'how often the tokens of the bucket stand in the text, together';
COMMENT ON COLUMN tail_coverage.covered_occurrences IS 'how often those in covered_tokens do';
COMMENT ON COLUMN tail_coverage.share IS 'covered / tokens';

CREATE TABLE tail_curve (
    sae VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    point INTEGER NOT NULL,
    token_share DOUBLE NOT NULL,
    occurrence_share DOUBLE NOT NULL,
    covered DOUBLE NOT NULL,
    proportion DOUBLE
);
COMMENT ON TABLE tail_curve IS 'how many of the tokens that have a feature lie in the tail: a cumulative curve, rarest tokens first (figure 2b)';
COMMENT ON COLUMN tail_curve.sae IS 'SAE';
COMMENT ON COLUMN tail_curve.corpus IS 'corpus';
COMMENT ON COLUMN tail_curve.split IS 'split whose documents are counted';
COMMENT ON COLUMN tail_curve.point IS 'number of the point along the curve, from 1';
COMMENT ON COLUMN tail_curve.token_share IS 'share of the token ids that stand in the text, each counted once, the rarest first';
COMMENT ON COLUMN tail_curve.occurrence_share IS 'share of the text that those tokens make up';
COMMENT ON COLUMN tail_curve.covered IS 'how many of those are in covered_tokens; tokens of equal frequency count with the share of them that is in';
COMMENT ON COLUMN tail_curve.proportion IS 'covered / all that are covered: 1 at the last point; NULL where no token is';

CREATE TABLE firing_ranks (
    sae VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    rank INTEGER NOT NULL,
    feature INTEGER NOT NULL,
    firings BIGINT NOT NULL
);
COMMENT ON TABLE firing_ranks IS 'the features of each SAE by how often they fire on a split of a corpus, dead ones too (figure 3a)';
COMMENT ON COLUMN firing_ranks.sae IS 'SAE; harvested on all of the corpus';
COMMENT ON COLUMN firing_ranks.corpus IS 'corpus';
COMMENT ON COLUMN firing_ranks.split IS 'split of the documents';
COMMENT ON COLUMN firing_ranks.rank IS 'from 1, the one that fires most often; of equals the smaller latent comes first';
COMMENT ON COLUMN firing_ranks.feature IS 'latent';
COMMENT ON COLUMN firing_ranks.firings IS 'tokens of the split that it fires on';

CREATE TABLE firing_differences (
    sae VARCHAR NOT NULL,
    baseline VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    bin INTEGER NOT NULL,
    low BIGINT NOT NULL,
    high BIGINT NOT NULL,
    features BIGINT NOT NULL
);
COMMENT ON TABLE firing_differences IS 'how much more often the features of an SAE fire than the same ones of its parent or baseline (figure 7)';
COMMENT ON COLUMN firing_differences.sae IS 'SAE';
COMMENT ON COLUMN firing_differences.baseline IS 'its parent, or its baseline in a sweep; of the same width';
COMMENT ON COLUMN firing_differences.corpus IS 'corpus';
COMMENT ON COLUMN firing_differences.split IS 'split of the documents';
COMMENT ON COLUMN firing_differences.bin IS '0 for no difference, else its sign times (1 + octave): bins -1, 0, 1 hold differences of -1, 0, 1';
COMMENT ON COLUMN firing_differences.low IS 'smallest difference of the bin: firings of the SAE less firings of the baseline, in tokens';
COMMENT ON COLUMN firing_differences.high IS 'largest difference of the bin';
COMMENT ON COLUMN firing_differences.features IS 'latents whose difference lies there, those dead in both at 0';
