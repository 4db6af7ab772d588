-- step: logit_lens
-- writes: logit_lens
-- key: sae, feature, side, rank
-- input: sae
-- param: k = 10
-- kernel: scoring.kernels.logit_lens:logit_lens
-- code: ingest.model.lens, ingest.model.held_pass, ingest.model.language_model, ingest.sae.model, ingest.sae.layout
-- doc: the tokens that each decoder direction writes for and against
SELECT s.sae, s.weights, s.digest, coalesce(s.target, s.hookpoint) AS writes, m.model, m.source, m.revision, m.digest AS model_digest
FROM saes AS s
JOIN models AS m ON m.model = s.model
