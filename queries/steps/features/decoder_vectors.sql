-- step: decoder_vectors
-- writes: lance
-- slice: collection = 'decoder'
-- key: collection
-- input: sae
-- kernel: scoring.kernels.lance_vectors:decoder_vectors
-- code: ingest.sae.model, ingest.sae.layout, catalog.vectors
-- doc: every feature's decoder direction, in the Lance collection decoder
SELECT sae, weights, digest FROM saes
