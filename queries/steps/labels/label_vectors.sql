-- step: label_vectors
-- writes: lance
-- slice: collection = 'labels'
-- key: collection
-- input: sae, feature, explainer
-- kernel: scoring.kernels.lance_vectors:label_vectors
-- code: ingest.model.embed, ingest.model.text_encoder, catalog.vectors
-- doc: each label's embedding, in the Lance collection labels, for search by meaning
SELECT sae, feature, explainer, label FROM labels WHERE label IS NOT NULL
