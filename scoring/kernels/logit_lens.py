"""Computes the logit lens: the tokens that a decoder direction writes for and against (nostalgebraist 2020).

The final norm's weight is applied to the direction, its division by the residual's norm is not: it is one
positive factor per token position, so that it does not change the ranking.
"""

from collections.abc import Iterator
from typing import Any

from scoring.kernels.kernel import Run

_CHUNK = 1024


def logit_lens(rows: list[dict[str, Any]], run: Run) -> Iterator[list[dict[str, Any]]]:
    """The k tokens with the largest and the k with the smallest logits, for every latent of each SAE.

    An SAE whose decoder rows are no directions of the residual stream has none; `problems` has said so since ingest.
    Raises InputError if what lies where the catalog looks for its model is another one.
    """
    import torch

    from ingest.model.catalog_model import load_recorded
    from ingest.model.identity import check_recorded
    from ingest.model.lens import lens_problem, unembedding
    from ingest.sae.model import SAE

    k = run.parameters["k"]
    models = {row["model"]: (row["source"], row["revision"]) for row in rows}
    done = 0
    for name, (source, revision) in models.items():
        model = load_recorded(name, source, revision)
        check_recorded(run.catalog, model)
        for row in (row for row in rows if row["model"] == name):
            decoder = SAE.load(run.catalog.weights_of(row["weights"])).weights.decoder
            output: list[dict[str, Any]] = []
            if lens_problem(model, row["writes"], decoder.shape[1]) is None:
                directions = unembedding(model)
                for start in range(0, len(decoder), _CHUNK):
                    logits = decoder[start : start + _CHUNK] @ directions.T
                    output += _ranked(row["sae"], start, logits, k, torch.topk)
            done += 1
            run.progress(done, len(rows))
            if output:
                yield output


def _ranked(sae: str, start: int, logits: Any, k: int, topk: Any) -> Iterator[dict[str, Any]]:
    """Rows of both sides for the features from `start` on, of which `logits` `[features, vocabulary]` are."""
    for side, largest in (("top", True), ("bottom", False)):
        values, tokens = topk(logits, min(k, logits.shape[1]), dim=1, largest=largest, sorted=True)
        for i, (v, t) in enumerate(zip(values.tolist(), tokens.tolist(), strict=True)):
            for rank, (value, token) in enumerate(zip(v, t, strict=True), start=1):
                yield {"sae": sae, "feature": start + i, "side": side, "rank": rank, "token": token, "logit": value}
